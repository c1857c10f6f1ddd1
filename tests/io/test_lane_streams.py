"""Tests of byte streams that cross between a Trio loop and an asyncio lane."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from helpers import begin, timed, until
from jumpstarter._io.asyncio_lane import AsyncioLane, open_lane
from jumpstarter._io.crossing_queue import CAPACITY
from jumpstarter._io.lane_streams import (
    AsyncioSideStream,
    TrioSideStream,
    open_asyncio_stream,
    open_trio_stream,
)

PIECE = bytes(range(256)) * 64


class Echo:
    """A stream of asyncio that gives back what it was sent, and says what it was asked for."""

    def __init__(self, *, refuses: BaseException | None = None, reads: bool = True) -> None:
        self.pieces: deque[bytes] = deque()
        self.sizes: list[int] = []
        self.changed = asyncio.Event()
        self.ended = False
        self.refuses = refuses
        self.reads = reads
        self.task: asyncio.Task[Any] | None = None

    async def receive(self) -> bytes:
        while not self.pieces and not self.ended:
            self.changed.clear()
            await self.changed.wait()
        return self.pieces.popleft() if self.pieces else b""

    async def send(self, data: bytes) -> None:
        await asyncio.sleep(0)
        if self.refuses is not None:
            raise self.refuses
        if not self.reads:
            await asyncio.sleep(3600)
        self.sizes.append(len(data))
        self.pieces.append(data)
        self.changed.set()

    async def send_eof(self) -> None:
        self.ended = True
        self.changed.set()


@asynccontextmanager
async def over(echo: Echo) -> AsyncIterator[tuple[AsyncioLane, TrioSideStream]]:
    async with open_lane("a lane") as lane, open_asyncio_stream(lane, echo) as stream:
        yield lane, stream


@timed()
@pytest.mark.parametrize("pieces", [1, 10, 300])
async def test_bytes_and_both_ends_cross(pieces: int) -> None:
    async with over(Echo()) as (_, stream), trio.open_nursery() as nursery:

        async def send() -> None:
            for _ in range(pieces):
                await stream.send_all(PIECE)
            await stream.send_eof()

        nursery.start_soon(send)
        received = bytearray()
        async for data in stream:
            received += data
        assert received == PIECE * pieces


@timed()
async def test_pieces_are_sent_one_by_one_and_small_ones_are_received_together() -> None:
    echo = Echo()
    async with over(echo) as (_, stream):
        for number in range(10):
            await stream.send_all(bytes([number]))
        await stream.flush()
        assert echo.sizes == [1] * 10
        received = b""
        while len(received) < 10:
            received += await stream.receive_some(3)
        assert received == bytes(range(10))


@timed()
async def test_sending_waits_while_the_stream_takes_nothing() -> None:
    with trio.CancelScope() as scope:
        async with over(Echo(reads=False)) as (_, stream), trio.open_nursery() as nursery:
            sent = 0

            async def send() -> None:
                nonlocal sent
                while True:
                    await stream.send_all(PIECE)
                    sent += len(PIECE)

            outcome = await begin(nursery, send)
            await until(lambda: sent >= CAPACITY)
            await trio.testing.wait_all_tasks_blocked()
            assert CAPACITY <= sent < CAPACITY + 2 * len(PIECE)
            assert not outcome.ended
            scope.cancel()  # leaving does not wait for the stream
    assert scope.cancelled_caught


@timed()
async def test_reading_ahead_is_bounded() -> None:
    made = 0

    class Endless(Echo):
        async def receive(self) -> bytes:
            nonlocal made
            await asyncio.sleep(0)
            made += len(PIECE)
            return PIECE

    async with over(Endless()) as (_, stream):
        received = len(await stream.receive_some())
        await until(lambda: made >= CAPACITY)
        await trio.testing.wait_all_tasks_blocked()
        assert made <= received + CAPACITY + 2 * len(PIECE)


@timed()
async def test_failure_to_send_breaks_both_directions() -> None:
    mistake = OSError(5, "no such device")
    async with over(Echo(refuses=mistake)) as (_, stream), trio.open_nursery() as nursery:
        waiting = await begin(nursery, stream.receive_some)
        await stream.send_all(b"x")
        await until(lambda: waiting.ended)
        assert waiting.error is mistake
        with pytest.raises(OSError, match="no such device"):
            await stream.send_all(b"x")
        with pytest.raises(OSError, match="no such device"):
            await stream.send_eof()
        with pytest.raises(OSError, match="no such device"):
            await stream.flush()
        mistake_seen = True
        stream.flush = trio.lowlevel.checkpoint  # type: ignore[method-assign]
    assert mistake_seen


@timed()
async def test_failure_to_receive_comes_after_what_was_received() -> None:
    class Breaks(Echo):
        async def receive(self) -> bytes:
            if self.pieces:
                return self.pieces.popleft()
            raise ConnectionError("unplugged")

    echo = Breaks()
    echo.pieces.extend([b"one", b"two"])
    async with over(echo) as (_, stream):
        received = b""
        while len(received) < 6:
            received += await stream.receive_some()
        assert received == b"onetwo"
        with pytest.raises(ConnectionError, match="unplugged"):
            await stream.receive_some()


@timed()
async def test_cancelled_receive_loses_nothing() -> None:
    echo = Echo()
    async with over(echo) as (_, stream), trio.open_nursery() as nursery:
        outcome = await begin(nursery, stream.receive_some)
        await outcome.cancel()
        await stream.send_all(b"later")
        assert await stream.receive_some() == b"later"


@timed()
async def test_closed_stream_refuses_use() -> None:
    async with over(Echo()) as (_, stream):
        pass
    for use in (stream.receive_some, stream.send_eof, lambda: stream.send_all(b"x")):
        with pytest.raises(trio.ClosedResourceError):
            await use()


# ------------------------------------------------------------------- Trio streams in asyncio


@asynccontextmanager
async def pair_in_trio() -> AsyncIterator[tuple[AsyncioLane, trio.StapledStream[Any, Any], Any]]:
    ours, theirs = trio.testing.memory_stream_pair()
    async with open_lane("a lane") as lane:
        yield lane, ours, theirs


async def use(lane: AsyncioLane, stream: Any, function: Callable[[AsyncioSideStream], Any]) -> None:
    async with open_trio_stream(lane, stream) as side:
        await function(side)


@timed()
async def test_asyncio_code_uses_a_trio_stream_with_half_close() -> None:
    received = bytearray()

    async def function(side: AsyncioSideStream) -> None:
        await side.send(PIECE)
        await side.send_eof()
        async for data in side:
            received.extend(data)
        with pytest.raises(anyio.EndOfStream):
            await side.receive()

    async with pair_in_trio() as (lane, ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(lane.run, use, lane, ours, function)
        echoed = b""
        async for data in theirs:
            echoed += data
        assert echoed == PIECE
        await theirs.send_all(b"answer")
        await theirs.send_eof()
    assert received == b"answer"


@timed()
async def test_what_was_sent_has_arrived_when_the_block_ends() -> None:
    async def function(side: AsyncioSideStream) -> None:
        for _ in range(100):
            await side.send(b"12345678")

    async with pair_in_trio() as (lane, ours, theirs):
        await lane.run(use, lane, ours, function)
        received = b""
        while len(received) < 800:
            received += await theirs.receive_some()
        assert received == b"12345678" * 100


@timed()
async def test_block_that_fails_waits_for_no_reader() -> None:
    class NeverSends(trio.abc.SendStream):
        async def send_all(self, _data: object) -> None:
            await trio.sleep_forever()

        async def wait_send_all_might_not_block(self) -> None: ...

        async def aclose(self) -> None: ...

    async def function(side: AsyncioSideStream) -> None:
        await side.send(PIECE)
        raise ValueError("immediately")

    async with open_lane("a lane") as lane:
        with pytest.raises(ValueError, match="immediately"):
            await lane.run(use, lane, NeverSends(), function)


@timed()
async def test_asyncio_timeout_of_a_receive_loses_nothing() -> None:
    waits = trio.Event()

    async def function(side: AsyncioSideStream) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await side.receive()
        await side.send(b"timed out")
        assert await side.receive(3) == b"lat"
        assert await side.receive() == b"er"
        await side.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await side.receive()

    async with pair_in_trio() as (lane, ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(lane.run, use, lane, ours, function)
        assert await theirs.receive_some() == b"timed out"
        await theirs.send_all(b"later")
    assert not waits.is_set()


@timed()
async def test_a_stream_of_a_lane_that_has_crashed_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(lane: AsyncioLane) -> None:
        def fail() -> None:
            raise MemoryError("no memory")

        lane.loop._run_once = fail  # type: ignore[attr-defined]
        await asyncio.sleep(3600)

    async with open_lane("a lane") as lane, open_asyncio_stream(lane, Echo()) as stream:
        for function in (partial(lane.run, crash, lane), partial(stream.send_all, b"x")):
            with pytest.raises(RuntimeError, match="a lane has crashed"):
                await function()
    assert "a lane has crashed" in caplog.text


@timed()
async def test_a_second_task_in_one_direction_is_refused_in_trio() -> None:
    async def block(stream: TrioSideStream) -> None:
        async def fill() -> None:
            while True:
                await stream.send_all(PIECE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            nursery.start_soon(fill)
            await until(lambda: stream._outgoing._produced >= CAPACITY)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="is receiving"):
                await stream.receive_some()
            with pytest.raises(trio.BusyResourceError, match="is sending"):
                await stream.send_all(b"x")
            with pytest.raises(trio.BusyResourceError, match="is sending"):
                await stream.send_eof()
            nursery.cancel_scope.cancel()
        raise ZeroDivisionError  # otherwise the end of the block waits until all was sent

    with pytest.raises(ZeroDivisionError):
        async with over(Echo(reads=False)) as (_, stream):
            await block(stream)


@timed()
async def test_a_second_task_in_one_direction_is_refused_in_asyncio() -> None:
    async def function(side: AsyncioSideStream) -> None:
        task = asyncio.create_task(side.receive())
        await asyncio.sleep(0)
        with pytest.raises(trio.BusyResourceError, match="is receiving"):
            await side.receive()
        task.cancel()
        await asyncio.wait([task])

    async with pair_in_trio() as (lane, ours, _):
        await lane.run(use, lane, ours, function)
