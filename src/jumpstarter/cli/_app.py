"""Run the commands that need click, each imported when it is run."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from .._util.click_groups import LazyGroup
from .._util.extras import requires_extra
from .._util.text import escape_text
from .._version import __version__
from ..errors import DriverError, JumpstarterException
from ._commands import COMMANDS

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ExitCodes", "Outcome", "app", "reported_errors", "run", "run_click"]

_FAILED: Final = 1  # exit code
_MISTYPED: Final = ("No such command", "No such option")
# A group without a command, which prints its help. click has such an error from version 8.2 on.
_HELP: Final[type[Exception] | tuple[()]] = getattr(click.exceptions, "NoArgsIsHelpError", ())
_OF_MAIN: Final = {"serve", "run", "doctor"}  # the commands that `cli._main` runs, without click


class ExitCodes(NamedTuple):
    """The exit codes of a program, where they may differ from those of the others.

    Attributes:
        usage: The arguments are wrong. None is the code that click's exception has, which a group
            without a command has in any case.
        cancelled: Ctrl-C ended it.
    """

    usage: int | None = None
    cancelled: int = 128 + signal.SIGINT


_DEFAULT: Final = ExitCodes()


class _Commands(LazyGroup):
    """The commands, each of which is imported when it is asked for."""

    def list_described(self) -> list[tuple[str, str]]:
        return list(COMMANDS.items())

    def get_command(
        self,
        ctx: click.Context,
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in _OF_MAIN and ctx.resilient_parsing:
            from ._completed import completed_command  # noqa: PLC0415 - for completion only

            return completed_command(cmd_name)
        if cmd_name in _OF_MAIN:  # only for the help
            return click.Command(cmd_name, add_help_option=False, help=COMMANDS[cmd_name])
        package = f"{__package__}.commands"
        command: click.Command = importlib.import_module(f"{package}.{cmd_name}").command
        if not gc.isenabled():  # `main` has disabled it
            gc.freeze()  # the exit does not look for garbage among the modules either
            gc.enable()
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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


def run_click(
    command: click.Command,
    arguments: Sequence[str],
    program: str,
    *,
    codes: ExitCodes = _DEFAULT,
    **extra: Any,
) -> int:
    """Run a click command, and report every expected error in one line on stderr.

    Args:
        command: The command. An int that it returns is the exit code.
        arguments: Its arguments.
        program: The name of the program, for messages.
        codes: Exit codes that differ from program to program.
        extra: More arguments of `click.Command.main`, such as `obj`.

    Returns:
        The exit code, see `cli._main`.

    Raises:
        Exception: One that is not an error of this library, of the system or of click: a fault.
    """
    with reported_errors(program, codes) as outcome:
        stdout = sys.stdout
        try:
            result = command.main(list(arguments), program, standalone_mode=False, **extra)
        except SystemExit as exc:
            # When the reader of stdout has gone, click replaces stdout by an object that hides
            # errors, and exits with 1.
            if sys.stdout is stdout:
                raise
            raise BrokenPipeError(errno.EPIPE, "the reader of stdout has gone") from exc
        outcome.code = result if isinstance(result, int) and not isinstance(result, bool) else 0
    return outcome.code


class Outcome:
    """How a command has ended.

    Attributes:
        code: The exit code.
    """

    code: int = 0


@contextmanager
def reported_errors(program: str, codes: ExitCodes = _DEFAULT) -> Iterator[Outcome]:
    """Report every expected error of a block in one line on stderr.

    Args:
        program: The name of the program, for messages.
        codes: Exit codes that differ from program to program.

    Yields:
        The outcome, with the exit code after an error.
    """
    outcome = Outcome()
    try:
        yield outcome
    except click.ClickException as exc:
        _show(exc)
        is_help = codes.usage is None or isinstance(exc, _HELP)
        outcome.code = exc.exit_code if is_help else codes.usage or 0
    except (click.Abort, KeyboardInterrupt):
        outcome.code = codes.cancelled
    except (JumpstarterException, OSError) as exc:
        if isinstance(exc, BrokenPipeError) and not isinstance(exc, JumpstarterException):
            _discard_stdout()  # its reader has gone, as in `jumpstarter ls | head`
            outcome.code = 128 + signal.SIGPIPE
        else:
            text = escape_text(str(exc)) if isinstance(exc, DriverError) else str(exc)
            sys.stderr.write(f"{program}: {text}\n")
            outcome.code = _FAILED


def _show(exc: click.ClickException) -> None:
    """Print an error of click to stderr: a name that is mistyped in one line, without the usage."""
    text, context = exc.format_message(), getattr(exc, "ctx", None)
    if context is None or not text.startswith(_MISTYPED):
        exc.show()
        return
    hint = "" if "Did you mean" in text else f" Try '{context.command_path} --help' for help."
    click.echo(f"{context.command_path}: {text}{hint}", err=True)


def _discard_stdout() -> None:
    """Let Python flush stdout at its exit without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
