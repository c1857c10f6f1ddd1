"""What this process was started with must not be what its tests run with.

A shell starts a command in the background with SIGINT and SIGQUIT ignored, `nohup` with SIGHUP
ignored, and others block signals or ignore SIGCHLD. All of that is inherited, by the processes that
tests start too, and there a Ctrl-C would then do nothing.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Final

# Python itself ignores these, and `subprocess` gives its children their default.
_PYTHONS: Final = {signal.SIGPIPE, signal.SIGXFSZ}


def restore() -> None:
    """Unblock all signals, and see to it that no child inherits that one is ignored.

    This process ignores what it has ignored: a handler that does nothing does so here, and a
    program that is executed begins without it. But SIGINT raises KeyboardInterrupt again, and
    SIGCHLD has its default: while that is ignored, the system forgets how children have ended.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _PYTHONS:
        if signal.getsignal(number) is signal.SIG_IGN:
            with contextlib.suppress(OSError):  # one that nobody can handle
                signal.signal(number, _handler(number))


def _handler(number: int) -> signal._HANDLER:
    if number == signal.SIGINT:
        return signal.default_int_handler
    return signal.SIG_DFL if number == signal.SIGCHLD else _ignore


def _ignore(*_: object) -> None:
    """Do as SIG_IGN does, in this process alone."""
