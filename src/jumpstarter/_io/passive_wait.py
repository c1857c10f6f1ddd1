"""Let a thread wait for what another thread, or the loop, reads for it. See `leading`.

This module is not compiled: while a thread waits, signal handlers run, and exceptions that another
thread has raised in it arrive. The interpreter looks for both between two steps of Python code.
"""

from __future__ import annotations

import time
from typing import Final

from .leading import Awaited

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["wait"]

# Seconds. CPython can miss a signal that arrives just as a thread starts to sleep, until the thread
# wakes up. So a long wait wakes up this often.
_SIGNAL_POLL: Final = 1.0


def wait(awaited: Awaited, seconds: float) -> None:
    """Wait passively until somebody passes the baton, or until the time is up.

    A signal handler may interrupt it by an exception, and the caller then tidies up. It may also
    return early: the caller looks again.
    """
    baton = awaited.baton
    until = time.monotonic() + seconds
    while baton is not None:
        left = min(until - time.monotonic(), _SIGNAL_POLL)
        if left <= 0 or baton.wait(left):
            return
