"""Carry chunks of bytes from a task of one event loop to a task of another, in batches.

| state of a direction | next                                                                     |
|----------------------|--------------------------------------------------------------------------|
| OPEN                 | ENDED, when the producer has no more; STOPPED                             |
| ENDED                | DRAINED, when the consumer has taken everything, and passed on the end   |
| DRAINED              | none                                                                     |
| STOPPED              | none: the consumer takes nothing more, because it has failed or was left |

The producer's loop owns the state until ENDED, then the consumer's. STOPPED is the consumer's.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from .._util.stream_errors import broken, closed
from .._util.wakeup import Wakeup
from .lane_call import LanePosts

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CAPACITY", "AsyncioSignal", "CrossingQueue", "CrossingState", "TrioSignal"]

CAPACITY: Final = 1024 * 1024  # bytes that wait in one direction; fewer cost more crossings


class CrossingState(enum.Enum):
    """How far one direction of a stream is; see the table in the module's docstring."""

    OPEN = enum.auto()
    ENDED = enum.auto()
    DRAINED = enum.auto()
    STOPPED = enum.auto()


class _Signal(Protocol):
    """Wakes the one task that waits in its loop. `notify` is called in the other loop."""

    def notify(self) -> None:
        """Wake the task, if it waits. In the other loop's thread."""

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; if it holds already, no checkpoint. In one task only."""


class TrioSignal:
    """Wakes a Trio task."""

    def __init__(self, lane: LanePosts) -> None:
        self._lane = lane
        self._wakeup = Wakeup()
        self._waits = False

    def notify(self) -> None:
        """See `_Signal`."""
        if self._waits:
            self._waits = False
            self._lane.post_back(self._wakeup.set)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """See `_Signal`."""
        while not condition():
            self._waits = True
            if condition():  # it may have changed before the other thread saw that we wait
                return
            await self._wakeup.wait()


class AsyncioSignal:
    """Wakes an asyncio task."""

    def __init__(self, lane: LanePosts) -> None:
        self._lane = lane
        self._future: asyncio.Future[None] | None = None
        self._waits = False

    def notify(self) -> None:
        """See `_Signal`."""
        if self._waits:
            self._waits = False
            self._lane.post(self._set)

    def _set(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """See `_Signal`."""
        while not condition():
            self._waits = True
            if condition():
                return
            self._future = self._lane.loop.create_future()
            await self._future


class CrossingQueue:
    """A bounded queue of chunks from a task of one loop to a task of the other.

    Args:
        producer: Wakes the task that puts chunks in.
        consumer: Wakes the task that takes them.
    """

    def __init__(self, producer: _Signal, consumer: _Signal) -> None:
        self._producer = producer
        self._consumer = consumer
        self._chunks: deque[bytes] = deque()
        self._produced = 0  # bytes; only the producer writes it
        self._consumed = 0  # bytes; only the consumer writes it
        self._ended = False
        self._drained = False
        self._stopped = False
        self._failure: BaseException | None = None  # of the producer, after its last chunk
        self._refusal: BaseException | None = None  # of the consumer

    @property
    def state(self) -> CrossingState:
        """The state, in any thread."""
        if self._stopped:
            return CrossingState.STOPPED
        if self._drained:
            return CrossingState.DRAINED
        return CrossingState.ENDED if self._ended else CrossingState.OPEN

    # ------------------------------------------------------------------------------ producer

    async def put(self, chunk: bytes) -> None:
        """Add a chunk, when there is space for it. If this is cancelled, nothing was added.

        Raises:
            BaseException: The consumer takes nothing more, for this reason.
        """
        await self._producer.wait_for(self._has_space)
        self._check()
        if self._ended:
            raise closed("the sending direction has ended")
        self._chunks.append(chunk)
        self._produced += len(chunk)
        self._consumer.notify()

    def end(self, failure: BaseException | None = None) -> None:
        """Say that no more comes, and why."""
        if not self._ended:
            self._failure, self._ended = failure, True
            self._consumer.notify()

    async def drained(self) -> None:
        """Wait until the consumer has used everything, and the end if there is one.

        Raises:
            BaseException: The consumer takes nothing more, for this reason.
        """
        await self._producer.wait_for(self._is_used)
        self._check()

    def _has_space(self) -> bool:
        return self._produced - self._consumed < CAPACITY or self._stopped

    def _is_used(self) -> bool:
        used = self._consumed == self._produced and (self._drained or not self._ended)
        return used or self._stopped

    def _check(self) -> None:
        if self._stopped:
            raise self._refusal or broken("the stream was closed")

    # ------------------------------------------------------------------------------ consumer

    @property
    def has_chunks(self) -> bool:
        """True while there is something to take, which may be the end."""
        return bool(self._chunks) or self._ended

    async def take(self, size: int) -> bytes:
        """Take what has arrived, or `b""` at the end. If this is cancelled, nothing was taken.

        Args:
            size: Chunks are joined until they have this size.

        Raises:
            BaseException: The producer's failure, once its last chunk was taken.
        """
        if not self._chunks:
            await self._consumer.wait_for(lambda: self.has_chunks)
        if not self._chunks:
            if self._failure is not None:
                raise self._failure
            return b""
        chunk = self._chunks.popleft()
        if len(chunk) >= size or not self._chunks:
            return chunk
        chunks, total = [chunk], len(chunk)
        while self._chunks and total < size:
            chunks.append(self._chunks.popleft())
            total += len(chunks[-1])
        return b"".join(chunks)

    def used(self, size: int) -> None:
        """Make space for as many bytes."""
        self._consumed += size
        self._producer.notify()

    def passed_end(self) -> None:
        """Say that the end was passed on."""
        self._drained = True
        self._producer.notify()

    def stop(self, refusal: BaseException | None = None) -> None:
        """Take nothing more, for this reason."""
        self._refusal, self._stopped = refusal, True
        self._chunks.clear()
        self._producer.notify()
