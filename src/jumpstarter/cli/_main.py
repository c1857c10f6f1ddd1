"""The command line: serve a driver tree until a signal says to stop.

    python -m jumpstarter serve package.module:Driver --address unix:/run/exporter/socket

What whoever starts an exporter can rely on:

- stdout has one line, `ready: <address>`, written when clients can connect. The log goes to stderr,
  and so does what drivers, and the programs that they run, print to stdout or stderr. Nothing ever
  waits for either stream, or fails by it: where stderr takes no more, text is lost, and how much is
  told later; a `ready:` that stdout does not take is a warning in the log.
- The first SIGTERM, SIGINT or SIGHUP drains: no more clients and calls, and those that run may
  finish within the grace, after which they are cancelled. SIGHUP does nothing if it was ignored at
  the start, as by `nohup`. A second SIGTERM or SIGINT cancels the calls immediately. Either way
  they are waited for, and then the drivers are reset and closed. No signal but SIGKILL ends a plain
  method that does not return: a thread cannot be killed, and is never abandoned.
- Programs that drivers run start with an empty signal mask and default dispositions, whatever the
  exporter was started with, except for what `nohup` and `&` ignore; their exit codes are true.
- What is served all the same, but reaches further than may be meant, is a warning in the log.
- The exit code is 0 after a drain; 128 + the signal's number (130 for SIGINT, 143 for SIGTERM) if a
  second one came; and 2, with one line on stderr, if nothing could be served.

Nobody imports this file but `__main__`.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import math
import pwd
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from .._api.serving import serve_async
from .._exporter.executor import DEFAULT_THREADS
from .._io.addresses import parse_address
from .._util.stdio import StandardStreams, standard_streams
from .._version import __version__
from ..errors import JumpstarterException
from ._options import (
    ServeConfig,
    SetupError,
    check_options,
    load_driver,
    load_limits,
    load_tls,
    read_token,
    startup_warnings,
)
from ._signals import Signals, own_signals

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["main"]

_logger = logging.getLogger("jumpstarter.cli")

_DEFAULT_GRACE: Final = 60.0  # seconds; systemd kills after 90, and the drivers need some to close
_EXIT_CODES: Final = (
    "Exit codes: 0 after the first signal; 128 + the number of the second, if a SIGTERM or SIGINT "
    "came as such; 2 if nothing could be served."
)
_LOG_LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS: Final = ("debug", "info", "warning", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, in a program's main thread, until the exporter has ended.

    Args:
        argv: The arguments behind the program's name; by default the process's own.

    Returns:
        The exit code.

    Raises:
        SystemExit: The arguments are wrong, or only ask for help.
    """
    options = _parser().parse_args(argv)
    own_signals()
    level = options.log_level.upper()
    with ExitStack() as stack:
        streams = stack.enter_context(standard_streams(level, _LOG_LINE, until_exit=argv is None))
        if argv is None:  # this is the whole program, and drivers may print until its very end
            atexit.register(stack.pop_all().close)
        try:
            return _run(options, streams)
        except (SetupError, JumpstarterException) as exc:
            streams.say(f"jumpstarter serve: {exc}")
            return 2
        except KeyboardInterrupt:  # while the driver was made
            return 128 + signal.SIGINT


def _run(options: argparse.Namespace, streams: StandardStreams) -> int:
    try:
        address = parse_address(options.address)
        check_options(address, options)
        offer = ServeConfig(
            address=address,
            limits=load_limits(options.limit),
            token=read_token(options.token_file),
            context=load_tls(address, options),
            driver=load_driver(options.driver),
        )
        return trio.run(_serve, offer, options, streams)
    except (SetupError, JumpstarterException):
        _logger.debug("nothing can be served", exc_info=True)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jumpstarter", description="Drive hardware under test.")
    parser.add_argument("--version", action="version", version=f"jumpstarter {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "serve a driver tree until SIGTERM, SIGINT or SIGHUP"
    serve = commands.add_parser(
        "serve", help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXIT_CODES
    )
    serve.add_argument(
        "driver",
        metavar="MODULE:NAME",
        help="a driver class, a function that gives a driver, or a driver; modules are searched "
        "for in the current directory too",
    )
    _add_access_options(serve)
    _add_run_options(serve)
    return parser


def _add_access_options(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--address",
        required=True,
        help="where to listen: unix:/path, tcp://host:port or tls://host:port; port 0 takes any",
    )
    serve.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the secret that clients must show; as an argument, all users could read it",
    )
    serve.add_argument(
        "--allow-user",
        type=_user,
        action="append",
        metavar="USER",
        help="a name or uid that may connect to the unix: socket, beside yours and root, if it can "
        "enter the socket's directory; can be given several times",
    )
    serve.add_argument(
        "--insecure", action="store_true", help="let tcp:// listen beyond loopback, in cleartext"
    )
    serve.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificates for tls://, PEM")
    serve.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="its private key, if --tls-cert holds none"
    )
    serve.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="authorities of which clients must show a certificate, PEM",
    )


def _add_run_options(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--threads",
        type=_threads,
        default=DEFAULT_THREADS,
        metavar="N",
        help="blocking driver methods at once (default: %(default)s)",
    )
    serve.add_argument(
        "--grace",
        type=_seconds,
        default=_DEFAULT_GRACE,
        metavar="SECONDS",
        help="for running calls to finish after the first signal, before they are cancelled; a "
        "second signal cancels them at once; neither ends a plain method that never returns, which "
        "takes SIGKILL (default: %(default)g)",
    )
    serve.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of jumpstarter.Limits (bytes, seconds or a count), as in "
        "max_message=4194304; can be given several times",
    )
    serve.add_argument(
        "--send-tracebacks",
        action="store_true",
        help="put drivers' tracebacks in the errors that clients get; they are logged anyway",
    )
    serve.add_argument("--log-level", choices=_LEVELS, default="info", help="default: %(default)s")


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _user(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):  # the latter of a NUL within
        raise argparse.ArgumentTypeError(f"there is no user {text!r} on this machine") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 up")
    return seconds


async def _serve(offer: ServeConfig, options: argparse.Namespace, streams: StandardStreams) -> int:
    signals = Signals()
    async with serve_async(
        offer.driver,
        options.address,
        limits=offer.limits,
        threads=options.threads,
        token=offer.token,
        ssl_context=offer.context,
        insecure=options.insecure,
        send_tracebacks=options.send_tracebacks,
        users=options.allow_user,
    ) as server:
        signals.is_starting = False
        if not signals.first.is_set():
            for doubt in startup_warnings(offer, options):
                _logger.warning("%s", doubt)
            streams.announce(f"ready: {server.address}")
        await signals.first.wait()
        with signals.hurry:
            await server.drain(options.grace)
    return signals.exit_code
