"""What an adapter of a server has to say: how it is started, called and attacked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from .attacker import Function
from .attacks import Setting

__all__ = ["PATIENCE", "TOKEN", "Call", "Peer", "Place", "own_server"]

PATIENCE = 5.0  # seconds for the good client's calls, and to connect
TOKEN = "the right one"  # noqa: S105 - of a server that lives for seconds

Call = Callable[[], object]


@dataclass(frozen=True)
class Place:
    """Where a server is, and how it is set up.

    Attributes:
        host: As connected to.
        port: Chosen by the server.
        setting: What is asked of clients.
        directory: With `ca.pem` and `server.pem` for the setting "tls", and `token` for "token".
    """

    host: str
    port: int
    setting: Setting
    directory: Path


@dataclass(frozen=True)
class Peer:
    """An adapter.

    Attributes:
        name: Of the library, as installed; its module here is `peer_<name>`.
        command: Gives the command that serves in a setting, from a directory. It prints one line
            that begins with "ready: " and ends with ":<port>".
        dial: Connects a good client, as its library is used, and gives a call that echoes a value
            and raises what has gone wrong, within `PATIENCE`.
        functions: The attacks that there are on it, by name.
        settings: That it has.
    """

    name: str
    command: Callable[[Setting, Path], list[str]]
    dial: Callable[[Place], AbstractContextManager[Call]]
    functions: Mapping[str, Function]
    settings: frozenset[Setting]


def own_server(name: str, setting: Setting, directory: Path) -> list[str]:
    """Give the command that runs `serve` of an adapter's module."""
    return [sys.executable, "-m", f"hostile.peer_{name}", setting, str(directory)]
