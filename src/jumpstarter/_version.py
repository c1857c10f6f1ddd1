"""The version of the package, for pyproject.toml, `--version` and the HELLO frame alike.

`0.9.0` is the release of the published jumpstarter whose driver API this package offers, and
`trio.N` numbers our releases with that API. A published driver package that requires
`jumpstarter==0.9.0` accepts this version: PEP 440 ignores a local version (the part after `+`)
unless the requirement names one.
"""

from __future__ import annotations

from typing import Final

__version__: Final = "0.9.0+trio.1"
