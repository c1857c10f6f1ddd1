"""`serve`, under the path by which existing drivers' tests import it."""

from __future__ import annotations

from .._serve import serve

__all__ = ["serve"]
