"""For driver authors: the base class, the two decorators, and who calls."""

from __future__ import annotations

from ._base import Driver
from ._caller import Caller, Claimed, Verified, caller, on_disconnect
from ._export import export, exportstream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Caller",
    "Claimed",
    "Driver",
    "Verified",
    "caller",
    "export",
    "exportstream",
    "on_disconnect",
]
