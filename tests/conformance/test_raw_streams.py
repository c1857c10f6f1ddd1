"""Tests that raw streams behave and close like Trio streams, end to end and over every transport.

Each test has a real exporter and a real client. The driver yields either one end of an unbuffered
pair, while the test holds the other end, or a `Device` that records the bytes it receives.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from drivers_for_tests import Plain
from helpers import ask, channel_over, in_time
from jumpstarter._limits import Limits
from jumpstarter._protocol.frames import Kind
from jumpstarter.client._channel import Channel
from jumpstarter.client._raw_streams import RemoteStream, open_stream
from jumpstarter.driver import export, exportstream
from jumpstarter.errors import CallOutcomeUnknown, DriverConnectionError, DriverError, DriverOSError
from transports import PairMaker, memory_pair, over_every_transport, unix_pair

WINDOW = 1024  # bytes; small, so that a stream fills up soon
SMALL = Limits(stream_window=WINDOW, max_window=WINDOW)
PATIENCE = 60  # seconds for Trio's whole check, which takes 5 over the slowest transport

FarEnd = trio.abc.HalfCloseableStream


@dataclass(kw_only=True)
class Pipe(Plain):
    """A driver that yields one end of a pair of streams, and leaves the other to the test.

    Attributes:
        far_end: The other end, once the stream is open.
        ended: Set once the driver's code has ended.
    """

    far_end: FarEnd = field(init=False, repr=False)
    ended: trio.Event = field(init=False, default_factory=trio.Event)

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[FarEnd]:
        near_end, self.far_end = trio.testing.lockstep_stream_pair()
        try:
            async with near_end:
                yield near_end
        finally:
            self.ended.set()

    @export
    async def ping(self) -> str:
        return "pong"


class Device(trio.abc.HalfCloseableStream):
    """A device that records the bytes it receives.

    Attributes:
        log: The bytes, `"eof"` where a client's half has ended properly, and `"closed"`.
        broken: The exception that every send raises, if any.
        may_take: An event that each send waits for.
        gives: Pieces that the device sends before it fails with `broken`, or waits forever.
    """

    def __init__(self) -> None:
        self.log: list[bytes | str] = []
        self.broken: Exception | None = None
        self.may_take = trio.Event()
        self.gives: list[bytes] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.may_take.wait()
        if self.broken is not None:
            raise self.broken
        self.log.append(bytes(data))

    async def send_eof(self) -> None:
        self.log.append("eof")

    async def wait_send_all_might_not_block(self) -> None:
        await self.may_take.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        await trio.lowlevel.checkpoint()
        if self.gives:
            return self.gives.pop(0)
        if self.broken is not None:
            raise self.broken
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        self.log.append("closed")


@dataclass(kw_only=True)
class WithDevice(Plain):
    device: Device = field(default_factory=Device, repr=False)

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Device]:
        async with self.device:
            yield self.device


async def opened(channel: Channel) -> RemoteStream:
    return await open_stream(channel, ask("connect", kind=Kind.STREAM))


@asynccontextmanager
async def piped(
    make_pair: PairMaker, limits: Limits = SMALL
) -> AsyncIterator[tuple[RemoteStream, FarEnd, Pipe, Channel]]:
    """Yield an open stream, its far end, the driver, and the channel."""
    driver = Pipe()
    pair = await make_pair()
    async with (
        in_time(),
        channel_over(pair, driver, limits=limits, exporter_limits=limits) as channel,
    ):
        stream = await opened(channel)
        yield stream, driver.far_end, driver, channel


@asynccontextmanager
async def to_device(
    device: Device, limits: Limits = SMALL, make_pair: PairMaker = memory_pair
) -> AsyncIterator[RemoteStream]:
    driver = WithDevice(device=device)
    pair = await make_pair()
    async with channel_over(pair, driver, limits=limits, exporter_limits=limits) as channel:
        yield await opened(channel)


async def receive_all(stream: trio.abc.ReceiveStream, received: bytearray) -> None:
    async for piece in stream:
        received += piece


async def send_for_ever(stream: trio.abc.SendStream) -> None:
    while True:
        await stream.send_all(b"x")


async def note(log: list[str], what: str, function: Callable[[], Awaitable[None]]) -> None:
    """Await a function, then log that it has ended."""
    await function()
    log.append(what)


# ------------------------------------------------------------------------------ Trio's own check


class Makers:
    """Makes pairs of a client's stream and the driver's far end, for Trio's check."""

    def __init__(self, make_pair: PairMaker, stack: AsyncExitStack, *, swapped: bool) -> None:
        self._make_pair = make_pair
        self._stack = stack
        self._swapped = swapped

    async def free(self) -> tuple[FarEnd, FarEnd]:
        driver = Pipe()
        pair = await self._make_pair()
        opening = channel_over(pair, driver, limits=SMALL, exporter_limits=SMALL)
        channel = await self._stack.enter_async_context(opening)
        stream = await opened(channel)
        return (driver.far_end, stream) if self._swapped else (stream, driver.far_end)

    async def clogged(self) -> tuple[FarEnd, FarEnd]:
        """Fill both directions: a window waits to be read, and the bridge holds another."""
        ends = await self.free()
        for end in ends:
            await end.send_all(bytes(2 * WINDOW))
        return ends


@over_every_transport
async def test_a_raw_stream_is_a_half_closeable_trio_stream(make_pair: PairMaker) -> None:
    async with in_time(PATIENCE), AsyncExitStack() as stack:
        makers = Makers(make_pair, stack, swapped=False)
        await trio.testing.check_half_closeable_stream(makers.free, makers.clogged)


async def test_the_far_end_is_a_half_closeable_trio_stream_too() -> None:
    async with in_time(PATIENCE), AsyncExitStack() as stack:
        makers = Makers(unix_pair, stack, swapped=True)
        # No clogged pair: at a far end, it would only check Trio's own lockstep streams.
        await trio.testing.check_half_closeable_stream(makers.free, None)


# -------------------------------------------------------------------------------------- closing


@over_every_transport
async def test_closing_delivers_what_was_sent_and_waits_until_the_driver_has_ended(
    make_pair: PairMaker,
) -> None:
    payload = bytes(range(256)) * (2 * WINDOW // 256)
    async with piped(make_pair) as (stream, far_end, driver, _):
        await stream.send_all(payload)
        async with trio.open_nursery() as nursery:
            log: list[str] = []
            nursery.start_soon(note, log, "closed", stream.aclose)
            received = bytearray()
            await receive_all(far_end, received)
            assert received == payload
            assert not log
        assert driver.ended.is_set()


@over_every_transport
async def test_after_both_ends_have_ended_receiving_gives_nothing_for_ever(
    make_pair: PairMaker,
) -> None:
    async with piped(make_pair) as (stream, far_end, driver, _):
        await stream.send_eof()
        await far_end.send_eof()
        for _ in range(2):
            assert await stream.receive_some() == b""
            assert await far_end.receive_some() == b""
        await driver.ended.wait()
        assert await stream.receive_some() == b""


@over_every_transport
async def test_a_drivers_failure_breaks_the_stream_behind_the_bytes_before_it(
    make_pair: PairMaker,
) -> None:
    device = Device()
    device.gives = [b"what came ", b"before"]
    device.broken = OSError("the cable is out")
    received = bytearray()
    async with in_time(), to_device(device, make_pair=make_pair) as stream:
        with pytest.raises(trio.BrokenResourceError, match="OSError: the cable is out") as broken:
            await receive_all(stream, received)
        assert received == b"what came before"
        assert isinstance(broken.value.__cause__, DriverOSError)
        with pytest.raises(trio.BrokenResourceError, match="the cable is out") as broken:
            await stream.send_all(b"x")
        assert isinstance(broken.value.__cause__, DriverOSError)
        await stream.aclose()
        with pytest.raises(DriverOSError, match="the cable is out"):
            stream.check()


async def test_a_device_that_breaks_under_a_send_breaks_the_clients_stream() -> None:
    device = Device()
    device.broken = trio.BrokenResourceError("the device hung up")
    device.gives = [b"x"] * 2 * WINDOW  # too many to drain, so that a send fails first
    device.may_take.set()
    async with in_time(), to_device(device) as stream:
        with pytest.raises(trio.BrokenResourceError, match="the device hung up") as broken:
            await send_for_ever(stream)
        assert isinstance(broken.value.__cause__, DriverConnectionError)
        with pytest.raises(trio.BrokenResourceError, match="the device hung up"):
            await stream.wait_send_all_might_not_block()


@over_every_transport
async def test_a_lost_connection_breaks_the_stream_and_ends_the_driver(
    make_pair: PairMaker,
) -> None:
    ours, theirs = await make_pair()

    async def same_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        return ours, theirs

    async with piped(same_pair) as (stream, _, driver, _):
        await trio.aclose_forcefully(theirs)
        with pytest.raises(trio.BrokenResourceError) as broken:
            await stream.receive_some()
        assert isinstance(broken.value.__cause__, CallOutcomeUnknown)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        await driver.ended.wait()
        await stream.aclose()


async def test_closing_in_order_tells_the_device_of_the_end() -> None:
    device = Device()
    device.may_take.set()
    async with in_time(), to_device(device) as stream:
        await stream.send_all(b"all of it")
        await stream.aclose()
        assert device.log == [b"all of it", "eof", "closed"]


async def test_a_send_cut_short_by_a_timeout_never_looks_finished() -> None:
    device = Device()
    async with in_time(), to_device(device) as stream:
        with trio.move_on_after(1) as scope:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(100 * WINDOW))
                await wait_all_tasks_blocked()
                device.may_take.set()
                scope.cancel()
        assert scope.cancelled_caught
        assert "eof" not in device.log
        assert device.log[-1] == "closed"


async def test_a_cancelled_close_never_looks_finished() -> None:
    device = Device()
    device.may_take.set()
    async with in_time(), to_device(device) as stream:
        await stream.send_all(b"half of it")
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(stream)
        assert device.log == [b"half of it", "closed"]


async def test_closing_under_a_send_ends_both_at_once_and_never_looks_finished(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    device = Device()
    async with in_time(), to_device(device) as stream:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.send_all(bytes(100 * WINDOW))

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            started = trio.current_time()
            await stream.aclose()
            assert trio.current_time() == started  # no lingering, since the bytes are lost anyway
        assert device.log == ["closed"]


async def test_a_send_that_was_cancelled_before_its_first_byte_does_not_spoil_the_close() -> None:
    device = Device()
    async with in_time(), to_device(device) as stream:
        await stream.send_all(bytes(2 * WINDOW))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, b"too much")
                await wait_all_tasks_blocked()
                scope.cancel()
        device.may_take.set()
        await stream.aclose()
        assert device.log == [bytes(WINDOW), bytes(WINDOW), "eof", "closed"]


async def test_closing_lingers_for_a_device_that_takes_nothing_and_then_gives_up(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    device = Device()
    limits = Limits(linger=3)
    async with in_time(), to_device(device, limits) as stream:
        await stream.send_all(b"never taken")
        started = trio.current_time()
        await stream.aclose()
        assert trio.current_time() == started + 3
        assert device.log == ["closed"]
        stream.check()  # raises nothing: the client's cut does not count as the driver's failure


async def test_two_tasks_may_close_a_stream_and_both_wait_for_its_end() -> None:
    device = Device()
    log: list[str] = []
    async with in_time(), to_device(device) as stream:
        await stream.send_all(b"taken late")
        async with trio.open_nursery() as nursery:
            for name in ("first", "second"):
                nursery.start_soon(note, log, name, stream.aclose)
            await wait_all_tasks_blocked()
            assert not log
            device.may_take.set()
        assert sorted(log) == ["first", "second"]
        assert device.log == [b"taken late", "eof", "closed"]


async def test_closing_after_the_connection_has_ended_returns_at_once(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    async with piped(memory_pair) as (stream, _, _, channel):
        await channel.aclose()
        started = trio.current_time()
        await stream.aclose()
        assert trio.current_time() == started
        with pytest.raises(DriverError):
            stream.check()


# --------------------------------------------------------------------------------- backpressure


@over_every_transport
async def test_a_driver_that_does_not_read_bounds_what_a_client_can_send(
    make_pair: PairMaker,
) -> None:
    async with piped(make_pair) as (stream, far_end, _, channel):
        # A window waits on the exporter, and the driver holds another.
        await stream.send_all(bytes(2 * WINDOW))
        log: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, log, "sent", lambda: stream.send_all(b"x"))
            for _ in range(10):  # the stream's data in flight arrives before each answer
                assert await channel.call(ask("ping")) == "pong"
            assert not log
            received = b""
            while len(received) < 2 * WINDOW + 1:
                received += await far_end.receive_some()
        assert received == bytes(2 * WINDOW) + b"x"


@over_every_transport
async def test_a_client_that_does_not_read_bounds_what_a_driver_can_send(
    make_pair: PairMaker,
) -> None:
    async with piped(make_pair) as (stream, far_end, _, channel):
        await far_end.send_all(bytes(2 * WINDOW))
        log: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, log, "sent", lambda: far_end.send_all(b"x"))
            for _ in range(10):
                assert await channel.call(ask("ping")) == "pong"
            assert not log
            received = b""
            while len(received) < 2 * WINDOW + 1:
                received += await stream.receive_some()
        assert received == bytes(2 * WINDOW) + b"x"


async def test_many_streams_that_nobody_reads_hold_up_no_other_stream() -> None:
    limits = Limits(stream_window=WINDOW, max_window=WINDOW, max_total_window=64 * WINDOW)
    async with AsyncExitStack() as stack:
        clogged, far_end, driver, channel = await stack.enter_async_context(
            piped(unix_pair, limits)
        )
        await clogged.send_all(bytes(2 * WINDOW))
        await far_end.send_all(bytes(2 * WINDOW))
        for _ in range(100):
            stream = await opened(channel)
            far_end = driver.far_end
            await stream.send_all(bytes(2 * WINDOW))
            await far_end.send_all(bytes(2 * WINDOW))
        stream = await opened(channel)
        far_end = driver.far_end
        for number in range(100):
            message = str(number).encode()
            await stream.send_all(message)
            assert await far_end.receive_some() == message
            await far_end.send_all(message)
            assert await stream.receive_some() == message
