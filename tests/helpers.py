"""Helpers for tests of whole connections: deadlines, and both sides in one Trio loop."""

from __future__ import annotations

import functools
import re
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ParamSpec, TypeVar

import trio
import trio.testing

from jumpstarter import serve
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.session import Session
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._limits import DEFAULT_LIMITS, Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.codec import (
    call_prefix,
    decode_error,
    decode_value,
    encode_call,
    encode_error,
    encode_value,
    set_timeout,
)
from jumpstarter._protocol.error_codec import exception_from_wire
from jumpstarter._protocol.frames import ErrorBody, Hello, Kind
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter._util.background import open_background
from jumpstarter.client import DriverClient, RemoteGenerator, RemoteStream
from jumpstarter.client._channel import Channel
from jumpstarter.client._outgoing_call import Request
from jumpstarter.client._raw_streams import open_stream
from jumpstarter.driver import Driver
from jumpstarter.errors import Code
from transports import PairMaker, memory_pair
from wire import Frame, frames

__all__ = [
    "PATIENCE",
    "Outcome",
    "ScriptedClient",
    "ScriptedExporter",
    "Steps",
    "answered",
    "ask",
    "begin",
    "cancelled_scope",
    "channel_over",
    "channel_to",
    "counted",
    "generator",
    "in_time",
    "scripted",
    "served",
    "stream",
    "timed",
    "until",
    "wait_until",
]

PATIENCE = 30.0  # seconds: far more than the slowest step takes, on a busy machine too

E = TypeVar("E")
P = ParamSpec("P")
Test = Callable[P, Coroutine[Any, Any, None]]


@asynccontextmanager
async def in_time(seconds: float = PATIENCE) -> AsyncIterator[None]:
    """Fail if the block takes longer than this.

    `trio.fail_after` would set a deadline, which calls within the block send to the exporter.
    """
    scope = trio.CancelScope()

    async def watch() -> None:
        await trio.sleep(seconds)
        scope.cancel()

    async with open_background() as nursery:
        nursery.start_soon(watch)
        with scope:
            yield
    if scope.cancelled_caught:
        raise trio.TooSlowError(f"not done after {seconds:g} s")


def timed(seconds: float = PATIENCE) -> Callable[[Test[P]], Test[P]]:
    """Run a whole test `in_time`. A fixture could not do this, since it has its own task."""

    def decorate(test: Test[P]) -> Test[P]:
        @functools.wraps(test)
        async def run(*args: P.args, **kwargs: P.kwargs) -> None:
            async with in_time(seconds):
                await test(*args, **kwargs)

        return run

    return decorate


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread or the operating system will make true."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the other side cannot set an event
            await trio.sleep(0.001)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition as `until` does, in any thread. In a loop's, the loop stands still."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def ask(method: str, *args: Any, kind: Kind = Kind.UNARY) -> Request:
    """Make a request to the root driver."""
    return Request(1, kind, method, args, driver="the driver")


class Outcome:
    """The result of a task: a value or an exception. `ended` is False until there is one."""

    def __init__(self) -> None:
        self.ended = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.scope = trio.CancelScope()
        self.task: trio.lowlevel.Task | None = None

    async def of(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self.task = trio.lowlevel.current_task()
        with self.scope:
            try:
                self.value = await function(*args)
            except trio.Cancelled as exc:
                self.error = exc
                raise
            except Exception as exc:  # noqa: BLE001 - the test inspects it
                self.error = exc
            finally:
                self.ended = True

    async def cancel(self) -> None:
        """Cancel the task, and let all tasks run as far as they can."""
        self.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()

    def failed(self, kind: type[Exception], text: str) -> None:
        """Check the type of the exception, and its text against a pattern."""
        assert isinstance(self.error, kind), self.error
        assert re.search(text, str(self.error)), self.error


async def begin(
    nursery: trio.Nursery, function: Callable[..., Awaitable[Any]], *args: Any
) -> Outcome:
    """Start a task and let it run as far as it can."""
    outcome = Outcome()
    nursery.start_soon(outcome.of, function, *args)
    await trio.testing.wait_all_tasks_blocked()
    return outcome


def generator(channel: Channel, method: str, *args: Any) -> RemoteGenerator:
    """Return a generator of the root driver that has not started."""
    return RemoteGenerator(channel, ask(method, *args, kind=Kind.GENERATOR))


async def stream(channel: Channel, method: str, *args: Any) -> RemoteStream:
    """Open a raw stream of the root driver."""
    return await open_stream(channel, ask(method, *args, kind=Kind.STREAM))


class Steps(trio.abc.Instrument):
    """Count the steps of all tasks, and call a function before one of them."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.taken = 0
        self._at = at
        self._act = act

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.taken += 1
        if self.taken == self._at:
            self._act()


@contextmanager
def counted(at: int, act: Callable[[], None]) -> Iterator[Steps]:
    """Call a function before the step with this number, within the block."""
    steps = Steps(at, act)
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)


def cancelled_scope() -> trio.CancelScope:
    """Return a cancelled scope: each checkpoint in it raises `Cancelled`."""
    scope = trio.CancelScope()
    scope.cancel()
    return scope


@asynccontextmanager
async def channel_to(
    driver: Driver, *, limits: Limits = DEFAULT_LIMITS, exporter_limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[Channel]:
    """Connect a channel to an exporter of this driver through memory, in this Trio loop."""
    pair = trio.testing.memory_stream_pair()
    async with (
        in_time(),
        channel_over(pair, driver, limits=limits, exporter_limits=exporter_limits) as channel,
    ):
        yield channel


@asynccontextmanager
async def channel_over(
    pair: tuple[trio.abc.Stream, trio.abc.Stream],
    driver: Driver,
    *,
    limits: Limits = DEFAULT_LIMITS,
    exporter_limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Channel]:
    """Connect a channel to an exporter of this driver over a pair of streams, without a deadline.

    Args:
        pair: The client's stream, and the exporter's.
        driver: The root of the device tree.
        limits: The client's limits.
        exporter_limits: The exporter's limits.
    """
    executor = DriverExecutor()
    exporter = ServerContext(DeviceTree(driver), executor, limits=exporter_limits)
    ours, theirs = pair
    async with open_background() as nursery:
        nursery.start_soon(Session(exporter, theirs, "the test").run)
        channel = Channel(ours, "the exporter", limits=limits)
        await channel.begin(nursery)
        try:
            yield channel
        finally:
            await channel.aclose()


class ScriptedExporter:
    """An exporter whose every frame is sent by the test.

    Attributes:
        rules: The exporter's side of the protocol. Call its methods, then `send`.
        stream: The stream to the client.
    """

    def __init__(self, stream: trio.abc.Stream, limits: Limits = DEFAULT_LIMITS) -> None:
        self.rules = ServerProtocol(limits)
        self.stream = stream
        self._limits = limits
        self._received = b""
        self._events: deque[ev.Event] = deque()

    async def greet(self) -> None:
        """Exchange HELLOs."""
        await self.event(ev.HelloReceived)
        self.rules.admit(Hello.of(self._limits))
        await self.send()

    async def event(self, kind: type[E]) -> E:
        """Wait for the next event from the client, and check its class."""
        while not self._events:
            await self.read()
        event = self._events.popleft()
        assert isinstance(event, kind), event
        return event

    async def read(self) -> None:
        """Read from the client once."""
        data = bytes(await self.stream.receive_some())
        assert data, "the client has hung up"
        self._received += data
        self._events.extend(self.rules.receive(data))

    async def all_frames(self) -> list[Frame]:
        """Wait until the client closes the connection, and return all frames that it has sent."""
        async for data in self.stream:
            self._received += data
        return frames(self._received)

    async def send(self) -> None:
        """Send the queued frames."""
        while self.rules.send_queue:
            await self.stream.send_all(b"".join(self.rules.next_batch().buffers))

    async def result(self, slot: int, value: Any = None) -> None:
        """Answer a call with RESULT."""
        self.rules.result(slot, encode_value(value))
        await self.send()

    async def error(self, slot: int, code: Code, text: str = "no") -> None:
        """Answer a call with ERROR."""
        self.rules.error(slot, encode_error(code, ErrorBody("", text)))
        await self.send()

    async def item(self, slot: int, value: Any) -> None:
        """Send a generator's next item."""
        self.rules.item(slot, encode_value(value))
        await self.send()

    async def goaway(self, text: str) -> None:
        """Send GOAWAY: the exporter accepts no more calls."""
        self.rules.goaway(Code.OK, 0, text)
        await self.send()


@asynccontextmanager
async def scripted(
    *,
    limits: Limits = DEFAULT_LIMITS,
    exporter_limits: Limits = DEFAULT_LIMITS,
    make_pair: Callable[
        [], tuple[trio.abc.Stream, trio.abc.Stream]
    ] = trio.testing.memory_stream_pair,
) -> AsyncIterator[tuple[Channel, ScriptedExporter]]:
    """Connect a channel to a `ScriptedExporter`, and exchange HELLOs."""
    ours, theirs = make_pair()
    exporter = ScriptedExporter(theirs, exporter_limits)
    async with in_time(), open_background() as nursery:
        nursery.start_soon(exporter.greet)
        channel = Channel(ours, "the exporter", limits=limits)
        await channel.begin(nursery)
        yield channel, exporter


class ScriptedClient:
    """A client whose every frame is sent by the test. It reads only when the test asks for it.

    Attributes:
        rules: The client's side of the protocol. Call its methods, then `send`.
        stream: The stream to the exporter.
        session: The exporter's session for this client.
        items: The items received from each generator, by slot.
    """

    def __init__(
        self, stream: trio.abc.Stream, session: Session, limits: Limits, token: str
    ) -> None:
        self.rules = ClientProtocol(limits, Hello.of(limits, token=token))
        self.stream = stream
        self.session = session
        self.items: defaultdict[int, list[Any]] = defaultdict(list)
        self._limits = limits
        self._events: deque[ev.Event] = deque()

    async def greet(self) -> None:
        """Exchange HELLOs."""
        await self.send()
        await self.event(ev.HelloReceived)

    async def send(self) -> None:
        """Send the queued frames."""
        while self.rules.send_queue:
            await self.stream.send_all(b"".join(self.rules.next_batch().buffers))

    async def event(self, kind: type[E]) -> E:
        """Wait for the next event from the exporter, and check its class."""
        event = await self.next_event()
        assert isinstance(event, kind), event
        return event

    async def next_event(self) -> ev.Event:
        """Wait for the next event from the exporter."""
        while not self._events:
            await self.read()
        return self._events.popleft()

    async def read(self) -> None:
        """Read from the exporter once."""
        data = bytes(await self.stream.receive_some())
        assert data, "the exporter has hung up"
        self._events.extend(self.rules.receive(data))

    def queue(
        self, method: str, *args: Any, kind: Kind = Kind.UNARY, target: int = 1, timeout_ms: int = 0
    ) -> int:
        """Queue a CALL, and return its slot."""
        buffer = encode_call(call_prefix(target, kind, method), args)
        set_timeout(buffer, timeout_ms)
        return self.rules.call(kind, buffer)

    async def call(self, method: str, *args: Any, **options: Any) -> int:
        """Send a CALL, with the options of `queue`, and return its slot."""
        slot = self.queue(method, *args, **options)
        await self.send()
        return slot

    async def cancel(self, slot: int, code: Code = Code.CANCELLED) -> None:
        """Send CANCEL for a call."""
        self.rules.cancel(slot, code)
        await self.send()

    async def answer(self, slot: int) -> Any:
        """Wait for the answer of a call. No frame of another call may arrive before it.

        Returns:
            The value of the RESULT.

        Raises:
            DriverError: The answer is an ERROR.
        """
        while True:
            event = await self.next_event()
            assert getattr(event, "slot", slot) == slot, event
            match event:
                case ev.ResultReceived():
                    return decode_value(event.body, self._limits)
                case ev.ErrorReceived():
                    raise exception_from_wire(*decode_error(event.body, self._limits), "")
                case ev.ItemReceived():
                    self.items[slot].append(decode_value(event.body, self._limits))
                case ev.AcceptReceived() | ev.DataReceived() | ev.CreditReceived():
                    pass
                case _:
                    raise AssertionError(event)


@asynccontextmanager
async def answered(
    driver: Driver,
    *,
    executor: DriverExecutor | None = None,
    limits: Limits = DEFAULT_LIMITS,
    exporter_limits: Limits = DEFAULT_LIMITS,
    token: str = "",
    expected_token: str = "",
    send_tracebacks: bool = False,
    patience: float = PATIENCE,
    make_pair: PairMaker = memory_pair,
) -> AsyncIterator[ScriptedClient]:
    """Connect a `ScriptedClient` to a session that serves this driver, before any HELLO.

    At the end of the block the client closes the connection, and the session must return.
    """
    ours, theirs = await make_pair()
    executor = executor or DriverExecutor()
    tree = DeviceTree(driver)
    exporter = ServerContext(
        tree,
        executor,
        limits=exporter_limits,
        token=expected_token,
        send_tracebacks=send_tracebacks,
    )
    session = Session(exporter, theirs, "the client")
    ended = trio.Event()

    async def run() -> None:
        await session.run()
        ended.set()

    async with in_time(patience), open_background() as nursery:
        nursery.start_soon(run)
        yield ScriptedClient(ours, session, limits, token)
        await ours.aclose()
        await ended.wait()


@contextmanager
def served(driver: Driver) -> Iterator[DriverClient]:
    """Serve a driver as `serve` does, with a deadline for all blocking calls of the block."""
    with serve(driver) as client, client.timeout(PATIENCE):
        yield client
