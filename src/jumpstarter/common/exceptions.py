"""The exceptions, under the path from which existing drivers import them."""

from __future__ import annotations

from ..errors import ArgumentError, ConfigurationError, JumpstarterException

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ArgumentError", "ConfigurationError", "JumpstarterException"]
