"""What the exporter's process does with the signals that it gets.

This file knows nothing of the house.
"""

from __future__ import annotations

import contextlib
import signal

import trio

__all__ = ["Signals"]


class Signals:
    """Counts the signals that ask for the end: the first to drain, the second to hurry.

    Its handlers stay until the process ends. Trio's `open_signal_receiver` would restore the old
    ones, and with them the death by a signal that comes when all but the exit is done.

    Attributes:
        first: Set when the first has come.
        hurry: Cancelled when the second has.
        exit_code: Of the process.
    """

    def __init__(self) -> None:
        self.first = trio.Event()
        self.hurry = trio.CancelScope()
        self.exit_code = 0
        self._token = trio.lowlevel.current_trio_token()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._count, number)

    def _count(self, number: int) -> None:
        if self.first.is_set():
            self.exit_code = self.exit_code or 128 + number
            self.hurry.cancel()
        self.first.set()
