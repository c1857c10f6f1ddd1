"""Report the progress of a transfer to a function, or show it as a bar on a terminal.

rich draws the bar, on stderr, and only after a transfer has taken a second. This module knows no
streams.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from ..errors import MissingExtra

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Meter", "Progress", "meter_for", "open_meter"]

# A function that is called with the number of bytes transferred so far and with the total, which is
# None if it is unknown; True for a bar; False for nothing; None for a bar if stderr is a terminal.
Progress: TypeAlias = Callable[[int, int | None], object] | bool | None

_DELAY: Final = 1.0  # seconds


class Meter:
    """Counts bytes, and shows nothing.

    Args:
        total: The number of bytes to transfer; None if it is unknown.
    """

    def __init__(self, total: int | None) -> None:
        self.total: int | None = total
        self.count: int = 0

    def advance(self, count: int) -> None:
        """Add bytes that were transferred."""
        self.count += count

    def close(self) -> None:
        """End the display: the transfer is over."""


class _Reporter(Meter):
    """Calls a function."""

    def __init__(self, total: int | None, report: Callable[[int, int | None], object]) -> None:
        super().__init__(total)
        self._report = report

    def advance(self, count: int) -> None:
        super().advance(count)
        self._report(self.count, self.total)


class _Bar(Meter):
    """Draws a bar."""

    def __init__(self, total: int | None, bar: RichProgress, title: str) -> None:
        super().__init__(total)
        self._bar = bar
        self._task = bar.add_task(title, total=total)
        self._begin = time.monotonic() + _DELAY
        self._shown = False

    def advance(self, count: int) -> None:
        super().advance(count)
        self._bar.update(self._task, completed=self.count)
        if not self._shown and time.monotonic() >= self._begin:
            self._shown = True
            with suppress(OSError):  # the terminal is gone; the transfer goes on
                self._bar.start()

    def close(self) -> None:
        if self._shown:
            with suppress(OSError):
                self._bar.stop()


@asynccontextmanager
async def meter_for(progress: Progress, title: str, total: int | None) -> AsyncIterator[Meter]:
    """Yield the meter of a transfer, and close it at the end.

    Raises:
        MissingExtra: A bar was asked for, and the extra `progress` is not installed.
    """
    meter = open_meter(progress, title, total)
    try:
        yield meter
    finally:
        meter.close()


def open_meter(progress: Progress, title: str, total: int | None) -> Meter:
    """Make the meter of a transfer, which the caller closes.

    Raises:
        MissingExtra: A bar was asked for, and the extra `progress` is not installed.
    """
    if callable(progress):
        return _Reporter(total, progress)
    if progress is False or (progress is None and not _is_terminal()):
        return Meter(total)
    try:
        return _Bar(total, _rich_progress(), title)
    except MissingExtra:
        if progress:
            raise
        return Meter(total)


def _is_terminal() -> bool:
    """Return True if stderr is a terminal that can draw a bar. It is None where it is closed."""
    return bool(sys.stderr and sys.stderr.isatty()) and os.environ.get("TERM") != "dumb"


def _rich_progress() -> RichProgress:
    try:
        from rich.console import Console  # noqa: PLC0415 - only if a bar is shown
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ImportError as exc:
        raise MissingExtra.named("progress", "a progress bar") from exc
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
