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
    "CHATTER_EVERY",
    "CHATTER_OFF",
    "CHATTER_ON",
    "MESSAGE",
    "PIECE",
    "VALUE",
    "Tally",
    "decode_order",
    "encode_order",
]

VALUE: Final = bytes(16)  # argument, result or item on the library's side and the peers'
# The floor's counterpart of VALUE: about the size of VALUE on the wire, headers included.
MESSAGE: Final = bytes(32)
PIECE: Final = bytes(64 * 1024)
ANSWER: Final = b"."
CHATTER: Final = bytes(1024)  # what a console says each time
CHATTER_EVERY: Final = 1e-3  # seconds; a console that says 1 MB/s
# A console is on during the rounds of its own side only, so that it disturbs no other side.
CHATTER_ON: Final = b"1"
CHATTER_OFF: Final = b"0"

_ORDER: Final = struct.Struct("<Q")


def encode_order(pieces: int) -> bytes:
    """Return the message that orders a bulk transfer of so many pieces."""
    return _ORDER.pack(pieces)


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
