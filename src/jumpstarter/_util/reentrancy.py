"""Whether the code that runs is a driver's, called by a client: one context variable.

A driver may call its own exporter through a client. Such a call must not wait for what the calls
around it hold, or it would wait for itself: it is marked on the wire, gets a thread from a supply
of its own, and is refused where it would have to wait. Context variables follow the code into
worker threads and into a portal's tasks, so the mark is there wherever the driver makes the call
from.
"""

from __future__ import annotations

import enum
from contextvars import ContextVar
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallOrigin", "call_origin"]


class CallOrigin(enum.IntEnum):
    """Who called the code that runs."""

    NONE = 0  # it is no driver's
    CALLED = 1  # a client, from outside
    NESTED = 2  # a client that a driver has used


call_origin: Final[ContextVar[CallOrigin]] = ContextVar(
    "jumpstarter_nesting", default=CallOrigin.NONE
)
