"""Write a console's output to a file, with the time of each line.

A line of the file is a time in UTC, a sign, and the console's bytes as they are:

    2026-11-29T22:13:17.123Z | Starting kernel ...      a line of the console
    2026-11-29T22:13:18.456Z # the device has gone: ..  a note of the recorder
    2026-11-29T22:13:19.789Z : ...                      the rest of the line that the note has cut

The time is that at which the line's first byte arrived. So without notes, prefixes, and the line
break before each `:` line, the file is what the console sent, byte for byte.

The console never waits for the file. Output is collected in memory, and written in a worker thread.
If the disk is so slow that `_MAX_PENDING` bytes have come together, or refuses them, what follows
is dropped, and a note says how much. The file is opened for each write, so that a program such as
logrotate may move it away at any time.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import trio

from .._util.fork import close_path_in_children
from .._util.wakeup import LazyEvent, Wakeup

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ConsoleLog", "LineStamper", "stamp"]

_MAX_PENDING: Final = 8 * 1024 * 1024  # bytes: a disk may stall 8 s while a console sends 1 MB/s
# Seconds between two writes. Short enough to follow the file with `tail -f`, and long enough that a
# console which sends each byte by itself costs no more than ten writes a second.
_INTERVAL: Final = 0.1
_MODE: Final = 0o600  # a console shows secrets; a later file has the mode of the one before


def stamp(time: datetime) -> str:
    """Format a time in UTC as the file has it, with milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


class LineStamper:
    """Puts a prefix before each line of a console."""

    def __init__(self) -> None:
        self._in_line = False  # the last byte that was written was not a line's end
        self._is_cut = False  # a note came before the end of the console's line

    def output(self, time: datetime, data: bytes) -> bytes:
        """Return what the file gets for bytes of the console, of which there is one at least."""
        prefix = f"{stamp(time)} | ".encode()
        first = b""
        if not self._in_line:
            first = prefix if not self._is_cut else f"{stamp(time)} : ".encode()
        self._is_cut = False
        self._in_line = not data.endswith(b"\n")
        body = data if self._in_line else data[:-1]
        return first + body.replace(b"\n", b"\n" + prefix) + (b"" if self._in_line else b"\n")

    def begin_line(self) -> None:
        """Begin a new line, since what came last was not written."""
        self._in_line = self._is_cut = False

    def note(self, time: datetime, text: str) -> bytes:
        """Return what the file gets for a note."""
        first = "\n" if self._in_line else ""
        self._is_cut = self._is_cut or self._in_line
        self._in_line = False
        return f"{first}{stamp(time)} # {text}\n".encode(errors="replace")


class ConsoleLog:
    """Appends a console's output to a file, and keeps a number of older files.

    Args:
        path: Of the file; older ones have `.1`, `.2`, ... after it.
        max_bytes: The size at which a new file begins; 0 for never.
        keep: How many older files are kept.
        logger: Of the driver.

    Attributes:
        lost: How many of the console's bytes could not be written.
    """

    def __init__(self, path: str, max_bytes: int, keep: int, logger: logging.Logger) -> None:
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._keep = keep
        self._logger = logger
        self._stamper = LineStamper()
        self._pending = bytearray()
        self._pending_output = 0  # bytes of the console in it
        self._pending_reported = 0  # lost bytes of which a note in it tells
        self._unreported = 0  # lost bytes of which no note tells
        self._is_torn = False  # the file may end in the middle of a line
        self._has_failed = False  # the log has said so
        self._changed = Wakeup()
        self._ending = LazyEvent()
        self.lost: int = 0

    def output(self, time: datetime, data: bytes) -> None:
        """Take bytes of the console. In the loop; never waits."""
        if len(self._pending) > _MAX_PENDING:
            self._lose(len(data))
            return
        if self._unreported:
            count, self._unreported = self._unreported, 0
            self._pending_reported += count
            self.note(time, f"{count} bytes are not in this file: the disk did not take them")
        self._pending += self._stamper.output(time, data)
        self._pending_output += len(data)
        self._changed.set()

    def note(self, time: datetime, text: str) -> None:
        """Take a note. In the loop; never waits."""
        if len(self._pending) <= 2 * _MAX_PENDING:  # so that even notes have a bound
            self._pending += self._stamper.note(time, text)
            self._changed.set()

    def _lose(self, count: int) -> None:
        self.lost += count
        self._unreported += count

    async def run(self) -> None:
        """Write what was taken, until `end` was called and everything is written.

        If it is cancelled, as when the disk does not take the rest in time, that is lost.
        """
        while True:
            while not self._pending:
                if self._ending.is_set():
                    return
                await self._changed.wait()
            await self._write_pending()
            with trio.move_on_after(_INTERVAL):
                await self._ending.wait()

    def end(self) -> None:
        """Let `run` write the rest and return. In the loop."""
        self._ending.set()
        self._changed.set()

    async def _write_pending(self) -> None:
        data, self._pending = self._pending, bytearray()
        count, self._pending_output = self._pending_output, 0
        reported, self._pending_reported = self._pending_reported, 0
        try:
            # Abandoned when the exporter ends: a disk that hangs must not keep it from that.
            await trio.to_thread.run_sync(self._write, data, abandon_on_cancel=True)
        except (OSError, RuntimeError) as exc:  # RuntimeError: the system starts no more threads
            self._lose(count)
            self._unreported += reported
            self._stamper.begin_line()
            self._is_torn = True
            if not self._has_failed:
                text = "cannot write %s, so what the console sends now is missing there: %s"
                self._logger.error(text, self._path, exc)  # noqa: TRY400 - the text says it all
            self._has_failed = True
        else:
            self._has_failed = False

    # ------------------------------------------------------------------------ in a thread

    def _write(self, data: bytearray) -> None:
        if self._is_torn and not self._ends_with_line():
            data[:0] = b"\n"
        self._is_torn = False
        mode = self._rotate(len(data))
        with close_path_in_children(os.O_WRONLY, self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            finally:
                os.close(descriptor)

    def _ends_with_line(self) -> bool:
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                return file.read() == b"\n"
        return True

    def _rotate(self, size: int) -> int:
        """Move the file away if it would be too large; return the mode for a new one."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return _MODE
        if not self._max_bytes or not status.st_size or status.st_size + size <= self._max_bytes:
            return _MODE
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._keep + 1))]
        if not self._keep:
            self._path.unlink()
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)
        return stat.S_IMODE(status.st_mode)
