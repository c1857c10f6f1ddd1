"""`env`, under another path from which existing tests import it."""

from __future__ import annotations

from ..common._env import env

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["env"]
