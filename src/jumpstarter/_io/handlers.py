"""The interfaces through which a connection passes events on."""

from __future__ import annotations

from typing import Protocol

from .._protocol import events as ev
from .._protocol.frames import Hello

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ConnectionHandler", "StreamHandler"]


class StreamHandler(Protocol):
    """Handles the events of one slot. All methods are synchronous and fast.

    They call no verbs of the rules, which may be ahead of the event: the rules have taken in all
    bytes of a read before the first of its events is handled.
    """

    def received(self, event: ev.SlotEvent) -> None:
        """Handle an event of the slot."""

    def drained(self) -> None:
        """Handle that no DATA or ITEM of the slot is queued any more."""

    def lost(self, reason: Exception) -> None:
        """Handle the end of the connection; no event follows."""


class ConnectionHandler(Protocol):
    """Handles the events of one connection. All methods are synchronous and fast."""

    def on_hello(self, hello: Hello) -> None:
        """Handle the peer's HELLO. A server admits or rejects it before this returns."""

    def on_call(self, event: ev.CallReceived) -> None:
        """Begin to answer a call. Only for a server."""

    def on_slot_free(self) -> None:
        """Handle that a slot may be free, or that no more calls are accepted."""
