"""What the two ends of a side need for TLS on loopback, in any environment.

The server makes a certificate with the openssl command, and leaves its address in a file at the
path at which other servers have their socket.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

__all__ = ["address_at", "certificate_of", "leave_address", "make_certificate"]

_COMMAND: Final = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
    *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
    *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
)


def leave_address(path: str, address: str) -> None:
    """Leave the address of the server at a path."""
    Path(path).write_text(address)


def address_at(path: str) -> str:
    """Return the address of the server at a path."""
    return Path(path).read_text()


def certificate_of(path: str) -> str:
    """Return the file that has the certificate of the server at a path; it is its own authority."""
    return f"{path}-certificate"


def make_certificate(path: str) -> tuple[str, str]:
    """Make a certificate for the server at a path; return the files of it and of its key.

    Raises:
        FileNotFoundError: There is no openssl command.
    """
    files = certificate_of(path), f"{path}-key"
    command = [*_COMMAND, "-out", files[0], "-keyout", files[1]]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return files
