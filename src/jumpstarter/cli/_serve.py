"""The command `serve`: serve a driver tree until a signal ends it. It needs no extra.

    python -m jumpstarter serve package.module:Driver --address unix:/run/exporter/socket
    python -m jumpstarter serve --config exporter.yaml --address unix:/run/exporter/socket

The second form needs the extra `cli`.

A program that starts an exporter can rely on this:

- stdout gets one line, `ready: <address>`, when clients can connect. The log goes to stderr, and so
  does everything that drivers and the programs that they run print to stdout or stderr. No code
  ever blocks or fails because of either stream. Text that cannot be written to stderr immediately
  is lost, and the log says later how much; if `ready:` cannot be written to stdout, the log has a
  warning.
- The first SIGTERM, SIGINT or SIGHUP drains: clients and calls are refused, and running calls may
  finish within the grace period, after which they are cancelled. SIGHUP has no effect if it was
  ignored at the start, as by `nohup`. A second SIGTERM or SIGINT cancels the calls immediately. In
  both cases the exporter waits for the calls, and then closes the drivers. Only SIGKILL ends a
  plain method that does not return: a thread cannot be killed, and is never abandoned.
- A signal that arrives before `ready:` cancels the start: the exporter waits for the running
  `reset()`, closes the drivers, and never writes `ready:`.
- If a driver's `reset()` raises an exception, the log has its traceback, and nothing is served.
- Programs that drivers run start with an empty signal mask and default dispositions, however the
  exporter was started, except for signals that `nohup` and `&` ignore. The exit codes that drivers
  get are the real ones.
- Access that is broader than the operator may intend is a warning in the log.
- The exit code is 0 after a drain; 128 + the signal's number (130 for SIGINT, 143 for SIGTERM) if a
  second one came; and 2, with one line on stderr, if nothing could be served.

The command line imports this module when this command is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ._arguments import EXIT_CODES, add_access_options, add_run_options, with_values
from ._exporter import run_exporter
from ._parser import OneLineParser

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["make_parser", "serve"]


def serve(arguments: Sequence[str], *, until_exit: bool = False) -> int:
    """Serve a driver tree until a signal ends the exporter.

    Call it in the program's main thread, since it handles signals.

    Args:
        arguments: The arguments after the name of the command.
        until_exit: This is the whole program, and drivers may print until it exits.

    Returns:
        The exit code.

    Raises:
        SystemExit: The arguments are wrong, or only ask for help.
    """
    defaults = argparse.Namespace(exporter=None, passphrase=None)
    options = make_parser().parse_args(with_values(arguments), defaults)
    return run_exporter(options, "jumpstarter serve", until_exit=until_exit)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    parser = OneLineParser(
        prog="jumpstarter serve",
        description="Serve a driver tree until SIGTERM, SIGINT or SIGHUP.",
        epilog=EXIT_CODES,
    )
    tree = parser.add_mutually_exclusive_group(required=True)
    tree.add_argument(
        "driver",
        nargs="?",
        metavar="MODULE:NAME",
        help="a driver class, a function that returns a driver, or a driver; modules of the "
        "current directory are found too",
    )
    tree.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="an exporter's configuration in YAML, instead of MODULE:NAME",
    )
    add_access_options(parser)
    add_run_options(parser)
    return parser
