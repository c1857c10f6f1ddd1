"""The exporter's own process: which signals end it, and what its children inherit of them.

For the command line, whose process the exporter owns. `serve()` and `serve_async()` run in a
program of somebody else's, and change no disposition and no mask there. This file knows nothing of
the house.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import Final

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Signals", "own_signals"]

_logger: Final = logging.getLogger("jumpstarter.cli")

# Ignored by an operator on behalf of all that is started: by `nohup`, or by `&` in a script.
_OPERATORS: Final = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
}
_PYTHONS: Final = {signal.SIGPIPE, signal.SIGXFSZ}  # ignored by Python; `subprocess` restores them


def own_signals() -> None:
    """Undo what the parent process has left behind: ignored and blocked signals.

    With SIGCHLD ignored the system discards exit codes, and `subprocess` reports 0 for each. With
    signals blocked no SIGTERM would arrive. Children of drivers inherit both, so they start with an
    empty mask, and with default dispositions, except that what an operator ignores on purpose
    (SIGHUP by `nohup`; SIGINT, SIGQUIT and those of job control by a script's `&`) stays ignored.

    Call it in the main thread before any other thread starts: threads inherit the mask.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _OPERATORS - _PYTHONS:
        if signal.getsignal(number) is signal.SIG_IGN:
            if number == signal.SIGCHLD:
                signal.signal(number, signal.SIG_DFL)
            else:  # it stays without effect here, and an `exec` makes the default of a handler
                signal.signal(number, _nothing)
                signal.siginterrupt(number, False)


def _nothing(number: int, frame: object) -> None:
    """Handle a signal that was ignored when the process started."""


class Signals:
    """Counts the signals that ask for the end: the first to drain, the second to hurry.

    SIGTERM, SIGINT, and SIGHUP where it has its default effect: neither ignored at the start, as by
    `nohup`, nor handled by a driver. SIGHUP drains and never hurries, since the system and the
    shell both send one when a terminal goes away.

    A child that a driver has forked inherits the handlers, and takes the default effect instead, or
    it could not be terminated.

    The handlers stay until the process ends. Trio's `open_signal_receiver` would restore the old
    ones, and with them the death by a signal that comes when all but the exit is done.

    Attributes:
        first: Set when the first has come.
        hurry: Cancelled when the second has.
        exit_code: Of the process.
        is_starting: True while the drivers are being reset, for the log.
    """

    def __init__(self) -> None:
        self.first = trio.Event()
        self.hurry = trio.CancelScope()
        self.exit_code = 0
        self.is_starting = True
        self._token = trio.lowlevel.current_trio_token()
        self._process = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        if os.getpid() != self._process:
            ctrl_c = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if ctrl_c else signal.SIG_DFL)
            signal.raise_signal(number)
            return
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._count, number)

    def _count(self, number: int) -> None:
        name = signal.Signals(number).name
        if not self.first.is_set():
            when = "when the drivers' reset() has returned; nothing is served" * self.is_starting
            _logger.info("received %s: shutting down %s", name, when or "after running calls")
        elif number != signal.SIGHUP:
            _logger.info("received %s again: cancelling what still runs", name)
            self.exit_code = self.exit_code or 128 + number
            self.hurry.cancel()
        self.first.set()
