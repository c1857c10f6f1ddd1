"""Record whether the running code is a driver's, and which client called it.

A driver may call its own exporter through a client. Such a nested call must not wait for a resource
that the outer call holds, or it would wait for itself. So it is marked on the wire, gets a thread
from a separate supply, and is refused where it would have to wait. A context variable carries the
mark into worker threads and into a portal's tasks.
"""

from __future__ import annotations

import enum
from contextvars import ContextVar
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallOrigin", "call_origin"]


class CallOrigin(enum.IntEnum):
    """The caller of the running code."""

    NONE = 0  # the running code is not a driver's
    CALLED = 1  # called by a client
    NESTED = 2  # called by a client that a driver uses


call_origin: Final[ContextVar[CallOrigin]] = ContextVar(
    "jumpstarter_nesting", default=CallOrigin.NONE
)
