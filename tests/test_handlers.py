"""Test that an exception of a signal handler propagates unchanged through encoding and decoding.

The signals are real and arrive at random times. Each exception must reach the code that it
interrupted. The library must neither report it as an encoding error nor swallow it while searching
for the cause of one.
"""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any, Final
from uuid import UUID, uuid4

import pydantic
import pytest
import trio

from helpers import PATIENCE, served
from jumpstarter import serve
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter._protocol.codec import call_prefix, decode_value, encode_call, encode_value
from jumpstarter._protocol.frames import Kind as CallKind
from jumpstarter._protocol.values import check_type, convert
from jumpstarter.client import DriverClient, _methods
from jumpstarter.driver import Driver, _signature, export
from jumpstarter.errors import ArgumentError, DriverInvalidArgument

SECONDS: Final = 0.3  # for each case: a few hundred signals
LATEST: Final = 0.0005  # maximum delay of a signal in seconds: within the first few rounds


class Alarm(Exception):
    """Raised by a handler."""


class ValueAlarm(ValueError):
    """Raised by a handler; msgspec and pydantic catch its base class."""


class TypeAlarm(TypeError):
    """Raised by a handler; encoders raise its base class."""


class Model(pydantic.BaseModel):
    # No path field: pydantic swallows handlers' exceptions while it looks up the type of a path.
    numbers: list[int]

    @pydantic.field_serializer("numbers")
    def write(self, value: list[int]) -> list[int]:
        return [int(number) for number in value]

    @pydantic.field_validator("numbers")
    @classmethod
    def check(cls, value: list[int]) -> list[int]:
        if any(number < 0 for number in value):  # no assert: pytest's swallows handlers' exceptions
            raise ValueError("they are not negative")
        return value


@dataclass
class Checked:
    identity: UUID
    path: PurePosixPath

    def __post_init__(self) -> None:
        for _ in range(20):
            assert self.path != self.identity


class Unsendable:
    """A class whose instances cannot be encoded."""


MODEL: Final = Model(numbers=[1, 2])
PATH: Final = PurePosixPath("/a/b")
GOOD: Final = ([MODEL] * 5, {"paths": (PATH,) * 5}, Checked(uuid4(), PATH))
BAD: Final = (*GOOD, {"deep": [MODEL, Unsendable()]})
PREFIX: Final = call_prefix(1, CallKind.UNARY, "method")
PLAIN: Final = [{"numbers": [1, 2]}] * 5
ENCODED: Final = bytes(encode_value([{"numbers": list(range(50))}] * 5, b""))


def _check_error(error: type[Exception], text: str, function: Callable[[], object]) -> None:
    """Check that the function raises this error with this text."""
    message = ""
    try:
        function()
    except error as exc:  # not pytest.raises: a signal could strike within it
        message = str(exc)
    assert text in message


CASES: Final[dict[str, Callable[[], object]]] = {
    "a value that can be encoded": lambda: encode_call(PREFIX, GOOD),
    "a value that cannot": lambda: _check_error(
        ArgumentError, "at `args[3]['deep'][1]`", lambda: encode_call(PREFIX, BAD)
    ),
    "a key that cannot": lambda: _check_error(
        ArgumentError, "cannot be the key", lambda: encode_call(PREFIX, ({None: MODEL},))
    ),
    "a value that is decoded": lambda: decode_value(ENCODED, DEFAULT_LIMITS),
    "a value that is cut short": lambda: _check_error(
        ArgumentError, "cannot be decoded", lambda: decode_value(ENCODED[:-1], DEFAULT_LIMITS)
    ),
    "a value that fits": lambda: convert(PLAIN, list[Model], "result"),
    "a dataclass that fits": lambda: convert(
        {"identity": str(UUID(int=1)), "path": "/a"}, Checked, "result"
    ),
    "a value that does not fit": lambda: _check_error(
        ArgumentError,
        "numbers",
        lambda: convert([{"numbers": [-1]}], list[Model], "r"),
    ),
    "a type that no value fits": lambda: _check_error(
        ArgumentError, "more than one", lambda: check_type(Checked | Other)
    ),
    "a type with sets": lambda: _bounded(),  # noqa: PLW0108 - defined below
    "a signature that is told": lambda: _told_signature(),  # noqa: PLW0108 - as above
}


@dataclass
class Other:
    number: int


def _bounded() -> None:
    """Check that the cached bound on sets is right, even if signals have struck before."""
    from jumpstarter._protocol import values  # noqa: PLC0415 - only used here

    values._max_parts.cache_clear()
    assert values._max_parts(list[set[int]]) == values._MAX_INT_KEYS


def _told_signature() -> None:
    def method(self: object, path: PurePosixPath, number: int = 1) -> None: ...

    signature = _signature.signature_of(method, takes_self=True)
    text = _signature.text_of(signature)
    assert text.startswith("(path: ")
    assert _signature.build_converter(method, signature, {}, "method", strict=False) is not None
    _methods.signature_from.cache_clear()
    assert list(_methods.signature_from(text).parameters) == ["path", "number"]


@contextmanager
def alarms(kind: type[Exception]) -> Iterator[list[Exception]]:
    """Make each SIGALRM raise a new exception, and yield the list of those raised."""
    raised: list[Exception] = []

    def handler(_signum: int, frame: FrameType | None) -> None:
        if _is_dropped_by_python(frame):
            signal.setitimer(signal.ITIMER_REAL, LATEST)
            return
        exc = kind(f"alarm {len(raised)}")
        raised.append(exc)
        raise exc

    over = threading.Event()
    ticking = threading.Thread(target=_tick, args=(over,))
    ticking.start()
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        yield raised
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        over.set()
        ticking.join(PATIENCE)


def _is_dropped_by_python(frame: FrameType | None) -> bool:
    """Return True if Python drops an exception that is raised in this frame.

    Python drops exceptions in finalizers and in callbacks of the garbage collector. Since Python
    3.12, PurePath also mistakes any TypeError for one about its argument.
    """
    dropped = {"__del__", "_remove", *(getattr(each, "__name__", "") for each in gc.callbacks)}
    while frame is not None:
        code = frame.f_code
        if code.co_name in dropped or code.co_qualname == "PurePath.__init__":
            return True
        frame = frame.f_back
    return False


def _tick(over: threading.Event) -> None:
    """Wake up often, since CPython delays some signals until another thread wants to run."""
    while not over.wait(0.005):
        pass


def _until_struck(operation: Callable[[], object], raised: list[Exception], count: int) -> None:
    """Repeat an operation until a signal strikes.

    The loop has its own frame, since a loop's jump may lie outside its `try` since Python 3.12.
    """
    while len(raised) == count:
        operation()


def strike(kind: type[Exception], latest: float, operation: Callable[[], object]) -> None:
    """Repeat an operation under signals, and check that each exception propagates unchanged."""
    deadline = time.monotonic() + SECONDS
    with alarms(kind) as raised:
        count = 0
        while count == 0 or time.monotonic() < deadline:  # a busy machine may stop us for so long
            received: Exception | None = None
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, latest))
                _until_struck(operation, raised, count)
            except kind as exc:  # not pytest.raises, as above
                received = exc
            assert received is raised[-1], "it was swallowed or replaced"
            count += 1
            assert len(raised) == count
    print(f"{count} signals")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, (
        "a handler was not restored"
    )


@pytest.mark.parametrize("kind", [Alarm, ValueAlarm, TypeAlarm, TimeoutError])
@pytest.mark.parametrize("case", CASES)
def test_handler_exception_during_a_conversion_propagates_unchanged(
    case: str, kind: type[Exception]
) -> None:
    operation = CASES[case]
    operation()
    strike(kind, LATEST, operation)
    operation()


class Echo(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: Any) -> Any:
        return value

    @export
    async def hold(self) -> Any:
        yield None
        await trio.sleep_forever()


@pytest.mark.parametrize("kind", [Alarm, ValueAlarm, TypeAlarm])
@pytest.mark.parametrize("led", [True, False])
def test_handler_exception_during_a_blocking_call_propagates_unchanged(
    kind: type[Exception], led: bool
) -> None:
    with served(Echo()) as client:
        if led:
            _strike_calls(kind, client)
        else:
            with client.streamingcall("hold"):
                _strike_calls(kind, client)


def _strike_calls(kind: type[Exception], client: DriverClient) -> None:
    def call() -> None:
        assert client.call_as(list[Model], "echo", [MODEL] * 5) == [MODEL] * 5
        _check_error(
            DriverInvalidArgument, "Unsendable", lambda: client.call("echo", [Unsendable()])
        )

    call()
    strike(kind, 0.003, call)
    call()


class _Callable:
    def __call__(self, _signum: int, _frame: object) -> None:
        raise SystemExit(3)

    def method(self, _signum: int, _frame: object) -> None:
        raise Alarm("from a method")


def _exit(_code: int, _signum: int, _frame: object) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (partial(_exit, 3), SystemExit),
        (_Callable(), SystemExit),
        (_Callable().method, Alarm),
    ],
)
def test_handler_exception_during_a_client_import_is_not_an_import_error(
    handler: Any, kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "struck_client.py").write_text(
        "import signal\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
        "from jumpstarter.client import DriverClient as Client\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    class Struck(Echo):
        @classmethod
        def client(cls) -> str:
            return "struck_client.Client"

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(kind), serve(Struck()):
            raise AssertionError
    finally:
        signal.signal(signal.SIGUSR1, previous)
    sys.modules.pop("struck_client", None)
