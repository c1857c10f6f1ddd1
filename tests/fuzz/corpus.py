"""The inputs of mutation: the frames, exchanges and breaches of docs/vectors.json."""

from __future__ import annotations

from typing import Final, NamedTuple

from jumpstarter._framing import FrameDecoder
from jumpstarter._limits import MAX_WIRE_FRAME
from jumpstarter._protocol.frames import FrameType
from specification import EXCHANGES, VECTORS, Exchange, unhex

LONGEST: Final = 1024  # bytes kept of a payload: the smallest limit on a frame
# The slots in which a client of `rules` opens each kind of call.
UNARY, STREAM, GENERATOR = 1, 2, 3


class Frame(NamedTuple):
    """One frame, valid or invalid."""

    type: int
    flags: int
    slot: int
    payload: bytes


def frames_of(wire: bytes) -> list[Frame]:
    """Split bytes into frames, dropping an incomplete frame at the end."""
    found = FrameDecoder(MAX_WIRE_FRAME).feed(wire)
    return [Frame(type_, flags, slot, payload[:LONGEST]) for type_, flags, slot, payload in found]


def _stream(exchange: Exchange, side: str) -> list[Frame]:
    """Return all frames that one side sends in an exchange and in its predecessors."""
    before = _stream(EXCHANGES[exchange.after], side) if exchange.after else []
    steps = [step for step in exchange.steps if step.side == side]
    return before + [frame for step in steps for b in step.bytes for frame in frames_of(unhex(b))]


def _on_slot(frames: list[Frame], slot: int) -> list[Frame]:
    return [frame._replace(slot=slot) if frame.slot else frame for frame in frames]


def _fitting(frames: list[Frame]) -> int:
    """Return the slot whose kind of call these frames can answer."""
    types = {frame.type for frame in frames}
    if FrameType.ITEM in types:
        return GENERATOR
    return STREAM if types & {FrameType.ACCEPT, FrameType.DATA, FrameType.CREDIT} else UNARY


FRAMES: Final = [frame for vector in VECTORS.frames for frame in frames_of(unhex(vector.bytes))]
BREACHES: Final = [frame for breach in VECTORS.breaches for frame in frames_of(unhex(breach.bytes))]
TO_SERVER: Final = [
    _on_slot(_stream(exchange, "client"), slot)
    for exchange in VECTORS.exchanges
    for slot in (1, 2, 3)
]
TO_CLIENT: Final = [
    _on_slot(stream, _fitting(stream))
    for exchange in VECTORS.exchanges
    if (stream := _stream(exchange, "server"))
]
HELLO: Final = next(frame for frame in FRAMES if frame.type == FrameType.HELLO)
# The offset of the MessagePack value in the payload, by type of frame.
VALUE_AT: Final = {
    FrameType.HELLO: 28,
    FrameType.RESULT: 0,
    FrameType.ERROR: 2,
    FrameType.ITEM: 0,
    FrameType.ACCEPT: 0,
}


def _value_of(frame: Frame) -> bytes:
    if frame.type == FrameType.CALL:
        return frame.payload[8 + frame.payload[7] :] if len(frame.payload) > 8 else b""
    return frame.payload[VALUE_AT.get(FrameType(frame.type), LONGEST) :]


VALUES: Final = sorted({value for frame in FRAMES if (value := _value_of(frame))})
