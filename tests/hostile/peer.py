"""The interface of an adapter: how to start, call and attack a server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from .attacker import Function
from .attacks import Setting

__all__ = ["PATIENCE", "TOKEN", "Call", "Peer", "Place", "own_server"]

PATIENCE = 5.0  # seconds; the good client's timeout for connecting and for each call
TOKEN = "the right one"  # noqa: S105 - only for a server that runs for seconds

Call = Callable[[], object]


@dataclass(frozen=True)
class Place:
    """A server's address and configuration.

    Attributes:
        host: The host to connect to.
        port: The port, chosen by the server.
        setting: The server's configuration, which determines how clients connect.
        directory: Contains `ca.pem` and `server.pem` for the setting "tls", and `token` for the
            setting "token".
    """

    host: str
    port: int
    setting: Setting
    directory: Path


@dataclass(frozen=True)
class Peer:
    """An adapter of a server.

    Attributes:
        name: The name of the installed library. Except for ours, the adapter is the module
            `peer_<name>`.
        command: Returns the command that runs the server in a setting, with the files of a
            directory. The command prints one line that begins with "ready: " and ends with
            ":<port>".
        dial: Connects a good client, as its library documents, and yields a call that echoes a
            value. Within `PATIENCE`, the call returns, or raises if it failed.
        functions: The attacks on this server, by name.
        settings: The settings that the server supports.
    """

    name: str
    command: Callable[[Setting, Path], list[str]]
    dial: Callable[[Place], AbstractContextManager[Call]]
    functions: Mapping[str, Function]
    settings: frozenset[Setting]


def own_server(name: str, setting: Setting, directory: Path) -> list[str]:
    """Return the command that runs an adapter's module as a server."""
    return [sys.executable, "-m", f"hostile.peer_{name}", setting, str(directory)]
