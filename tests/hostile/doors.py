"""Attacks on admission: on our HELLO, the token and TLS, and on connecting and closing."""

from __future__ import annotations

import contextlib
import struct
from typing import Final

from jumpstarter._protocol.frames import MAGIC, FrameType, Kind
from wire import frame

from . import sockets
from .attacker import Attacker, Cut, Function
from .wire_ours import SLOTS, call, hello

__all__ = ["FUNCTIONS"]


def _versions() -> list[bytes]:
    """Return HELLOs with every major version, and with fields that are out of range."""
    fixed = struct.Struct("<4sBBHIIIII")
    good = (65536, 2**27, 1024, 32768, 0)
    bad = ((0, 2**27, 1024, 1, 0), (1024, 0, 1, 1, 0), (1024, 1024, 0, 1, 0), (2**32 - 1,) * 5)
    about = (b"\x80", b"\xc1", b"", b"\x90", b"\xdf\xff\xff\xff\xff", b"\x91" * 4000)
    payloads = [fixed.pack(MAGIC, major, 0, 0, *good) + b"\x80" for major in range(256)]
    payloads += [fixed.pack(MAGIC, 1, 0, 0, *limits) + b"\x80" for limits in bad]
    payloads += [fixed.pack(MAGIC, 1, 255, 65535, *good) + tail for tail in about]
    return [frame(FrameType.HELLO, 0, payload) for payload in payloads]


_VERSIONS: Final = _versions()


def versions(attacker: Attacker) -> None:
    for version in _VERSIONS:
        with contextlib.suppress(Cut):
            attacker.dial().send(version)
    attacker.hold(0.1)


def wrong_token(attacker: Attacker) -> None:
    for number in range(100):
        line = attacker.dial()
        line.send(hello(token=f"guess {number}" * (number % 20)))
        line.until_cut()


_OPENINGS: Final = (
    hello(),
    hello() + b"".join(call(slot, "hold") for slot in SLOTS[:50]),
    hello() + b"".join(call(s, "items", 10**9, 100, kind=Kind.GENERATOR) for s in SLOTS[:20]),
    hello() + call(1, "connect", kind=Kind.STREAM) + frame(FrameType.DATA, 1, bytes(10_000)),
    hello() + call(1, "big", 2**20) + call(2, "echo", "x" * 1000)[:-500],
)

FUNCTIONS: Final[dict[str, Function]] = {
    "peace": sockets.peace,
    "wrong protocols": sockets.wrong_protocols,
    "slow-loris": sockets.drip(hello()),
    "slow-loris, admitted": sockets.drip(call(1, "echo", "x" * 100), prefix=hello(), count=200),
    "idle": sockets.idle,
    "versions": versions,
    "wrong token": wrong_token,
    "half handshakes": sockets.half_handshakes,
    "connect and close": sockets.connect_and_close,
    "hoard": sockets.hoard(hello()),
    "reset storm": sockets.reset_storm(*_OPENINGS),
}
