"""Run the commands that need click, each imported when it is run."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

from .._util.extras import requires_extra
from .._version import __version__
from ..errors import JumpstarterException
from ._commands import COMMANDS

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["app", "run", "run_click"]

_FAILED: Final = 1  # exit code


class _LazyGroup(click.Group):
    """A group that knows the names of its commands, and imports one when it is asked for it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - of click
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - of click.Group
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name == "serve":  # only for the help: `cli._main` runs it
            return click.Command("serve", add_help_option=False, help=COMMANDS["serve"])
        package = f"{__package__}.commands"
        command: click.Command = importlib.import_module(f"{package}.{cmd_name}").command
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - of click.Group
        formatter: click.HelpFormatter,
    ) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="jumpstarter %(version)s")
def app() -> None:
    """Drive hardware under test."""


def run(arguments: Sequence[str], program: str) -> int:
    """Run a command.

    Args:
        arguments: The arguments after the program's name.
        program: The program's name, for messages.

    Returns:
        The exit code, see `cli._main`.
    """
    return run_click(app, arguments, program)


def run_click(command: click.Command, arguments: Sequence[str], program: str, **extra: Any) -> int:
    """Run a click command, and report every expected error in one line on stderr.

    Args:
        command: The command. An int that it returns is the exit code.
        arguments: Its arguments.
        program: The name of the program, for messages.
        extra: More arguments of `click.Command.main`, such as `obj`.

    Returns:
        The exit code, see `cli._main`.

    Raises:
        Exception: One that is no error of this library, of the system or of click: a fault.
    """
    try:
        result = command.main(list(arguments), program, standalone_mode=False, **extra)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of stdout has gone, as in `jumpstarter ls | head`
        _discard_stdout()
        return 128 + signal.SIGPIPE
    except (JumpstarterException, OSError) as exc:
        sys.stderr.write(f"{program}: {exc}\n")
        return _FAILED
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _discard_stdout() -> None:
    """Let Python flush stdout at its exit without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
