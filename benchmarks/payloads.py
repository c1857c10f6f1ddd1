"""The bytes that cross the wire, the same on all sides of a workload.

A *bulk transfer* is a stream's unit of work: the client orders a number of pieces, in a message of
its own, and these go one way, back to back. Upwards, the server answers when it has the last byte:
without that, the client would time how fast a kernel's buffer fills.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["ANSWER", "MESSAGE", "PIECE", "VALUE", "Tally", "decode_order", "encode_order"]

VALUE: Final = bytes(16)  # the argument, result or item of the library's side, and of its peers'
MESSAGE: Final = bytes(
    32
)  # on the floor's side: about what VALUE has on the wire, headers included
PIECE: Final = bytes(64 * 1024)
ANSWER: Final = b"."

_ORDER: Final = struct.Struct("<Q")


def encode_order(pieces: int) -> bytes:
    """Begin a bulk transfer."""
    return _ORDER.pack(pieces)


def decode_order(message: bytes | bytearray | memoryview) -> int:
    """Give the number of pieces; bytes behind the order are not looked at."""
    (pieces,) = _ORDER.unpack_from(message)
    return int(pieces)


class Tally:
    """Counts the bytes of upward transfers, one after the other, however they are cut."""

    def __init__(self) -> None:
        self._left = 0

    def add(self, data: bytes | bytearray | memoryview) -> bool:
        """Count what has come. True if it ends a transfer, so that it is to be answered."""
        size = len(data)
        if self._left == 0:
            self._left = decode_order(data) * len(PIECE)
            size -= _ORDER.size
        self._left -= size
        return self._left == 0
