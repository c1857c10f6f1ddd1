"""The API for driver authors: the base class, decorators, the caller, and the exporter's end."""

from __future__ import annotations

from ._base import Driver
from ._caller import Caller, ClaimedIdentity, VerifiedIdentity, caller, on_disconnect
from ._drain import draining, until_draining
from ._export import export, exportstream
from ._report import DriverReport
from .flasher import FlasherInterface

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Caller",
    "ClaimedIdentity",
    "Driver",
    "DriverReport",
    "FlasherInterface",
    "VerifiedIdentity",
    "caller",
    "draining",
    "export",
    "exportstream",
    "on_disconnect",
    "until_draining",
]
