"""Helpers for protocol tests: frames as bytes, and connections without a socket.

The payloads here are the shortest valid ones, because other tests cover the values.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pytest

from jumpstarter._framing import HEADER_SIZE, FrameDecoder, pack_frame
from jumpstarter._limits import Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol import is_compiled
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

PYTHON_RULES: Final = pytest.mark.skipif(
    is_compiled(), reason="compiled objects have fixed fields and methods, and no __dict__"
)
# The smallest possible frames, so that a message of 3,000 bytes has three of them.
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
    """One frame as read from the wire."""

    type: FrameType
    flags: int
    slot: int
    payload: bytes


def frame(type_: FrameType, slot: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    """Build one frame as a peer could send it, valid or not."""
    return pack_frame(type_, flags, slot, payload)


def frames(data: bytes) -> list[Frame]:
    """Cut the bytes that one side has sent into frames, which must be complete."""
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
    """Take batches until the send queue is empty."""
    data = b""
    while rules.send_queue:
        data += take(rules)
    return data


def sent(rules: BaseProtocol) -> list[Frame]:
    """Take all queued frames."""
    return frames(take_all(rules))


def call(kind: Kind = Kind.UNARY, size: int = 0, method: str = "m") -> bytearray:
    """Encode a CALL whose arguments have about `size` bytes, after space for a header."""
    return encode_call(call_prefix(1, kind, method), (bytes(size),))


def value(content: Any = None) -> bytearray:
    """Encode a value after space for a header. For a large message, pass large `bytes`."""
    return encode_value(content)


def error(code: int = Code.UNKNOWN, text: str = "no") -> bytearray:
    """Encode an ERROR after space for a header."""
    return encode_error(code, ErrorBody("", text))


def payload(buffer: bytearray) -> bytes:
    """Return the payload that follows the space for a header."""
    return bytes(buffer[HEADER_SIZE:])


def code_and_text(event: ev.Event) -> tuple[int, str]:
    """Return code and text of a received ERROR."""
    assert isinstance(event, ev.ErrorReceived)
    code, body = decode_error(event.body, LIMITS)
    return code, body.message


def failure(events: list[ev.Event]) -> Code:
    """Return the code of a connection's failure, which must be the only event."""
    (event,) = events
    assert isinstance(event, ev.ConnectionFailed)
    return event.error.code


def ready_client(limits: Limits = LIMITS, offered: Limits | None = None) -> ClientProtocol:
    """Return a client that has exchanged HELLOs with a server of these limits."""
    rules = ClientProtocol(limits, Hello.of(limits))
    take_all(rules)
    hello = Hello.of(offered or limits)
    rules.receive(frame(FrameType.HELLO, 0, encode_hello(hello)))
    return rules


def ready_server(limits: Limits = LIMITS, offered: Limits | None = None) -> ServerProtocol:
    """Return a server that has exchanged HELLOs with a client of these limits."""
    rules = ServerProtocol(limits)
    hello = Hello.of(offered or limits)
    rules.receive(frame(FrameType.HELLO, 0, encode_hello(hello)))
    rules.admit(Hello.of(limits))
    take_all(rules)
    return rules


def connected(limits: Limits = LIMITS) -> tuple[ClientProtocol, ServerProtocol]:
    """Return both ends of a connection that is ready."""
    return ready_client(limits), ready_server(limits)


def carry(source: BaseProtocol, target: BaseProtocol) -> list[ev.Event]:
    """Deliver all queued frames of one side to the other."""
    return target.receive(take_all(source))


def carry_one(source: BaseProtocol, target: BaseProtocol) -> list[ev.Event]:
    """Deliver one batch to the other side."""
    return target.receive(take(source))


class RulesWith:
    """Rules with methods of the test's own. The compiled form permits no new attribute.

    Attributes:
        rules: The rules that do all the rest.
    """

    def __init__(self, rules: BaseProtocol, **methods: Any) -> None:
        self.rules = rules
        self.methods = methods

    def __getattr__(self, name: str) -> Any:
        return self.methods.get(name) or getattr(self.rules, name)
