"""Test the local files that a client lends as anyio streams."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from jumpstarter.client._file_streams import open_reader, open_writer
from jumpstarter.streams.progress import ProgressAttribute


async def test_file_is_received_in_pieces_with_its_size(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    path = tmp_path / "image"
    path.write_bytes(data)
    async with open_reader(path) as stream:
        assert stream.extra(ProgressAttribute.total) == len(data)
        pieces = [piece async for piece in stream]
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.send_eof()
        await stream.aclose()
    assert b"".join(pieces) == data
    assert {len(piece) for piece in pieces[:-1]} == {64 * 1024}


async def test_file_of_the_kernel_has_no_size() -> None:
    async with open_reader(Path("/proc/self/status")) as stream:
        assert stream.extra(ProgressAttribute.total, None) is None
        assert b"Name:" in b"".join([piece async for piece in stream])


async def test_reader_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    async with open_reader(tmp_path / "image") as stream:
        with pytest.raises(anyio.BrokenResourceError, match="lent for reading"):
            await stream.send(b"data")
    async with open_reader(tmp_path / "image", compressed=True) as stream:
        await stream.send(b"the end of a compressor")


async def test_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "image"
    async with open_writer(path) as stream:
        for number in range(20):
            await stream.send(b"%d," % number)
        assert not path.exists()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.aclose()
    assert path.read_bytes() == b"".join(b"%d," % number for number in range(20))


async def test_half_close_passes_on_what_was_sent(tmp_path: Path) -> None:
    async with open_writer(tmp_path / "image") as stream:
        await stream.send(b"data")
        await stream.send_eof()
    assert (tmp_path / "image").read_bytes() == b"data"


async def test_block_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")

    async def fail() -> None:
        async with open_writer(path) as stream:
            await stream.send(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["image"]  # noqa: PTH208 - the names
