"""See what an exporter does: a log in JSON, for programs."""

from __future__ import annotations

from ._json import JsonFormatter

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["JsonFormatter"]
