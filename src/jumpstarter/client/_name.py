"""Make and check a client's name, which the exporter's log and its drivers show."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from pathlib import Path
from typing import Final

from .._util.checks import check_text, raise_value_error

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["MAX_NAME", "check_name", "own_name"]

MAX_NAME: Final = 255  # characters
_ACCEPTED: Final = f"a str of at most {MAX_NAME} characters, or None"


def own_name() -> str:
    """Return user, host and program, as `"alice@bench3: pytest"`. No checkpoint."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without an entry, as containers have them
        user = f"uid {os.geteuid()}"
    program = Path(sys.argv[0] if sys.argv else "").name
    if program in ("", "-c", "__main__.py"):  # of a package that was run by its name
        program = Path(sys.argv[0]).parent.name if program == "__main__.py" else "python"
    return f"{user}@{socket.gethostname()}: {program}"[:MAX_NAME]


def check_name(name: object) -> None:
    """Check a client's name.

    Raises:
        ArgumentError: It is not a str, or too long.
    """
    if name is not None and len(check_text("name", name, _ACCEPTED)) > MAX_NAME:
        raise_value_error("name", name, _ACCEPTED)
