"""For driver authors: the base class and the two decorators."""

from __future__ import annotations

from ._base import Driver
from ._export import export, exportstream

__all__ = ["Driver", "export", "exportstream"]
