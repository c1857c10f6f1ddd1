"""Tools for tests, under the names that existing tests import."""

from __future__ import annotations

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__: list[str] = []
