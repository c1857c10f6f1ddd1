"""The base class of drivers, at the path where existing drivers import it."""

from __future__ import annotations

from ._base import Driver

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Driver"]
