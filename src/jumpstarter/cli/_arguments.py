"""The options that `serve` and `run` have in common, for argparse."""

from __future__ import annotations

import argparse
import math
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .._exporter.executor import DEFAULT_THREADS
from .._util.durations import parse_duration
from ._log_format import LOG_FORMATS

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["EXIT_CODES", "add_access_options", "add_run_options", "with_values"]

_DEFAULT_GRACE: Final = 60.0  # seconds; systemd kills after 90, and the drivers need some to close
EXIT_CODES: Final = (
    "Exit codes: 0 after the first signal; 128 + the number of the second, if that is a SIGTERM or "
    "SIGINT; 2 if nothing could be served."
)
_EXCLUSIVE: Final = "--exclusive"
_LEVELS: Final = ("debug", "info", "warning", "error")


def add_access_options(
    parser: argparse.ArgumentParser, *, is_address_required: bool = True
) -> None:
    """Add the options that say where to listen, and to which clients."""
    parser.add_argument(
        "--address",
        required=is_address_required,
        help="where to listen: unix:/path, tcp://host:port or tls://host:port; port 0 takes any",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a file with the secret that clients must show; an argument would be visible to all "
        "users of this machine",
    )
    parser.add_argument(
        "--allow-user",
        type=_user,
        action="append",
        metavar="USER",
        help="a name or uid that may connect to the unix: socket, beside yours and root, if it can "
        "enter the socket's directory; can be given several times",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="let tcp:// listen beyond loopback, in cleartext"
    )
    parser.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="certificates for tls:// and https://, PEM"
    )
    parser.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="its private key, if --tls-cert holds none"
    )
    parser.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="authorities, PEM: clients must show a certificate of one of them",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how drivers are run, and what the exporter tells of it."""
    _add_sharing_options(parser)
    _add_call_options(parser)
    _add_http_options(parser)
    _add_log_options(parser)


def _add_call_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=_threads,
        default=DEFAULT_THREADS,
        metavar="N",
        help="how many blocking driver methods run concurrently (default: %(default)s)",
    )
    parser.add_argument(
        "--async-library",
        choices=["trio", "asyncio"],
        help="which library the async code of drivers is written for, if it does not say so itself "
        "(default: found out from the modules of each driver)",
    )
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=_DEFAULT_GRACE,
        metavar="SECONDS",
        help="how long running calls may go on after the first signal, before they are cancelled; "
        "a second signal cancels them immediately; neither ends a plain method that does not "
        "return, which takes SIGKILL (default: %(default)g)",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of jumpstarter.Limits (bytes, seconds or a count), as in "
        "max_message=4194304; can be given several times",
    )
    parser.add_argument(
        "--send-tracebacks",
        action="store_true",
        help="put drivers' tracebacks in the errors that clients get; the log has them anyway",
    )


def _add_http_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics",
        metavar="[HOST:]PORT",
        help="serve metrics at http://HOST:PORT/metrics, by default at 127.0.0.1; with https:// in "
        "front, by TLS with --tls-cert; needs the extra metrics",
    )
    parser.add_argument(
        "--metrics-token-file",
        type=Path,
        metavar="FILE",
        help="a file with the secret that a scraper must show; needed for a HOST that other "
        "machines reach",
    )
    parser.add_argument(
        "--status",
        metavar="[HOST:]PORT",
        help="serve a page that shows what goes on, consoles too, at http://HOST:PORT/, by default "
        "at 127.0.0.1; with https:// in front, by TLS with --tls-cert; needs the extra metrics",
    )
    parser.add_argument(
        "--status-token-file",
        type=Path,
        metavar="FILE",
        help="a file with the secret that the page asks for; needed for a HOST that other machines "
        "reach",
    )


def _add_log_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-format",
        choices=LOG_FORMATS,
        help="json writes an object a line to stderr, for programs; default: text, or logFormat of "
        "the configuration",
    )
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="default: %(default)s")


def with_values(arguments: Sequence[str] | None) -> list[str]:
    """Return the arguments with `--exclusive` alone as `--exclusive=`, which has an empty value.

    `argparse` would take the next argument for the value, which is the driver. Abbreviations, such
    as `--excl`, are left to it.

    Args:
        arguments: The arguments; None for those of this process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return [f"{each}=" if len(each) > 2 and _EXCLUSIVE.startswith(each) else each for each in given]


def _add_sharing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        _EXCLUSIVE,
        action="append",
        metavar="PATH",
        help="one client at a time uses the drivers, and the others wait in a queue; with "
        "--exclusive=PATH, the driver there and those below it have a queue of their own: it can "
        "be given several times; no other process of this machine may serve the same "
        "configuration meanwhile",
    )
    parser.add_argument(
        "--max-session",
        type=_duration,
        metavar="TIME",
        help="with --exclusive, how long a client may hold the exporter, as in 2h or 90m; it is "
        "warned before it is disconnected",
    )
    parser.add_argument(
        "--operator",
        action="append",
        metavar="NAME",
        help="with --exclusive, the common name of a client's certificate whose owner may end the "
        "session of another client; can be given several times",
    )


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


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
