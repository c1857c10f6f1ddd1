"""Client base classes, under the path by which existing drivers import them."""

from __future__ import annotations

from ._base import DriverClient, StubDriverClient

__all__ = ["DriverClient", "StubDriverClient"]
