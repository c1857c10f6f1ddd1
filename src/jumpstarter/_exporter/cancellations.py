"""Wake the tasks that watch for cancelled calls, when one is cancelled.

A call is cancelled in many places, none of which knows the exporter's server. So the watchers of an
event loop are in a variable of that loop. This module knows no calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from .._util.wakeup import Wakeup

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["announce_cancellation", "woken_by_cancellations"]

_watchers: Final[trio.lowlevel.RunVar[set[Wakeup]]] = trio.lowlevel.RunVar("jumpstarter_watchers")


def announce_cancellation() -> None:
    """Wake the watchers of this loop. Only in the loop's thread."""
    for each in _watchers.get(set()):
        each.set()


@contextmanager
def woken_by_cancellations(wakeup: Wakeup) -> Iterator[None]:
    """Set a wake-up whenever a call is cancelled in this loop, for the length of a block."""
    watchers = _watchers.get(set())
    _watchers.set(watchers)
    watchers.add(wakeup)
    try:
        yield
    finally:
        watchers.discard(wakeup)
