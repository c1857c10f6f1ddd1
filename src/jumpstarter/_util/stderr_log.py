"""The log's way to stderr, on which nobody ever waits.

Code that logs puts a line into a queue; a thread of its own writes it. Where stderr is a pipe that
nobody reads, a full disk, a terminal that hung up, or closed, lines are lost, and their number is
told as soon as one gets through again; the program goes on as if nothing had happened. Lines are
written past `sys.stderr`, whose lock a thread that hangs in a write would keep from the
interpreter's end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Final

from .fork import close_in_children, close_without_fork

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Descriptor",
    "StderrHandler",
    "logging_to_stderr",
    "start_daemon_thread",
    "write_pieces",
]

_MAX_LINES: Final = 1_000  # that wait to be written
_MAX_RAW: Final = 1024 * 1024  # bytes that wait to be written, of what is no line of the log
_FAREWELL: Final = 1.0  # seconds that the last lines have to leave
_STDERR: Final = 2
_FREE: Final = 3  # the first descriptor behind the standard streams


@contextlib.contextmanager
def logging_to_stderr(level: int | str, line: str) -> Iterator[StderrHandler | None]:
    """Send what is logged anywhere to stderr, for the length of a `with` block.

    At its end the lines that wait have a second to leave. No checkpoint; for a program's start.

    Args:
        level: From which on.
        line: How a line looks, as `logging.Formatter` takes it.

    Yields:
        The way to stderr, for other text; None where stderr is closed.
    """
    root, before = logging.getLogger(), logging.getLogger().level
    # A closed one is None, and its number may be another file's.
    outlet = StderrHandler() if sys.stderr is not None else None
    handler = outlet or logging.NullHandler()
    handler.setFormatter(logging.Formatter(line))
    root.setLevel(level)
    root.addHandler(handler)
    try:
        yield outlet
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


def start_daemon_thread(function: Callable[[], None], name: str) -> threading.Thread:
    """Run code that may wait for ever in a thread which keeps no process alive.

    It takes no signal: none of the process's, and not the SIGTTOU by which a terminal stops a
    program that writes to it from the background.
    """

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        function()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


class Descriptor:
    """An open file's number that no child gets, neither by `exec` nor by a fork alone.

    A child which had a copy of stdout would keep its reader waiting for the end, long after the
    exporter has been killed.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        close_in_children(self)

    @classmethod
    def copy_of(cls, number: int) -> Descriptor:
        """Copy a standard stream's."""
        return cls(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FREE))

    def fileno(self) -> int:
        """Give the number, or -1 once it is closed."""
        return self._number

    def close(self) -> None:
        """Close it."""
        number, self._number = self._number, -1
        os.close(number)


class StderrHandler(QueueHandler):
    """Queues lines, and counts those for which there is no room or no way out."""

    def __init__(self) -> None:
        # Not a Queue: its lock would be waited for by a signal handler that logs while it is held.
        self._lines: SimpleQueue[bytes | _Gap | None] = SimpleQueue()
        self._no_room = 0  # lines lost; counted under the lock that all handlers have
        self._no_way = 0  # the same; counted by the thread
        self._torn = False  # the last line that was written broke off in its midst; of the thread
        self._poured = self._drunk = 0  # bytes of other text that came, and that were written
        self._spilled = self._told = 0  # bytes of it that were lost; of which that was told
        self._gap = False  # the last that came were lost
        self._fd = Descriptor.copy_of(_STDERR)
        self._thread = start_daemon_thread(self._run, "log to stderr")
        # Last: it registers this handler with `logging`, which closes it at exit. Without a
        # descriptor or a thread, there is nothing to close.
        super().__init__(self._lines)

    def prepare(self, record: logging.LogRecord) -> bytes:
        """Make a line: in the thread of who logs, since its arguments may change."""
        return _encode(self.format(record))

    def enqueue(self, line: bytes) -> None:  # type: ignore[override]  # it is what `prepare` gives
        """Queue a line if there is room, behind the word on those for which there was none."""
        if self._lines.qsize() >= _MAX_LINES:
            self._no_room += 1
            return
        self._tell_lost()
        self._lines.put(line)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Say which line cannot be made: the stderr of `logging` itself may be waited for."""
        where = f"{record.pathname}:{record.lineno}"
        self.enqueue(_encode(f"(a line of the log at {where} does not fit its arguments)"))

    def say(self, text: str) -> None:
        """Queue a line that is no log record, whether there is room or not."""
        self._lines.put(_encode(text))

    def pour(self, data: bytes) -> None:
        """Queue text of any shape, if there is room. For one thread at a time."""
        if self._poured - self._drunk > _MAX_RAW:
            self._spilled += len(data)
            self._gap = True
            return
        if self._gap:
            self._lines.put(_Gap(self._spilled))
            self._gap = False
        self._poured += len(data)
        self._lines.put(_Raw(data))

    def close(self) -> None:
        """Have the lines written that wait, and end the thread, unless it hangs in a write."""
        self._tell_lost()
        self._lines.put(None)
        self._thread.join(_FAREWELL)
        super().close()

    def _tell_lost(self) -> None:
        if self._no_room:
            self._lines.put(_lost(self._no_room))
            self._no_room = 0

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._take(line)
            except OSError:
                self._no_way += 1
            if isinstance(line, _Raw):
                self._drunk += len(line)
            if self._spilled > self._told and self._lines.empty():  # nothing may follow
                with contextlib.suppress(OSError):
                    self._tell_spilled(self._spilled)
        close_without_fork(self._fd)

    def _take(self, line: bytes | _Gap) -> None:
        if self._no_way:
            self._write(_lost(self._no_way))
            self._no_way = 0
        if isinstance(line, _Gap):
            self._tell_spilled(line.until)
        else:
            self._write(line)

    def _tell_spilled(self, until: int) -> None:
        if until > self._told:
            text = "bytes which drivers and their programs have written were lost here"
            self._write(_encode(f"({until - self._told} {text}: stderr did not take them)"))
            self._told = until

    def _write(self, line: bytes) -> None:
        for piece in write_pieces(self._fd.fileno(), b"\n" + line if self._torn else line):
            self._torn = not (piece.endswith(b"\n") or isinstance(line, _Raw))


class _Gap:
    """Stands where text was lost, with the number of bytes that were until then."""

    __slots__ = ("until",)

    def __init__(self, until: int) -> None:
        self.until = until


class _Raw(bytes):
    """Text which is no line of the log, and may be a part of one of somebody else's."""

    __slots__ = ()


def _lost(count: int) -> bytes:
    return _encode(f"({count} lines of the log were lost here: stderr did not take them)")


def _encode(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


def write_pieces(fd: int, data: bytes) -> Iterator[bytes]:
    """Write all of it, and give each piece that was taken. May wait for ever."""
    while data:
        size = os.write(fd, data)
        if not size:  # as a device may say; to try again may go on for ever
            raise OSError(errno.EIO, "it took none of a line")
        yield data[:size]
        data = data[size:]
