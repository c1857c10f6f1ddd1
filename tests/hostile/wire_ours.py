"""Our frames, right and wrong, as an attacker makes them: no rule holds it back."""

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
_SMALL_BUFFER: Final = 4096  # bytes that the system takes for an attacker who does not read


def hello(token: str = "", stream_window: int = WINDOW) -> bytes:
    """Make a HELLO."""
    limits = Limits(stream_window=stream_window)
    return frame(FrameType.HELLO, 0, encode_hello(Hello.of(limits, "attacker", token)))


def ready(attacker: Attacker, *, deaf: bool = False, stream_window: int = WINDOW) -> Line:
    """Connect, and exchange HELLOs.

    Args:
        attacker: Who.
        deaf: It will not read.
        stream_window: That it offers.
    """
    line = attacker.dial(_SMALL_BUFFER if deaf else None)
    line.send(hello(stream_window=stream_window), 0)
    header = line.receive_exactly(8)
    line.receive_exactly(int.from_bytes(header[:3], "little"))
    return line


def call(slot: int, method: str, *args: Any, kind: Kind = Kind.UNARY) -> bytes:
    """Make a CALL of the root driver; it fits in a frame."""
    buffer = encode_call(call_prefix(1, kind, method), args)
    seal(buffer, FrameType.CALL, 0, slot)
    return bytes(buffer)


def raw_call(slot: int, method: bytes, arguments: bytes) -> bytes:
    """Make a CALL whose arguments are any bytes, in as many frames as it needs."""
    head = struct.pack("<IHBB", 0, 1, Kind.UNARY, len(method))
    return in_parts(slot, head + method + arguments)


def in_parts(slot: int, message: bytes, type_: FrameType = FrameType.CALL) -> bytes:
    """Cut a message into frames."""
    starts = range(0, len(message), PART)
    return b"".join(
        frame(type_, slot, message[at : at + PART], Flag.MORE if at + PART < len(message) else 0)
        for at in starts
    )


def cancel(slot: int) -> bytes:
    """Make a CANCEL."""
    return frame(FrameType.CANCEL, slot, encode_cancel(1))


def credit(slot: int, delta: int) -> bytes:
    """Make a CREDIT."""
    return frame(FrameType.CREDIT, slot, encode_credit(delta))


def read_ends(line: Line, count: int, decoder: FrameDecoder | None = None) -> None:
    """Read until so many calls have ended."""
    decoder = decoder or FrameDecoder(PART)
    while count > 0:
        found = decoder.feed(line.receive())
        count -= sum(type_ in _ENDS and not flags & Flag.MORE for type_, flags, *_ in found)
