"""The command line: `jumpstarter` (also `jmp`, and `python -m jumpstarter`), and `j`."""

from __future__ import annotations

from ._main import j, main

__all__ = ["j", "main"]
