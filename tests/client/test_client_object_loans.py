"""Test loans for both directions: the second form of `resource_async`, with the dict as handle."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import pytest
import trio
from anyio.abc import ObjectStream
from anyio.streams.file import FileReadStream

from helpers import begin, timed, until
from jumpstarter import serve
from jumpstarter._limits import Limits
from jumpstarter.driver import Driver, export
from jumpstarter.errors import (
    ArgumentError,
    ArgumentTypeError,
    DriverError,
    DriverInvalidArgument,
    DriverOSError,
)
from jumpstarter.streams.common import create_memory_stream
from jumpstarter.streams.progress import ProgressAttribute
from jumpstarter.testing import client_for_async

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DEADLINE: Final = 30.0
DATA: Final = bytes(range(256)) * 4000
CODECS: Final[dict[str | None, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]]] = {
    None: (bytes, bytes),
    "gzip": (gzip.compress, gzip.decompress),
    "xz": (lzma.compress, lzma.decompress),
    "bz2": (bz2.compress, bz2.decompress),
    "zstd": (zstd.compress, zstd.decompress),
}

each_encoding = pytest.mark.parametrize("encoding", list(CODECS))


@dataclass(kw_only=True)
class Card(Driver):
    """Uses a loan in each way.

    Attributes:
        opened: Set when a method that waits has opened its loan.
        let_go: What these wait for.
    """

    opened: trio.Event = field(default_factory=trio.Event)
    let_go: trio.Event = field(default_factory=trio.Event)
    content: bytes = b""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    async def flash(self, source: Any) -> None:
        async with self.resource(source) as stream:
            self.content = b"".join([bytes(chunk) async for chunk in stream])

    @export
    async def dump(self, target: Any, fails: bool = False) -> None:
        async with self.resource(target) as stream:
            for start in range(0, len(self.content), 100_000):
                await stream.send(self.content[start : start + 100_000])
            if fails:
                raise OSError("the card has gone")

    @export
    def flash_in_thread(self, source: Any) -> None:
        with self.resource(source) as file:
            self.content = file.read()

    @export
    def dump_in_thread(self, target: Any) -> None:
        with self.resource(target) as file:
            file.write(self.content)

    @export
    async def swap(self, stream: Any) -> None:
        """Answer each piece, as both directions are open."""
        async with self.resource(stream) as both:
            while True:
                try:
                    data = await both.receive()
                except anyio.EndOfStream:
                    break
                await both.send(data.upper())
            await both.send_eof()
            with suppress(anyio.ClosedResourceError):
                await both.send(b"more")

    @export
    async def peek(self, source: Any) -> bytes:
        async with self.resource(source) as stream:
            return await stream.receive(3)

    @export
    async def wait(self, source: Any) -> None:
        async with self.resource(source) as stream:
            await stream.send(b"so far")
            self.opened.set()
            await self.let_go.wait()
            await stream.send(b", and the rest")

    @export
    async def wait_opened(self) -> None:
        await self.opened.wait()

    @export
    async def fail_silently(self, target: Any) -> None:
        with suppress(OSError):
            await self.dump(target, fails=True)


class Memory(ObjectStream[bytes]):
    """A stream of anyio that gives bytes and keeps what it gets."""

    def __init__(self, data: bytes = b"", piece: int = 50_000) -> None:
        self.pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
        self.got = b""
        self.has_end = False
        self.closed = False

    async def receive(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self.pieces:
            raise anyio.EndOfStream
        return self.pieces.pop(0)

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self.got += item

    async def send_eof(self) -> None:
        self.has_end = True

    async def aclose(self) -> None:
        self.closed = True

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {ProgressAttribute.total: lambda: float(sum(map(len, self.pieces)))}


@timed(DEADLINE)
@each_encoding
async def test_a_driver_reads_and_writes_in_any_encoding(encoding: str | None) -> None:
    compress, expand = CODECS[encoding]
    card = Card()
    async with client_for_async(card) as client:
        image = Memory(compress(DATA))
        async with client.resource_async(image, content_encoding=encoding) as handle:
            assert handle["kind"] == "client_stream"
            assert handle["x_jmp_content_encoding"] == encoding
            await client.call_async("flash", handle)
        assert card.content == DATA
        assert (image.got, image.closed, image.pieces) == (b"", True, [])
        backup = Memory()
        async with client.resource_async(backup, encoding) as handle:
            await client.call_async("dump", handle)
        assert expand(backup.got) == DATA
        assert backup.has_end
        assert backup.closed
        assert card.resources == {}


@timed(DEADLINE)
async def test_a_loan_that_has_ended_is_given_back_without_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with (
        client_for_async(Card()) as client,
        client.resource_async(Memory(DATA)) as handle,
    ):
        await client.call_async("flash", handle)
    assert "lent_back" not in caplog.text


@each_encoding
def test_plain_methods_and_blocking_clients_do_so_too(encoding: str | None) -> None:
    compress, expand = CODECS[encoding]
    with serve(Card()) as client, client.timeout(DEADLINE):
        assert client.portal is not None
        wrap = client.portal.wrap_async_context_manager
        with wrap(client.resource_async(Memory(compress(DATA)), encoding)) as handle:
            client.call("flash_in_thread", handle)
        backup = Memory()
        with wrap(client.resource_async(backup, encoding)) as handle:
            client.call("dump_in_thread", handle)
        assert expand(backup.got) == DATA


@timed(DEADLINE)
async def test_both_directions_are_open_concurrently() -> None:
    near, far = create_memory_stream()
    async with client_for_async(Card()) as client, near, trio.open_nursery() as nursery:
        async with client.resource_async(far) as handle:
            call = await begin(nursery, client.call_async, "swap", handle)
            for word in (b"one", b"two"):
                await near.send(word)
                assert await near.receive() == word.upper()
            await near.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await near.receive()
        await until(lambda: call.ended)
        assert call.error is None


@timed(DEADLINE)
async def test_a_rest_that_is_not_read_is_no_error() -> None:
    async with client_for_async(Card()) as client:
        image = Memory(DATA * 10)
        async with client.resource_async(image) as handle:
            assert await client.call_async("peek", handle) == DATA[:3]
        assert image.closed


@timed(DEADLINE)
@pytest.mark.parametrize("size", [0, len(DATA)])
async def test_a_loan_that_is_not_used_ends_with_its_block(size: int) -> None:
    card = Card()
    async with client_for_async(card) as client:
        image = Memory(DATA[:size])
        async with client.resource_async(image):
            pass
        assert image.closed
        assert card.resources == {}


@timed(DEADLINE)
async def test_leaving_waits_for_a_driver_that_uses_the_loan() -> None:
    card = Card()
    async with client_for_async(card) as client, trio.open_nursery() as nursery:
        sink = Memory()
        async with client.resource_async(sink) as handle:
            nursery.start_soon(client.call_async, "wait", handle)
            await client.call_async("wait_opened")
            card.let_go.set()
        assert sink.got == b"so far, and the rest"
        assert sink.has_end


@timed(DEADLINE)
@pytest.mark.parametrize("cancels", [False, True])
async def test_a_block_that_ends_early_delivers_what_had_arrived(cancels: bool) -> None:
    card = Card()
    async with (
        client_for_async(card, limits=Limits(cancel_grace=2 * DEADLINE)) as client,
        trio.open_nursery() as nursery,
    ):
        sink = Memory()
        with trio.CancelScope() as scope, suppress(KeyError):
            async with client.resource_async(sink) as handle:
                await begin(nursery, client.call_async, "wait", handle)
                await client.call_async("wait_opened")
                if cancels:
                    scope.cancel()
                raise KeyError
        assert sink.got == b"so far"
        assert sink.closed
        assert not sink.has_end
        nursery.cancel_scope.cancel()


@timed(DEADLINE)
async def test_a_driver_that_fails_is_an_error_and_its_bytes_are_there() -> None:
    card = Card(content=DATA)
    async with client_for_async(card) as client:
        sink = Memory()
        with pytest.raises(DriverOSError, match="the card has gone"):
            async with client.resource_async(sink) as handle:
                await client.call_async("dump", handle, True)
        assert sink.got == DATA
        assert not sink.has_end
        with pytest.raises(DriverError, match="failed with what was lent to it: OSError"):
            async with client.resource_async(Memory()) as handle:
                await client.call_async("fail_silently", handle)


class Broken(Memory):
    async def receive(self) -> bytes:
        if not self.pieces:
            raise anyio.BrokenResourceError("the file has gone")
        return await super().receive()

    async def send(self, item: bytes) -> None:
        raise anyio.BrokenResourceError(f"no place for {len(item)} bytes")


@timed(DEADLINE)
@pytest.mark.parametrize(("method", "why"), [("flash", "has gone"), ("dump", "no place")])
async def test_a_stream_that_fails_fails_the_driver_and_the_block(method: str, why: str) -> None:
    card = Card(content=DATA)
    async with client_for_async(card) as client:
        stream = Broken(DATA)
        with pytest.raises(anyio.BrokenResourceError, match=why):  # noqa: PT012 - the body raises
            async with client.resource_async(stream) as handle:
                with pytest.raises(DriverError, match=why):
                    await client.call_async(method, handle)
        assert stream.closed
        assert card.resources == {}


@timed(DEADLINE)
async def test_damaged_data_and_data_that_was_cut_short_fail_the_driver() -> None:
    compressed = gzip.compress(DATA)
    async with client_for_async(Card()) as client:
        for data in (compressed[:-1], b"no gzip"):
            with pytest.raises(DriverInvalidArgument, match="not compressed as they should"):
                async with client.resource_async(Memory(data), "gzip") as handle:
                    await client.call_async("flash", handle)


@timed(DEADLINE)
async def test_a_stream_of_anyio_with_one_direction_can_be_lent(tmp_path: Any) -> None:
    path = tmp_path / "image"
    path.write_bytes(DATA)
    card = Card()
    async with client_for_async(card) as client:
        async with client.resource_async(await FileReadStream.from_path(path)) as handle:
            await client.call_async("flash", handle)
        assert card.content == DATA
        with pytest.raises(ArgumentError, match="FileReadStream cannot be written"):  # noqa: PT012
            async with client.resource_async(await FileReadStream.from_path(path)) as handle:
                with suppress(DriverError):
                    await client.call_async("dump", handle)


@timed(DEADLINE)
async def test_the_two_forms_are_told_apart() -> None:
    async with client_for_async(Card()) as client:
        async with client.resource_async(Memory()) as handle:
            assert isinstance(handle, dict)
        near, far = trio.testing.memory_stream_pair()
        async with near, far, client.resource_async(near) as handle:
            assert isinstance(handle, str)
        with pytest.raises(ArgumentError, match="gzip, xz, bz2, zstd, or None, not 'rar'"):
            await client.resource_async(Memory(), "rar").__aenter__()
        with pytest.raises(ArgumentTypeError, match="without write; use compress="):
            await client.resource_async(Memory(), "gzip", write=True).__aenter__()
        with pytest.raises(ArgumentError, match="cannot be written"):
            await client.resource_async(Memory(), write=True).__aenter__()
