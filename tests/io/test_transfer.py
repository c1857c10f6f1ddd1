"""Test `_io.transfer`: limits, compression, and reading ahead while writing."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given

from helpers import timed
from jumpstarter._io.transfer import (
    CHUNK_SIZE,
    Chunks,
    CompressingWriter,
    DecompressingReader,
    pipe,
)
from jumpstarter.errors import MissingExtra, ResourceError

ZSTD = "zstd"
both_encodings = pytest.mark.parametrize("encoding", ["", ZSTD])


def giving(*pieces: bytes) -> Callable[[int | None], Awaitable[bytes]]:
    """Make a function that returns these chunks, and then the end."""
    left = list(pieces)

    async def receive(max_bytes: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not left:
            return b""
        piece = left.pop(0)
        if max_bytes is not None and len(piece) > max_bytes:
            left.insert(0, piece[max_bytes:])
        return piece[:max_bytes]

    return receive


async def compressed(*pieces: bytes) -> bytes:
    """Return the bytes that are sent for these chunks."""
    sent = bytearray()

    async def send(data: bytes) -> None:
        sent.extend(data)

    flow = CompressingWriter(send, ZSTD)
    for piece in pieces:
        await flow.send_all(piece)
    await flow.finish()
    return bytes(sent)


async def everything(flow: DecompressingReader, max_bytes: int | None = None) -> list[bytes]:
    """Read to the end."""
    pieces = []
    while data := await flow.receive_some(max_bytes):
        pieces.append(data)
    return pieces


@given(
    pieces=st.lists(st.binary(max_size=1000), max_size=5),
    cuts=st.integers(1, 50),
    max_bytes=st.none() | st.integers(1, 100),
)
def test_compression_round_trip_with_any_chunks(
    pieces: list[bytes], cuts: int, max_bytes: int | None
) -> None:
    async def main() -> None:
        sent = await compressed(*pieces)
        cut = [sent[start : start + cuts] for start in range(0, len(sent), cuts)]
        received = await everything(DecompressingReader(giving(*cut), ZSTD), max_bytes)
        assert b"".join(received) == b"".join(pieces)
        assert all(0 < len(piece) <= (max_bytes or CHUNK_SIZE) for piece in received)

    trio.run(main)


@timed()
async def test_compressed_bytes_are_fewer() -> None:
    assert len(await compressed(bytes(1_000_000))) < 1000


@timed()
async def test_decompression_bomb_expands_in_chunks_up_to_the_limit() -> None:
    bomb = await compressed(bytes(50_000_000))
    flow = DecompressingReader(giving(bomb), ZSTD, max_bytes=1_000_000)
    pieces = []

    async def read() -> None:
        while data := await flow.receive_some():
            pieces.append(len(data))

    with pytest.raises(ResourceError, match="more than the 1,000,000 bytes"):
        await read()
    assert max(pieces) <= CHUNK_SIZE
    assert sum(pieces) <= 1_000_000


@both_encodings
@timed()
async def test_exactly_max_bytes_may_be_read(encoding: str) -> None:
    sent = await compressed(bytes(1000)) if encoding else bytes(1000)
    flow = DecompressingReader(giving(sent), encoding, max_bytes=1000)
    assert b"".join(await everything(flow)) == bytes(1000)
    assert flow.count == 1000
    flow = DecompressingReader(giving(sent), encoding, max_bytes=999)
    with pytest.raises(ResourceError, match="999"):
        await everything(flow)


@pytest.mark.parametrize("missing", [1, 5])
@timed()
async def test_a_compressed_stream_that_was_cut_short_is_an_error(missing: int) -> None:
    sent = await compressed(b"all of it")
    with pytest.raises(ResourceError, match="cut short"):
        await everything(DecompressingReader(giving(sent[:-missing]), ZSTD))
    with pytest.raises(ResourceError, match="cut short"):
        await everything(DecompressingReader(giving(), ZSTD))


@timed()
async def test_bytes_after_the_compressed_frame_are_an_error() -> None:
    sent = await compressed(b"all of it")
    for pieces in ([sent + b"more"], [sent, b"more"], [sent, sent]):
        with pytest.raises(ResourceError, match="behind the end"):
            await everything(DecompressingReader(giving(*pieces), ZSTD))


@timed()
async def test_uncompressed_data_is_reported_as_such() -> None:
    with pytest.raises(ResourceError, match="not compressed as they should be"):
        await everything(DecompressingReader(giving(b"plain text, which is not a frame"), ZSTD))


@pytest.mark.parametrize(
    "made",
    [
        lambda: DecompressingReader(giving(), ZSTD),
        lambda: CompressingWriter(print, ZSTD),  # type: ignore[arg-type]
    ],
)
def test_missing_codec_error_says_how_to_install_it(
    made: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    with pytest.raises(MissingExtra, match=r"the extra 'zstd'.*pip install .*\[zstd\]"):
        made()


@timed()
async def test_any_buffer_is_sent_as_its_bytes() -> None:
    sent: list[bytes] = []

    async def send(data: bytes) -> None:
        sent.append(data)

    flow = CompressingWriter(send)
    for data in (b"a", bytearray(b"b"), memoryview(b"c")):
        await flow.send_all(data)
    await flow.finish()
    assert sent == [b"a", b"b", b"c"]


# ----------------------------------------------------------------------------------------- pipe


@timed()
async def test_pipe_writes_all_chunks_in_order() -> None:
    left = [[bytes([number])] for number in range(200)]
    written: list[Any] = []

    async def read() -> list[bytes]:
        await trio.lowlevel.checkpoint()
        return left.pop(0) if left else []

    async def write(pieces: Chunks) -> None:
        await trio.lowlevel.checkpoint()
        written.extend(pieces)

    await pipe(read, write, 2)
    assert b"".join(written) == bytes(range(200))


@timed()
async def test_pipe_reads_ahead_up_to_its_limit() -> None:
    reads = 0
    may_write = trio.Event()
    written: list[Any] = []

    async def read() -> list[bytes]:
        nonlocal reads
        reads += 1
        return [b"x"] if reads <= 100 else []

    async def write(pieces: Chunks) -> None:
        await may_write.wait()
        written.append(list(pieces))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe, read, write, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert 4 <= reads <= 2 * 2 + 2
        may_write.set()
    assert sum(map(len, written)) == 100
    assert max(map(len, written)) > 1, "what has come is written together"


@timed()
async def test_pipe_writes_the_chunks_read_before_a_failure() -> None:
    written: list[Any] = []
    left: list[list[bytes]] = [[b"a"], [b"b"]]

    async def read() -> list[bytes]:
        if not left:
            raise OSError("a bad sector")
        return left.pop(0)

    async def write(pieces: Chunks) -> None:
        written.extend(pieces)

    with pytest.raises(OSError, match="a bad sector"):
        await pipe(read, write, 2)
    assert written == [b"a", b"b"]


@timed()
async def test_a_failure_to_write_ends_the_reading() -> None:
    async def read() -> list[bytes]:
        await trio.lowlevel.checkpoint()
        return [b"x"]

    async def write(pieces: Chunks) -> None:
        raise OSError(f"no space for {len(pieces)} pieces")

    with pytest.raises(OSError, match="no space"):
        await pipe(read, write, 2)


@timed()
async def test_frame_with_a_large_window_is_refused() -> None:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415 - the module has two names
    else:
        from backports import zstd  # noqa: PLC0415
    codec = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    frame = codec.compress(bytes(100)) + codec.flush()
    with pytest.raises(ResourceError, match="not compressed as they should be"):
        await everything(DecompressingReader(giving(frame), ZSTD))
