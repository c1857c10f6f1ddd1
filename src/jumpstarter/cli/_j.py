"""The command `j`: the command line of the exporter's root client."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..common._env import env
from ..common.exceptions import EnvironmentVariableNotSetError
from ._app import run_click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Run a command of the root client.

    Args:
        arguments: The arguments after the program's name.

    Returns:
        The exit code, see `cli._main`.
    """
    try:
        with env() as client:
            return run_click(client.cli(), arguments, "j")
    except EnvironmentVariableNotSetError:
        sys.stderr.write("j: JUMPSTARTER_HOST is not set: use j in a `jumpstarter shell`\n")
        return 1
