"""The raw stream of blocking code, under the name that published drivers import."""

from __future__ import annotations

from ..client import BlockingStream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BlockingStream"]
