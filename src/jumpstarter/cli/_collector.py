"""Keep Python's collector of cycles from holding the loop of an exporter's process.

A full collection visits all objects that can hold others, and no call is answered meanwhile. They
are tens of thousands after the start, and a client adds some 30 with each call that waits.
"""

from __future__ import annotations

import gc
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["collect_rarely"]

# Collections of the middle generation, each after some 7,000 new objects, before a full one. So
# ten thousand waiting calls cause none, and garbage that only a full one finds takes some 10 MiB.
_BEFORE_FULL: Final = 50


def collect_rarely() -> None:
    """Collect only what is made from now on, and old objects less often.

    For a program of our own: it changes the collector of the whole process.
    """
    gc.freeze()  # what serves from now on, and ends with the process
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, max(old, _BEFORE_FULL))
