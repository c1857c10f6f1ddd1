"""`python -m jumpstarter`: the same as the `jumpstarter` command."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
