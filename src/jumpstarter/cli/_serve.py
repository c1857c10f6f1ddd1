"""The command `serve`: serve a driver tree until a signal ends it. It needs no extra.

    python -m jumpstarter serve package.module:Driver --address unix:/run/exporter/socket

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
import atexit
import logging
import math
import pwd
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from .._api.serving import serve_async
from .._exporter.executor import DEFAULT_THREADS
from .._exporter.tree import failed_reset
from .._io.addresses import parse_address
from .._util.stdio import StandardStreams, standard_streams
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
from ._shortage import explain_shortage
from ._signals import Signals, reset_signals

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["serve"]

_logger = logging.getLogger("jumpstarter.cli")

_DEFAULT_GRACE: Final = 60.0  # seconds; systemd kills after 90, and the drivers need some to close
_EXIT_CODES: Final = (
    "Exit codes: 0 after the first signal; 128 + the number of the second, if that is a SIGTERM or "
    "SIGINT; 2 if nothing could be served."
)
_LOG_LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS: Final = ("debug", "info", "warning", "error")
_CANNOT_SERVE: Final = 2  # exit code


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
    options = _parse(arguments)
    reset_signals()
    level = options.log_level.upper()
    with ExitStack() as stack:
        try:
            streams = stack.enter_context(standard_streams(level, _LOG_LINE, until_exit=until_exit))
        except (OSError, RuntimeError) as exc:
            if text := explain_shortage(exc):
                sys.stderr.write(f"jumpstarter serve: {text}\n")
                return _CANNOT_SERVE
            raise
        if until_exit:
            atexit.register(stack.pop_all().close)
        try:
            return _run(options, streams)
        except (SetupError, JumpstarterException) as exc:
            streams.write_line(f"jumpstarter serve: {exc}")
            return _CANNOT_SERVE
        except KeyboardInterrupt:  # while the driver was made, before signals are handled
            return 128 + signal.SIGINT


def _run(options: argparse.Namespace, streams: StandardStreams) -> int:
    is_ready = False

    def announce(address: str) -> None:
        nonlocal is_ready
        is_ready = True
        streams.announce(f"ready: {address}")

    try:
        address = parse_address(options.address)
        check_options(address, options)
        config = ServeConfig(
            address=address,
            limits=load_limits(options.limit),
            token=read_token(options.token_file),
            context=load_tls(address, options),
            driver=load_driver(options.driver),
        )
        return trio.run(_serve, config, options, announce)
    except (Exception, SystemExit) as exc:
        if reason := failed_reset(exc):
            _logger.exception("%s", reason)
            raise SetupError(f"{reason}: {type(exc).__name__}: {exc}") from exc
        if isinstance(exc, SetupError | JumpstarterException):
            _logger.debug("nothing can be served", exc_info=True)
        elif not is_ready and (text := explain_shortage(exc)):
            raise SetupError(text) from exc
        raise


async def _serve(
    config: ServeConfig, options: argparse.Namespace, announce: Callable[[str], None]
) -> int:
    signals = Signals()
    with signals.startup:
        async with serve_async(
            config.driver,
            options.address,
            limits=config.limits,
            threads=options.threads,
            token=config.token,
            ssl_context=config.context,
            insecure=options.insecure,
            send_tracebacks=options.send_tracebacks,
            users=options.allow_user,
            async_library=options.async_library,
        ) as server:
            if not signals.started():
                return signals.exit_code
            for warning in startup_warnings(config, options):
                _logger.warning("%s", warning)
            announce(server.address)
            await signals.first.wait()
            with signals.hurry:
                await server.drain(options.grace)
    return signals.exit_code


# ---------------------------------------------------------------------------------- the arguments


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    serve = argparse.ArgumentParser(
        prog="jumpstarter serve",
        description="Serve a driver tree until SIGTERM, SIGINT or SIGHUP.",
        epilog=_EXIT_CODES,
    )
    serve.add_argument(
        "driver",
        metavar="MODULE:NAME",
        help="a driver class, a function that returns a driver, or a driver; modules of the "
        "current directory are found too",
    )
    _add_access_options(serve)
    _add_run_options(serve)
    return serve.parse_args(arguments)


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
        help="a file with the secret that clients must show; an argument would be visible to all "
        "users of this machine",
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
        help="authorities, PEM: clients must show a certificate of one of them",
    )


def _add_run_options(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--threads",
        type=_threads,
        default=DEFAULT_THREADS,
        metavar="N",
        help="how many blocking driver methods run concurrently (default: %(default)s)",
    )
    serve.add_argument(
        "--async-library",
        choices=["trio", "asyncio"],
        help="which library the async code of drivers is written for, if it does not say so itself "
        "(default: found out from the modules of each driver)",
    )
    serve.add_argument(
        "--grace",
        type=_seconds,
        default=_DEFAULT_GRACE,
        metavar="SECONDS",
        help="how long running calls may go on after the first signal, before they are cancelled; "
        "a second signal cancels them immediately; neither ends a plain method that does not "
        "return, which takes SIGKILL (default: %(default)g)",
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
        help="put drivers' tracebacks in the errors that clients get; the log has them anyway",
    )
    serve.add_argument("--log-level", choices=_LEVELS, default="info", help="default: %(default)s")


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return int(text)


def _user(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):  # ValueError: the name contains a NUL
        raise argparse.ArgumentTypeError(f"there is no user {text!r} on this machine") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:  # NaN too
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text!r}")
    return seconds
