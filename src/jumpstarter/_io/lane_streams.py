"""Use a byte stream of one event loop in code of the other.

In the loop that has the stream, one task reads it into a `CrossingQueue`, and another writes a
queue to it. Code of the other loop uses a `_LaneStream`: it takes what has arrived, and is woken
once per batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Final, Protocol, Self

import trio

from .._util.checks import check_max_bytes
from .._util.stream_errors import NoAttributes, busy, closed, end_of_stream
from .crossing_queue import AsyncioSignal, CrossingQueue, CrossingState, TrioSignal
from .lane_call import LaneCall, LanePosts, TrioCall
from .lane_contexts import hold_in_trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "BATCH",
    "AsyncioSideStream",
    "Device",
    "TrioSideStream",
    "hold_trio_stream",
    "open_asyncio_stream",
    "open_trio_stream",
]

_LINGER: Final = 10.0  # seconds in which a stream may take what was sent before a failure
BATCH: Final = 256 * 1024  # bytes that one `receive` joins from smaller chunks
_OPERATIONS_PER_TURN: Final = 8  # that need not wait, before other tasks have their turn


class Device(Protocol):
    """A stream in its own loop, as far as a lane needs it."""

    def receive(self) -> Awaitable[Any]:
        """Receive the next bytes; an empty buffer is the end."""

    async def send(self, data: bytes) -> None:
        """Send bytes."""

    async def send_eof(self) -> None:
        """End the sending direction, if the stream can."""


async def _read(device: Device, queue: CrossingQueue) -> None:
    """Read a stream into a queue, until its end or a failure. In the stream's loop."""
    try:
        while data := await device.receive():
            await queue.put(data if type(data) is bytes else bytes(data))
            del data
        queue.end()
    except BaseException as exc:
        queue.end(exc)
        if not isinstance(exc, Exception):
            raise


async def _write(queue: CrossingQueue, device: Device, other: CrossingQueue) -> None:
    """Write a queue to a stream, until its end or a failure. In the stream's loop.

    A failure ends the other direction too: its consumer may wait, and the producer not come back.
    """
    try:
        while data := await queue.take(0):  # chunk by chunk: the stream may be one of messages
            await device.send(data)
            queue.used(len(data))
            del data
        await device.send_eof()
        queue.passed_end()
    except BaseException as exc:
        queue.stop(exc)
        other.end(exc)
        if not isinstance(exc, Exception):
            raise


class _Task(Protocol):
    """A task of the stream's loop, started and ended from the other loop."""

    def start(self) -> None: ...

    def cancel(self) -> None: ...

    async def join(self) -> None: ...


class _LaneStream:
    """The ends of both queues, in the loop of the code that uses the stream.

    The tasks that read and write the stream start when they are first needed.
    """

    def __init__(
        self, incoming: CrossingQueue, outgoing: CrossingQueue, reader: _Task, writer: _Task
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._reader = reader
        self._writer = writer
        self._started: list[_Task] = []
        self._rest = b""
        self._receiving = False
        self._sending = False
        self._closed = False

    def _ensure(self, task: _Task) -> None:
        if task not in self._started:
            task.start()  # it raises if the lane has crashed, and then there is nothing to join
            self._started.append(task)

    async def _receive(self, max_bytes: int | None) -> bytes:
        if self._receiving:
            raise busy("another task is receiving on this stream")
        self._ensure(self._reader)
        data, self._rest = self._rest, b""
        if not data:
            self._receiving = True
            try:
                data = await self._incoming.take(BATCH)
            finally:
                self._receiving = False
            self._incoming.used(len(data))
        if max_bytes is not None and len(data) > max_bytes:
            self._rest = data[max_bytes:]
            data = data[:max_bytes]
        return data

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        if data:
            self._ensure(self._writer)
            with self._alone():
                await self._outgoing.put(bytes(data))

    async def _send_eof(self) -> None:
        self._ensure(self._writer)
        with self._alone():
            if self._outgoing.state is CrossingState.OPEN:
                self._outgoing.end()
            await self._outgoing.drained()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second task that sends: a queue wakes only one."""
        if self._sending:
            raise busy("another task is sending on this stream")
        self._sending = True
        try:
            yield
        finally:
            self._sending = False

    def _check_open(self) -> None:
        if self._closed:
            raise closed("the block that has opened this stream was left")

    async def flush(self) -> None:
        """Wait until everything that was sent has reached the stream, or it has failed."""
        with self._alone():
            await self._outgoing.drained()

    async def stop(self) -> None:
        """End the tasks, and discard what they have not transferred. Not to be cancelled."""
        self._closed = True
        self._incoming.stop()
        for task in self._started:
            task.cancel()
        for task in self._started:
            await task.join()


class TrioSideStream(_LaneStream, trio.abc.HalfCloseableStream):
    """A stream of the asyncio loop, for Trio code."""

    _turns = 0  # operations so far

    async def _checkpoint(self) -> None:
        """Be cancelled if that is due, and let other tasks run now and then."""
        self._turns += 1
        if self._turns % _OPERATIONS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what the asyncio stream has read; nothing at its end. Cancelling loses nothing.

        Raises:
            trio.ClosedResourceError: The block that has opened the stream was left.
            Exception: The asyncio stream has raised it.
        """
        self._check_open()
        check_max_bytes(max_bytes)
        await self._checkpoint()
        return await self._receive(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes for the asyncio stream, and wait while the queue is full.

        If it is cancelled, an unknown part was queued. Raises as `receive_some`.
        """
        self._check_open()
        await self._checkpoint()
        await self._send(data)

    async def send_eof(self) -> None:
        """End this half, behind all bytes that were sent. Raises as `receive_some`."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        await self._send_eof()

    async def wait_send_all_might_not_block(self) -> None:
        """Do not wait: `send_all` waits for space in the queue itself. A checkpoint."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Do nothing: the block that has opened the stream closes it. A checkpoint."""
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_asyncio_stream(lane: LanePosts, device: Device) -> AsyncIterator[TrioSideStream]:
    """Use a stream of the asyncio loop in a block of Trio code.

    When the block ends normally, everything that was sent has been written. Otherwise, what was not
    written yet is discarded.

    Args:
        lane: The lane.
        device: The stream.
    """
    incoming = CrossingQueue(AsyncioSignal(lane), TrioSignal(lane))
    outgoing = CrossingQueue(TrioSignal(lane), AsyncioSignal(lane))
    reader = LaneCall(lane, partial(_read, device, incoming))
    writer = LaneCall(lane, partial(_write, outgoing, device, incoming))
    stream = TrioSideStream(incoming, outgoing, reader, writer)
    try:
        yield stream
        await stream.flush()
    finally:
        with trio.CancelScope(shield=True):
            await stream.stop()


class AsyncioSideStream(_LaneStream, NoAttributes):
    """A stream of the Trio loop, for asyncio code. It has the methods of an anyio byte stream."""

    async def receive(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte.

        Raises:
            EndOfStream: At the end: anyio's if anyio was imported, else `jumpstarter.errors`'.
            Exception: Raised by the stream.
        """
        self._check_open()
        data = await self._receive(max_bytes)
        if not data:
            raise end_of_stream("the stream has ended")
        return data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte, or `b""` at the end."""
        self._check_open()
        return await self._receive(max_bytes)

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Send bytes; blocks while too many of them wait to be sent."""
        self._check_open()
        await self._send(item)

    send_all = send

    async def send_eof(self) -> None:
        """End the sending direction, when everything was sent."""
        self._check_open()
        await self._send_eof()

    async def aclose(self) -> None:
        """Send what is left, and refuse further use."""
        if not self._closed:
            await self.flush()
            self._closed = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self.receive_some()
        if not data:
            raise StopAsyncIteration
        return data

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class _TrioDevice:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def receive(self) -> Awaitable[Any]:
        return self._stream.receive_some()  # type: ignore[no-any-return]  # of any class

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        if hasattr(self._stream, "send_eof"):
            await self._stream.send_eof()


@asynccontextmanager
async def hold_trio_stream(
    lane: LanePosts, manager: AbstractAsyncContextManager[Any]
) -> AsyncIterator[AsyncioSideStream]:
    """Use a stream that a context manager of Trio opens, in a block of asyncio code.

    Args:
        lane: The lane that runs the asyncio code.
        manager: Its value is the stream.
    """
    async with (
        hold_in_trio(lane, manager) as stream,
        open_trio_stream(lane, stream) as side,
    ):
        yield side


@asynccontextmanager
async def open_trio_stream(lane: LanePosts, stream: Any) -> AsyncIterator[AsyncioSideStream]:
    """Use a stream of the Trio loop in a block of asyncio code.

    When the block ends normally, everything that was sent has been written. When it raises an
    exception, that is given 10 seconds. If it is cancelled, what was not written yet is discarded.

    Args:
        lane: The lane.
        stream: The stream, with `receive_some` and `send_all`.
    """
    device = _TrioDevice(stream)
    incoming = CrossingQueue(TrioSignal(lane), AsyncioSignal(lane))
    outgoing = CrossingQueue(AsyncioSignal(lane), TrioSignal(lane))
    reader = TrioCall(lane, partial(_read, device, incoming))
    writer = TrioCall(lane, partial(_write, outgoing, device, incoming))
    side = AsyncioSideStream(incoming, outgoing, reader, writer)
    try:
        yield side
        await side.flush()
    except Exception:
        # `send` has returned, so its bytes are as good as sent, as they are in the stream's loop.
        with suppress(Exception):
            async with asyncio.timeout(_LINGER):
                await side.flush()
        raise
    finally:
        await side.stop()
