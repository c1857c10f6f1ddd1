"""The command line, `jumpstarter` or `python -m jumpstarter`."""

from __future__ import annotations

from ._main import main

__all__ = ["main"]
