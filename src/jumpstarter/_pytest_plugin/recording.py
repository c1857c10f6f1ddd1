"""Hold the exporter's log and the consoles of one test: in a file, and their ends for the report.

Text from a device can have escape sequences, which would act on the terminal where a report is
shown, and bytes that are not UTF-8. Both are escaped. The loop of the connection adds the bytes of
consoles, and worker threads the records of the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from .._util.text import indent_text
from ..client._log_stream import LogRow

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["RECEIVED", "SENT", "Recording"]

RECEIVED: Final = "<"  # marks what the device has sent
SENT: Final = ">"  # marks what the test has sent
_LOG: Final = "exporter log"
_TAIL: Final = 50  # lines in a section of a report
_MAX_SECTIONS: Final = 20  # of a report: a client may open any number of streams
_MAX_LINE: Final = 1000  # characters
_MAX_PARTIAL: Final = 4096  # bytes without a line break
_MAX_FILE: Final = 64 * 1024 * 1024  # characters of a test's file: a device may print all night


class _Tail:
    """The last lines for a section of the report."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_TAIL)
        self.count = 0


class _Partial:
    """The beginning of a console's line."""

    def __init__(self) -> None:
        self.mark = RECEIVED
        self.data = bytearray()
        self.since = 0.0


class Recording:
    """The recording of one test.

    Args:
        title: The first line of the file.
        path: The file; None for no file.
    """

    def __init__(self, title: str, path: Path | None) -> None:
        self.path: Path | None = path
        self._lock = threading.Lock()
        self._partial: dict[str, _Partial] = {}
        self._tails: dict[str, _Tail] = {}  # by the titles of the sections
        self._written = 0
        self._problem = ""
        self._file: TextIOWrapper | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Line by line, so that the file is complete if this process is killed.
            self._file = path.open("w", buffering=1, encoding="utf-8", errors="backslashreplace")
            self._write(f"# {indent_text(title, _MAX_LINE)}\n")

    def add_record(self, row: LogRow) -> None:
        """Add a record of the exporter's log. In any thread."""
        text = f"{logging.getLevelName(row.level)} {row.logger}: {row.text}"
        with self._lock:
            self._add(_LOG, text, f"[exporter] {text}", time.time())

    def add_note(self, text: str) -> None:
        """Add a remark to the exporter's log."""
        with self._lock:
            self._add(_LOG, f"({text})", f"[exporter] ({text})", time.time())

    def add_bytes(self, console: str, mark: str, data: bytes) -> None:
        """Add bytes of a console. In any thread.

        Args:
            console: The path of its driver.
            mark: The direction: `RECEIVED` or `SENT`.
            data: The bytes.
        """
        with self._lock:
            partial = self._partial.setdefault(console, _Partial())
            if partial.mark != mark:
                self._end_line(console, partial)
                partial.mark = mark
            *lines, rest = data.split(b"\n")
            for line in lines:
                self._extend(partial, line)
                self._end_line(console, partial, force=True)
            self._extend(partial, rest)
            if len(partial.data) > _MAX_PARTIAL:
                self._end_line(console, partial)

    @staticmethod
    def _extend(partial: _Partial, data: bytes) -> None:
        if not partial.data:
            partial.since = time.time()
        partial.data += data

    def _end_line(self, console: str, partial: _Partial, *, force: bool = False) -> None:
        if partial.data or force:
            text = partial.data.decode("utf-8", "backslashreplace").removesuffix("\r")
            line = f"{partial.mark} {indent_text(text.expandtabs(), _MAX_LINE)}"
            self._add(f"console {console}", line, f"[{console}] {line}", partial.since)
            partial.data.clear()

    def _add(self, title: str, line: str, in_file: str, since: float) -> None:
        if title not in self._tails and len(self._tails) < _MAX_SECTIONS:
            self._tails[title] = _Tail()
        if (tail := self._tails.get(title)) is not None:
            tail.lines.append(line)
            tail.count += 1
        clock = f"{time.strftime('%H:%M:%S', time.localtime(since))}.{int(since % 1 * 1000):03}"
        if self._written <= _MAX_FILE:
            self._write(f"{clock} {in_file}\n")
            if self._written > _MAX_FILE:
                self._write(f"{clock} (the rest is cut: more than {_MAX_FILE} characters)\n")

    def _write(self, text: str) -> None:
        """Write to the file. If that fails, the test goes on, and its report says so."""
        if self._file is not None:
            try:
                self._written += self._file.write(text)
            except OSError as exc:
                self._problem = f"{self.path} is not complete: {exc}"
                self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as exc:  # of the bytes that were buffered
                self._problem = f"{self.path} is not complete: {exc}"

    def sections(self) -> list[tuple[str, str]]:
        """Return the sections for the report of a failure: titles and texts."""
        with self._lock:
            for console, partial in self._partial.items():
                self._end_line(console, partial)
            # The log comes last, whatever began first.
            titles = sorted(self._tails, key=lambda title: title == _LOG)
            found = [(title, self._section(self._tails[title])) for title in titles]
        if self._problem:
            found.append(("jumpstarter log", self._problem))
        return found

    def _section(self, tail: _Tail) -> str:
        lines = list(tail.lines)
        if tail.count > len(lines):
            where = f"; all of them are in {self.path}" if self.path is not None else ""
            lines.insert(0, f"(the last {len(lines)} of {tail.count} lines{where})")
        return "\n".join(lines)

    def close(self) -> None:
        """Close the file. Idempotent; what is added later is only kept for `sections`."""
        with self._lock:
            for console, partial in self._partial.items():
                self._end_line(console, partial)
            self._close_file()
