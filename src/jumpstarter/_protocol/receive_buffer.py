"""Buffer received bytes until the application reads them.

The bytes are kept as the pieces in which they arrived, and are joined once, when they are read.
Only small pieces are copied together: otherwise a peer that sends single bytes would make us hold
one object for each.
"""

from __future__ import annotations

from itertools import islice
from typing import Final, TypeAlias

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Body", "ReceiveBuffer"]

_SMALL: Final = 4096  # bytes: shorter pieces are copied together
_GATHERED: Final = 64 * 1024  # bytes after which small pieces go to a new bytearray


class ReceiveBuffer:
    """A queue of bytes. Its length is the number of bytes."""

    __slots__ = ("_offset", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes | bytearray] = []  # a deque takes 760 bytes when it is empty
        self._offset = 0  # bytes of the first piece that were read already
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def first_size(self) -> int:
        """Bytes left of the first piece. The buffer must not be empty."""
        return len(self._pieces[0]) - self._offset

    @property
    def first(self) -> bytes | bytearray:
        """The first piece, as it has arrived. The buffer must not be empty."""
        return self._pieces[0]

    @property
    def offset(self) -> int:
        """Bytes of the first piece that were read or skipped already."""
        return self._offset

    def append(self, data: bytes) -> None:
        """Append bytes, at least one."""
        self._size += len(data)
        if self._pieces and len(data) < _SMALL:
            last = self._pieces[-1]
            if isinstance(last, bytearray) and len(last) < _GATHERED:
                last += data
                return
            self._pieces.append(bytearray(data))
        else:
            self._pieces.append(data)

    def read(self, max_bytes: int) -> bytes:
        """Remove and return at most `max_bytes`. The buffer must not be empty.

        Return whole pieces as far as they fit, and cut a piece only if it is the first one.
        """
        piece = self._pieces[0]
        size = len(piece) - self._offset
        if size > max_bytes:
            self._size -= max_bytes
            start, self._offset = self._offset, self._offset + max_bytes
            return bytes(piece[start : self._offset])
        count = 1
        for piece in islice(self._pieces, 1, None):
            if size + len(piece) > max_bytes:
                break
            size += len(piece)
            count += 1
        taken = self._pieces[:count]
        del self._pieces[:count]
        self._size -= size
        offset, self._offset = self._offset, 0
        if count == 1:
            return bytes(taken[0][offset:] if offset else taken[0])
        if offset:
            return b"".join((memoryview(taken[0])[offset:], *taken[1:]))
        return b"".join(taken)

    def skip(self, size: int) -> None:
        """Remove bytes, of the first piece alone."""
        self._offset += size
        self._size -= size

    def join(self) -> bytes:
        """Remove and return everything."""
        return self.read(self._size) if self._size else b""

    def clear(self) -> None:
        """Discard all bytes."""
        self._pieces.clear()
        self._offset = self._size = 0


# An encoded value that has arrived, in pieces if it is large: its pieces are joined once, as it is
# decoded.
Body: TypeAlias = bytes | ReceiveBuffer
