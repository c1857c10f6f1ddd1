"""`serve` and `env`, under the path from which existing drivers' tests import them."""

from __future__ import annotations

from .._api.local import serve
from ._env import env

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["env", "serve"]
