"""Reset the signal state that this process inherited, before its tests run.

A shell starts a command in the background with SIGINT and SIGQUIT ignored, `nohup` with SIGHUP
ignored, and others block signals or ignore SIGCHLD. All of that is inherited, by the processes that
tests start too, and there a Ctrl-C would have no effect.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Final

# Python itself ignores these, and `subprocess` gives its children their default.
_PYTHONS: Final = {signal.SIGPIPE, signal.SIGXFSZ}


def restore() -> None:
    """Unblock all signals, and make sure that children inherit no ignored ones.

    Signals that were ignored stay without effect here, by a handler that does nothing, which `exec`
    resets to the default. But SIGINT raises KeyboardInterrupt again, and SIGCHLD gets its default:
    while it is ignored, the system discards the exit codes of children.
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
    """Do nothing, like SIG_IGN, but in this process only."""
