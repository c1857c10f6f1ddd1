"""Attacks on our protocol at the level of frames."""

from __future__ import annotations

from typing import Final

from jumpstarter._limits import DEFAULT_LIMITS, MIN_WIRE_FRAME
from jumpstarter._protocol.codec import encode_goaway
from jumpstarter._protocol.frames import Flag, FrameType, Goaway, Kind
from wire import frame

from .attacker import Attacker, Function
from .wire_ours import PART, SLOTS, call, cancel, credit, hello, raw_call, read_ends, ready

__all__ = ["FUNCTIONS"]

_MANY: Final = 1000  # small frames of a flood that are sent together
_STREAMS: Final = range(1, 101)
_LINES: Final = 20
_PING: Final = frame(FrameType.PING, 0, b"attacker")
_GOAWAY: Final = frame(FrameType.GOAWAY, 0, encode_goaway(Goaway(0, 0, "x" * 100)))


def rapid_cancel(attacker: Attacker) -> None:
    line = ready(attacker)
    storm = b"".join(call(slot, "hold") + cancel(slot) for slot in SLOTS)
    while True:
        line.send(storm, 2 * len(SLOTS))
        read_ends(line, len(SLOTS))


def rapid_cancel_unread(attacker: Attacker) -> None:
    storm = b"".join(call(slot, "hold") + cancel(slot) for slot in SLOTS)
    for _ in range(_LINES):
        ready(attacker, deaf=True).send(storm, 2 * len(SLOTS))
    attacker.hold(0.1)


def made_resets(attacker: Attacker) -> None:
    line = ready(attacker)
    line.send(b"".join(call(slot, "hold") for slot in SLOTS[:500]), 500)
    line.send(credit(1, 1))
    line.until_cut()


def refused_calls(attacker: Attacker) -> None:
    line = ready(attacker)
    calls = b"".join(call(slot, "no_such_method") for slot in SLOTS)
    while True:
        line.send(calls, len(SLOTS))
        read_ends(line, len(SLOTS))


def flood_of(data: bytes) -> Function:
    """Make an attack that sends one frame repeatedly and never reads."""

    def attack(attacker: Attacker) -> None:
        ready(attacker, deaf=True).flood(data * _MANY, _MANY)

    return attack


def late_frames(attacker: Attacker) -> None:
    line = ready(attacker)
    line.send(call(1, "echo"))
    read_ends(line, 1)
    line.flood((cancel(1) + credit(1, 1)) * _MANY, 2 * _MANY)


def tiny_credits(attacker: Attacker) -> None:
    line = ready(attacker, stream_window=1)
    line.send(b"".join(call(slot, "items", 10**9, 1, kind=Kind.GENERATOR) for slot in _STREAMS))
    more = b"".join(credit(slot, 1) for slot in _STREAMS) * 10
    while True:
        line.send(more, len(_STREAMS) * 10)
        line.drain()


def tiny_data(attacker: Attacker) -> None:
    line = ready(attacker)
    line.send(b"".join(call(slot, "connect", kind=Kind.STREAM) for slot in _STREAMS), 100)
    data = b"".join(frame(FrameType.DATA, slot, b"x") for slot in _STREAMS) * 10
    for _ in range(30):  # as many as each stream's credit and its growth allow
        line.send(data, len(_STREAMS) * 10)
        line.drain()


def results_unread(attacker: Attacker) -> None:
    for _ in range(10):
        line = ready(attacker, deaf=True)
        line.send(b"".join(call(slot, "big", 2**20) for slot in SLOTS), len(SLOTS))
    attacker.hold()


def empty_frames(attacker: Attacker) -> None:
    line = ready(attacker)
    line.send(call(1, "connect", kind=Kind.STREAM))
    line.send(frame(FrameType.DATA, 1) * _MANY, _MANY)
    line.until_cut()
    ready(attacker).flood(frame(FrameType.CALL, 1, b"", Flag.MORE) * _MANY, _MANY)


def tiny_parts(attacker: Attacker) -> None:
    ready(attacker).flood(frame(FrameType.CALL, 1, b"x", Flag.MORE) * _MANY, _MANY)


def small_parts(attacker: Attacker) -> None:
    line = ready(attacker)
    part = frame(FrameType.CALL, 1, bytes(MIN_WIRE_FRAME), Flag.MORE)
    line.send(part * 100_000, 100_000)
    line.send(cancel(1))
    read_ends(line, 1)


def endless_messages(attacker: Attacker) -> None:
    line = ready(attacker)
    part = bytes(PART)
    for _ in range(DEFAULT_LIMITS.max_message // PART):
        for slot in SLOTS[:100]:
            line.send(frame(FrameType.CALL, slot, part, Flag.MORE))
            line.drain()


def window_overflow(attacker: Attacker) -> None:
    line = ready(attacker)
    line.send(call(1, "items", 10**9, 1, kind=Kind.GENERATOR) + credit(1, 2**31 - 1), 2)
    line.until_cut()
    line = ready(attacker)
    line.send(call(1, "sink", kind=Kind.STREAM) + frame(FrameType.DATA, 1, bytes(40_000)), 2)
    line.until_cut()


def length_bombs(attacker: Attacker) -> None:
    early, admitted = b"\xff\xff\xff\x00" + bytes(4), b"\xff\xff\xff\x01\x01\x00\x00\x00"
    most = PART.to_bytes(3, "little") + b"\x01\x01\x00\x00\x00"
    for line in attacker.dial_many(100):
        line.send(early)
    lines = attacker.dial_many(200)
    attacker.send_each(lines, hello(), 0)
    attacker.send_each(lines[:100], admitted)
    attacker.send_each(lines[100:], most + b"x")
    attacker.hold(0.5)


def stalled_items(attacker: Attacker) -> None:
    line = ready(attacker, deaf=True)
    opening = (call(slot, "items", 10**9, 1024, kind=Kind.GENERATOR) for slot in SLOTS[:1000])
    line.send(b"".join(opening), 1000)
    attacker.hold()


def stalled_data(attacker: Attacker) -> None:
    line = ready(attacker)
    data = bytes(DEFAULT_LIMITS.stream_window)
    for slot in SLOTS[:1000]:
        line.send(call(slot, "sink", kind=Kind.STREAM) + frame(FrameType.DATA, slot, data), 2)
        line.drain()
    attacker.hold()


def broken_promises(attacker: Attacker) -> None:
    line = ready(attacker)
    half = raw_call(1, b"echo", bytes(2000))[8:]
    line.send(b"".join(frame(FrameType.CALL, s, half, Flag.MORE) for s in SLOTS), len(SLOTS))
    line.send(frame(FrameType.CALL, 1, bytes(PART))[:1000])  # and part of a frame after them
    attacker.hold()


FUNCTIONS: Final[dict[str, Function]] = {
    "rapid cancel": rapid_cancel,
    "rapid cancel, unread": rapid_cancel_unread,
    "made resets": made_resets,
    "refused calls": refused_calls,
    "ping flood": flood_of(_PING),
    "goaway flood": flood_of(_GOAWAY),
    "second hello": flood_of(hello()),
    "late frames": late_frames,
    "tiny credits": tiny_credits,
    "tiny data": tiny_data,
    "results unread": results_unread,
    "empty frames": empty_frames,
    "tiny parts": tiny_parts,
    "small parts": small_parts,
    "endless messages": endless_messages,
    "window overflow": window_overflow,
    "length bombs": length_bombs,
    "stalled items": stalled_items,
    "stalled data": stalled_data,
    "broken promises": broken_promises,
}
