"""The version of the package, for pyproject.toml, `--version` and the HELLO frame alike."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
