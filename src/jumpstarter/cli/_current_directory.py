"""Let modules of the current directory be imported.

`python -m` has that directory in `sys.path` already; the installed commands do not.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["add_current_directory"]


def add_current_directory(*, last: bool = False) -> None:
    """Let modules of the current directory be imported, if that directory still exists.

    Args:
        last: Only those that are not found elsewhere: for a command that is run in any directory,
            whose files must not take the place of installed modules.
    """
    with contextlib.suppress(OSError):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(len(sys.path) if last else 0, here)
