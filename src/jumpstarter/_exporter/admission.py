"""Limit how many connections an exporter has, before and after it has admitted their clients.

A connection costs something even before its client has shown that it may connect. So there are few
slots for pending connections. Until HELLO, a slow client cannot be distinguished from a malicious
one, but an honest client sends HELLO immediately. When all slots are taken, a new connection evicts
one that was rejected and has not disconnected yet, or else the one that has waited longest.

    state of a connection   next
    PENDING                 ADMITTED, by `admit`; REJECTED, by `reject`; evicted, by `arrive`
    ADMITTED                gone, by `leave`
    REJECTED                evicted, by `arrive`; gone, by `leave`

`AdmissionControl` owns the states. A connection that is evicted or gone has none. This module knows
neither sockets nor credentials.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["AdmissionControl", "AdmissionState", "PendingConnection"]


class AdmissionState(enum.Enum):
    """How far the admission of a connection is; see the module's docstring."""

    PENDING = enum.auto()
    ADMITTED = enum.auto()
    REJECTED = enum.auto()


class PendingConnection(Protocol):
    """The interface of a connection that admission uses."""

    def evict(self) -> None:
        """Close the connection: a newer one needs the slot. Synchronous."""


class AdmissionControl:
    """Count the connections of one exporter. Not a checkpoint, and for one Trio loop only.

    Args:
        max_admitted: The number of connections whose clients were admitted.
        max_pending: The number of all other connections.
    """

    def __init__(self, max_admitted: int, max_pending: int) -> None:
        self._max_admitted = max_admitted
        self._max_pending = max_pending
        # Per state, the oldest connection first.
        self._connections: Final[dict[AdmissionState, dict[PendingConnection, None]]] = {
            state: {} for state in AdmissionState
        }

    def arrive(self, connection: PendingConnection) -> None:
        """Assign a slot to a new connection, if necessary by evicting another one."""
        pending = self._connections[AdmissionState.PENDING]
        rejected = self._connections[AdmissionState.REJECTED]
        if len(pending) + len(rejected) >= self._max_pending:
            evicted = next(iter(rejected or pending))
            self.leave(evicted)  # first: `evict` may run code that asks for slots
            evicted.evict()
        pending[connection] = None

    def admit(self, connection: PendingConnection) -> bool:
        """Admit a pending connection; return False if there are too many, or it was evicted."""
        admitted = self._connections[AdmissionState.ADMITTED]
        return len(admitted) < self._max_admitted and self._move(
            connection, AdmissionState.ADMITTED
        )

    def reject(self, connection: PendingConnection) -> None:
        """Keep a connection only until its client has read why, or until its slot is needed."""
        self._move(connection, AdmissionState.REJECTED)

    def _move(self, connection: PendingConnection, state: AdmissionState) -> bool:
        pending = self._connections[AdmissionState.PENDING]
        if connection not in pending:
            return False
        del pending[connection]
        self._connections[state][connection] = None
        return True

    def leave(self, connection: PendingConnection) -> None:
        """Free the slot of a connection that has ended. One that was evicted has none."""
        for connections in self._connections.values():
            connections.pop(connection, None)
