"""What a connection's rules report of the bytes that came in: one frozen Struct per thing."""

from __future__ import annotations

import msgspec

from ..errors import RemoteProtocolError
from .frames import CallHead, Goaway, Hello

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "AcceptReceived",
    "CallReceived",
    "CancelReceived",
    "ConnectionFailed",
    "CreditReceived",
    "DataReceived",
    "ErrorReceived",
    "Event",
    "GoawayAcked",
    "GoawayReceived",
    "HelloReceived",
    "ItemReceived",
    "MessageDropped",
    "PongReceived",
    "ResultReceived",
    "SlotEvent",
]


class HelloReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer has said who it is; a server must now `admit` or `refuse` it."""

    hello: Hello


class CallReceived(msgspec.Struct, frozen=True, gc=False):
    """A complete CALL: exactly one RESULT or ERROR is owed for it."""

    slot: int
    head: CallHead
    body: bytes


class ResultReceived(msgspec.Struct, frozen=True, gc=False):
    """The end of a call that went well. The slot is free again."""

    slot: int
    body: bytes


class ErrorReceived(msgspec.Struct, frozen=True, gc=False):
    """The end of a call that did not. The slot is free again."""

    slot: int
    body: bytes


class ItemReceived(msgspec.Struct, frozen=True, gc=False):
    """A generator's next item; hand `cost` back with `consume` once it has been read."""

    slot: int
    body: bytes
    cost: int


class AcceptReceived(msgspec.Struct, frozen=True, gc=False):
    """A raw stream is open."""

    slot: int
    body: bytes


class DataReceived(msgspec.Struct, frozen=True, gc=False):
    """Bytes of a raw stream, and perhaps the end of the peer's half."""

    slot: int
    data: bytes
    end: bool


class CreditReceived(msgspec.Struct, frozen=True, gc=False):
    """More may be sent on this slot."""

    slot: int


class CancelReceived(msgspec.Struct, frozen=True, gc=False):
    """The client wants this call to end; its terminal frame is still owed."""

    slot: int
    code: int


class MessageDropped(msgspec.Struct, frozen=True, gc=False):
    """A message was discarded as it arrived: holding it would have cost too much memory.

    `terminal` says if it was the call's last one, so that the slot is free again.
    """

    slot: int
    reason: str
    terminal: bool


class PongReceived(msgspec.Struct, frozen=True, gc=False):
    """The answer to a PING."""

    payload: bytes


class GoawayReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer takes no new calls. Our ACK is queued already."""

    goaway: Goaway


class GoawayAcked(msgspec.Struct, frozen=True, gc=False):
    """The peer has seen our GOAWAY: no CALL will come any more."""


class ConnectionFailed(msgspec.Struct, frozen=True):
    """The peer broke the rules. Always the last event; a GOAWAY that says why is queued."""

    error: RemoteProtocolError


SlotEvent = (
    ResultReceived
    | ErrorReceived
    | ItemReceived
    | AcceptReceived
    | DataReceived
    | CreditReceived
    | CancelReceived
    | MessageDropped
)
Event = (
    SlotEvent
    | CallReceived
    | HelloReceived
    | PongReceived
    | GoawayReceived
    | GoawayAcked
    | ConnectionFailed
)
