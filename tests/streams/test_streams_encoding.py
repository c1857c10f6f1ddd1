"""Test `streams.encoding` in both kinds of loops."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Final

import anyio
import pytest
from anyio.abc import AnyByteStream
from anyio.streams.stapled import StapledObjectStream

from jumpstarter.streams.encoding import (
    AutoDecompressIterator,
    Compression,
    compress_stream,
    detect_compression_from_signature,
)

DATA: Final = bytes(range(256)) * 4000

each_loop = pytest.mark.parametrize("loop", ["trio", "asyncio"])
each_format = pytest.mark.parametrize("compression", [None, *Compression])


def run(loop: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a function in a loop of this kind, with a deadline."""

    async def in_time() -> Any:
        with anyio.fail_after(30):
            return await main()

    return anyio.run(in_time, backend=loop)


def memory_stream() -> StapledObjectStream[bytes]:
    """Make a stream on which one receives what was sent."""
    send, receive = anyio.create_memory_object_stream[bytes](1000)
    return StapledObjectStream(send, receive)


async def pieces_of(data: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def all_of(stream: AnyByteStream) -> bytes:
    """Return what is received until the end."""
    return b"".join([piece async for piece in stream])


async def everything(data: bytes, size: int = 1000) -> bytes:
    """Return what the iterator makes of data that comes in pieces."""
    async with aclosing(pieces_of(data, size)) as source:
        return b"".join([piece async for piece in AutoDecompressIterator(source=source)])


@each_loop
@each_format
def test_what_was_sent_is_received(loop: str, compression: Compression | None) -> None:
    async def main() -> None:
        below = memory_stream()
        stream = compress_stream(below, compression)
        for start in range(0, len(DATA), 100_000):
            await stream.send(DATA[start : start + 100_000])
        await stream.send_eof()
        assert b"".join([piece async for piece in stream]) == DATA
        await stream.aclose()

    run(loop, main)


@each_loop
@each_format
def test_the_iterator_detects_and_expands(loop: str, compression: Compression | None) -> None:
    async def main() -> None:
        below = memory_stream()
        async with compress_stream(below, compression) as stream:
            await stream.send(DATA)
            await stream.send_eof()
            compressed = b"".join([piece async for piece in below])
        assert detect_compression_from_signature(compressed) is compression
        for size in (1, 7, len(compressed)):
            assert await everything(compressed, size) == DATA
        assert await everything(b"") == b""
        assert await everything(b"BZ") == b"BZ"

    run(loop, main)


@each_loop
def test_damaged_data_and_data_that_was_cut_short_is_an_error(loop: str) -> None:
    async def main() -> None:
        for data in (b"\x1f\x8b\x08" + b"corrupted data here", gzip.compress(DATA)[:-1]):
            with pytest.raises(RuntimeError, match="Failed to decompress gzip: "):
                await everything(data)
        below = memory_stream()
        await below.send(lzma.compress(DATA)[:-20])
        await below.send_eof()
        with pytest.raises(RuntimeError, match=r"Failed to decompress xz: .*cut short"):
            await all_of(compress_stream(below, Compression.XZ))
        await below.aclose()

    run(loop, main)


def test_a_block_that_fails_sends_no_end() -> None:
    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[bytes](1000)
        with receive:
            stream = compress_stream(StapledObjectStream(send, receive.clone()), Compression.GZIP)
            with suppress(KeyError):
                async with stream:
                    await stream.send(DATA)
                    raise KeyError
            sent = b"".join([piece async for piece in receive])
            with pytest.raises(RuntimeError, match="cut short"):
                await everything(sent or b"\x1f\x8b\x08")
            with pytest.raises(anyio.ClosedResourceError):
                await stream.send(b"more")

    run("trio", main)


def test_attributes_are_those_of_the_stream_below() -> None:
    async def main() -> None:
        stream = compress_stream(memory_stream(), Compression.GZIP)
        assert dict(stream.extra_attributes) == {}
        await stream.aclose()

    run("trio", main)
