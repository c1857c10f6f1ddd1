"""Send the exporter's log to the clients that ask for it.

One handler at the root logger, present while a client listens, makes a row of each record and puts
it into the queue of each client. It runs in the thread that logs: it formats the record there,
since its arguments may change later, and never waits. The task that answers a client's `log` takes
the rows in batches, a few times a second, so that a driver that logs ten thousand records a second
wakes the loop as often as one that logs fifty.

A queue has a limit. Rows beyond it are dropped and counted, and the count stands in the queue where
the rows are missing. Records of the loggers `exporter:*` are never sent: a client in this process
has made them of rows that it has received.

A `LogQueue` is owned by the task that answers the client. Threads only add to it, under the lock of
`LogFanout`, until the client has called `log_end`.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, TypeAlias

import trio

from .._util.log_records import extra_fields, plain_text
from .._util.wakeup import Wakeup

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LogFanout", "LogQueue"]

MAX_ROWS: Final = 10_000  # in a client's queue: a second of the chattiest driver
MAX_SIZE: Final = 1 << 20  # characters in a client's queue
MAX_QUEUES: Final = 4  # of one connection
MAX_ALL_QUEUES: Final = 64  # of all connections: each makes all logging slower
_MAX_TEXT: Final = 8192  # characters of a record
_MAX_NAME: Final = 1000  # characters of a logger's name
_OVERHEAD: Final = 64  # characters that are counted for each row
_BATCH_ROWS: Final = 250
_BATCH_SIZE: Final = 16 * 1024  # characters: few, since other calls share the connection
_PACE: Final = 0.02  # seconds between two batches, in which rows collect

# The fields of a record on the wire: when it was made, its level, its source, its logger, its text,
# and its extra fields.
Row: TypeAlias = tuple[float, int, str, str, str, dict[str, Any]]


class _Entry(NamedTuple):
    """A record in a queue."""

    row: Row
    size: int


class _Gap:
    """Where records are missing in a queue."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 1


class LogQueue:
    """The records that one client has not received yet. Made in the loop.

    Args:
        lock: Held by threads that add records, and by the loop while it takes them.
        owner: The connection that it belongs to.
        number: Its name on the wire.
    """

    def __init__(self, lock: threading.RLock, owner: object, number: int) -> None:
        self.owner = owner
        self.number = number
        self._lock = lock
        self._entries: deque[_Entry | _Gap] = deque()
        self._size = 0
        self.lost: int = 0
        self._ending = False
        self._idle = False  # the task waits, and the next record has to wake it
        self._wakeup = Wakeup()
        self._token = trio.lowlevel.current_trio_token()

    def add(self, entry: _Entry) -> None:
        """Add a record, or count it as lost. In any thread, which holds the lock."""
        last = self._entries[-1] if self._entries else None
        if self._ending:
            return
        if len(self._entries) < MAX_ROWS and self._size + entry.size <= MAX_SIZE:
            self._entries.append(entry)
            self._size += entry.size
        else:
            self.lost += 1
            if isinstance(last, _Gap):
                last.count += 1
            else:
                self._entries.append(_Gap())
        if self._idle:
            self._idle = False
            with suppress(trio.RunFinishedError):  # the exporter has ended
                self._token.run_sync_soon(self._wakeup.set)

    def end(self) -> None:
        """Add nothing more, and let `batches` end after the rest. In the loop."""
        self._ending = True
        self._wakeup.set()

    async def batches(self) -> AsyncGenerator[tuple[int, list[Row]]]:
        """Yield the number of lost records, and the records after them, until `end`."""
        while True:
            lost, rows, more = self._take()
            if lost or rows:
                yield lost, rows
            elif self._ending:
                return
            else:
                await self._wait()
                continue
            if not more and not self._ending:
                with trio.move_on_after(_PACE):
                    await self._wakeup.wait()  # only `end` wakes it

    async def _wait(self) -> None:
        self._idle = True
        if not self._entries:  # a thread may have added one before it could see that this is idle
            await self._wakeup.wait()
        self._idle = False

    def _take(self) -> tuple[int, list[Row], bool]:
        """Return the next batch, and whether it was as large as a batch may be."""
        lost, size, rows = 0, 0, list[Row]()
        with self._lock:
            while self._entries and len(rows) < _BATCH_ROWS and size < _BATCH_SIZE:
                entry = self._entries[0]
                if isinstance(entry, _Entry):
                    rows.append(entry.row)
                    size += entry.size
                elif rows:
                    break  # the count goes before the rows that follow it
                else:
                    lost += entry.count
                self._entries.popleft()
            self._size -= size
            gap = bool(self._entries) and isinstance(self._entries[0], _Gap)
        return lost, rows, gap or len(rows) >= _BATCH_ROWS or size >= _BATCH_SIZE


class LogFanout(logging.Handler):
    """Put each record into the queues of all clients that listen.

    Args:
        send_tracebacks: Send the traceback of a record with an exception; otherwise its last line.
    """

    def __init__(self, *, send_tracebacks: bool) -> None:
        super().__init__()
        self._send_tracebacks = send_tracebacks
        self._queues: list[LogQueue] = []
        self._numbers = itertools.count(1)
        self._mutex = threading.RLock()  # reentrant: a signal handler may log too
        self._pid = os.getpid()
        self._lost = 0  # records that queues have lost which are closed

    @contextmanager
    def queue(self, owner: object) -> Iterator[LogQueue | None]:
        """Open a queue for a client, for the length of a block. In the loop.

        Args:
            owner: The client's connection.

        Yields:
            The queue; None if the connection, or all together, have too many already.
        """
        mine = sum(queue.owner is owner for queue in self._queues)
        if mine >= MAX_QUEUES or len(self._queues) >= MAX_ALL_QUEUES:
            yield None
            return
        queue = LogQueue(self._mutex, owner, next(self._numbers))
        with self._mutex:
            self._queues = [*self._queues, queue]
            logging.getLogger().addHandler(self)  # once, however often it is added
        try:
            yield queue
        finally:
            with self._mutex:
                self._queues = [each for each in self._queues if each is not queue]
                self._lost += queue.lost
                if not self._queues:
                    logging.getLogger().removeHandler(self)

    @property
    def lost(self) -> int:
        """The number of records that were lost so far, in all queues. In any thread."""
        with self._mutex:
            return self._lost + sum(queue.lost for queue in self._queues)

    def end(self, owner: object, number: int) -> None:
        """End a queue of a connection, if it has one of this number. In the loop."""
        for queue in self._queues:
            if queue.owner is owner and queue.number == number:
                queue.end()

    def handle(self, record: logging.LogRecord) -> bool:
        """Add a record to each queue. In any thread.

        The base class would format the record under a lock, and the text of an argument may take
        long, or wait for a thread that logs too.
        """
        if record.name.startswith("exporter:") or os.getpid() != self._pid:
            return False  # in a forked child, nobody sends what the queues have
        try:
            entry = self._entry(record)
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)
            return False
        with self._mutex:
            for queue in self._queues:
                queue.add(entry)
        return True

    def _entry(self, record: logging.LogRecord) -> _Entry:
        text = plain_text(self._text(record), _MAX_TEXT)
        extra = extra_fields(record)
        name = plain_text(record.name, _MAX_NAME)
        source = "driver" if name.partition(".")[0] == "driver" else "system"
        size = _OVERHEAD + len(name) + len(text)
        if extra:
            size += sum(len(key) + len(str(value)) for key, value in extra.items())
        return _Entry((record.created, record.levelno, source, name, text, extra), size)

    def _text(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        kind, exc, frames = record.exc_info or (None, None, None)
        if exc is None:
            return text
        if self._send_tracebacks:
            lines = traceback.format_exception(kind, exc, frames)
        else:
            lines = traceback.format_exception_only(exc)
        return f"{text}\n{''.join(lines).rstrip()}"
