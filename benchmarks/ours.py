"""The library's ends: a driver that does nothing, and clients of it, as users would write them."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager

import trio

import jumpstarter
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export, exportstream

from .ends import on_trio, stay
from .payloads import ANSWER, MESSAGE, PIECE, VALUE, Tally, decode_order, encode_order
from .worker import rounds

__all__ = [
    "async_call",
    "async_calls_at_once",
    "async_download",
    "async_generator",
    "async_ping_pong",
    "async_upload",
    "blocking_call",
    "blocking_generator",
    "blocking_ping_pong",
    "serve",
]


# ---------------------------------------------------------------------------------- the driver


class _Device(trio.abc.Stream):
    """As little as can be behind a raw stream: a queue of what it has to say."""

    def __init__(self) -> None:
        self._say, self._said = trio.open_memory_channel[bytes](math.inf)

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
    """Takes upward transfers."""

    def __init__(self) -> None:
        super().__init__()
        self._tally = Tally()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._tally.add(data):
            await super().send_all(ANSWER)


class _Source(_Device):
    """Gives downward transfers."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._left == 0:
            self._left = decode_order(await super().receive_some(max_bytes))
        self._left -= 1
        return PIECE


class IdleDriver(Driver):
    """Exports one of each kind, none of which does any work."""

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
    def items(self, count: int) -> Generator[bytes, None, None]:
        for _ in range(count):
            yield VALUE

    @export
    async def items_async(self, count: int) -> AsyncGenerator[bytes, None]:
        for _ in range(count):
            yield VALUE

    @exportstream
    @asynccontextmanager
    async def bytes_back(self) -> AsyncIterator[trio.abc.Stream]:
        yield _Device()

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


# ------------------------------------------------------------------------------- Trio clients


@on_trio
async def async_call(path: str, method: str) -> None:
    async with jumpstarter.connect_async(f"unix:{path}") as client:
        for count in rounds():
            for _ in range(count):
                await client.call_async(method, VALUE)


@on_trio
async def async_calls_at_once(path: str, method: str, tasks: str) -> None:
    async with jumpstarter.connect_async(f"unix:{path}") as client:
        for count in rounds():
            turns = iter(range(count))
            async with trio.open_nursery() as nursery:
                for _ in range(int(tasks)):
                    nursery.start_soon(_call_for_each, client, method, turns)


async def _call_for_each(client: DriverClient, method: str, turns: Iterator[int]) -> None:
    for _ in turns:
        await client.call_async(method, VALUE)


@on_trio
async def async_generator(path: str, method: str) -> None:
    async with jumpstarter.connect_async(f"unix:{path}") as client:
        for count in rounds():
            async with client.streamingcall_async(method, count) as items:
                async for _ in items:
                    pass


@on_trio
async def async_ping_pong(path: str) -> None:
    async with (
        jumpstarter.connect_async(f"unix:{path}") as client,
        client.stream_async("bytes_back") as stream,
    ):
        for count in rounds():
            for _ in range(count):
                await stream.send_all(MESSAGE)
                reply = await stream.receive_some()
                assert len(reply) == len(MESSAGE)


@on_trio
async def async_upload(path: str) -> None:
    async with (
        jumpstarter.connect_async(f"unix:{path}") as client,
        client.stream_async("bytes_up") as stream,
    ):
        for count in rounds():
            await stream.send_all(encode_order(count))
            for _ in range(count):
                await stream.send_all(PIECE)
            answer = await stream.receive_some()
            assert answer == ANSWER


@on_trio
async def async_download(path: str) -> None:
    async with (
        jumpstarter.connect_async(f"unix:{path}") as client,
        client.stream_async("bytes_down") as stream,
    ):
        for count in rounds():
            await stream.send_all(encode_order(count))
            left = count * len(PIECE)
            while left:
                left -= len(await stream.receive_some())


# --------------------------------------------------------------------------- blocking clients


def blocking_call(path: str, method: str) -> None:
    with jumpstarter.connect(f"unix:{path}") as client:
        for count in rounds():
            for _ in range(count):
                client.call(method, VALUE)


def blocking_generator(path: str, method: str) -> None:
    with jumpstarter.connect(f"unix:{path}") as client:
        for count in rounds():
            for _ in client.streamingcall(method, count):
                pass


def blocking_ping_pong(path: str) -> None:
    with jumpstarter.connect(f"unix:{path}") as client, client.stream("bytes_back") as stream:
        for count in rounds():
            for _ in range(count):
                stream.send(MESSAGE)
                reply = stream.receive()
                assert len(reply) == len(MESSAGE)
