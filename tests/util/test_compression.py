"""Test `_util.compression`: all formats, in pieces of any size, whole and damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import hypothesis.strategies as st
import pytest
from hypothesis import given

from jumpstarter._util.compression import (
    Compression,
    Compressor,
    DamagedDataError,
    Decompressor,
    detect_compression,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: Final[dict[Compression, Callable[[bytes], bytes]]] = {
    Compression.GZIP: gzip.compress,
    Compression.XZ: lzma.compress,
    Compression.BZ2: bz2.compress,
    Compression.ZSTD: partial(
        zstd.compress, options={zstd.CompressionParameter.checksum_flag: True}
    ),
}
EXPAND: Final[dict[Compression, Callable[[bytes], bytes]]] = {
    Compression.GZIP: gzip.decompress,
    Compression.XZ: lzma.decompress,
    Compression.BZ2: bz2.decompress,
    Compression.ZSTD: zstd.decompress,
}
DATA: Final = bytes(range(256)) * 4000

each_format = pytest.mark.parametrize("compression", list(Compression))


def expand(
    compression: Compression, data: bytes, cut: int = 2**20, size: int = 65536, **options: Any
) -> bytes:
    """Decompress data that comes in pieces of `cut` bytes, at most `size` bytes at a time."""
    codec = Decompressor(compression, **options)
    found = b""
    for start in range(0, len(data), cut):
        codec.feed(data[start : start + cut])
        while piece := codec.read(size):
            assert len(piece) <= size
            found += piece
        assert codec.needs_input
    codec.finish()
    return found


@each_format
@given(data=st.binary(max_size=500), cut=st.integers(1, 50), size=st.integers(1, 100))
def test_pieces_of_any_size_are_expanded(
    compression: Compression, data: bytes, cut: int, size: int
) -> None:
    compressed = COMPRESS[compression](data * 20)
    assert expand(compression, compressed, cut, size) == data * 20


@each_format
def test_what_is_compressed_in_pieces_is_read_by_others(compression: Compression) -> None:
    codec = Compressor(compression)
    found = codec.compress(DATA[:1000]) + codec.flush() + codec.compress(memoryview(DATA)[1000:])
    found += codec.finish()
    assert EXPAND[compression](found) == DATA
    assert len(found) < len(DATA) / 10


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_a_flush_gives_all_bytes_but_no_end(compression: Compression) -> None:
    codec = Compressor(compression)
    found = codec.compress(b"so far") + codec.flush()
    expander = Decompressor(compression)
    expander.feed(found)
    assert expander.read(100) == b"so far"
    with pytest.raises(DamagedDataError, match="cut short"):
        expander.finish()


@each_format
def test_the_format_is_detected(compression: Compression) -> None:
    compressed = COMPRESS[compression](b"")
    assert detect_compression(compressed) is compression
    assert detect_compression(compressed[:2]) is None
    assert detect_compression(b"plain text") is None
    assert detect_compression(b"") is None


@each_format
def test_members_follow_each_other(compression: Compression) -> None:
    compressed = COMPRESS[compression](b"one") + COMPRESS[compression](b"two")
    for cut in (1, len(compressed) // 2, len(compressed)):
        assert expand(compression, compressed, cut) == b"onetwo"
        with pytest.raises(DamagedDataError, match="behind the end"):
            expand(compression, compressed, cut, members=False)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.XZ])
def test_padding_behind_a_member_is_no_data(compression: Compression) -> None:
    compressed = COMPRESS[compression](b"one") + bytes(512)
    assert expand(compression, compressed) == b"one"
    assert expand(compression, compressed, 7) == b"one"
    assert expand(compression, compressed + COMPRESS[compression](b"two"), 7) == b"onetwo"


@each_format
def test_an_empty_file_is_complete_and_an_empty_frame_is_not(compression: Compression) -> None:
    assert expand(compression, b"") == b""
    with pytest.raises(DamagedDataError, match="cut short"):
        expand(compression, b"", members=False)


@each_format
@pytest.mark.parametrize("missing", [1, 4, 100])
def test_data_that_was_cut_short_is_damaged(compression: Compression, missing: int) -> None:
    compressed = COMPRESS[compression](DATA)
    for data in (compressed[:-missing], compressed + compressed[:-missing]):
        with pytest.raises(DamagedDataError, match="cut short"):
            expand(compression, data)


@each_format
def test_damaged_data_and_garbage_behind_it_are_errors(compression: Compression) -> None:
    compressed = bytearray(COMPRESS[compression](DATA))
    with pytest.raises(DamagedDataError):
        expand(compression, bytes(compressed) + b"garbage behind")
    compressed[len(compressed) // 2] ^= 0xFF
    with pytest.raises(DamagedDataError):
        expand(compression, bytes(compressed))


@each_format
def test_a_few_bytes_that_expand_to_many_take_little_memory(compression: Compression) -> None:
    codec = Decompressor(compression)
    codec.feed(COMPRESS[compression](bytes(30_000_000)))
    assert len(codec.read(1000)) <= 1000
    assert not codec.needs_input


def test_many_tiny_members_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counting:
        def __init__(self) -> None:
            self.codec = original()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.codec, name)

        def decompress(self, data: bytes, size: int) -> bytes:
            sizes.append(len(data))
            return self.codec.decompress(data, size)

    original = bz2.BZ2Decompressor
    monkeypatch.setattr(bz2, "BZ2Decompressor", Counting)
    members = 10_000
    assert expand(Compression.BZ2, bz2.compress(b"") * members) == b""
    assert len(sizes) == members
    assert max(sizes) <= 4096  # what is behind a member's end is copied


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.XZ])
@pytest.mark.parametrize("cut", [1000, 2**20])
def test_much_padding_is_skipped(compression: Compression, cut: int) -> None:
    padded = COMPRESS[compression](DATA[:1000]) + bytes(20_000)
    assert expand(compression, padded * 2, cut) == DATA[:1000] * 2
