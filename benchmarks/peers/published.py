"""The ends of the published jumpstarter: the same drivers, on gRPC, protobuf, pydantic and asyncio.

It sends bytes as text, and only bytes that are valid text. The calls here therefore pass text.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import anyio
from anyio.abc import ObjectStream
from anyio.from_thread import BlockingPortal, start_blocking_portal
from jumpstarter.exporter import Session
from jumpstarter_driver_network.driver import EchoNetwork

from jumpstarter.client import client_from_path
from jumpstarter.common import ExporterStatus
from jumpstarter.common.utils import serve as serve_here
from jumpstarter.driver import export, exportstream

from ..loops import repeat, repeat_async, repeat_from_threads, repeat_timed
from ..payloads import (
    ANSWER,
    CHATTER,
    MESSAGE,
    PIECE,
    Tally,
    chatter_every,
    decode_order,
    encode_order,
)
from ..worker import rounds
from .common import drain, on_asyncio, repeat_at_once, stay

__all__ = [
    "async_both_ways",
    "async_call",
    "async_calls_at_once",
    "async_download",
    "async_generator",
    "async_ping_pong",
    "async_set_up",
    "async_upload",
    "blocking_call",
    "blocking_call_beside",
    "blocking_call_timed",
    "blocking_calls_from_threads",
    "blocking_generator",
    "blocking_ping_pong",
    "blocking_serve_and_call",
    "serve",
]

_VALUE: Final = "x" * 16


# ---------------------------------------------------------------------------------- the driver


class _Sink(ObjectStream[bytes]):
    """Receives uploads, and answers each with `ANSWER` when it is complete."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._say, self._said = anyio.create_memory_object_stream[bytes](math.inf)

    async def send(self, item: bytes) -> None:
        if self._tally.add(item):
            await self._say.send(ANSWER)

    async def receive(self) -> bytes:
        return await self._said.receive()

    async def send_eof(self) -> None:
        self._say.close()

    async def aclose(self) -> None:
        self._say.close()


class _Source(_Sink):
    """Sends the downloads that a client orders."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 0

    async def send(self, item: bytes) -> None:
        await self._say.send(item)

    async def receive(self) -> bytes:
        if self._left == 0:
            self._left = decode_order(await super().receive())
        self._left -= 1
        return PIECE


class _Console(_Sink):
    """Says pieces of the ordered size at regular intervals."""

    def __init__(self) -> None:
        super().__init__()
        self._on = anyio.Event()
        self._piece = b""
        self._due = 0.0

    async def send(self, item: bytes) -> None:
        if size := decode_order(item):
            self._piece = bytes(size)
            self._due = anyio.current_time()
            self._on.set()
        else:
            self._on = anyio.Event()

    async def receive(self) -> bytes:
        await self._on.wait()
        piece = self._piece
        self._due += chatter_every(len(piece))
        await anyio.sleep(max(0.0, self._due - anyio.current_time()))
        return piece


class _IdleDriver(EchoNetwork):
    """A driver whose methods do no work. The inherited `connect` echoes what it receives."""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: str) -> str:
        return value

    @export
    async def echo_async(self, value: str) -> str:
        return value

    @export
    def items(self, count: float) -> Generator[str, None, None]:
        for _ in range(int(count)):
            yield _VALUE

    @export
    async def items_async(self, count: float) -> AsyncGenerator[str, None]:
        for _ in range(int(count)):
            yield _VALUE

    @exportstream
    @asynccontextmanager
    async def console(self) -> AsyncIterator[Any]:
        yield _Console()

    @exportstream
    @asynccontextmanager
    async def bytes_up(self) -> AsyncIterator[Any]:
        yield _Sink()

    @exportstream
    @asynccontextmanager
    async def bytes_down(self) -> AsyncIterator[Any]:
        yield _Source()


@on_asyncio
async def serve(path: str) -> None:
    with Session(root_device=_IdleDriver()) as session:
        async with session.serve_port_async(f"unix://{path}"):
            session.update_status(ExporterStatus.LEASE_READY)
            await stay()


# ---------------------------------------------------------------------------- asyncio clients


@asynccontextmanager
async def _connect(path: str) -> AsyncIterator[Any]:
    async with BlockingPortal() as portal:
        with ExitStack() as stack:
            async with client_from_path(path, portal, stack, allow=[], unsafe=True) as client:
                yield client


@on_asyncio
async def async_call(path: str, method: str, size: str = "16") -> None:
    value = "x" * int(size)
    async with _connect(path) as client:
        await repeat_async(functools.partial(client.call_async, method, value))


@on_asyncio
async def async_calls_at_once(path: str, method: str, tasks: str) -> None:
    async with _connect(path) as client:
        await repeat_at_once(functools.partial(client.call_async, method, _VALUE), int(tasks))


@on_asyncio
async def async_set_up(path: str) -> None:
    async def set_up() -> None:
        async with _connect(path) as client:
            await client.call_async("echo_async", _VALUE)

    await repeat_async(set_up)


@on_asyncio
async def async_generator(path: str, method: str) -> None:
    async with _connect(path) as client:
        for count in rounds():
            await drain(client.streamingcall_async(method, count))


@asynccontextmanager
async def _stream(path: str, method: str) -> AsyncIterator[Any]:
    async with _connect(path) as client, client.stream_async(method) as stream:
        yield stream


async def _take(stream: Any, size: int) -> None:
    while size:
        size -= len(await stream.receive())


@on_asyncio
async def async_ping_pong(path: str) -> None:
    async def ping_pong() -> None:
        await stream.send(MESSAGE)
        await stream.receive()

    async with _stream(path, "connect") as stream:
        await repeat_async(ping_pong)


@on_asyncio
async def async_upload(path: str) -> None:
    async with _stream(path, "bytes_up") as stream:
        for count in rounds():
            await stream.send(encode_order(count))
            for _ in range(count):
                await stream.send(PIECE)
            await stream.receive()


@on_asyncio
async def async_download(path: str) -> None:
    async with _stream(path, "bytes_down") as stream:
        for count in rounds():
            await stream.send(encode_order(count))
            await _take(stream, count * len(PIECE))


@on_asyncio
async def async_both_ways(path: str) -> None:
    async with _stream(path, "connect") as stream:
        for count in rounds():
            async with anyio.create_task_group() as group:
                group.start_soon(_take, stream, count * len(PIECE))
                for _ in range(count):
                    await stream.send(PIECE)


# --------------------------------------------------------------------------- blocking clients


@contextmanager
def _connect_blocking(path: str) -> Generator[Any, None, None]:
    with start_blocking_portal() as portal, ExitStack() as stack:
        connecting = client_from_path(path, portal, stack, allow=[], unsafe=True)
        with portal.wrap_async_context_manager(connecting) as client:
            yield client


def blocking_call(path: str, method: str) -> None:
    with _connect_blocking(path) as client:
        repeat(_calling(client, method))


def blocking_call_beside(path: str, method: str, company: str) -> None:
    """Call while a console is open; `benchmarks.everyday` explains the company."""
    console = "console" if company in CHATTER else "connect"
    with _connect_blocking(path) as client, client.stream(console) as stream:
        if company != "open":
            threading.Thread(target=_read, args=(stream,), daemon=True).start()
        call = _calling(client, method)
        for count in rounds():
            if company in CHATTER:
                stream.send(encode_order(CHATTER[company]))
            for _ in range(count):
                call()
            if company in CHATTER:
                stream.send(encode_order(0))


def blocking_call_timed(path: str, method: str, beside: str) -> None:
    with _connect_blocking(path) as client:
        repeat_timed(_calling(client, method), beside)


def _read(stream: Any) -> None:
    with suppress(Exception):  # the stream was closed under it: the rounds are over
        while True:
            stream.receive()


def _calling(client: Any, method: str) -> Callable[[], object]:
    return functools.partial(client.call, method, _VALUE)


def blocking_calls_from_threads(path: str, method: str, threads: str) -> None:
    with _connect_blocking(path) as client:
        repeat_from_threads(_calling(client, method), int(threads))


def blocking_serve_and_call(_path: str, method: str) -> None:
    with serve_here(_IdleDriver()) as client:
        repeat(_calling(client, method))


def blocking_generator(path: str, method: str) -> None:
    with _connect_blocking(path) as client:
        for count in rounds():
            for _ in client.streamingcall(method, count):
                pass


def blocking_ping_pong(path: str) -> None:
    with _connect_blocking(path) as client, client.stream("connect") as stream:

        def ping_pong() -> None:
            stream.send(MESSAGE)
            stream.receive()

        repeat(ping_pong)
