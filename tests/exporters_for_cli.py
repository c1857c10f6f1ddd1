"""Run an exporter of the command line's test board, over a Unix socket or TLS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme

from exporter_process import ExporterProcess, exporter

__all__ = ["BOARD", "Reached", "board_over", "make_certificates"]

BOARD = "console_drivers:board"


class Reached(NamedTuple):
    """An exporter, and the arguments that reach it.

    Attributes:
        process: The exporter.
        address: Its address.
        access: The options that a command needs.
    """

    process: ExporterProcess
    address: str
    access: tuple[str, ...]


def make_certificates(directory: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Make a certificate and a token, and return the exporter's options, and a command's."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(directory / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    token = directory / "token"
    token.touch(0o600)
    token.write_text("0123456789abcdef")
    files = ("--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem"))
    serve = ("--address", "tls://localhost:0", *files, "--token-file", str(token))
    return serve, ("--tls-ca", str(directory / "ca.pem"), "--token-file", str(token))


@contextmanager
def board_over(scheme: str, directory: Path, driver: str = BOARD) -> Iterator[Reached]:
    """Run an exporter of the board over `unix` or `tls`, for the length of a block."""
    serve, access = make_certificates(directory) if scheme == "tls" else ((), ())
    with exporter(directory, *serve, driver=driver) as process:
        yield Reached(process, process.address, access)
