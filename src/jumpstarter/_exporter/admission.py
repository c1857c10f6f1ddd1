"""Who is in and who waits outside: the places that an exporter has for connections.

A stranger costs a place outside until it has shown that it may come in. There are few of these, and
there is no telling a friend who is about to speak from somebody who never will; but friends speak
at once, so when all places are taken the next gets that of somebody who was refused and has not
gone yet, or of the one who has waited longest. This file knows neither sockets nor what is to be
shown.
"""

from __future__ import annotations

from typing import Protocol

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["AdmissionControl", "PendingConnection"]


class PendingConnection(Protocol):
    """One connection, as the door sees it."""

    def evict(self) -> None:
        """Hang up: a newer connection needs the place. Synchronous."""


class AdmissionControl:
    """The places of one exporter. For tasks of one Trio loop; nothing here is a checkpoint.

    Args:
        inside: Clients at once that may have been admitted.
        outside: Connections at once that may not have been.
    """

    def __init__(self, inside: int, outside: int) -> None:
        self._most = inside
        self._places = outside
        self._inside: set[PendingConnection] = set()
        self._outside: dict[PendingConnection, None] = {}  # who has waited longest is first
        self._refused: dict[PendingConnection, None] = {}

    def arrive(self, connection: PendingConnection) -> None:
        """Give a place outside, if need be that of somebody else."""
        if len(self._outside) + len(self._refused) >= self._places:
            candidates = self._refused or self._outside
            evicted = next(iter(candidates))
            del candidates[evicted]
            evicted.evict()
        self._outside[connection] = None

    def admit(self, connection: PendingConnection) -> bool:
        """Let somebody in who waits outside; False if there is no place inside, or it gave way."""
        if len(self._inside) >= self._most or connection not in self._outside:
            return False
        del self._outside[connection]
        self._inside.add(connection)
        return True

    def refuse(self, connection: PendingConnection) -> None:
        """Let somebody stay outside, to read why, until the place is needed."""
        if connection in self._outside:
            del self._outside[connection]
            self._refused[connection] = None

    def leave(self, connection: PendingConnection) -> None:
        """Take the place back, wherever it is. One who gave way has none."""
        self._outside.pop(connection, None)
        self._refused.pop(connection, None)
        self._inside.discard(connection)
