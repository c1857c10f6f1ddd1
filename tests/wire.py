"""Frames as bytes, and connections without a socket, for the tests of the protocol's rules.

The payloads here are the shortest that make sense: what values say is tested elsewhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jumpstarter._framing import HEADER_SIZE, FrameDecoder, pack_frame
from jumpstarter._limits import Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.base import BaseProtocol
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.codec import (
    call_prefix,
    decode_error,
    encode_call,
    encode_error,
    encode_hello,
    encode_value,
)
from jumpstarter._protocol.frames import ErrorBody, FrameType, Hello, Kind
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter.errors import Code

# The smallest frames there are, so that a message of 3,000 bytes has three of them.
LIMITS = Limits(
    max_frame=1024,
    max_message=4096,
    max_pending=6000,
    max_calls=3,
    stream_window=1000,
    max_window=4000,
    max_total_window=8000,
)


class Frame(NamedTuple):
    """One frame off the wire."""

    type: FrameType
    flags: int
    slot: int
    payload: bytes


def frame(type_: FrameType, slot: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    """Make one frame as a peer would send it, right or wrong."""
    return pack_frame(type_, flags, slot, payload)


def frames(data: bytes) -> list[Frame]:
    """Cut what one side has sent; it must be whole frames."""
    decoder = FrameDecoder(2**24 - 1)
    found = [
        Frame(FrameType(type_), flags, slot, payload)
        for type_, flags, slot, payload in decoder.feed(data)
    ]
    assert decoder.failure is None
    assert decoder.buffered == 0
    return found


def take(rules: BaseProtocol) -> bytes:
    """Take one batch."""
    return b"".join(map(bytes, rules.next_batch().buffers))


def take_all(rules: BaseProtocol) -> bytes:
    """Take batches until nothing waits."""
    data = b""
    while rules.send_queue:
        data += take(rules)
    return data


def sent(rules: BaseProtocol) -> list[Frame]:
    """Take all that waits, as frames."""
    return frames(take_all(rules))


def call(kind: Kind = Kind.UNARY, size: int = 0, method: str = "m") -> bytearray:
    """Encode a CALL whose arguments have about `size` bytes, behind room for a header."""
    return encode_call(call_prefix(1, kind, method), (bytes(size),))


def value(content: Any = None) -> bytearray:
    """Encode a value behind room for a header; `bytes` of a length make it as large."""
    return encode_value(content)


def error(code: int = Code.UNKNOWN, text: str = "no") -> bytearray:
    """Encode an ERROR behind room for a header."""
    return encode_error(code, ErrorBody("", text))


def payload(buffer: bytearray) -> bytes:
    """Give what follows the room for a header."""
    return bytes(buffer[HEADER_SIZE:])


def told(event: ev.Event) -> tuple[int, str]:
    """Give code and text of an ERROR that came."""
    assert isinstance(event, ev.ErrorReceived)
    code, body = decode_error(event.body, LIMITS)
    return code, body.message


def failure(events: list[ev.Event]) -> Code:
    """Give the code with which a connection failed; nothing else may have happened."""
    (event,) = events
    assert isinstance(event, ev.ConnectionFailed)
    return event.error.code


def ready_client(limits: Limits = LIMITS, offered: Limits | None = None) -> ClientProtocol:
    """Make a client that has exchanged HELLOs with a server of these limits."""
    rules = ClientProtocol(limits, Hello.of(limits))
    take_all(rules)
    hello = Hello.of(offered or limits)
    rules.receive(frame(FrameType.HELLO, 0, encode_hello(hello)))
    return rules


def ready_server(limits: Limits = LIMITS, offered: Limits | None = None) -> ServerProtocol:
    """Make a server that has exchanged HELLOs with a client of these limits."""
    rules = ServerProtocol(limits)
    hello = Hello.of(offered or limits)
    rules.receive(frame(FrameType.HELLO, 0, encode_hello(hello)))
    rules.admit(Hello.of(limits))
    take_all(rules)
    return rules


def connected(limits: Limits = LIMITS) -> tuple[ClientProtocol, ServerProtocol]:
    """Make both ends of a connection that is ready."""
    return ready_client(limits), ready_server(limits)


def carry(source: BaseProtocol, target: BaseProtocol) -> list[ev.Event]:
    """Bring all that one side has sent to the other."""
    return target.receive(take_all(source))


def carry_one(source: BaseProtocol, target: BaseProtocol) -> list[ev.Event]:
    """Bring one batch to the other side."""
    return target.receive(take(source))
