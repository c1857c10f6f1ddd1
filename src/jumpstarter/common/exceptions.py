"""The exceptions, under the path by which existing drivers import them."""

from __future__ import annotations

from ..errors import ArgumentError, ConfigurationError, JumpstarterException

__all__ = ["ArgumentError", "ConfigurationError", "JumpstarterException"]
