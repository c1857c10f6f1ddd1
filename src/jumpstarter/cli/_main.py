"""The entry points of the console scripts `jumpstarter`, `jmp` and `j`.

The scripts are installed without the extra `cli` too. So this module imports neither click nor the
rest of the package before it knows which command is run.

Exit codes of all commands but `serve` and `run`, which document their own:

- 0: the command did what it was asked to do.
- 1: it failed: a driver raised an exception, the exporter cannot be reached, or a file is missing.
- 2: the arguments are wrong, or an extra is not installed.
- 128 + N: signal N ended it; 130 after Ctrl-C.
- A command that runs another program exits with that program's code.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .._util.wording import using_words
from .._version import __version__
from ..errors import MissingExtra
from ._commands import COMMANDS
from ._wording import OPTIONS, VARIABLES

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["j", "main"]

_USAGE: Final = 2  # exit code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of `jumpstarter`.

    Call it in the program's main thread, since commands handle signals.

    Args:
        argv: The arguments after the program's name; by default the process's own.

    Returns:
        The exit code.

    Raises:
        SystemExit: The arguments are wrong, or only ask for help.
    """
    with using_words(OPTIONS):
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["serve"]:
        from ._serve import serve  # noqa: PLC0415 - it imports the exporter

        return serve(arguments[1:], until_exit=argv is None)
    if arguments[:1] == ["run"]:
        from ._run import run as run_exporter  # noqa: PLC0415 - the same

        return run_exporter(arguments[1:], until_exit=argv is None)
    if arguments[:1] == ["doctor"]:
        from ._doctor import doctor  # noqa: PLC0415 - for this command only

        return doctor(arguments[1:])
    if arguments == ["--version"]:
        print(f"jumpstarter {__version__}")  # noqa: T201 - the answer
        return 0
    if argv is None:
        # Imports leave no garbage, and to look for it takes a tenth of a short command's time. The
        # group of commands enables it again, see `cli._app`.
        gc.disable()
    try:
        from ._app import run  # noqa: PLC0415 - it needs click
    except MissingExtra as exc:
        return _without_click(arguments, exc)
    return run(arguments, _program("jumpstarter", "jmp"))


def j(argv: Sequence[str] | None = None) -> int:
    """Run a command of the exporter's root client, in a shell that ``jumpstarter shell`` started.

    Args:
        argv: The arguments after the program's name; by default the process's own.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        from ._j import run  # noqa: PLC0415 - it needs click
    except MissingExtra as exc:
        sys.stderr.write(f"j: {exc}\n")
        return _USAGE
    with using_words(VARIABLES):
        return run(arguments, until_exit=argv is None)


def _program(*names: str) -> str:
    """Return the name under which this program was started, if it is one of ours."""
    name = Path(sys.argv[0]).name
    return name if name in names else names[0]


def _without_click(arguments: Sequence[str], missing: MissingExtra) -> int:
    """Print the help, or the error of a command that cannot run."""
    if arguments and arguments[0] not in {"-h", "--help"}:
        sys.stderr.write(f"jumpstarter: {missing}\n")
        return _USAGE
    lines = ["Usage: jumpstarter [--version] COMMAND ...", "", "Commands:"]
    lines += [f"  {name:<12}{text}" for name, text in COMMANDS.items()]
    lines += ["", f"All but serve and doctor need more: {missing}"]
    print("\n".join(lines))  # noqa: T201 - the answer
    return 0 if arguments else _USAGE
