"""The public import path of `BlockingPortal`: blocking calls into a Trio loop in its own thread."""

from __future__ import annotations

from ._io.portal import BlockingPortal, in_trio_thread, start_blocking_portal

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BlockingPortal", "in_trio_thread", "start_blocking_portal"]
