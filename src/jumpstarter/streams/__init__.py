"""Streams and their tools, under the names that published drivers import."""

from __future__ import annotations

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__: list[str] = []
