"""The command line: serve a driver tree until a signal says to stop.

    python -m jumpstarter serve package.module:Driver --address unix:/run/exporter/socket

What whoever starts an exporter can rely on:

- stdout has one line, `ready: <address>`, written when clients can connect. The log, with what the
  drivers say there, goes to stderr; where that takes no more, lines are lost and nothing waits.
- The first SIGTERM or SIGINT drains: no more clients and calls, and those that run may finish
  within the grace, after which they are cancelled. A second one cancels them at once. Either way
  they are waited for, and then the drivers are reset and closed. No signal but SIGKILL ends a plain
  method that does not return: a thread cannot be killed, and is never abandoned.
- What is served all the same, but reaches further than may be meant, is a warning in the log.
- The exit code is 0 after a drain; 128 + the signal's number (130 for SIGINT, 143 for SIGTERM) if a
  second one came; and 2, with one line on stderr, if nothing could be served.

Nobody imports this file but `__main__`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import math
import pkgutil
import pwd
import signal
import ssl
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import trio

from ._limits import Limits
from ._server import serve_async
from ._sockets import Address, parse_address
from ._stderr import logging_to_stderr, say
from ._version import __version__
from .client import DriverClient
from .driver import Driver
from .driver._lanes import DEFAULT_THREADS
from .errors import ConfigurationError, JumpstarterException

__all__ = ["main"]

_logger = logging.getLogger("jumpstarter.cli")

_DEFAULT_GRACE: Final = 60.0  # seconds; systemd kills after 90, and the drivers need some to close
_SHORT_TOKEN: Final = 16  # characters; fewer can be guessed
_EXIT_CODES: Final = (
    "Exit codes: 0 after the first signal; 128 + the number of the second, if one came; 2 if "
    "nothing could be served."
)
_LOG_LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS: Final = ("debug", "info", "warning", "error")
_LIMITS: Final = dataclasses.fields(Limits)


class _SetupError(Exception):
    """Nothing can be served; the text is the line that says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Offer:
    """What the options name, loaded: all that can be wrong with them is known."""

    address: Address
    limits: Limits
    token: str
    context: ssl.SSLContext | None
    driver: Driver


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
        address = parse_address(options.address)
        _check_options(address, options)
        offer = _Offer(
            address=address,
            limits=_load_limits(options.limit),
            token=_read_token(options.token_file),
            context=_load_tls(address, options),
            driver=_load_driver(options.driver),
        )
        return trio.run(_serve, offer, options)
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
        driver = found if isinstance(found, Driver) or _is_client(found) else found()
    except Exception as exc:
        text = f"cannot make a driver of {spec!r}: {type(exc).__name__}: {exc}"
        raise _SetupError(" ".join(text.split())) from exc
    if _is_client(driver):
        raise _SetupError(f"{spec!r} is a client class: name its driver's class, which is served")
    if not isinstance(driver, Driver):
        text = f"{spec!r} gives a {type(driver).__name__}, which is no jumpstarter.driver.Driver"
        raise _SetupError(text)
    return driver


def _is_client(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, DriverClient)


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


def _load_limits(settings: Sequence[str]) -> Limits:
    """Make the limits of what `--limit` says, each as NAME=VALUE.

    Raises:
        _SetupError: There is no such limit, or the value is none, or they contradict each other.
    """
    kinds = {field.name: int if field.type == "int" else float for field in _LIMITS}
    given: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in kinds:
            raise _SetupError(f"--limit {setting}: write NAME=VALUE, of {', '.join(kinds)}")
        try:
            given[name] = kinds[name](value)
        except ValueError:
            what = "whole number" if kinds[name] is int else "number"
            raise _SetupError(f"--limit {setting}: {value!r} is no {what}") from None
    try:
        return Limits(**given)
    except ConfigurationError as exc:
        raise _SetupError(f"cannot use --limit {' '.join(settings)}: {exc}") from exc


def _check_options(address: Address, options: argparse.Namespace) -> None:
    """Refuse what has no meaning at an address of this kind, and would be thought to have one."""
    if address.scheme != "tcp" and options.insecure:
        raise _SetupError(f"{address}: --insecure is for tcp://, and means nothing here")
    if address.scheme != "tls":
        for option in ("--tls-cert", "--tls-key", "--tls-client-ca"):
            if getattr(options, option[2:].replace("-", "_")) is not None:
                raise _SetupError(f"{address} has no TLS: {option} is for tls://")
    elif options.tls_cert is None:
        raise _SetupError(f"{address}: give --tls-cert, a file with the certificate")


def _load_tls(address: Address, options: argparse.Namespace) -> ssl.SSLContext | None:
    if address.scheme != "tls":
        return None
    cert, key, authorities = options.tls_cert, options.tls_key, options.tls_client_ca
    _check_pem("--tls-cert", cert, "CERTIFICATE")
    if key is not None:
        _check_pem("--tls-key", key, "PRIVATE KEY")
    elif not _has_pem(cert, "PRIVATE KEY"):
        raise _SetupError(f"--tls-cert {cert} holds no private key: give --tls-key, a file with it")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_certificate(context, cert, key)
    if authorities is not None:
        _check_pem("--tls-client-ca", authorities, "CERTIFICATE")
        try:
            context.load_verify_locations(authorities)
        except OSError as exc:
            raise _SetupError(f"cannot use --tls-client-ca {authorities}: {exc}") from exc
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    where = f"--tls-cert {cert}" if key is None else f"--tls-key {key}"

    def refuse() -> NoReturn:  # OpenSSL would ask for it at the terminal
        why = "the key has a passphrase, which is not supported: decrypt it with `openssl pkey`"
        raise _SetupError(f"cannot use {where}: {why}")

    try:
        context.load_cert_chain(cert, key, password=refuse)
    except OSError as exc:  # ssl.SSLError is one
        if isinstance(exc, ssl.SSLError) and "MISMATCH" in (exc.reason or ""):
            why = f"the key does not fit the certificate in {cert}"
            raise _SetupError(f"cannot use {where}: {why}") from exc
        raise _SetupError(
            f"cannot use --tls-cert {cert} with the key in {key or cert}: {exc}"
        ) from exc


def _check_pem(option: str, path: Path, kind: str) -> None:
    """Raise if a file cannot be read or has no such part; `ssl` would not say which file it is."""
    try:
        found = _has_pem(path, kind)
    except OSError as exc:
        raise _SetupError(f"cannot use {option} {path}: {exc.strerror}") from exc
    if not found:
        raise _SetupError(f"cannot use {option} {path}: it holds no {kind.lower()} (PEM)")


def _has_pem(path: Path, kind: str) -> bool:
    if stat.S_ISFIFO(path.stat().st_mode):  # as a shell's <(command): it can be read only once
        return True
    return f"{kind}-----".encode() in path.read_bytes()


def _doubts(offer: _Offer, options: argparse.Namespace) -> Iterator[str]:
    """Say what is open further than may be meant, or less."""
    address = offer.address
    if address.scheme != "unix" and not offer.token and options.tls_client_ca is None:
        yield "any user of this machine may use the drivers: give --token-file, or serve at unix:"
    if options.token_file is not None:
        yield from _doubts_of_token(options.token_file, offer.token)
    if options.allow_user is not None:
        yield from _doubts_of_directory(Path(address.path))


def _doubts_of_token(path: Path, token: str) -> Iterator[str]:
    mode = _mode_of(path, 0o600)
    if mode & 0o044:
        yield f"--token-file {path} can be read by other users (mode {mode:04o}): chmod 600 it"
    if len(token) < _SHORT_TOKEN:
        text = f"the token in --token-file {path} has {len(token)} characters, and can be guessed"
        yield f"{text}: make one with `openssl rand -hex 32`"


def _doubts_of_directory(socket: Path) -> Iterator[str]:
    for directory in socket.resolve().parents:
        mode = _mode_of(directory, 0o755)
        if not mode & stat.S_IXOTH:
            text = (
                f"--allow-user may let nobody in: {directory} (mode {mode:04o}) is closed to others"
            )
            yield f"{text}; serve in a directory that they can enter, as under /run"


def _mode_of(path: Path, otherwise: int) -> int:
    """Give the mode of what is at a path, or another one if it cannot be told."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return otherwise


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


async def _serve(offer: _Offer, options: argparse.Namespace) -> int:
    signals = _Signals()
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
        for doubt in _doubts(offer, options):
            _logger.warning("%s", doubt)
        _say_ready(server.address)
        await signals.first.wait()
        text = "shutting down: running calls have %g s to finish; a second signal cancels them"
        _logger.info(text, options.grace)
        with signals.hurry:
            await server.drain(options.grace)
    return signals.exit_code
