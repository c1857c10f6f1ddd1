"""Write the log to stderr without ever blocking the code that logs.

The code that logs puts a line into a queue, and a separate thread writes it. If stderr is a pipe
that nobody reads, a full disk, a disconnected terminal, or closed, lines are lost. The next line
that gets through is preceded by their number, and the program continues unaffected. The thread does
not use `sys.stderr`, whose lock, held by a thread that hangs in a write, would keep the interpreter
from exiting.
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

from .fork import close_in_children, close_without_fork, no_fork
from .log_lines import LineFormatter

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Descriptor",
    "StderrHandler",
    "logging_to_stderr",
    "start_daemon_thread",
    "write_pieces",
]

_MAX_LINES: Final = 1_000  # queued lines
_MAX_RAW: Final = 1024 * 1024  # queued bytes of other text
_MAX_WRAPPED: Final = 8192  # bytes of a line of other text, if it is wrapped; a longer one is cut
_LOG: Final = "jumpstarter.cli"  # the logger that other lines of our own show
_OUTPUT: Final = "output"  # the logger that wrapped lines of drivers and their programs show
_CLOSE_TIMEOUT: Final = 1.0  # seconds for the last lines to be written
_STDERR: Final = 2
_FREE: Final = 3  # the lowest descriptor after the standard streams


@contextlib.contextmanager
def logging_to_stderr(
    level: int | str, line: str | LineFormatter
) -> Iterator[StderrHandler | None]:
    """Send all log records to stderr, for the length of a `with` block.

    At the end of the block, queued lines have a second to be written. For the start of a program;
    not a checkpoint.

    Args:
        level: The lowest level that is logged.
        line: The format of a line, as for `logging.Formatter`, or what formats them.

    Yields:
        The handler, for other text; None if stderr is closed.
    """
    root, before = logging.getLogger(), logging.getLogger().level
    # If stderr is closed, sys.stderr is None and its number may be another file's.
    formatter = LineFormatter(line) if isinstance(line, str) else line
    handler = StderrHandler(formatter) if sys.stderr is not None else None
    target = handler or logging.NullHandler()
    root.setLevel(level)
    root.addHandler(target)
    try:
        yield handler
    finally:
        root.removeHandler(target)
        root.setLevel(before)
        target.close()


def start_daemon_thread(function: Callable[[], None], name: str) -> threading.Thread:
    """Run code that may block without end in a thread that keeps no process alive.

    The thread blocks all signals: those of the process, and SIGTTOU, by which a terminal stops a
    program that writes to it from the background.
    """

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        function()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


class Descriptor:
    """A file descriptor that no child inherits, neither by `exec` nor by a fork alone.

    A child with a copy of stdout would keep its reader waiting for the end, long after the exporter
    was killed.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        close_in_children(self)

    @classmethod
    def copy_of(cls, number: int) -> Descriptor:
        """Duplicate the descriptor of a standard stream."""
        with no_fork():  # a child would keep what it does not find yet
            return cls(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FREE))

    def fileno(self) -> int:
        """Return the descriptor, or -1 once it is closed."""
        return self._number

    def close(self) -> None:
        """Close the descriptor."""
        with no_fork():
            number, self._number = self._number, -1
            os.close(number)


class StderrHandler(QueueHandler):
    """Queue lines for stderr, and count those that are lost.

    Args:
        formatter: Makes the lines.

    Attributes:
        lost: The number of lines that were lost so far.
    """

    def __init__(self, formatter: LineFormatter) -> None:
        # Not a Queue: a signal handler that logs would deadlock on its lock.
        self._lines: SimpleQueue[bytes | _Gap | None] = SimpleQueue()
        self._lost_to_full_queue = 0  # lines lost to a full queue; counted under the handler's lock
        self._lost_to_errors = 0  # lines lost to a failed write; counted by the thread
        self._torn = False  # the last line was cut in the middle; used by the thread
        self._raw_queued = self._raw_written = 0  # bytes of other text queued so far, and written
        self._raw_lost = self._raw_reported = 0  # bytes of it lost so far, and reported
        self._gap = False  # the last bytes were lost
        self._partial = b""  # the last line of other text, if it is to be wrapped and not complete
        self._lines_of = formatter
        self.lost: int = 0
        self._fd = Descriptor.copy_of(_STDERR)
        self._thread = start_daemon_thread(self._run, "log to stderr")
        # Last: it registers this handler with `logging`, which closes it at exit. Without a
        # descriptor or a thread, there is nothing to close.
        super().__init__(self._lines)
        self.setFormatter(formatter)

    def use(self, formatter: LineFormatter) -> None:
        """Make the lines that follow in another form."""
        self._lines_of = formatter
        self.setFormatter(formatter)

    def prepare(self, record: logging.LogRecord) -> bytes:
        """Format a line in the thread that logs, because the record's arguments may change."""
        return _encode(self.format(record))

    def enqueue(self, line: bytes) -> None:  # type: ignore[override]  # the type that `prepare` returns
        """Queue a line if the queue is not full, after a note on the lines that were lost."""
        if self._lines.qsize() >= _MAX_LINES:
            self._lost_to_full_queue += 1
            self.lost += 1
            return
        self._report_lost()
        self._lines.put(line)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Log where a record comes from that cannot be formatted: `logging` would use stderr."""
        where = f"{record.pathname}:{record.lineno}"
        self.enqueue(self._note(f"(a line of the log at {where} does not fit its arguments)"))

    def write_line(self, text: str) -> None:
        """Queue a line that is not a log record, even if the queue is full."""
        self._lines.put(self._note(text, logging.ERROR))

    def write_raw(self, data: bytes) -> None:
        """Queue text that may be part of a line, if the queue is not full. One thread at a time."""
        if self._lines_of.wraps_output:
            data = self._wrapped(data)
        if self._raw_queued - self._raw_written > _MAX_RAW:
            self._raw_lost += len(data)
            self._gap = True
            return
        if self._gap:
            self._lines.put(_Gap(self._raw_lost))
            self._gap = False
        self._raw_queued += len(data)
        self._lines.put(_Raw(data))

    def _wrapped(self, data: bytes, *, is_last: bool = False) -> bytes:
        """Return the complete lines of other text as lines of the log, and keep the rest."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        while len(self._partial) > _MAX_WRAPPED or (is_last and self._partial):
            lines.append(self._partial[:_MAX_WRAPPED])
            self._partial = self._partial[_MAX_WRAPPED:]
        texts = (line.rstrip(b"\r").decode(errors="backslashreplace") for line in lines)
        notes = (self._lines_of.note(text, _OUTPUT) for text in texts)
        return b"".join(map(_encode, notes))

    def end_output(self) -> None:
        """Queue the last line of other text, which has no end. In the thread of `write_raw`."""
        if self._partial:
            data = self._wrapped(b"", is_last=True)
            self._raw_queued += len(data)
            self._lines.put(_Raw(data))

    def _note(self, text: str, level: int = logging.WARNING) -> bytes:
        return _encode(self._lines_of.note(text, _LOG, level))

    def close(self) -> None:
        """Have the queued lines written, and end the thread unless it hangs in a write."""
        self._report_lost()
        self._lines.put(None)
        self._thread.join(_CLOSE_TIMEOUT)
        super().close()

    def _report_lost(self) -> None:
        if self._lost_to_full_queue:
            self._lines.put(self._lost_note(self._lost_to_full_queue))
            self._lost_to_full_queue = 0

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._take(line)
            except OSError:
                self._lost_to_errors += 1
                self.lost += 1
            if isinstance(line, _Raw):
                self._raw_written += len(line)
            if (
                self._raw_lost > self._raw_reported and self._lines.empty()
            ):  # no later line may report it
                with contextlib.suppress(OSError):
                    self._report_raw_lost(self._raw_lost)
        close_without_fork(self._fd)

    def _take(self, line: bytes | _Gap) -> None:
        if self._lost_to_errors:
            self._write(self._lost_note(self._lost_to_errors))
            self._lost_to_errors = 0
        if isinstance(line, _Gap):
            self._report_raw_lost(line.until)
        else:
            self._write(line)

    def _lost_note(self, count: int) -> bytes:
        return self._note(f"({count} lines of the log were lost here: stderr did not take them)")

    def _report_raw_lost(self, until: int) -> None:
        if until > self._raw_reported:
            text = "bytes which drivers and their programs have written were lost here"
            lost = f"({until - self._raw_reported} {text}: stderr did not take them)"
            self._write(self._note(lost))
            self._raw_reported = until

    def _write(self, line: bytes) -> None:
        for piece in write_pieces(self._fd.fileno(), b"\n" + line if self._torn else line):
            self._torn = not (piece.endswith(b"\n") or isinstance(line, _Raw))


class _Gap:
    """A mark where text was lost, with the number of bytes lost until then."""

    __slots__ = ("until",)

    def __init__(self, until: int) -> None:
        self.until = until


class _Raw(bytes):
    """Text that is not a line of the log, and may be a part of another program's line."""

    __slots__ = ()


def _encode(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


def write_pieces(fd: int, data: bytes) -> Iterator[bytes]:
    """Write all bytes, and yield each piece that was accepted. May block without end."""
    while data:
        size = os.write(fd, data)
        if not size:  # some devices return 0; retrying might never end
            raise OSError(errno.EIO, "it took none of a line")
        yield data[:size]
        data = data[size:]
