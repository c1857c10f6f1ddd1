"""The command `run`: serve an exporter's configuration until a signal ends it.

It needs the extra `cli`, for YAML. Streams, signals and exit codes are those of
`cli._serve`. Options that the published `jmp run` has are accepted, and stand for ours:

    --tls-grpc-listener [HOST:]PORT   --address tls://HOST:PORT
    --tls-grpc-insecure               tcp:// instead of tls://, and --insecure
    --passphrase TEXT                 the token; better in --token-file, or in JMP_GRPC_PASSPHRASE
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..common._env import exporter_token
from ..config.env import JMP_GRPC_PASSPHRASE
from ._arguments import EXIT_CODES, add_access_options, add_run_options, with_values
from ._exporter import run_exporter
from ._parser import OneLineParser

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["make_parser", "run"]

_LISTENER: Final = re.compile(r"(?:(?P<host>[^:/]*|\[[^\]/]*\]):)?(?P<port>\d{1,5})", re.ASCII)
_ANY_HOST: Final = "0.0.0.0"  # noqa: S104 - what the published command means by a port alone


def run(arguments: Sequence[str], *, until_exit: bool = False) -> int:
    """Serve an exporter's configuration until a signal ends the exporter.

    Call it in the program's main thread, since it handles signals.

    Args:
        arguments: The arguments after the name of the command.
        until_exit: This is the whole program, and drivers may print until it exits.

    Returns:
        The exit code.

    Raises:
        SystemExit: The arguments are wrong, or only ask for help.
    """
    parser = make_parser()
    options = parser.parse_args(with_values(arguments))
    _translate(options, parser)
    return run_exporter(options, "jumpstarter run", until_exit=until_exit)


def _translate(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Replace the options of the published command by ours."""
    if (options.address is None) == (options.listener is None):
        text = "there is no controller to register with: " if options.address is None else ""
        parser.error(f"{text}give --address, or --tls-grpc-listener instead of it")
    if options.passphrase is not None and options.token_file is not None:
        parser.error("--passphrase and --token-file are two secrets: give one of them")
    options.is_passphrase_visible = options.passphrase is not None
    if options.passphrase == "":
        parser.error("--passphrase is empty, which would admit every client")
    if options.passphrase is None and options.token_file is None:
        options.passphrase = exporter_token()
    os.environ.pop(JMP_GRPC_PASSPHRASE, None)  # the programs of drivers need not know it
    if options.listener is not None:
        match = _LISTENER.fullmatch(options.listener)
        if match is None:
            parser.error(f"--tls-grpc-listener {options.listener}: write [HOST:]PORT, as in 8443")
        scheme = "tcp" if options.tls_grpc_insecure else "tls"
        options.address = f"{scheme}://{match['host'] or _ANY_HOST}:{match['port']}"
        options.insecure |= options.tls_grpc_insecure
    elif options.tls_grpc_insecure:
        parser.error("--tls-grpc-insecure is for --tls-grpc-listener: write --address tcp://...")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    parser = OneLineParser(
        prog="jumpstarter run",
        description="Serve an exporter's configuration until SIGTERM, SIGINT or SIGHUP.",
        epilog=EXIT_CODES,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--exporter",
        metavar="NAME",
        help="the name of a configuration in ~/.config/jumpstarter/exporters or "
        "/etc/jumpstarter/exporters, without .yaml",
    )
    which.add_argument(
        "--exporter-config", dest="config", type=Path, metavar="FILE", help="a configuration"
    )
    add_access_options(parser, is_address_required=False)
    parser.add_argument(
        "--tls-grpc-listener",
        dest="listener",
        metavar="[HOST:]PORT",
        help="the same as --address tls://HOST:PORT; without HOST at all addresses",
    )
    parser.add_argument(
        "--tls-grpc-insecure",
        action="store_true",
        help="--tls-grpc-listener listens in cleartext, at tcp://",
    )
    parser.add_argument(
        "--passphrase",
        metavar="TEXT",
        help="the secret that clients must show; all users of this machine can see it, so give "
        f"--token-file or set {JMP_GRPC_PASSPHRASE} instead",
    )
    add_run_options(parser)
    parser.set_defaults(driver=None)
    return parser
