"""The bytes that cross the wire, the same on all sides of a workload.

A *bulk transfer* is a stream's unit of work: the client sends an order, a separate message with the
number of pieces, and the pieces then follow in one direction, back to back. The server answers an
upload when it has received the last byte; without the answer, the client would measure how fast the
kernel's buffer fills.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "ANSWER",
    "CHATTER",
    "MESSAGE",
    "PIECE",
    "VALUE",
    "Tally",
    "chatter_every",
    "decode_order",
    "encode_order",
]

VALUE: Final = bytes(16)  # argument, result or item on the library's side and the peers'
# The floor's counterpart of VALUE: about the size of VALUE on the wire, headers included.
MESSAGE: Final = bytes(32)
PIECE: Final = bytes(64 * 1024)
ANSWER: Final = b"."
# The bytes that a console says each time, by the name that `everyday` has for it. A client orders
# a size, or 0 for silence: a console is on during the rounds of its own side only, so that it
# disturbs no other side.
CHATTER: Final = {"chatter": 1024, "chunks": 64 * 1024}

_ORDER: Final = struct.Struct("<Q")


def encode_order(pieces: int) -> bytes:
    """Return the message that orders a bulk transfer of so many pieces."""
    return _ORDER.pack(pieces)


def chatter_every(size: int) -> float:
    """Return the seconds between two pieces of such a size, for a console that says 1 MB/s."""
    return size / 1.024e6


def decode_order(message: bytes | bytearray | memoryview) -> int:
    """Return the number of pieces in an order, and ignore any bytes after the order."""
    (pieces,) = _ORDER.unpack_from(message)
    return int(pieces)


class Tally:
    """Counts the bytes of consecutive uploads, however the reads split them."""

    def __init__(self) -> None:
        self._left = 0

    def add(self, data: bytes | bytearray | memoryview) -> bool:
        """Count received bytes. Returns true if they complete an upload, which needs an answer."""
        size = len(data)
        if self._left == 0:
            self._left = decode_order(data) * len(PIECE)
            size -= _ORDER.size
        self._left -= size
        return self._left == 0
