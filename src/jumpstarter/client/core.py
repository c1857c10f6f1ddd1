"""The errors of calls, at the path where existing drivers import them."""

from __future__ import annotations

from ..errors import CallRefused as ExporterNotReady
from ..errors import DriverError, DriverInvalidArgument, DriverMethodNotImplemented

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DriverError", "DriverInvalidArgument", "DriverMethodNotImplemented", "ExporterNotReady"]
