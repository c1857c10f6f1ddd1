"""A decompression bomb: a small message that inflates at the receiver."""

from __future__ import annotations

import functools
import zlib

__all__ = ["packed_zeros"]


@functools.cache
def packed_zeros(wbits: int = zlib.MAX_WBITS) -> bytes:
    """Return 256 MiB of zeros, compressed to about 1 MiB; `wbits=31` selects the gzip format."""
    packer = zlib.compressobj(1, wbits=wbits)
    zeros = bytes(2**20)
    return b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
