"""The events that `receive` returns for the bytes that were read."""

from __future__ import annotations

import msgspec

from ..errors import RemoteProtocolError
from .frames import CallHead, Goaway, Hello
from .receive_buffer import Body

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
    """The peer has sent its HELLO. A server must now `admit` or `refuse` it."""

    hello: Hello


class CallReceived(msgspec.Struct, frozen=True, gc=False):
    """A complete CALL has arrived; the server owes it exactly one RESULT or ERROR."""

    slot: int
    head: CallHead
    body: Body


class ResultReceived(msgspec.Struct, frozen=True, gc=False):
    """A call has succeeded. Its slot is free again."""

    slot: int
    body: Body


class ErrorReceived(msgspec.Struct, frozen=True, gc=False):
    """A call has failed. Its slot is free again."""

    slot: int
    body: bytes


class ItemReceived(msgspec.Struct, frozen=True, gc=False):
    """A generator has yielded an item. Pass `cost` to `consume` once it has been read."""

    slot: int
    body: Body
    cost: int


class AcceptReceived(msgspec.Struct, frozen=True, gc=False):
    """The server has opened a raw stream."""

    slot: int
    body: bytes


class DataReceived(msgspec.Struct, frozen=True, gc=False):
    """Bytes of a raw stream have arrived; `end` ends the peer's half behind them."""

    slot: int
    data: bytes
    end: bool


class CreditReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer has granted more credit on this slot."""

    slot: int


class CancelReceived(msgspec.Struct, frozen=True, gc=False):
    """The client has cancelled a call. The server still owes it the terminal frame."""

    slot: int
    code: int


class MessageDropped(msgspec.Struct, frozen=True, gc=False):
    """A message was discarded as it arrived, because it would have taken too much memory.

    If it was `terminal`, it has ended the call, and the slot is free again.
    """

    slot: int
    reason: str
    terminal: bool


class PongReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer has answered a PING."""

    payload: bytes


class GoawayReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer accepts no new calls. Our ACK is queued already."""

    goaway: Goaway


class GoawayAcked(msgspec.Struct, frozen=True, gc=False):
    """The peer has acknowledged our GOAWAY: it will send no further CALL."""


class ConnectionFailed(msgspec.Struct, frozen=True):
    """The peer broke the protocol. Always the last event; a GOAWAY with the reason is queued."""

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
