"""`serve`, under the path from which existing drivers' tests import it."""

from __future__ import annotations

from .._api.local import serve

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["serve"]
