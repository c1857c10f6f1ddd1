"""Find TCP ports for servers that a test starts later, and wait for a server to listen."""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path
from typing import Final

from processes import PATIENCE

__all__ = ["connect_to_listener", "free_port"]

# Below the ports that Linux gives to connections and to servers that ask for any port. Such a port
# stays free until the test uses it, whatever other programs do meanwhile.
_CANDIDATES: Final = range(15_000, 32_768)


def free_port() -> int:
    """Return a port on which no server listens, at any address."""
    for port in random.sample(_CANDIDATES, 100):
        try:
            socket.create_server(("", port)).close()
        except OSError:
            continue
        return port
    raise OSError("100 of the system's ports are in use")


def connect_to_listener(path: Path) -> socket.socket:
    """Connect to a Unix socket when a server listens there, which is after its file is made."""
    deadline = time.monotonic() + PATIENCE
    while True:
        program = socket.socket(socket.AF_UNIX)
        program.settimeout(PATIENCE)
        try:
            program.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            program.close()
            assert time.monotonic() < deadline, f"nothing listens at {path}"
            time.sleep(0.01)
        else:
            return program
