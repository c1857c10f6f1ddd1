"""The command `j`: the command line of the exporter's root client."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

from .._util.text import escape_text
from ..client._commands import command_of, consoles
from ..common._env import env, environment_client
from ..config.env import JUMPSTARTER_HOST
from ..errors import CallRefused
from ._app import ExitCodes, reported_errors, run_click
from ._current_directory import add_current_directory

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["run"]

_FAILED: Final = 1  # exit code
_NO_COMMAND: Final = 2  # the same
_USAGE: Final = """\
Usage: j COMMAND [ARGS]...

  Call the drivers of an exporter. In a `jumpstarter shell`, `j --help` lists its commands.

"""
_CODES: Final = ExitCodes(usage=1, cancelled=2)  # those of the published `j`
_COMPLETE: Final = "_J_COMPLETE"  # set by a shell that asks for completions
_PATIENCE: Final = 10.0  # seconds that a completion may take
# Modules whose frames say nothing about an error in a client class.
_NOT_THE_CLIENTS: Final = {"jumpstarter", "click", "contextlib", "anyio", "asyncio"}


def run(arguments: Sequence[str], *, until_exit: bool = False) -> int:
    """Run a command of the root client.

    Call it in the program's main thread, since it handles SIGTERM.

    Args:
        arguments: The arguments after the program's name.
        until_exit: This is the whole program.

    Returns:
        The exit code: an integer that the command returns or exits with; 1 if it fails, or if the
        arguments are wrong; 2 if there is no command, or if Ctrl-C or SIGTERM has cancelled it.
    """
    if _COMPLETE in os.environ:
        return _complete()
    if not os.environ.get(JUMPSTARTER_HOST):
        return _without_exporter(arguments)
    if until_exit:
        sys.unraisablehook = _report_unraisable
        add_current_directory(last=True)  # `shell` finds drivers there, and so must j their clients
    try:
        with (
            _sigterm_as_ctrl_c(),
            reported_errors("j", _CODES) as outcome,
            env() as client,
            consoles(_open_console),
        ):
            outcome.code = run_click(command_of(client), arguments, "j", codes=_CODES)
    except Exception as exc:  # noqa: BLE001 - the code of a client class has raised it
        _report_fault(exc)
        return _FAILED
    return outcome.code


def _without_exporter(arguments: Sequence[str]) -> int:
    """Print the help, or the error of a command that cannot run."""
    reason = f"{JUMPSTARTER_HOST} is not set: use j in a `jumpstarter shell`\n"
    if arguments and arguments[0] != "--help":
        sys.stderr.write(f"j: {reason}")
        return _FAILED
    stream = sys.stdout if arguments else sys.stderr
    stream.write(f"{_USAGE}{reason}")
    return 0 if arguments else _NO_COMMAND


def _complete() -> int:
    """Print completions for a shell, or nothing if the exporter is out of reach."""
    impatient = threading.Timer(_PATIENCE, os._exit, [_FAILED])  # the user's shell waits
    impatient.daemon = True
    impatient.start()
    try:
        with (
            suppress(Exception),
            environment_client(claim=False) as client,
            consoles(_open_console),
        ):
            command_of(client).main([], "j", _COMPLETE)  # it exits
        return _FAILED
    finally:
        impatient.cancel()


def _open_console(
    client: Any, method: str, arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> int:
    from ._console import run_console  # noqa: PLC0415 - only this command needs it

    return run_console(client, method, arguments=arguments, keywords=keywords)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM cancel the driver's code, as Ctrl-C does, and wait for its end."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Report an exception of a finalizer, unless it has called a driver after the connection's end.

    Client classes that derive from a class of another library, as python-can's, inherit such
    finalizers. The driver's own `close()` has done the work.
    """
    if not isinstance(unraisable.exc_value, CallRefused):
        sys.__unraisablehook__(unraisable)


def _report_fault(exc: Exception) -> None:
    """Print an exception that a client class did not expect, with the places in that class."""
    stack = traceback.extract_tb(exc.__traceback__)
    frames = [frame for frame, _ in traceback.walk_tb(exc.__traceback__)]
    own = [
        place
        for place, frame in zip(stack, frames, strict=True)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_THE_CLIENTS
    ]
    sys.stderr.write("".join(traceback.format_list(own)))
    [*_, last] = traceback.format_exception_only(exc)
    # It may repeat a driver's text, whose escape sequences would act on the terminal.
    lines = "\n".join(map(escape_text, last.splitlines()))
    sys.stderr.write(f"j: {lines}\n")
