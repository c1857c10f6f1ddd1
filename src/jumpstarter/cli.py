"""The command line: serve a driver tree until a signal says to stop.

    python -m jumpstarter serve package.module:Driver --address unix:/run/exporter/socket

What whoever starts an exporter can rely on:

- stdout has one line, `ready: <address>`, written when clients can connect. The log, with what the
  drivers say there, goes to stderr; where that takes no more, lines are lost and nothing waits.
- The first SIGTERM or SIGINT drains: no more clients and calls, and those that run may finish
  within the grace. A second one cancels them. Either way they are waited for, and then the drivers
  are reset and closed. A driver's blocking method is never abandoned, so one that never returns
  takes a SIGKILL.
- The exit code is 0 after a drain; 128 + the signal's number (130 for SIGINT, 143 for SIGTERM) if a
  second one came; and 2, with one line on stderr, if nothing could be served.

Nobody imports this file but `__main__`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import pkgutil
import pwd
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from ._serve import serve_async
from ._stderr import logging_to_stderr, say
from ._version import __version__
from .driver import Driver
from .driver._lanes import DEFAULT_THREADS
from .errors import JumpstarterException

__all__ = ["main"]

_logger = logging.getLogger("jumpstarter.cli")

_DEFAULT_GRACE: Final = 60.0  # seconds; systemd kills after 90, and the drivers need some to close
_EXIT_CODES: Final = (
    "Exit codes: 0 after the first signal; 128 + the number of the second, if one came; 2 if "
    "nothing could be served."
)
_LOG_LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS: Final = ("debug", "info", "warning", "error")


class _SetupError(Exception):
    """Nothing can be served; the text is the line that says why."""


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
    try:
        with logging_to_stderr(options.log_level.upper(), _LOG_LINE):
            return _run(options)
    except (_SetupError, JumpstarterException) as exc:
        say(f"jumpstarter serve: {exc}")
        return 2
    except KeyboardInterrupt:  # while the driver was made
        return 128 + signal.SIGINT


def _run(options: argparse.Namespace) -> int:
    try:
        driver = _load_driver(options.driver)
        token = _read_token(options.token_file)
        context = _load_tls(options)
        return trio.run(_serve, driver, token, context, options)
    except (_SetupError, JumpstarterException):
        _logger.debug("nothing can be served", exc_info=True)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jumpstarter", description="Drive hardware under test.")
    parser.add_argument("--version", action="version", version=f"jumpstarter {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "serve a driver tree until SIGTERM or SIGINT"
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
        help="for running calls to finish after the signal; a second signal cancels them "
        "(default: %(default)g)",
    )
    serve.add_argument(
        "--send-tracebacks",
        action="store_true",
        help="put drivers' tracebacks in the errors that clients get; they are logged anyway",
    )
    serve.add_argument("--log-level", choices=_LEVELS, default="info", help="default: %(default)s")
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
        help="a name or uid that may connect to the unix: socket, beside yours and root; can be "
        "given several times",
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


def _load_driver(spec: str) -> Driver:
    """Import a module, and make a driver of what it has under a name.

    Raises:
        _SetupError: There is no such module or name, it raised, or it gives no driver.
    """
    if spec.count(":") != 1:
        raise _SetupError(f"{spec!r} names no driver: write package.module:Driver")
    # `python -m` has the current directory there already, the installed command has not.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = pkgutil.resolve_name(spec)
        driver = found if isinstance(found, Driver) else found()
    except Exception as exc:
        text = f"cannot make a driver of {spec!r}: {type(exc).__name__}: {exc}"
        raise _SetupError(" ".join(text.split())) from exc
    if not isinstance(driver, Driver):
        text = f"{spec!r} gives a {type(driver).__name__}, which is no jumpstarter.driver.Driver"
        raise _SetupError(text)
    return driver


def _read_token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise _SetupError(f"cannot read --token-file {path}: {exc}") from exc
    if not token:
        raise _SetupError(f"--token-file {path} is empty, which would admit everybody")
    return token


def _load_tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    address, cert, key = options.address, options.tls_cert, options.tls_key
    authorities = options.tls_client_ca
    if cert is None:
        if key is not None or authorities is not None or address.startswith("tls:"):
            raise _SetupError(f"{address}: give --tls-cert, a file with the certificate")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    option, file = "--tls-cert", cert
    try:
        context.load_cert_chain(cert, key)
        if authorities is not None:
            option, file = "--tls-client-ca", authorities
            context.load_verify_locations(authorities)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as exc:  # ssl.SSLError is one
        raise _SetupError(f"cannot use {option} {file}: {exc}") from exc
    return context


def _say_ready(address: str) -> None:
    try:
        sys.stdout.write(f"ready: {address}\n")
        sys.stdout.flush()
    except (AttributeError, OSError) as exc:  # closed (then there is no stdout), full, or broken
        raise _SetupError(f"cannot say on stdout that it is ready: {exc}") from exc


class _Signals:
    """Counts the signals that ask for the end: the first to drain, the second to hurry.

    Its handlers stay until the process ends. Trio's `open_signal_receiver` would restore the old
    ones, and with them the death by a signal that comes when all but the exit is done.

    Attributes:
        first: Set when the first has come.
        hurry: Cancelled when the second has.
        exit_code: Of the process.
    """

    def __init__(self) -> None:
        self.first = trio.Event()
        self.hurry = trio.CancelScope()
        self.exit_code = 0
        self._token = trio.lowlevel.current_trio_token()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._count, number)

    def _count(self, number: int) -> None:
        if self.first.is_set():
            self.exit_code = self.exit_code or 128 + number
            self.hurry.cancel()
        self.first.set()


async def _serve(
    driver: Driver, token: str, context: ssl.SSLContext | None, options: argparse.Namespace
) -> int:
    signals = _Signals()
    async with serve_async(
        driver,
        options.address,
        threads=options.threads,
        token=token,
        ssl_context=context,
        insecure=options.insecure,
        users=options.allow_user,
    ) as server:
        _say_ready(server.address)
        await signals.first.wait()
        text = "shutting down: running calls have %g s to finish; a second signal cancels them"
        _logger.info(text, options.grace)
        with signals.hurry:
            await server.drain(options.grace)
    return signals.exit_code
