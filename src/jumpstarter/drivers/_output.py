"""Keep the end of a program's output, and wait for what a thread reports.

A thread reads the program; Trio tasks and other threads wait for what it has read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Changes", "Tail", "TailReader"]


class Tail:
    """The last bytes of a stream, up to a limit. One thread appends; any thread reads.

    A reader has a position of its own: the number of bytes of the stream before the next one that
    it wants. So a slow reader needs no queue; it misses what was dropped.

    Args:
        limit: How many bytes are kept.

    Attributes:
        end: The number of all bytes so far, which is the position after the last one.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._lock = threading.Lock()
        self.end: int = 0

    def append(self, data: bytes) -> None:
        """Add bytes, and drop the oldest ones beyond the limit."""
        with self._lock:
            self.end += len(data)
            self._kept += data[-self._limit :] if self._limit else b""
            del self._kept[: max(0, len(self._kept) - self._limit)]

    def since(self, position: int, most: int | None = None) -> tuple[bytes, int, bool]:
        """Return the kept bytes from a position on, at most `most`.

        Returns:
            The bytes, the position after them, and whether bytes before them were dropped.
        """
        with self._lock:
            first = self.end - len(self._kept)
            begin = max(position, first)
            offset = begin - first
            data = bytes(self._kept[offset : None if most is None else offset + most])
            return data, begin + len(data), position < begin

    @property
    def dropped(self) -> bool:
        """True if bytes were dropped."""
        with self._lock:
            return self.end > len(self._kept)


class TailReader:
    """Reads a stream from a position on.

    Args:
        tail: The stream.
        position: Where to begin.
    """

    def __init__(self, tail: Tail, position: int) -> None:
        self._tail = tail
        self._position = position

    @property
    def has_more(self) -> bool:
        """True if there are bytes that were not read."""
        return self._tail.end > self._position

    def read(self) -> tuple[bytes, bool]:
        """Return the next bytes, and whether bytes before them were dropped."""
        data, self._position, missed = self._tail.since(self._position)
        return data, missed


class Changes:
    """Wake tasks and threads whenever something has changed, to check their condition again."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._events: set[tuple[trio.lowlevel.TrioToken, trio.Event]] = set()

    def announce(self) -> None:
        """Wake all that wait. Any thread; no checkpoint."""
        with self._condition:
            events, self._events = self._events, set()
            self._condition.notify_all()
        for token, event in events:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(event.set)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds. A checkpoint; cancelling it loses nothing."""
        await trio.lowlevel.checkpoint()
        token = trio.lowlevel.current_trio_token()
        while True:
            entry = token, trio.Event()
            with self._condition:
                self._events.add(entry)
            # Checked after it was added, so that no change in between is missed.
            try:
                if holds():
                    return
                await entry[1].wait()
            finally:
                with self._condition:
                    self._events.discard(entry)

    def block_until(self, holds: Callable[[], bool], seconds: float | None = None) -> bool:
        """Block until a condition holds, or for this many seconds; return whether it holds."""
        with self._condition:
            return self._condition.wait_for(holds, seconds)
