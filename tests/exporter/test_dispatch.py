"""Tests that each call gets one answer and affects no other, whatever it asks or its driver does.

These tests cover the failures of single calls. `test_session` covers the other ends of calls:
deadlines, cancellation and the end of the session.
"""

from __future__ import annotations

import asyncio
import builtins
import collections
import datetime as dt
import decimal
import fractions
import functools
import io
import logging
import math
import re
import threading
import types
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from uuid import UUID, uuid4

import anyio
import pytest
import trio
import trio.testing

from drivers_for_tests import Echo, Plain
from helpers import answered, ask, channel_to
from jumpstarter._limits import Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.codec import call_prefix, encode_call
from jumpstarter._protocol.frames import KEYWORDS, Kind
from jumpstarter.client._channel import Channel
from jumpstarter.client._generators import RemoteGenerator
from jumpstarter.client._outgoing_call import Request
from jumpstarter.client._raw_streams import open_stream
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.errors import (
    SYSTEM_ERROR_CLASSES,
    CallCancelled,
    CallRefused,
    Code,
    DriverConnectionError,
    DriverError,
    DriverErrorGroup,
    DriverInvalidArgument,
    DriverMethodNotImplemented,
    DriverOSError,
    DriverTimeoutError,
)

DRIVER = "driver 'root' (drivers_for_tests.Echo)"


async def run(channel: Channel, method: str, kind: Kind, *args: Any, target: int = 1) -> Any:
    """Make a call of any kind to its end; return its result, its items as a list, or its bytes."""
    request = Request(target, kind, method, args, driver="the driver")
    if kind is Kind.UNARY:
        return await channel.call(request)
    if kind is Kind.GENERATOR:
        return [item async for item in RemoteGenerator(channel, request)]
    async with await open_stream(channel, request) as stream:
        await stream.send_eof()
        received = b"".join([data async for data in stream])
    stream.check()
    return received


async def failure_of(channel: Channel, method: str, kind: Kind, *args: Any) -> DriverError:
    """Make a call that fails, check that the connection survives, and return the failure."""
    with pytest.raises((DriverError, trio.BrokenResourceError)) as caught:
        await run(channel, method, kind, *args)
    assert await channel.call(ask("echo_async", "still here")) == "still here"
    failure: BaseException | None = caught.value
    # An open raw stream breaks, as any stream does, and its error has the cause.
    if isinstance(failure, trio.BrokenResourceError):
        failure = failure.__cause__
    assert isinstance(failure, DriverError)
    return failure


# --- missing drivers and methods ---


@pytest.mark.parametrize("kind", Kind)
async def test_a_method_that_is_not_there_is_named_with_those_that_are(kind: Kind) -> None:
    async with channel_to(Echo()) as channel:
        failure = await failure_of(channel, "ecko", kind)
    assert isinstance(failure, DriverMethodNotImplemented)
    assert failure.remote_type == ""
    assert str(failure) == (
        f"method 'ecko' of the driver: {DRIVER} exports no such method; "
        "it exports: connect, count, count_async, echo, echo_async"
    )


async def test_the_error_of_a_driver_without_exports_says_so() -> None:
    async with channel_to(Echo(children={"bare": Plain()})) as channel:
        with pytest.raises(DriverMethodNotImplemented, match="it exports: nothing"):
            await run(channel, "on", Kind.UNARY, target=2)


@pytest.mark.parametrize("target", [3, 65535])
async def test_a_driver_that_is_not_there_is_named_by_its_address(target: int) -> None:
    async with channel_to(Echo(children={"bare": Plain()})) as channel:
        with pytest.raises(DriverMethodNotImplemented) as caught:
            await run(channel, "echo", Kind.UNARY, target=target)
        assert await run(channel, "echo", Kind.UNARY, 1) == 1
    assert caught.value.message == f"there is no driver at address {target}; the tree has 2"


@pytest.mark.parametrize(
    ("method", "kind", "how"),
    [
        ("echo", Kind.GENERATOR, "a method; call it with call() or call_async()"),
        ("echo_async", Kind.STREAM, "a method; call it with call() or call_async()"),
        ("count", Kind.UNARY, "a generator; use streamingcall() or streamingcall_async()"),
        ("count_async", Kind.STREAM, "a generator; use streamingcall() or streamingcall_async()"),
        ("connect", Kind.UNARY, "a raw stream; open it with stream()"),
        ("connect", Kind.GENERATOR, "a raw stream; open it with stream()"),
    ],
)
async def test_a_call_of_the_wrong_kind_names_the_right_one(
    method: str, kind: Kind, how: str
) -> None:
    async with channel_to(Echo()) as channel:
        failure = await failure_of(channel, method, kind, 1)
    assert isinstance(failure, DriverMethodNotImplemented)
    assert f"method '{method}' of the driver: it is {how}" in str(failure)


async def test_no_name_but_an_exported_one_reaches_the_driver() -> None:
    class Secretive(Echo):
        @property
        def voltage(self) -> float:
            raise AssertionError("a property was evaluated")

    driver = Secretive()
    names = {*dir(object), *dir(type), *dir(Driver), *dir(driver), *vars(driver)}
    names |= {
        "voltage",
        "echo\0",
        "echo ",
        "Echo",
        "ECHO",
        "echo.__call__",
        "x" * 255,
        "\U0001f600",
    }
    names -= {"echo", "echo_async", "count", "count_async", "connect"}
    async with answered(driver) as client:
        await client.greet()
        for name in names:
            for kind in Kind:
                with pytest.raises(DriverMethodNotImplemented, match="exports no such method"):
                    await client.answer(await client.call(name, kind=kind))
        assert await client.answer(await client.call("echo", 1)) == 1


class Watched(Echo):
    """A driver that records which of its attributes are looked up."""

    looked_at: ClassVar[list[str]] = []

    def __getattribute__(self, name: str) -> Any:
        type(self).looked_at.append(name)
        return super().__getattribute__(name)

    def count(self, stop: int) -> Any:  # this override is not exported, and hides the base's method
        raise AssertionError(stop)

    @property
    def voltage(self) -> float:
        raise AssertionError("a property was evaluated")


async def test_a_name_that_is_not_exported_is_refused_without_a_look_at_the_driver() -> None:
    async with answered(Watched()) as client:
        await client.greet()
        Watched.looked_at.clear()
        for name in ("count", "voltage", "client", "close", "children", "looked_at", "__class__"):
            for kind in Kind:
                with pytest.raises(DriverMethodNotImplemented, match="exports no such method"):
                    await client.answer(await client.call(name, 1, kind=kind))
        assert Watched.looked_at == []
        assert await client.answer(await client.call("echo", 1)) == 1


async def test_the_exporter_itself_offers_its_report_and_loans_and_nothing_else() -> None:
    async with channel_to(Echo(children={"bare": Plain()})) as channel:
        report = await run(channel, "report", Kind.UNARY, target=0)
        assert [node["target"] for node in report] == [1, 2]
        with pytest.raises(
            DriverMethodNotImplemented,
            match=r"exporter's own.*exports: "
            r"board, claim, claim_subtree, join, kick, lend, lent_back, lent_failed, log, log_end, "
            r"report, who$",
        ):
            await run(channel, "echo", Kind.UNARY, target=0)


# --- arguments ---


def late(function: Callable[..., Any]) -> Callable[..., Any]:
    """Pass the arguments on only after the call has waited."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return await function(*args, **kwargs)

    return wrapper


class Strict(Echo):
    @export
    @late
    async def place_late(self, x: int, y: int = 0, *, speed: int = 1) -> list[int]:
        return [x, y, speed]

    @export
    def place(self, x: int, y: int = 0, *, speed: int = 1) -> list[int]:
        return [x, y, speed]

    @export
    async def place_async(self, x: int, y: int = 0, *, speed: int = 1) -> list[int]:
        return [x, y, speed]

    @export
    def steps(self, x: int, y: int = 0, *, speed: int = 1) -> Generator[int, None, None]:
        yield from (x, y, speed)

    @export
    async def steps_async(self, x: int, y: int = 0, *, speed: int = 1) -> AsyncIterator[int]:
        yield x + y + speed

    @exportstream
    @asynccontextmanager
    async def tunnel(self, x: int, y: int = 0, *, speed: int = 1) -> AsyncIterator[list[int]]:
        yield [x, y, speed]

    @export
    def confused(self, x: Any) -> Any:
        return x + "text"


STRICT = {
    "place": Kind.UNARY,
    "place_async": Kind.UNARY,
    "place_late": Kind.UNARY,
    "steps": Kind.GENERATOR,
    "steps_async": Kind.GENERATOR,
    "tunnel": Kind.STREAM,
}


@pytest.mark.parametrize("method", STRICT)
@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"x": 2}, "multiple values for argument 'x'"),
        ((1,), {"spede": 2}, "got an unexpected keyword argument 'spede'"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_the_signature(
    method: str, args: tuple[int, ...], kwargs: dict[str, int], why: str
) -> None:
    async with answered(Strict()) as client:
        await client.greet()
        kind = STRICT[method]
        prefix = call_prefix(1, kind, method, keywords=bool(kwargs))
        slot = client.rules.call(kind, encode_call(prefix, (*args, kwargs) if kwargs else args))
        await client.send()
        with pytest.raises(DriverInvalidArgument) as caught:
            await client.answer(slot)
        assert await client.answer(await client.call("echo", 1)) == 1
    assert caught.value.remote_type == ""
    assert caught.value.message.startswith(f"its arguments do not fit: {why}; it takes (x")
    assert "speed" in caught.value.message


async def test_a_type_error_of_the_drivers_own_is_the_drivers() -> None:
    async with channel_to(Strict()) as channel:
        failure = await failure_of(channel, "confused", Kind.UNARY, 1)
    assert (type(failure), failure.code, failure.remote_type) == (
        DriverError,
        Code.UNKNOWN,
        "TypeError",
    )
    assert "unsupported operand" in failure.message


class Letting(Echo):
    """Lets go of its argument, and looks whether anything else keeps it."""

    @export
    async def lets_go(self, x: UUID) -> bool:
        left = weakref.ref(x)
        del x
        await trio.lowlevel.checkpoint()
        return left() is None

    @exportstream
    @asynccontextmanager
    async def tunnel(self, x: UUID) -> AsyncIterator[trio.abc.Stream]:
        self.left = weakref.ref(x)
        del x
        near, far = trio.testing.memory_stream_pair()
        async with near, far:
            yield near


async def test_a_call_that_waits_does_not_keep_its_arguments() -> None:
    async with answered(Letting()) as client:
        await client.greet()
        prefix = call_prefix(1, Kind.UNARY, "lets_go")
        # In one write: the first waits in the task that has read it, the second in one of its own.
        slots = [client.rules.call(Kind.UNARY, encode_call(prefix, (uuid4(),))) for _ in "12"]
        await client.send()
        assert [await client.answer(slot) for slot in slots] == [True, True]


@pytest.mark.parametrize("deadline", [math.inf, 60])
async def test_an_open_stream_does_not_keep_its_arguments(deadline: float) -> None:
    driver = Letting()
    async with channel_to(driver) as channel:
        request = Request(1, Kind.STREAM, "tunnel", (uuid4(),), driver="the driver")
        with trio.CancelScope(deadline=trio.current_time() + deadline):
            opened = await open_stream(channel, request)
        async with opened:
            await trio.testing.wait_all_tasks_blocked()
            assert driver.left() is None


def raw_call(body: bytes, *, flags: int = 0, name: bytes = b"echo") -> bytearray:
    """Encode a CALL of the root driver, behind room for a header, with raw bytes as arguments."""
    buffer = encode_call(call_prefix(1, Kind.UNARY, "e" * len(name)), ())
    head = bytearray(buffer[: -len(name) - 1]) + name + body
    head[14] |= flags
    return head


@pytest.mark.parametrize(
    ("body", "flags", "why"),
    [
        (b"", 0, "cannot be read"),
        (b"\x92\x01", 0, "cannot be read"),
        (b"\x91\xa1\xff", 0, "cannot be read"),
        (b"\x90\x90", 0, "cannot be read"),
        (b"\xc1", 0, "cannot be read"),
        (b"\x91" * 100 + b"\x90", 0, "cannot be read"),
        (b"\x93" + b"\x90" * 3 + b"\x00" * 64, 0, "cannot be read"),
        (b"\x81\x01\x02", 0, "are not an array"),
        (b"\x01", 0, "are not an array"),
        (b"\xc0", 0, "are not an array"),
        (b"\xa1a", KEYWORDS, "are not an array"),
        (b"\x91\x01", KEYWORDS, "are not an array"),
        (b"\x91\x81\x01\x02", KEYWORDS, "do not fit"),
    ],
)
async def test_arguments_that_are_none_fail_their_own_call(
    body: bytes, flags: int, why: str
) -> None:
    async with answered(Echo()) as client:
        await client.greet()
        slot = client.rules.call(Kind.UNARY, raw_call(body, flags=flags))
        await client.send()
        with pytest.raises(DriverInvalidArgument, match=f"its arguments .*{why}"):
            await client.answer(slot)
        assert await client.answer(await client.call("echo", 1)) == 1


NO_VALUES = {
    "the byte that is never used": b"\xc1",
    "text of no UTF-8": b"\xa2\xc3\x28",
    "text of half a surrogate pair": b"\xa3\xed\xa0\x80",
    "text in too many bytes": b"\xa2\xc0\x80",
    "a key of no UTF-8": b"\x81\xa1\xff\x01",
    "a key of nil": b"\x81\xc0\x01",
    "a key of true": b"\x81\xc3\x01",
    "a key of NaN": b"\x81\xcb\x7f\xf8" + bytes(6) + b"\x01",
    "a key of 1.0": b"\x81\xcb\x3f\xf0" + bytes(6) + b"\x01",
    "a key of bytes": b"\x81\xc4\x01k\x01",
    "a key that is a list": b"\x81\x91\x01\x01",
    "a key that is a map": b"\x81\x80\x01",
    "a key that is a moment": b"\x81\xd6\xff\0\0\0\0\x01",
    "a map without its last value": b"\x81\xa1k",
    "a list without its last value": b"\x92\x01",
    "a short number": b"\xcf\0\0",
    "a short text": b"\xd9\x05abc",
    "4 GiB of text": b"\xdb\xff\xff\xff\xff",
    "4 GiB of bytes": b"\xc6\xff\xff\xff\xff",
    "4 Gi values": b"\xdd\xff\xff\xff\xff",
    "4 Gi pairs": b"\xdf\xff\xff\xff\xff",
    "4 GiB of an extension": b"\xc9\xff\xff\xff\xff\x01",
    "an extension": b"\xd4\x05\x00",
    "an extension of no bytes": b"\xc7\x00\x05",
    "a pickle as an extension": b"\xc7\x0a\x2acos\nsystem",
    "a moment of 5 bytes": b"\xc7\x05\xff" + bytes(5),
    "a moment beyond time": b"\xc7\x0c\xff" + b"\xff" * 12,
    "65 levels": b"\x91" * 65 + b"\x90",
    "60,000 levels of lists": b"\x91" * 60_000 + b"\xc0",
    "60,000 levels of maps": b"\x81\x01" * 30_000 + b"\xc0",
}


@pytest.mark.parametrize("hidden", [b"\x91", b"\x92\x01", b"\x91\x81\xa1k", b"\x91\x91\x91"])
async def test_what_is_no_value_is_an_invalid_argument_wherever_it_stands(hidden: bytes) -> None:
    async with answered(Echo()) as client:
        await client.greet()
        for name, body in NO_VALUES.items():
            slot = client.rules.call(Kind.UNARY, raw_call(hidden + body))
            await client.send()
            with pytest.raises(DriverInvalidArgument, match="its arguments cannot be read") as e:
                await client.answer(slot)
            assert e.value.code is Code.INVALID_ARGUMENT, name
        assert await client.answer(await client.call("echo", 1)) == 1


@pytest.mark.parametrize(
    "buffer",
    [raw_call(b"\x90", flags=0x03), raw_call(b"\x90", name=b"\xff\xfe")],
    ids=["unknown kind", "name of no UTF-8"],
)
async def test_a_call_without_a_head_is_refused(buffer: bytearray) -> None:
    async with answered(Echo()) as client:
        await client.greet()
        slot = client.rules.call(Kind.UNARY, buffer)
        await client.send()
        with pytest.raises(DriverInvalidArgument, match="malformed CALL"):
            await client.answer(slot)
        assert await client.answer(await client.call("echo", 1)) == 1


async def test_arguments_beyond_the_exporters_limits_fail_their_own_call() -> None:
    limits = Limits(max_depth=3, max_items=100, max_containers=10)
    too_deep, too_long, too_wide = [[[["x" * 64]]]], [0] * 101, [*([[]] * 11), "x" * 64]
    async with channel_to(Echo(), exporter_limits=limits) as channel:
        for value in (too_deep, too_long, too_wide):
            failure = await failure_of(channel, "echo", Kind.UNARY, value)
            assert isinstance(failure, DriverInvalidArgument)
            assert "its arguments cannot be read" in str(failure)


# --- results that cannot be sent ---


def contains_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


UNSENDABLE: dict[str, Callable[[], Any]] = {
    "object": object,
    "function": lambda: contains_itself,
    "class": lambda: Echo,
    "driver": Echo,
    "module": lambda: builtins,
    "generator": lambda: (number for number in range(3)),
    "range": lambda: range(3),
    "iterator": lambda: iter([1]),
    "map": lambda: map(abs, [1]),
    "complex": lambda: 1j,
    "fraction": lambda: fractions.Fraction(1, 3),
    "deque": lambda: collections.deque([1]),
    "pattern": lambda: re.compile("x"),
    "exception": lambda: ValueError("returned"),
    "lock": threading.Lock,
    "event": threading.Event,
    "file": io.BytesIO,
    "slice": lambda: slice(1),
    "ellipsis": lambda: ...,
    "not implemented": lambda: NotImplemented,
    "namespace": types.SimpleNamespace,
    "too large": lambda: 2**64,
    "too small": lambda: -(2**63) - 1,
    "surrogate": lambda: "serial \udcff",
    "surrogate as a key": lambda: {"\udcff": 1},
    "contains itself": contains_itself,
    "nested too deeply": lambda: nested(100_000),
    "inside a list": lambda: [1, object()],
    "inside a map": lambda: {"a": {"b": object()}},
    "set of the unsendable": lambda: {1j},
}


class Returning(Echo):
    """A driver that returns a value, which cannot be sent, in each place where it can."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.make = make

    @export
    def result(self) -> Any:
        return self.make()

    @export
    async def result_async(self) -> Any:
        return self.make()

    @export
    def item(self) -> Generator[Any, None, None]:
        yield "before"
        yield self.make()
        raise AssertionError("the generator went on")

    @export
    async def item_async(self) -> AsyncGenerator[Any, None]:
        yield "before"
        yield self.make()
        raise AssertionError("the generator went on")

    @export
    def returned(self) -> Generator[Any, None, Any]:
        yield "before"
        return self.make()


@pytest.mark.parametrize("make", UNSENDABLE.values(), ids=UNSENDABLE)
async def test_a_result_that_cannot_be_sent_is_an_error(make: Callable[[], Any]) -> None:
    async with answered(Returning(make)) as client:
        await client.greet()
        for method in ("result", "result_async"):
            with pytest.raises(DriverError, match=r"^its result cannot be sent: .") as caught:
                await client.answer(await client.call(method))
            assert caught.value.code is Code.INTERNAL
        for method in ("item", "item_async", "returned"):
            what = "return value" if method == "returned" else "item"
            slot = await client.call(method, kind=Kind.GENERATOR)
            with pytest.raises(DriverError, match=f"^its {what} cannot be sent: .") as caught:
                await client.answer(slot)
            assert caught.value.code is Code.INTERNAL
            assert client.items.pop(slot) == ["before"]
        assert await client.answer(await client.call("echo", 1)) == 1


@pytest.mark.parametrize(
    ("value", "arrived"),
    [
        (float("inf"), float("inf")),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (b"\xff\x00", b"\xff\x00"),
        ((1, 2), [1, 2]),
        ({1}, [1]),
        ({1: "one", "two": 2}, {1: "one", "two": 2}),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (decimal.Decimal("1.50"), "1.50"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (Kind.STREAM, 2),
    ],
    ids=repr,
)
async def test_results_that_can_be_sent_arrive(value: Any, arrived: Any) -> None:
    async with channel_to(Returning(lambda: value)) as channel:
        assert await run(channel, "result", Kind.UNARY) == arrived


@pytest.mark.parametrize("method", ["result", "item"])
async def test_a_result_that_the_client_does_not_take_fails_its_own_call(method: str) -> None:
    small = Limits(max_message=64 * 1024)
    kind = Kind.UNARY if method == "result" else Kind.GENERATOR
    async with channel_to(Returning(lambda: bytes(65_536)), limits=small) as channel:
        failure = await failure_of(channel, method, kind)
    assert failure.code is Code.INTERNAL
    assert "the message has 65541 bytes and the peer accepts 65536; send it in parts" in str(
        failure
    )


# --- exceptions that drivers raise ---

PLACES = {
    "method": Kind.UNARY,
    "method_async": Kind.UNARY,
    "method_disguised": Kind.UNARY,
    "generator": Kind.GENERATOR,
    "generator_async": Kind.GENERATOR,
    "stream_entering": Kind.STREAM,
    "stream_open": Kind.STREAM,
    "stream_leaving": Kind.STREAM,
}


def disguised(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Raising(Echo):
    """A driver that raises a given exception in each place where its code runs."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        super().__init__()
        self.make = make

    @export
    def method(self) -> None:
        raise self.make()

    @export
    async def method_async(self) -> None:
        raise self.make()

    @export
    @disguised
    async def method_disguised(self) -> None:
        raise self.make()

    @export
    def generator(self) -> Generator[int, None, None]:
        yield 1
        raise self.make()

    @export
    async def generator_async(self) -> AsyncGenerator[int, None]:
        yield 1
        raise self.make()

    @exportstream
    @asynccontextmanager
    async def stream_entering(self) -> AsyncIterator[trio.abc.Stream]:
        await trio.lowlevel.checkpoint()
        raise self.make()
        yield  # type: ignore[unreachable] # makes it a generator

    @exportstream
    @asynccontextmanager
    async def stream_open(self) -> AsyncIterator[Any]:
        yield Broken(self.make)

    @exportstream
    @asynccontextmanager
    async def stream_leaving(self) -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_eof()
        yield ours
        raise self.make()


class Broken:
    """A device's stream that fails when it is read."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self.make = make

    async def receive_some(self) -> bytes:
        raise self.make()

    async def send_all(self, data: bytes) -> None: ...


async def assert_contained(
    make: Callable[[], BaseException], places: dict[str, Kind]
) -> list[DriverError]:
    """Have a driver raise in each place, and return the failures that the client receives."""
    async with channel_to(Raising(make)) as channel:
        return [await failure_of(channel, place, kind) for place, kind in places.items()]


UNUSUAL: dict[type[BaseException], tuple[Any, ...]] = {
    UnicodeDecodeError: ("utf-8", b"\xff", 0, 1, "no"),
    UnicodeEncodeError: ("utf-8", "\udcff", 0, 1, "no"),
    UnicodeTranslateError: ("\udcff", 0, 1, "no"),
    ExceptionGroup: ("text", [ValueError("one"), OSError("two")]),
    BaseExceptionGroup: ("text", [ValueError("one"), SystemExit("two")]),
}
BUILTINS = [
    value
    for value in vars(builtins).values()
    if isinstance(value, type) and issubclass(value, BaseException)
]
CODES: tuple[tuple[type[BaseException], Code, type[DriverError]], ...] = (
    (NotImplementedError, Code.UNIMPLEMENTED, DriverMethodNotImplemented),
    (ValueError, Code.INVALID_ARGUMENT, DriverInvalidArgument),
    (TimeoutError, Code.TIMED_OUT, DriverTimeoutError),
    (ConnectionError, Code.UNAVAILABLE, DriverConnectionError),
    (OSError, Code.OS_ERROR, DriverOSError),
    (BaseExceptionGroup, Code.GROUP, DriverErrorGroup),
    (BaseException, Code.UNKNOWN, DriverError),
)


@pytest.mark.parametrize("cls", BUILTINS, ids=lambda cls: cls.__name__)
async def test_every_exception_of_python_is_one_error_of_its_call(cls: type[BaseException]) -> None:
    _, code, by_code = next(row for row in CODES if issubclass(cls, row[0]))
    kind = SYSTEM_ERROR_CLASSES.get((by_code, cls.__name__), by_code)
    for failure in await assert_contained(lambda: cls(*UNUSUAL.get(cls, ("text",))), PLACES):
        if cls in {StopIteration, StopAsyncIteration} and failure.remote_type != cls.__name__:
            assert failure.remote_type == "RuntimeError"  # Python turns it into this
            continue
        assert (type(failure), failure.code, failure.remote_type) == (kind, code, cls.__name__)
        assert "text" in str(failure) or cls in UNUSUAL or cls is KeyError


@pytest.mark.parametrize(
    ("make", "code", "text"),
    [
        (lambda: asyncio.CancelledError("text"), Code.UNKNOWN, "CancelledError: text"),
        (lambda: trio.TooSlowError("text"), Code.TIMED_OUT, "TooSlowError: text"),
        (lambda: trio.BrokenResourceError("text"), Code.UNAVAILABLE, "BrokenResourceError: text"),
        (lambda: trio.ClosedResourceError("text"), Code.UNAVAILABLE, "ClosedResourceError: text"),
        (lambda: trio.BusyResourceError("text"), Code.UNKNOWN, "BusyResourceError: text"),
        (lambda: anyio.BrokenResourceError("text"), Code.UNKNOWN, "BrokenResourceError: text"),
        (lambda: KeyError("text"), Code.UNKNOWN, "KeyError: 'text'"),
        (lambda: ExceptionGroup("", [OSError("text")]), Code.OS_ERROR, "OSError: text"),
        (lambda: ValueError("\udcff" * 3), Code.INVALID_ARGUMENT, "ValueError: ???"),
        (lambda: CallRefused("inner"), Code.UNAVAILABLE, "CallRefused: inner"),
        (lambda: CallCancelled("inner"), Code.UNKNOWN, "CallCancelled: inner"),
    ],
)
async def test_other_libraries_exceptions_have_their_code_and_text(
    make: Callable[[], BaseException], code: Code, text: str
) -> None:
    for place, failure in zip(PLACES, await assert_contained(make, PLACES), strict=True):
        assert failure.code is code
        assert str(failure) == f"method '{place}' of the driver: {text}"


class MuteError(Exception):
    """An exception that raises when it is converted to text."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__()
        self.failure = failure

    def __str__(self) -> str:
        raise self.failure

    def __repr__(self) -> str:
        raise self.failure


class MuteExit(MuteError, SystemExit):
    """A `MuteError` of the kind that the exporter logs."""


def deep_group(depth: int) -> BaseException:
    failure: Exception = ValueError("bottom")
    for _ in range(depth):
        failure = ExceptionGroup("level", [failure, OSError("beside")])
    return failure


def noted(note: Any) -> BaseException:
    failure = RuntimeError("noted")
    failure.__notes__ = note
    return failure


def recursion() -> BaseException:
    def recurse() -> None:
        recurse()

    try:
        recurse()
    except RecursionError as exc:
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    "make",
    [
        lambda: MuteError(ValueError("mute")),
        lambda: MuteError(SystemExit()),
        lambda: MuteExit(ValueError("mute")),
        lambda: ExceptionGroup("some", [MuteError(ValueError("mute")), OSError("loud")]),
        lambda: deep_group(2000),
        lambda: ExceptionGroup("wide", [OSError(str(number)) for number in range(10_000)]),
        lambda: ValueError("x" * 10_000_000),
        lambda: noted(5),
        lambda: noted("text"),
        lambda: noted([object(), 5, MuteError(ValueError("mute"))]),
        lambda: noted(["note"] * 100_000),
        lambda: DriverError("text", code=99_999),  # type: ignore[arg-type]
        lambda: DriverError("text", code="high"),  # type: ignore[arg-type]
        lambda: type("\udcff" * 3, (Exception,), {})("odd name"),
        lambda: type("Long" * 1000, (Exception,), {})("long name"),
        recursion,
    ],
)
async def test_an_exception_that_cannot_be_described_is_one_error_all_the_same(
    make: Callable[[], BaseException],
) -> None:
    failures = await assert_contained(make, PLACES)
    assert len(failures) == len(PLACES)


async def a_cancellation() -> trio.Cancelled:
    """Return a Cancelled, which only Trio can create, after its scope has ended."""
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(trio.Cancelled) as caught:
            await trio.lowlevel.checkpoint()
    return caught.value


async def test_a_cancellation_that_nobody_asked_for_ends_its_own_call_alone() -> None:
    kept = await a_cancellation()
    for failure in await assert_contained(lambda: kept, PLACES):
        assert isinstance(failure, CallCancelled)


async def test_a_failure_beside_a_cancellation_is_reported() -> None:
    kept = await a_cancellation()
    for failure in await assert_contained(
        lambda: BaseExceptionGroup("both", [kept, ValueError("why")]), PLACES
    ):
        assert isinstance(failure, DriverInvalidArgument)
        assert failure.message == "why"


RAISING = "driver 'root' (test_dispatch.Raising)"


async def test_an_exception_that_would_end_a_program_is_logged_and_contained(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await assert_contained(lambda: SystemExit("the end"), {"method": Kind.UNARY})
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.startswith(f"'method' of {RAISING} raised SystemExit: Traceback")
    assert record.message.endswith("SystemExit: the end")


async def test_an_exception_of_a_driver_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "jumpstarter.exporter")
    await assert_contained(lambda: KeyError("relay"), {"method": Kind.UNARY})
    (record,) = (each for each in caplog.records if "raised" in each.message)
    assert record.levelno == logging.INFO
    lines = record.message.splitlines()
    assert "raise self.make()" in lines[2]  # the line that raised comes first, not its callers
    assert lines[-1].endswith("KeyError: 'relay'")


async def test_a_driver_for_another_event_loop_gets_an_explanation() -> None:
    class Asyncio(Echo):
        @export
        async def nap(self) -> None:
            await asyncio.sleep(0)

        @export
        async def wait(self) -> None:
            await asyncio.sleep(1)

    async with channel_to(Asyncio()) as channel:
        for method in ("nap", "wait"):
            failure = await failure_of(channel, method, Kind.UNARY)
            assert failure.remote_type in {"TypeError", "RuntimeError"}
            assert re.search("asyncio|event loop", str(failure))


@pytest.mark.parametrize("told", [False, True])
async def test_a_traceback_is_sent_by_an_exporter_that_is_told_to_alone(told: bool) -> None:
    async with answered(Raising(lambda: ValueError("text")), send_tracebacks=told) as client:
        await client.greet()
        with pytest.raises(DriverInvalidArgument) as caught:
            await client.answer(await client.call("method"))
    assert ("raise self.make()" in (caught.value.remote_traceback or "")) is told


class Hopping(Plain):
    """Raises an exception that passes through several libraries."""

    @export
    def hop(self) -> None:
        trio.from_thread.run(self._fail)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        yield
        raise ValueError("text")

    async def _fail(self) -> None:
        async with self._opened():
            pass


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
async def test_a_traceback_has_the_frames_of_libraries_at_level_debug_only(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "jumpstarter.exporter")
    async with answered(Hopping(), send_tracebacks=True) as client:
        await client.greet()
        with pytest.raises(DriverInvalidArgument) as caught:
            await client.answer(await client.call("hop"))
    sent = caught.value.remote_traceback
    assert sent is not None
    frames = re.findall(r", in (\w+)$", sent, re.MULTILINE)
    if level == logging.INFO:
        assert frames == ["hop", "_fail", "_opened"]
    else:
        assert {"hop", "from_thread_run", "_fail", "__aexit__", "_opened"} <= set(frames)
    assert all(name in caplog.text for name in frames)


# --- objects that are not streams ---


class NoStreams(Echo):
    @exportstream
    async def forgot_the_decorator(self) -> None: ...

    @exportstream
    def gives_a_value(self) -> int:
        return 5

    @exportstream
    def gives_nothing(self) -> None: ...

    @exportstream
    @asynccontextmanager
    async def yields_a_value(self) -> AsyncIterator[int]:
        yield 5

    @exportstream
    @asynccontextmanager
    async def yields_nothing(self) -> AsyncIterator[None]:
        yield

    @exportstream
    @asynccontextmanager
    async def never_yields(self) -> AsyncIterator[None]:
        return
        yield  # makes it a generator


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("forgot_the_decorator", "is an asynccontextmanager; this one gave <coroutine object"),
        ("gives_a_value", "is an asynccontextmanager; this one gave 5"),
        ("gives_nothing", "is an asynccontextmanager; this one gave None"),
        ("yields_a_value", "must yield a Trio or an anyio stream, not int"),
        ("yields_nothing", "must yield a Trio or an anyio stream, not NoneType"),
        ("never_yields", "generator didn't yield"),
    ],
)
async def test_a_stream_method_that_yields_no_stream_explains_how(method: str, text: str) -> None:
    async with channel_to(NoStreams()) as channel:
        failure = await failure_of(channel, method, Kind.STREAM)
    assert text in str(failure)


# --- the five kinds of methods, over a whole connection ---


async def test_each_way_of_calling_works() -> None:
    async with channel_to(Echo()) as channel:
        assert await run(channel, "echo", Kind.UNARY, {"a": [1, b"\xff"]}) == {"a": [1, b"\xff"]}
        assert await run(channel, "echo_async", Kind.UNARY, None) is None
        assert await run(channel, "count", Kind.GENERATOR, 100) == list(range(100))
        assert await run(channel, "count_async", Kind.GENERATOR, 100) == list(range(100))
        assert await run(channel, "connect", Kind.STREAM) == b""


async def test_a_generator_gives_what_it_returned() -> None:
    async with answered(Echo()) as client:
        await client.greet()
        slot = await client.call("count", 3, kind=Kind.GENERATOR)
        assert await client.answer(slot) == "counted"
        assert client.items[slot] == [0, 1, 2]


async def test_keyword_arguments_arrive() -> None:
    async with channel_to(Strict()) as channel:
        request = Request(1, Kind.UNARY, "place", (1,), {"speed": 5}, driver="the driver")
        assert await channel.call(request) == [1, 0, 5]


async def test_a_generator_that_never_waits_lets_others_have_their_turn() -> None:
    async with answered(Echo()) as client:
        await client.greet()
        client.queue("count_async", 10**9, kind=Kind.GENERATOR)
        other = client.queue("echo_async", "in between")
        await client.send()
        items = 0
        while isinstance(event := await client.next_event(), ev.ItemReceived):
            items += 1
        assert isinstance(event, ev.ResultReceived)
        assert event.slot == other
        assert items < 200  # although there is credit for 500


async def test_no_item_is_sent_beyond_the_clients_credit() -> None:
    class Large(Echo):
        @export
        async def blocks(self) -> AsyncGenerator[bytes, None]:
            while True:
                yield bytes(10_000)

    async with answered(Large()) as client:
        await client.greet()
        slot = await client.call("blocks", kind=Kind.GENERATOR)
        for _ in range(4):  # the first window is 32 KiB, and the last item may exceed it
            await client.event(ev.ItemReceived)
        await trio.testing.wait_all_tasks_blocked()
        assert await client.answer(await client.call("echo", 1)) == 1  # and no fifth item first
        await client.cancel(slot)
        with pytest.raises(CallCancelled):
            await client.answer(slot)
