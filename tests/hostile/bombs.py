"""Much in few bytes: a message that a receiver inflates."""

from __future__ import annotations

import functools
import zlib

__all__ = ["packed_zeros"]


@functools.cache
def packed_zeros(wbits: int = zlib.MAX_WBITS) -> bytes:
    """Give 256 MiB of zeros, compressed to about one; 31 for `wbits` is gzip's form."""
    packer = zlib.compressobj(1, wbits=wbits)
    zeros = bytes(2**20)
    return b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
