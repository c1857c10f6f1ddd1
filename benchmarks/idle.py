"""The library's servers: a driver whose methods do no work, served as users serve theirs."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Final

import trio

import jumpstarter
from jumpstarter import Limits
from jumpstarter.driver import Driver, export, exportstream

from .certificates import leave_address, make_certificate
from .ends import on_trio, stay
from .payloads import ANSWER, PIECE, VALUE, Tally, chatter_every, decode_order

__all__ = ["MANY_CALLS", "IdleDriver", "serve", "serve_many_calls", "serve_tls"]

MANY_CALLS: Final = Limits(max_calls=16 * 1024)  # workloads have up to 10,000
_QUEUE: Final = 64  # pieces that a device holds; further ones wait in the client


class _Device(trio.abc.Stream):
    """The smallest device behind a raw stream: a queue that returns what it receives."""

    def __init__(self) -> None:
        self._say, self._said = trio.open_memory_channel[bytes](_QUEUE)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._say.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        return await self._said.receive()

    async def aclose(self) -> None:
        self._say.close()
        await trio.lowlevel.checkpoint()


class _Sink(_Device):
    """Receives uploads, and answers each with `ANSWER` when it is complete."""

    def __init__(self) -> None:
        super().__init__()
        self._tally = Tally()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._tally.add(data):
            await super().send_all(ANSWER)


class _Source(_Device):
    """Sends the downloads that a client orders."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._left == 0:
            self._left = decode_order(await super().receive_some(max_bytes))
        self._left -= 1
        return PIECE


class _Console(_Device):
    """Says pieces of the ordered size at regular intervals, as the log of a board does."""

    def __init__(self) -> None:
        super().__init__()
        self._on = trio.Event()
        self._piece = b""
        self._due = 0.0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if size := decode_order(data):
            self._piece = bytes(size)
            self._due = trio.current_time()
            self._on.set()
        else:
            self._on = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        await self._on.wait()
        piece = self._piece
        self._due += chatter_every(len(piece))
        await trio.sleep_until(self._due)
        return piece


class IdleDriver(Driver):
    """Exports one method of each kind, and none does any work."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._met = trio.Event()
        self._there = 0

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: bytes) -> bytes:
        return value

    @export
    async def echo_async(self, value: bytes) -> bytes:
        return value

    @export
    async def meet(self, count: int) -> None:
        """Wait until `count` calls are in flight."""
        self._there += 1
        met = self._met
        if self._there == count:
            met.set()
            self._met, self._there = trio.Event(), 0
        await met.wait()

    @export
    def items(self, count: int) -> Generator[bytes, None, None]:
        for _ in range(count):
            yield VALUE

    @export
    async def items_async(self, count: int) -> AsyncGenerator[bytes, None]:
        for _ in range(count):
            yield VALUE

    @export
    def pieces(self, count: int) -> Generator[bytes, None, None]:
        for _ in range(count):
            yield PIECE

    @export
    async def pieces_async(self, count: int) -> AsyncGenerator[bytes, None]:
        for _ in range(count):
            yield PIECE

    @exportstream
    @asynccontextmanager
    async def bytes_back(self) -> AsyncIterator[trio.abc.Stream]:
        yield _Device()

    @exportstream
    @asynccontextmanager
    async def console(self) -> AsyncIterator[trio.abc.Stream]:
        yield _Console()

    @exportstream
    @asynccontextmanager
    async def bytes_up(self) -> AsyncIterator[trio.abc.Stream]:
        yield _Sink()

    @exportstream
    @asynccontextmanager
    async def bytes_down(self) -> AsyncIterator[trio.abc.Stream]:
        yield _Source()


@on_trio
async def serve(path: str) -> None:
    async with jumpstarter.serve_async(IdleDriver(), f"unix:{path}"):
        await stay()


@on_trio
async def serve_tls(path: str) -> None:
    """Serve on loopback, at an address that the client finds in a file at the path."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*make_certificate(path))
    async with jumpstarter.serve_async(
        IdleDriver(), "tls://localhost:0", ssl_context=context
    ) as server:
        leave_address(path, server.address)
        await stay()


@on_trio
async def serve_many_calls(path: str) -> None:
    async with jumpstarter.serve_async(IdleDriver(), f"unix:{path}", limits=MANY_CALLS):
        await stay()
