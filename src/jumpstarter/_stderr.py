"""The log's way to stderr, on which nobody ever waits.

Whoever logs puts a line into a queue; a thread of its own writes it. Where stderr is a pipe that
nobody reads, a full disk or closed, lines are lost, and how many is told as soon as one gets
through again; what the program does goes on as if nothing were. Lines are written past
`sys.stderr`, whose lock a thread that hangs in a write would keep from the interpreter's end.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
from collections.abc import Iterator
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["logging_to_stderr", "say"]

_MAX_LINES: Final = 1_000  # that wait to be written
_FAREWELL: Final = 1.0  # seconds that the last lines have to leave
_STDERR: Final = 2


def say(text: str) -> None:
    """Write a line to stderr at once, if it can be written there. May wait for who reads it."""
    if sys.stderr is not None:  # as it is where it was closed, and its number may be another file's
        with contextlib.suppress(OSError):
            for _ in _written(_STDERR, _encode(text)):
                pass


@contextlib.contextmanager
def logging_to_stderr(level: int | str, line: str) -> Iterator[None]:
    """Send what is logged anywhere to stderr, for the length of a `with` block.

    At its end the lines that wait have a second to leave. No checkpoint; for a program's start.

    Args:
        level: From which on.
        line: How a line looks, as `logging.Formatter` takes it.
    """
    root, before = logging.getLogger(), logging.getLogger().level
    handler = _Handler() if sys.stderr is not None else logging.NullHandler()
    handler.setFormatter(logging.Formatter(line))
    root.setLevel(level)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


class _Handler(QueueHandler):
    """Queues lines, and counts those for which there is no room or no way out."""

    def __init__(self) -> None:
        # Not a Queue: its lock would be waited for by a signal handler that logs while it is held.
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        super().__init__(self._lines)
        self._no_room = 0  # lines lost; counted under the lock that all handlers have
        self._no_way = 0  # the same; counted by the thread
        self._torn = False  # the last line that was written broke off in its midst; of the thread
        self._fd = os.dup(_STDERR)
        self._thread = threading.Thread(target=self._run, name="log to stderr", daemon=True)
        self._thread.start()

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
                if self._no_way:
                    self._write(_lost(self._no_way))
                    self._no_way = 0
                self._write(line)
            except OSError:
                self._no_way += 1
        os.close(self._fd)

    def _write(self, line: bytes) -> None:
        for piece in _written(self._fd, b"\n" + line if self._torn else line):
            self._torn = not piece.endswith(b"\n")


def _lost(count: int) -> bytes:
    return _encode(f"({count} lines of the log were lost here: stderr did not take them)")


def _encode(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


def _written(fd: int, data: bytes) -> Iterator[bytes]:
    """Write all of it, and give each piece that was taken."""
    while data:
        size = os.write(fd, data)
        if not size:  # as a device may say; to try again may go on for ever
            raise OSError(errno.EIO, "stderr took none of a line")
        yield data[:size]
        data = data[size:]
