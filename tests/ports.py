"""Find TCP ports for servers that a test starts later."""

from __future__ import annotations

import random
import socket
from typing import Final

__all__ = ["free_port"]

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
