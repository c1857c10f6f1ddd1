"""The table of adapters: ours, and those of the other libraries that are installed."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Final

from .peer import Peer
from .peer_ours import PEER as OURS

__all__ = ["NAMES", "OURS", "peer_named"]

_OTHERS: Final = {"grpcio": "grpc", "rpyc": "rpyc", "pyro5": "Pyro5"}

NAMES: Final = (OURS.name, *(name for name, module in _OTHERS.items() if find_spec(module)))


def peer_named(name: str) -> Peer:
    """Return the adapter with this name.

    Raises:
        ImportError: The adapter's library is not installed. The extra `hostile` installs it.
    """
    if name == OURS.name:
        return OURS
    peer: Peer = importlib.import_module(f"{__package__}.peer_{name}").PEER
    return peer
