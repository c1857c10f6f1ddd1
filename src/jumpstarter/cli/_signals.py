"""Signals of the exporter's own process: which ones end it, and what its children inherit.

Only the command line uses this module, since it owns its process. `serve()` and `serve_async()` run
in somebody else's program, and change no signal disposition and no signal mask there.

The process moves through these states. Only the Trio loop moves it, in `Signals._count`, and at
`Signals.started` and `Signals.drain`:

    state      left by                               to
    starting   started()                             serving
    starting   SIGTERM, SIGINT, SIGHUP               leaving: start-up is cancelled
    serving    SIGTERM, SIGINT, SIGHUP, drain()      draining: `first` is set
    draining   SIGTERM, SIGINT                       hurrying: `hurry` is cancelled
    leaving    SIGTERM, SIGINT                       leaving, with another exit code
    hurrying   -
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import signal
from typing import Final

import trio

from .._util.deferred_signals import never_defer

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Signals", "reset_signals"]

_logger: Final = logging.getLogger("jumpstarter.cli")

# An operator ignores these on behalf of all that is started: by `nohup`, or by `&` in a script.
_KEPT_IGNORED: Final = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
}
# Python itself ignores these at its start, and `subprocess` restores them in children.
_IGNORED_BY_PYTHON: Final = {signal.SIGPIPE, signal.SIGXFSZ}


def reset_signals() -> None:
    """Undo what the parent process left behind: ignored and blocked signals.

    With SIGCHLD ignored, the system discards exit codes and `subprocess` reports 0 for each. With
    signals blocked, no SIGTERM would arrive. Children of drivers inherit both. So they start with
    an empty mask and default dispositions, except for signals that an operator ignores on purpose
    (SIGHUP by `nohup`; SIGINT, SIGQUIT and those of job control by a script's `&`).

    Call it in the main thread before any other thread starts, since threads inherit the mask.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _KEPT_IGNORED - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            if number == signal.SIGCHLD:
                signal.signal(number, signal.SIG_DFL)
            else:
                # A handler that does nothing: the signal stays without effect in this process, and
                # `exec` resets a handler to the default, which it does not do with SIG_IGN.
                signal.signal(number, _do_nothing)
                signal.siginterrupt(number, False)
                never_defer(_do_nothing)  # to install it again would undo siginterrupt


def _do_nothing(number: int, frame: object) -> None:
    """Handle a signal that was ignored when the process started."""


class _Phase(enum.Enum):
    """How far the process is; the module's docstring has the table."""

    STARTING = enum.auto()
    SERVING = enum.auto()
    LEAVING = enum.auto()
    DRAINING = enum.auto()
    HURRYING = enum.auto()


class Signals:
    """Handles the signals that ask the exporter to end: the first drains, the second hurries.

    These are SIGTERM, SIGINT, and SIGHUP if it has its default disposition: it was not ignored at
    the start, as by `nohup`, and no driver handles it. SIGHUP drains and never hurries, since the
    system and the shell both send one when a terminal goes away. A signal that comes before
    `started` cancels start-up.

    A child that a driver forked inherits the handlers. There they restore the default disposition
    and raise the signal again, or the child could not be terminated.

    The handlers stay until the process ends. Trio's `open_signal_receiver` would restore the old
    ones, and a signal that comes while the process exits would kill it.

    Attributes:
        first: Set when the first signal has come while clients were served, or by `drain`.
        startup: Cancelled if a signal comes before `started`.
        hurry: Cancelled when the second signal has come.
        exit_code: The exit code of the process.
    """

    def __init__(self) -> None:
        self.first: trio.Event = trio.Event()
        self.startup: trio.CancelScope = trio.CancelScope()
        self.hurry: trio.CancelScope = trio.CancelScope()
        self.exit_code: int = 0
        self._phase = _Phase.STARTING
        self._token = trio.lowlevel.current_trio_token()
        self._process = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self._handle)

    def started(self) -> bool:
        """Record that clients can connect. Returns False if a signal came before."""
        if self._phase is not _Phase.STARTING:
            return False
        self._phase = _Phase.SERVING
        return True

    def drain(self) -> None:
        """Do what the first signal does, unless it has come. The next one hurries."""
        if self._phase is _Phase.SERVING:
            self._phase = _Phase.DRAINING
            self.first.set()

    def _handle(self, number: int, _frame: object) -> None:
        if os.getpid() != self._process:
            is_ctrl_c = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)
            signal.raise_signal(number)
            return
        # The loop may have ended while the process exits: then the signal changes nothing.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._count, number)

    def _count(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._phase is _Phase.STARTING:
            text = "received %s: shutting down when the reset() that runs has returned; %s"
            _logger.info(text, name, "nothing is served")
            self._phase = _Phase.LEAVING
            self.startup.cancel()
        elif self._phase is _Phase.SERVING:
            _logger.info("received %s: shutting down after running calls", name)
            self.drain()
        elif number != signal.SIGHUP:
            _logger.info("received %s while shutting down: cancelling what still runs", name)
            self.exit_code = self.exit_code or 128 + number
            if self._phase is _Phase.DRAINING:
                self._phase = _Phase.HURRYING
                self.hurry.cancel()
