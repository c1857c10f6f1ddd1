"""Compress and decompress bytes piece by piece: gzip, xz, bz2 and zstd, with one interface.

A decompressor returns at most as many bytes as it is asked for, even if a few compressed bytes
expand to far more, and uses a bounded amount of memory. Damaged data, data that is cut short, and
bytes behind the end are errors. A file may have several members one after the other, as `pigz`,
`pbzip2` and `cat` make them.

zstd is part of Python 3.14, and takes the extra `zstd` before that.
"""

from __future__ import annotations

import sys
import zlib
from enum import StrEnum
from typing import Any, Final, Protocol

from ..errors import MissingExtra

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "SIGNATURES",
    "Compression",
    "Compressor",
    "DamagedDataError",
    "Decompressor",
    "detect_compression",
]

_XZ_MEMORY: Final = 256 * 1024 * 1024  # bytes: `xz -9` needs 65 MiB
_PADDING: Final = b"\0"  # gzip and xz allow it behind a member
# Bytes that the first step of a member takes. Its codec copies what is behind its end, so with all
# of them, a file of many tiny members would take quadratic time.
_FIRST_STEP: Final = 4096
_LARGEST_STEP: Final = 1024 * 1024


class Compression(StrEnum):
    """A format of compressed files."""

    GZIP = "gzip"
    XZ = "xz"
    BZ2 = "bz2"
    ZSTD = "zstd"


# The bytes with which a file of each format begins.
SIGNATURES: Final = {
    Compression.GZIP: b"\x1f\x8b\x08",
    Compression.XZ: b"\xfd7zXZ\0",
    Compression.BZ2: b"BZh",
    Compression.ZSTD: b"\x28\xb5\x2f\xfd",
}


class DamagedDataError(Exception):
    """The data is not in its format, or was cut short. Callers convert it to an error of theirs."""


def detect_compression(head: bytes) -> Compression | None:
    """Return the format of a file that begins with these bytes; None if it is none of the four.

    Args:
        head: At least 6 bytes, unless the file is shorter.
    """
    for compression, signature in SIGNATURES.items():
        if head.startswith(signature):
            return compression
    return None


class _Codec(Protocol):
    """The interface of the standard library's decompressors, apart from zlib's."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Zlib:
    """A decompressor of zlib or gzip data with the interface of the other formats."""

    def __init__(self) -> None:
        self._codec = zlib.decompressobj(wbits=47)  # either of the two headers
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._codec.eof

    @property
    def unused_data(self) -> bytes:
        return self._codec.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        found = self._codec.decompress(self._codec.unconsumed_tail + data, max_length)
        # zlib may hold more output although it has consumed all input.
        self.needs_input = not self._codec.unconsumed_tail and len(found) < max_length
        return found


class Decompressor:
    """Decompresses one file.

    Args:
        compression: The format.
        window_log: For zstd, the largest window of a frame, as a power of two; by default 27.
        members: Accept several members, and an empty file, as those are files too.

    Raises:
        MissingExtra: The extra `zstd` is not installed.
    """

    def __init__(
        self, compression: Compression, *, window_log: int | None = None, members: bool = True
    ) -> None:
        self.compression: Compression = compression
        self._window_log = window_log
        self._members = members
        self._codec, self._errors = self._begin()
        self._fresh = members  # nothing of the current member was read
        self._input = b""
        self._position = 0  # in the input, behind what the codec has taken
        self._step = _FIRST_STEP  # bytes that it takes next

    def _begin(self) -> tuple[_Codec, tuple[type[Exception], ...]]:
        match self.compression:
            case Compression.GZIP:
                return _Zlib(), (zlib.error,)
            case Compression.XZ:
                import lzma  # noqa: PLC0415 - some builds of Python lack it

                return lzma.LZMADecompressor(memlimit=_XZ_MEMORY), (lzma.LZMAError,)
            case Compression.BZ2:
                import bz2  # noqa: PLC0415 - as above

                return bz2.BZ2Decompressor(), (OSError,)
        zstd = _zstd()
        window = self._window_log
        options = window and {zstd.DecompressionParameter.window_log_max: window}
        return zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)

    @property
    def needs_input(self) -> bool:
        """True if `read` returns nothing before the next `feed`."""
        return not self._has_input and (self._codec.eof or self._codec.needs_input)

    @property
    def complete(self) -> bool:
        """True if the data may end here."""
        return not self._has_input and (self._codec.eof or self._fresh)

    @property
    def _has_input(self) -> bool:
        return self._position < len(self._input)

    def feed(self, data: bytes) -> None:
        """Add compressed bytes. Only if `needs_input`."""
        self._input, self._position = data, 0

    def read(self, size: int) -> bytes:
        """Return at most `size` decompressed bytes, `b""` if it needs input first.

        Raises:
            DamagedDataError: The data is not in its format, or goes on behind its end.
        """
        while not self.needs_input:
            if self._codec.eof and not self._next_member():
                break
            data = self._take() if self._codec.needs_input else b""
            self._fresh = self._fresh and not data
            try:
                found = self._codec.decompress(data, size)
            except self._errors as exc:
                raise DamagedDataError(str(exc)) from exc
            if self._codec.eof:
                self._position -= len(self._codec.unused_data)
                self._step = _FIRST_STEP
            if found:
                return found
        return b""

    def _take(self) -> bytes:
        data = self._input[self._position : self._position + self._step]
        self._position += len(data)
        self._step = min(self._step * 2, _LARGEST_STEP)
        return data

    def _next_member(self) -> bool:
        """Begin the next member; return False if there is only padding."""
        if not self._members:
            raise DamagedDataError("there are bytes behind the end of the compressed ones")
        if self.compression in (Compression.GZIP, Compression.XZ):
            while piece := self._input[self._position : self._position + _FIRST_STEP]:
                rest = piece.lstrip(_PADDING)
                self._position += len(piece) - len(rest)
                if rest:
                    break
        if self._has_input:
            self._codec, self._errors = self._begin()
        return self._has_input

    def finish(self) -> None:
        """Check that the data may end here.

        Raises:
            DamagedDataError: It was cut short.
        """
        if not self.complete:
            raise DamagedDataError("the compressed bytes were cut short")


class Compressor:
    """Compresses one file.

    Args:
        compression: The format.

    Raises:
        MissingExtra: The extra `zstd` is not installed.
    """

    def __init__(self, compression: Compression) -> None:
        self._codec: Any
        self._flush_block: tuple[Any, ...] | None = None
        match compression:
            case Compression.GZIP:
                self._codec = zlib.compressobj(wbits=31)
                self._flush_block = (zlib.Z_SYNC_FLUSH,)
            case Compression.XZ:
                import lzma  # noqa: PLC0415 - some builds of Python lack it

                self._codec = lzma.LZMACompressor()
            case Compression.BZ2:
                import bz2  # noqa: PLC0415 - as above

                self._codec = bz2.BZ2Compressor()
            case Compression.ZSTD:
                self._codec = _zstd().ZstdCompressor()
                self._flush_block = (self._codec.FLUSH_BLOCK,)

    def compress(self, data: bytes | memoryview) -> bytes:
        """Add bytes; return the compressed ones that are ready."""
        found: bytes = self._codec.compress(data)
        return found

    def flush(self) -> bytes:
        """Return the compressed form of all bytes so far, without the end.

        xz and bz2 cannot do that: they return nothing.
        """
        found: bytes = b"" if self._flush_block is None else self._codec.flush(*self._flush_block)
        return found

    def finish(self) -> bytes:
        """Return the rest, with the end."""
        found: bytes = self._codec.flush()
        return found


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415 - needed for zstd only
        else:
            from backports import zstd  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise MissingExtra.named("zstd", "a compressed transfer") from exc
    return zstd
