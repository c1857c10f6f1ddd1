"""The base classes of clients, at the path where existing drivers import them."""

from __future__ import annotations

from ._base import DriverClient
from ._stub import StubDriverClient

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DriverClient", "StubDriverClient"]
