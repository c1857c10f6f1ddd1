"""Build valid and invalid frames of our protocol, without a client's restrictions."""

from __future__ import annotations

import struct
from typing import Any, Final

from jumpstarter._framing import FrameDecoder, seal
from jumpstarter._limits import DEFAULT_LIMITS, Limits
from jumpstarter._protocol.codec import (
    call_prefix,
    encode_call,
    encode_cancel,
    encode_credit,
    encode_hello,
)
from jumpstarter._protocol.frames import Flag, FrameType, Hello, Kind
from wire import frame

from .attacker import Attacker, Line

__all__ = [
    "PART",
    "SLOTS",
    "call",
    "cancel",
    "credit",
    "hello",
    "in_parts",
    "raw_call",
    "read_ends",
    "ready",
]

SLOTS: Final = range(1, DEFAULT_LIMITS.max_calls + 1)
PART: Final = DEFAULT_LIMITS.max_frame
WINDOW: Final = DEFAULT_LIMITS.stream_window
_ENDS: Final = (FrameType.RESULT, FrameType.ERROR)
_SMALL_BUFFER: Final = 4096  # bytes that the kernel buffers for an attacker that does not read


def hello(token: str = "", stream_window: int = WINDOW) -> bytes:
    """Return a HELLO frame."""
    limits = Limits(stream_window=stream_window)
    return frame(FrameType.HELLO, 0, encode_hello(Hello.of(limits, "attacker", token)))


def ready(attacker: Attacker, *, deaf: bool = False, stream_window: int = WINDOW) -> Line:
    """Connect, and exchange HELLOs.

    Args:
        attacker: The attacker that connects.
        deaf: Whether the attacker will never read; selects a small receive buffer.
        stream_window: The stream window to announce.
    """
    line = attacker.dial(_SMALL_BUFFER if deaf else None)
    line.send(hello(stream_window=stream_window), 0)
    header = line.receive_exactly(8)
    line.receive_exactly(int.from_bytes(header[:3], "little"))
    return line


def call(slot: int, method: str, *args: Any, kind: Kind = Kind.UNARY) -> bytes:
    """Return a CALL of the root driver, which must fit in one frame."""
    buffer = encode_call(call_prefix(1, kind, method), args)
    seal(buffer, FrameType.CALL, 0, slot)
    return bytes(buffer)


def raw_call(slot: int, method: bytes, arguments: bytes) -> bytes:
    """Return a CALL with any bytes as arguments, in as many frames as it needs."""
    head = struct.pack("<IHBB", 0, 1, Kind.UNARY, len(method))
    return in_parts(slot, head + method + arguments)


def in_parts(slot: int, message: bytes, type_: FrameType = FrameType.CALL) -> bytes:
    """Split a message into frames."""
    starts = range(0, len(message), PART)
    return b"".join(
        frame(type_, slot, message[at : at + PART], Flag.MORE if at + PART < len(message) else 0)
        for at in starts
    )


def cancel(slot: int) -> bytes:
    """Return a CANCEL frame."""
    return frame(FrameType.CANCEL, slot, encode_cancel(1))


def credit(slot: int, delta: int) -> bytes:
    """Return a CREDIT frame."""
    return frame(FrameType.CREDIT, slot, encode_credit(delta))


def read_ends(line: Line, count: int, decoder: FrameDecoder | None = None) -> None:
    """Read until `count` calls have ended."""
    decoder = decoder or FrameDecoder(PART)
    while count > 0:
        found = decoder.feed(line.receive())
        count -= sum(type_ in _ENDS and not flags & Flag.MORE for type_, flags, *_ in found)
