"""The command line: serve a driver tree until a signal says to stop.

    python -m jumpstarter serve package.module:Driver --address unix:/run/exporter/socket

Whoever starts an exporter learns from it, and from nothing else:

- stdout has one line, `ready: <address>`, from the moment that clients can connect. The log, with
  what drivers write to it, goes to stderr.
- The first SIGTERM or SIGINT drains: no more clients and calls, and those that run may finish within
  the grace. A second one cancels them. Either way they are waited for, then the drivers are reset
  and closed. A driver's blocking method that never returns is never abandoned: only SIGKILL ends
  such an exporter.
- The exit code is 0 after a drain, 128 + the second signal's number (130 for SIGINT, 143 for SIGTERM)
  where a second one came, and 2, with one line on stderr, if nothing could be served.

Nobody imports this file but `__main__`.
"""

from __future__ import annotations

import argparse
import logging
import os
import pkgutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import trio

from ._serve import serve_async
from ._version import __version__
from .driver import Driver
from .driver._lanes import DEFAULT_THREADS
from .errors import JumpstarterException

__all__ = ["main"]

_logger = logging.getLogger("jumpstarter.cli")

# Seconds. What an init system gives a service before it kills it, less some for the drivers to close.
_DEFAULT_GRACE: Final = 60.0
_LEVELS: Final = ("debug", "info", "warning", "error")


class _SetupError(Exception):
    """Nothing can be served; the text is the line that says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    For a program's main thread, where signals arrive. Blocks until the exporter has ended.

    Args:
        argv: The arguments after the program's name; by default the process's own.

    Returns:
        The exit code, as said at the top of this file.

    Raises:
        SystemExit: The arguments are wrong, or only help was asked for.
    """
    options = _parser().parse_args(argv)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        driver = _load_driver(options.driver)
        token = _read_token(options.token_file)
        return trio.run(_serve, driver, token, _ssl_context(options), options)
    except (_SetupError, JumpstarterException) as exc:
        _logger.debug("the exporter cannot start", exc_info=True)
        print(f"jumpstarter serve: {exc}", file=sys.stderr)  # noqa: T201 - it is for a person
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jumpstarter", description="Drive hardware under test.")
    parser.add_argument("--version", action="version", version=f"jumpstarter {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve a driver tree until SIGTERM or SIGINT",
        description="Serve a driver tree until SIGTERM or SIGINT: then calls that run may finish. "
        "A second signal cancels them.",
    )
    serve.add_argument(
        "driver",
        metavar="MODULE:NAME",
        help="a Driver class, a function that gives a driver, or a driver; the current directory "
        "is searched for the module too",
    )
    serve.add_argument(
        "--address",
        required=True,
        help="unix:/path, tcp://host:port or tls://host:port; port 0 takes a free one",
    )
    serve.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a file with the secret that clients must show; on the command line all could read it",
    )
    serve.add_argument(
        "--insecure", action="store_true", help="let tcp:// listen beyond this machine, in cleartext"
    )
    serve.add_argument("--tls-cert", type=Path, metavar="FILE", help="for tls://: certificate chain")
    serve.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="its key, unless --tls-cert has it too"
    )
    serve.add_argument(
        "--threads",
        type=_positive(int),
        default=DEFAULT_THREADS,
        metavar="N",
        help="drivers' blocking methods at once (default: %(default)s)",
    )
    serve.add_argument(
        "--grace",
        type=_positive(float),
        default=_DEFAULT_GRACE,
        metavar="SECONDS",
        help="for calls to finish in after the first signal (default: %(default)g)",
    )
    serve.add_argument(
        "--log-level", choices=_LEVELS, default="info", help="(default: %(default)s)"
    )
    return parser
