"""Test a slot's bytes as a Trio stream: both ends, joined by two real connections."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from helpers import PATIENCE, in_time, timed
from jumpstarter._io.byte_stream import SlotStream
from jumpstarter._io.connection import Connection
from jumpstarter._io.transport import transport_for
from jumpstarter._limits import Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.frames import FrameType, Hello, Kind
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter._util.background import open_background
from jumpstarter.errors import DriverError
from transports import Pair, PairMaker, lockstep_pair, memory_pair, over_every_transport, unix_pair
from wire import Frame, call, error, frames, value

WINDOW = 1000  # bytes
LIMITS = Limits(max_frame=1024, stream_window=WINDOW, max_window=WINDOW)
WIDE = Limits(stream_window=200_000, max_window=200_000)
GONE = ConnectionError("the cable is out")


class Tap(trio.abc.Stream):
    """A stream that forwards everything, and records the received bytes."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._received = b""
        self.open = trio.Event()  # receiving waits for it
        self.open.set()

    @property
    def heard(self) -> list[Frame]:
        """Return every frame so far except HELLO; assert that all are complete."""
        return [f for f in frames(self._received) if f.type is not FrameType.HELLO]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self.open.wait()
        data = bytes(await self._stream.receive_some(max_bytes))
        self._received += data
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class StreamHandler:
    """The handler of a slot: passes every event to its stream."""

    def __init__(self, stream: SlotStream) -> None:
        self.stream = stream

    def received(self, event: ev.SlotEvent) -> None:
        match event:
            case ev.DataReceived():
                self.stream.on_data(event)
            case ev.CreditReceived():
                self.stream.on_writable()
            case ev.ResultReceived():
                self.stream.finish(None)
            case ev.ErrorReceived():
                self.stream.finish(DriverError("the driver has failed"))

    def drained(self) -> None:
        self.stream.on_writable()

    def lost(self, reason: Exception) -> None:
        self.stream.finish(reason)


class Side:
    """The handler of a connection on which every call is a raw stream."""

    def __init__(self, rules: ClientProtocol | ServerProtocol, stream: trio.abc.Stream) -> None:
        self.rules = rules
        self.connection = Connection(transport_for(stream), rules, self, "the peer")
        self.admitted = trio.Event()
        self._send_opened, self.opened = trio.open_memory_channel[SlotStream](math.inf)

    def on_hello(self, hello: Hello) -> None:
        del hello
        if isinstance(self.rules, ServerProtocol):
            self.rules.admit(Hello.of(self.rules.limits))
        self.admitted.set()

    def on_call(self, event: ev.CallReceived) -> None:
        self._send_opened.send_nowait(self.stream_on(event.slot))

    def stream_on(self, slot: int) -> SlotStream:
        stream = SlotStream(self.connection, slot)
        self.connection.handlers[slot] = StreamHandler(stream)
        return stream

    def on_slot_free(self) -> None:
        pass


class Ends:
    """Both ends of a raw stream, and the frames between them.

    Attributes:
        ours: The client's end.
        theirs: The server's.
        to_client: The bytes that the client's connection has read.
        to_server: The bytes that the server's connection has read.
    """

    def __init__(self, pair: Pair, limits: Limits) -> None:
        self.to_client, self.to_server = map(Tap, pair)
        self.client = Side(ClientProtocol(limits, Hello.of(limits)), self.to_client)
        self.server = Side(ServerProtocol(limits), self.to_server)

    async def open(self) -> None:
        await self.client.admitted.wait()
        assert isinstance(self.client.rules, ClientProtocol)
        self.ours = self.client.stream_on(self.client.rules.call(Kind.STREAM, call(Kind.STREAM)))
        self.client.connection.writer.flush()
        self.theirs = await self.server.opened.receive()

    def end(self, buffer: bytearray, *, well: bool) -> None:
        """End the stream on the server."""
        assert isinstance(self.server.rules, ServerProtocol)
        slot = self.theirs.slot
        del self.server.connection.handlers[slot]
        self.theirs.finish(None)
        (self.server.rules.result if well else self.server.rules.error)(slot, buffer)
        self.server.connection.writer.flush()

    def sent_data(self) -> list[Frame]:
        """Return the DATA frames from the client that the server has read."""
        return [f for f in self.to_server.heard if f.type is FrameType.DATA]

    def given_back(self) -> int:
        """Return the credit from the server that the client has read."""
        credit = [f.payload for f in self.to_client.heard if f.type is FrameType.CREDIT]
        return sum(int.from_bytes(payload, "little") for payload in credit)


@asynccontextmanager
async def opened(
    make_pair: PairMaker = memory_pair, limits: Limits = LIMITS
) -> AsyncIterator[Ends]:
    """Yield both ends of one open stream."""
    ends = Ends(await make_pair(), limits)
    async with open_background() as nursery:
        for side in (ends.client, ends.server):
            nursery.start_soon(side.connection.run)
            side.connection.writer.flush()
        await ends.open()
        yield ends


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = await stream.receive_some(size - len(received))
        assert piece
        received += piece
    return received


# --------------------------------------------------------------------------- sending, receiving


@over_every_transport
@timed()
async def test_bytes_flow_both_ways_concurrently_in_any_number(make_pair: PairMaker) -> None:
    payload = bytes(range(256)) * 80

    async def send(stream: SlotStream, data: bytes) -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async def receive(stream: SlotStream, data: bytes) -> None:
        assert await receive_all(stream) == data

    async with opened(make_pair) as ends, trio.open_nursery() as nursery:
        for stream, data in ((ends.ours, payload), (ends.theirs, payload[::-1])):
            nursery.start_soon(send, stream, data)
        nursery.start_soon(receive, ends.theirs, payload)
        nursery.start_soon(receive, ends.ours, payload[::-1])


@given(
    st.lists(st.binary(max_size=3000), max_size=8),
    st.lists(st.integers(1, 3000), min_size=1, max_size=8),
)
def test_bytes_sent_in_any_chunks_can_be_received_in_any_chunks(
    sent: list[bytes], sizes: list[int]
) -> None:
    async def run() -> None:
        async with in_time(), opened() as ends, trio.open_nursery() as nursery:

            async def send() -> None:
                for piece in sent:
                    await ends.ours.send_all(piece)
                await ends.ours.send_eof()

            nursery.start_soon(send)
            received = b""
            while piece := await ends.theirs.receive_some(sizes[len(received) % len(sizes)]):
                received += piece
            assert received == b"".join(sent)
            assert all(len(f.payload) <= LIMITS.max_frame for f in ends.sent_data())

    trio.run(run)


@timed()
async def test_sending_nothing_sends_no_frame() -> None:
    async with opened() as ends:
        with assert_checkpoints():
            await ends.ours.send_all(b"")
        await ends.ours.send_all(b"x")
        assert await ends.theirs.receive_some() == b"x"
        assert len(ends.sent_data()) == 1


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (bytearray(b"array"), b"array"),
        (memoryview(b"a view")[2:], b"view"),
        (memoryview(bytes(range(8))).cast("I"), bytes(range(8))),
    ],
    ids=["bytearray", "memoryview", "memoryview of integers"],
)
@timed()
async def test_any_buffer_can_be_sent(data: bytearray | memoryview, sent: bytes) -> None:
    async with opened() as ends:
        await ends.ours.send_all(data)
        assert await ends.theirs.receive_some() == sent


@pytest.mark.parametrize("data", [5, "text", None, [1, 2]])
@timed()
async def test_send_all_rejects_objects_that_are_not_buffers(data: bytes) -> None:
    async with opened() as ends:
        with pytest.raises(TypeError):
            await ends.ours.send_all(data)
        await ends.ours.send_all(b"x")
        assert await ends.theirs.receive_some() == b"x"


@timed()
async def test_a_buffer_may_be_changed_once_it_was_sent() -> None:
    async with opened() as ends:
        buffer = bytearray(b"first")
        await ends.ours.send_all(buffer)
        buffer[:] = b"other"
        assert await ends.theirs.receive_some() == b"first"


@pytest.mark.parametrize(
    ("max_bytes", "wrong"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)]
)
@timed()
async def test_receive_some_requires_a_positive_max_bytes(
    max_bytes: int, wrong: type[Exception]
) -> None:
    async with opened() as ends:
        with pytest.raises(wrong):
            await ends.ours.receive_some(max_bytes)


@timed()
async def test_receive_some_returns_at_most_max_bytes_and_then_the_rest() -> None:
    async with opened() as ends:
        await ends.ours.send_all(b"one two")
        assert await ends.theirs.receive_some(3) == b"one"
        with assert_checkpoints():
            assert await ends.theirs.receive_some(100) == b" two"


@timed()
async def test_receive_some_returns_all_available_bytes_up_to_a_limit() -> None:
    sent = [letter * 60_000 for letter in (b"a", b"b", b"c")]
    async with opened(limits=WIDE) as ends:
        for piece in sent:
            await ends.ours.send_all(piece)
        await wait_all_tasks_blocked()
        assert await ends.theirs.receive_some(130_000) == sent[0] + sent[1]
        assert await ends.theirs.receive_some() == sent[2]
    limits = replace(WIDE, stream_window=2**20, max_window=2**20)
    async with opened(limits=limits) as ends:
        await ends.ours.send_all(bytes(300_000))
        await wait_all_tasks_blocked()
        assert len(await ends.theirs.receive_some()) <= 256 * 1024
        assert len(await ends.theirs.receive_some()) > 0


@timed()
async def test_one_read_of_all_available_bytes_does_not_grow_the_window() -> None:
    limits = Limits(stream_window=32 * 1024)
    async with opened(limits=limits) as ends:
        for _ in range(8):
            await ends.ours.send_all(bytes(4 * 1024))
        await wait_all_tasks_blocked()
        assert len(await ends.theirs.receive_some()) == 12 * 1024
        await wait_all_tasks_blocked()
        with trio.move_on_after(0), pytest.raises(trio.Cancelled):
            await ends.ours.send_all(b"x")
        assert len(await ends.theirs.receive_some()) == 12 * 1024
        with trio.fail_after(PATIENCE):
            await ends.ours.send_all(b"x")


@timed()
async def test_connections_of_one_thread_do_not_mix_their_bulk_reads() -> None:
    async def carry(letter: bytes) -> None:
        sent = b"".join(letter + bytes([number % 251]) * 9_999 for number in range(200))
        async with opened(unix_pair, Limits()) as ends, trio.open_nursery() as nursery:
            nursery.start_soon(ends.ours.send_all, sent)
            assert await receive_exactly(ends.theirs, len(sent)) == sent

    async with trio.open_nursery() as nursery:
        for letter in (b"a", b"b", b"c"):
            nursery.start_soon(carry, letter)


@timed()
async def test_waiting_receive_parks_once_and_a_cancelled_one_consumes_nothing() -> None:
    async with opened() as ends:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ends.theirs.receive_some()
        assert scope.cancelled_caught
        await ends.ours.send_all(b"here")
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ends.theirs.receive_some()
        assert scope.cancelled_caught
        assert await ends.theirs.receive_some() == b"here"
        await ends.ours.send_eof()
        await wait_all_tasks_blocked()
        with assert_checkpoints():
            assert await ends.theirs.receive_some() == b""


@timed()
async def test_a_cancelled_receive_loses_nothing() -> None:
    async with opened() as ends:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends.theirs.receive_some)
                await wait_all_tasks_blocked()
                await ends.ours.send_all(b"x")
                scope.cancel()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ends.theirs.receive_some()
        assert scope.cancelled_caught
        assert await ends.theirs.receive_some() == b"x"


# ------------------------------------------------------------------------------------------ credit


@timed()
async def test_sender_uses_all_its_credit_and_then_waits() -> None:
    async with opened() as ends, trio.open_nursery() as nursery:
        nursery.start_soon(ends.ours.send_all, bytes(3 * WINDOW))
        await wait_all_tasks_blocked()
        assert sum(len(f.payload) for f in ends.sent_data()) == WINDOW
        assert await receive_exactly(ends.theirs, WINDOW) == bytes(WINDOW)
        await wait_all_tasks_blocked()
        assert sum(len(f.payload) for f in ends.sent_data()) == 2 * WINDOW
        assert await receive_exactly(ends.theirs, 2 * WINDOW) == bytes(2 * WINDOW)


@timed()
async def test_credit_is_returned_after_each_half_window_read() -> None:
    async with opened() as ends:
        await ends.ours.send_all(bytes(WINDOW))
        await receive_exactly(ends.theirs, WINDOW // 2 - 1)
        await wait_all_tasks_blocked()
        assert ends.given_back() == 0
        await receive_exactly(ends.theirs, 1)
        await wait_all_tasks_blocked()
        assert ends.given_back() == WINDOW // 2


@timed()
async def test_credit_can_be_waited_for() -> None:
    async with opened() as ends:
        with assert_checkpoints():
            await ends.ours.wait_send_all_might_not_block()
        await ends.ours.send_all(bytes(WINDOW))
        async with trio.open_nursery() as nursery:
            waited = trio.Event()

            async def wait() -> None:
                await ends.ours.wait_send_all_might_not_block()
                waited.set()

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert not waited.is_set()
            await receive_exactly(ends.theirs, WINDOW)


@timed()
async def test_sending_returns_when_the_bytes_have_left_the_queue() -> None:
    async with opened(lockstep_pair, WIDE) as ends:
        ends.to_server.open = trio.Event()
        async with trio.open_nursery() as nursery:
            sent = trio.Event()

            async def send() -> None:
                await ends.ours.send_all(bytes(200_000))
                sent.set()

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            assert not sent.is_set()
            ends.to_server.open.set()


# -------------------------------------------------------------------------------- one at a time


@timed()
async def test_one_task_may_send_and_another_one_receive() -> None:
    async with opened() as ends, trio.open_nursery() as nursery:
        nursery.start_soon(ends.ours.send_all, bytes(2 * WINDOW))
        nursery.start_soon(ends.ours.receive_some)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task is sending"):
            await ends.ours.send_all(b"x")
        with pytest.raises(trio.BusyResourceError, match="another task is sending"):
            await ends.ours.wait_send_all_might_not_block()
        with pytest.raises(trio.BusyResourceError, match="another task is sending"):
            await ends.ours.send_eof()
        with pytest.raises(trio.BusyResourceError, match="another task is receiving"):
            await ends.ours.receive_some()
        nursery.cancel_scope.cancel()
    assert ends.ours._sending is ends.ours._receiving is False


# ------------------------------------------------------------------------------------ cancelling


@timed()
async def test_cancelled_send_withdraws_queued_bytes_and_the_stream_stays_usable() -> None:
    async with opened(lockstep_pair, WIDE) as ends:
        ends.to_server.open = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends.ours.send_all, b"a" * 200_000)
                await wait_all_tasks_blocked()
                scope.cancel()
        ends.to_server.open.set()
        await wait_all_tasks_blocked()
        left = sum(len(f.payload) for f in ends.sent_data())
        assert 0 < left < 200_000
        assert ends.client.rules.sendable(ends.ours.slot) == 200_000 - left
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.ours.send_all, b"b" * 200_000)
            received = await receive_exactly(ends.theirs, left + 200_000)
        assert received == b"a" * left + b"b" * 200_000


@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.integers(0, 6)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 20),
    st.sampled_from([memory_pair, lockstep_pair]),
)
def test_sends_cancelled_at_any_moment_leave_whole_frames_and_lose_no_credit(
    sends: list[tuple[int, int]], pause: int, make_pair: PairMaker
) -> None:
    """Send a different byte each time, and cancel after a number of turns of the scheduler."""

    async def run() -> None:
        async with in_time(), opened(make_pair) as ends:
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_now_and_then, ends.theirs, pause, received)
                for number, (size, turns) in enumerate(sends):
                    await send_for(ends.ours, bytes([number]) * size, turns)
                await ends.ours.send_all(b"\xff" * 2 * WINDOW)
                await ends.ours.send_eof()
            assert list(received) == sorted(received)
            assert received.count(0xFF) == 2 * WINDOW
            for number, (size, _) in enumerate(sends):
                assert received.count(number) <= size
            assert b"".join(f.payload for f in ends.sent_data()) == received
            granted = WINDOW + ends.given_back()
            assert ends.client.rules.sendable(ends.ours.slot) == granted - len(received)

    trio.run(run)


async def read_now_and_then(stream: SlotStream, pause: int, received: bytearray) -> None:
    while piece := await stream.receive_some():
        received += piece
        for _ in range(pause):
            await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()  # for the last credit


async def send_for(stream: SlotStream, data: bytes, turns: int) -> None:
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(data)
            nursery.cancel_scope.cancel()

        nursery.start_soon(send)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------ half-close


@over_every_transport
@timed()
async def test_end_of_one_half_follows_its_bytes_and_leaves_the_other_half_open(
    make_pair: PairMaker,
) -> None:
    async with opened(make_pair) as ends:
        await ends.ours.send_all(b"last words")
        with assert_checkpoints():
            await ends.ours.send_eof()
        assert await receive_all(ends.theirs) == b"last words"
        assert await ends.theirs.receive_some() == b""
        await ends.theirs.send_all(b"an answer")
        assert await receive_exactly(ends.ours, 9) == b"an answer"


@timed()
async def test_sending_after_send_eof_raises() -> None:
    async with opened() as ends:
        await ends.ours.send_eof()
        for _ in range(2):
            with assert_checkpoints():
                await ends.ours.send_eof()
        with pytest.raises(trio.ClosedResourceError, match="send_eof was called"):
            await ends.ours.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError, match="send_eof was called"):
            await ends.ours.wait_send_all_might_not_block()
        assert await ends.theirs.receive_some() == b""
        (end,) = ends.sent_data()
        assert (end.payload, end.flags) == (b"", 0x10)


# ---------------------------------------------------------------------------------------- the end

EACH: dict[str, Callable[[SlotStream], Awaitable[object]]] = {
    "receive_some": lambda stream: stream.receive_some(),
    "send_all": lambda stream: stream.send_all(bytes(2 * WINDOW)),
    "wait_send_all_might_not_block": lambda stream: stream.wait_send_all_might_not_block(),
}
every_wait = pytest.mark.parametrize("wait", EACH.values(), ids=EACH)


@asynccontextmanager
async def clogged() -> AsyncIterator[Ends]:
    """Yield a stream on which our sends and receives wait."""
    async with opened() as ends:
        await ends.ours.send_all(bytes(WINDOW))
        yield ends


@every_wait
@timed()
async def test_failure_wakes_waiting_tasks_and_later_calls_raise_it_again(
    wait: Callable[[SlotStream], Awaitable[object]],
) -> None:
    async with clogged() as ends, trio.open_nursery() as nursery:

        async def expect_failure() -> None:
            with pytest.raises(trio.BrokenResourceError, match="the driver has failed") as broken:
                await wait(ends.ours)
            assert isinstance(broken.value.__cause__, DriverError)

        nursery.start_soon(expect_failure)
        await wait_all_tasks_blocked()
        ends.end(error(), well=False)
        await wait_all_tasks_blocked()
        await expect_failure()


@every_wait
@timed()
async def test_lost_connection_wakes_waiting_tasks_with_the_reason(
    wait: Callable[[SlotStream], Awaitable[object]],
) -> None:
    async with clogged() as ends, trio.open_nursery() as nursery:

        async def expect_loss() -> None:
            with pytest.raises(trio.BrokenResourceError, match="the cable is out") as broken:
                await wait(ends.ours)
            assert broken.value.__cause__ is GONE

        nursery.start_soon(expect_loss)
        await wait_all_tasks_blocked()
        ends.client.connection.end(GONE)
        await wait_all_tasks_blocked()
        await expect_loss()


@timed()
async def test_sender_that_waits_for_the_write_buffer_learns_that_the_connection_ended() -> None:
    """Other tasks run until then, including the ones that report the end."""
    async with opened(limits=replace(LIMITS, max_unsent=1)) as ends:
        connection = ends.client.connection
        connection.rules.ping(b"waiting.")
        assert connection.writer.write_paused
        connection.end(GONE)  # its streams are notified after its tasks have ended
        assert not ends.ours.over
        with pytest.raises(trio.BrokenResourceError, match="the cable is out") as broken:
            await ends.ours.send_all(b"x")
        assert broken.value.__cause__ is GONE


@every_wait
@timed()
async def test_aclose_wakes_waiting_tasks(
    wait: Callable[[SlotStream], Awaitable[object]],
) -> None:
    async with clogged() as ends, trio.open_nursery() as nursery:

        async def expect_closed() -> None:
            with pytest.raises(trio.ClosedResourceError, match="this stream was closed"):
                await wait(ends.ours)

        nursery.start_soon(expect_closed)
        await wait_all_tasks_blocked()
        with assert_checkpoints():
            await ends.ours.aclose()
        await wait_all_tasks_blocked()
        await expect_closed()


@timed()
async def test_bytes_received_before_a_failure_are_returned_before_it_is_raised() -> None:
    async with opened() as ends:
        await ends.theirs.send_all(b"before")
        ends.end(error(), well=False)
        await wait_all_tasks_blocked()
        assert await ends.ours.receive_some(3) == b"bef"
        assert await ends.ours.receive_some() == b"ore"
        with pytest.raises(trio.BrokenResourceError, match="the driver has failed"):
            await ends.ours.receive_some()


@timed()
async def test_reader_is_unaffected_by_a_failure_after_the_peers_end() -> None:
    async with opened() as ends:
        await ends.theirs.send_eof()
        ends.end(error(), well=False)
        await wait_all_tasks_blocked()
        assert await ends.ours.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError, match="the driver has failed"):
            await ends.ours.send_all(b"x")


@timed()
async def test_after_the_slot_ends_reading_returns_the_end_and_sending_raises() -> None:
    async with opened() as ends:
        await ends.theirs.send_eof()
        ends.end(value(), well=True)
        await wait_all_tasks_blocked()
        assert ends.ours.over
        assert await ends.ours.receive_some() == b""
        for sending in (ends.ours.send_all(b"x"), ends.ours.send_eof()):
            with pytest.raises(trio.BrokenResourceError, match="closed this stream"):
                await sending
        ends.ours.send_end()  # no peer to notify, which is not an error


@timed()
async def test_side_that_ended_the_stream_reads_nothing_more() -> None:
    async with opened() as ends, trio.open_nursery() as nursery:

        async def expect_end() -> None:
            assert await ends.theirs.receive_some() == b""

        nursery.start_soon(expect_end)
        await wait_all_tasks_blocked()
        ends.end(value(), well=True)


@timed()
async def test_no_credit_is_returned_after_the_slot_ends() -> None:
    async with opened() as ends:
        await ends.theirs.send_all(bytes(WINDOW))
        await ends.theirs.send_eof()
        ends.end(value(), well=True)
        await wait_all_tasks_blocked()
        assert ends.ours.over
        assert await receive_all(ends.ours) == bytes(WINDOW)
        await wait_all_tasks_blocked()
        assert not [f for f in ends.to_server.heard if f.type is FrameType.CREDIT]


@timed()
async def test_send_fails_if_its_queued_bytes_can_no_longer_be_written() -> None:
    async with opened(lockstep_pair, WIDE) as ends:
        ends.to_server.open = trio.Event()
        async with trio.open_nursery() as nursery:

            async def expect_failure() -> None:
                with pytest.raises(trio.BrokenResourceError, match="the driver has failed"):
                    await ends.ours.send_all(bytes(200_000))

            nursery.start_soon(expect_failure)
            await wait_all_tasks_blocked()
            assert ends.client.rules.send_queue.has_slot_queue(ends.ours.slot)
            ends.end(error(), well=False)


@timed()
async def test_closed_stream_drops_bytes_that_arrive_later() -> None:
    async with opened() as ends:
        await ends.theirs.send_all(b"before")
        await wait_all_tasks_blocked()
        ends.ours.shut()
        await ends.theirs.send_all(b"after")
        await wait_all_tasks_blocked()
        assert not ends.ours._inbox
        assert ends.ours.complete


@timed()
async def test_closing_again_does_nothing() -> None:
    async with opened() as ends:
        for _ in range(3):
            with assert_checkpoints():
                await ends.ours.aclose()
