"""The ends of grpcio on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import BytesValue

from ..certificates import leave_address, make_certificate
from ..loops import repeat_async
from ..payloads import (
    ANSWER,
    CHATTER,
    MESSAGE,
    PIECE,
    VALUE,
    chatter_every,
    decode_order,
    encode_order,
)
from ..worker import rounds
from .common import drain, on_asyncio, repeat_at_once, repeat_beside_bulk, stay

__all__ = ["NO_WALL", "call_beside", "method", "serve", "serve_tls", "server_credentials"]

NO_WALL: Final = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
# Without this option, all channels of a process share one connection.
_OWN_CONNECTION: Final = [*NO_WALL, ("grpc.use_local_subchannel_pool", 1)]
# Without these options, a server begins to drop calls when 1,000 calls arrive concurrently.
_NO_REFUSAL: Final = [
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
]
_PIECE: Final = BytesValue(value=PIECE)


# ------------------------------------------------------------------------------------- server


class _Bench:
    def __init__(self) -> None:
        self._met = asyncio.Event()
        self._there = 0

    async def echo(self, request: Any, _context: Any) -> Any:
        return request

    async def meet(self, request: Any, _context: Any) -> Any:
        self._there += 1
        met = self._met
        if self._there == decode_order(request.value):
            met.set()
            self._met, self._there = asyncio.Event(), 0
        await met.wait()
        return request

    async def items(self, request: Any, _context: Any) -> AsyncIterator[Any]:
        for _ in range(decode_order(request.value)):
            yield BytesValue(value=VALUE)

    async def pieces(self, request: Any, _context: Any) -> AsyncIterator[Any]:
        for _ in range(decode_order(request.value)):
            yield BytesValue(value=PIECE)

    async def console(self, request: Any, _context: Any) -> AsyncIterator[Any]:
        size = decode_order(request.value)
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += chatter_every(size)
            await asyncio.sleep(max(0.0, due - loop.time()))
            yield BytesValue(value=bytes(size))

    async def take(self, requests: AsyncIterator[Any], _context: Any) -> Any:
        await drain(requests)
        return BytesValue(value=ANSWER)

    async def back(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield request


def server_credentials(path: str) -> Any:
    """Make a certificate for the server at a path."""
    certificate, key = (Path(file).read_bytes() for file in make_certificate(path))
    return grpc.ssl_server_credentials([(key, certificate)])


def _server() -> Any:
    bench = _Bench()
    kinds = {
        "echo": grpc.unary_unary_rpc_method_handler,
        "meet": grpc.unary_unary_rpc_method_handler,
        "items": grpc.unary_stream_rpc_method_handler,
        "pieces": grpc.unary_stream_rpc_method_handler,
        "console": grpc.unary_stream_rpc_method_handler,
        "take": grpc.stream_unary_rpc_method_handler,
        "back": grpc.stream_stream_rpc_method_handler,
    }
    handlers = {
        name: make(getattr(bench, name), BytesValue.FromString, BytesValue.SerializeToString)
        for name, make in kinds.items()
    }
    server = grpc.aio.server(options=[*NO_WALL, *_NO_REFUSAL])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Bench", handlers)])
    return server


@on_asyncio
async def serve(path: str) -> None:
    server = _server()
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    await stay()
    await server.stop(None)


@on_asyncio
async def serve_tls(path: str) -> None:
    server = _server()
    port = server.add_secure_port("localhost:0", server_credentials(path))
    await server.start()
    leave_address(path, f"localhost:{port}")
    await stay()
    await server.stop(None)


# ------------------------------------------------------------------------------------ clients


def _connect(path: str) -> Any:
    return grpc.aio.insecure_channel(f"unix:{path}", options=_OWN_CONNECTION)


def method(channel: Any, kind: str, name: str) -> Any:
    """Return a callable that calls a method, as a generated stub does."""
    make = getattr(channel, kind)
    return make(f"/Bench/{name}", BytesValue.SerializeToString, BytesValue.FromString)


def _order(count: int) -> Any:
    return BytesValue(value=encode_order(count))


@on_asyncio
async def call(path: str, size: str = "16") -> None:
    value = bytes(int(size))
    async with _connect(path) as channel:
        echo = method(channel, "unary_unary", "echo")
        await repeat_async(lambda: echo(BytesValue(value=value)))


@on_asyncio
async def call_beside(path: str, company: str) -> None:
    """Call while a console is open; `benchmarks.everyday` explains the company."""
    async with _connect(path) as channel:
        echo = method(channel, "unary_unary", "echo")
        console = None if company in CHATTER else method(channel, "stream_stream", "back")()
        reading = asyncio.create_task(_read(console)) if company == "read" else None
        for count in rounds():
            if company in CHATTER:
                console = method(channel, "unary_stream", "console")(_order(CHATTER[company]))
                reading = asyncio.create_task(_read(console))
            for _ in range(count):
                await echo(BytesValue(value=VALUE))
            if company in CHATTER and console is not None:
                console.cancel()
        if console is not None:
            console.cancel()
        if reading is not None:
            await reading


async def _read(console: Any) -> None:
    with contextlib.suppress(asyncio.CancelledError):  # it was cancelled
        await drain(console)


@on_asyncio
async def calls_at_once(path: str, tasks: str) -> None:
    async with _connect(path) as channel:
        echo = method(channel, "unary_unary", "echo")
        await repeat_at_once(lambda: echo(BytesValue(value=VALUE)), int(tasks))


@on_asyncio
async def meeting(path: str) -> None:
    async with _connect(path) as channel:
        meet = method(channel, "unary_unary", "meet")
        for count in rounds():
            await asyncio.gather(*(meet(_order(count)) for _ in range(count)))


@on_asyncio
async def set_up(path: str) -> None:
    async def connect_and_call() -> None:
        async with _connect(path) as channel:
            await method(channel, "unary_unary", "echo")(BytesValue(value=VALUE))

    await repeat_async(connect_and_call)


@on_asyncio
async def connections(path: str, each: str) -> None:
    async def work(echo: Any) -> None:
        for _ in range(int(each)):
            await echo(BytesValue(value=VALUE))

    for count in rounds():
        async with AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(_connect(path)) for _ in range(0, count, int(each))
            ]
            await asyncio.gather(
                *(work(method(channel, "unary_unary", "echo")) for channel in channels)
            )


@on_asyncio
async def generator(path: str, name: str) -> None:
    async with _connect(path) as channel:
        items = method(channel, "unary_stream", name)
        for count in rounds():
            await drain(items(_order(count)))


@on_asyncio
async def beside_bulk(path: str, streams: str) -> None:
    async with _connect(path) as channel:
        echo = method(channel, "unary_unary", "echo")
        pieces = method(channel, "unary_stream", "pieces")

        async def download(count: int) -> None:
            await drain(pieces(_order(count)))

        await repeat_beside_bulk([download] * int(streams), lambda: echo(BytesValue(value=VALUE)))


@on_asyncio
async def ping_pong(path: str) -> None:
    async with _connect(path) as channel:
        back = method(channel, "stream_stream", "back")()
        await repeat_async(functools.partial(_ping_pong, back))
        back.cancel()


async def _ping_pong(back: Any) -> None:
    await back.write(BytesValue(value=MESSAGE))
    await back.read()


@on_asyncio
async def upload(path: str) -> None:
    async with _connect(path) as channel:
        take = method(channel, "stream_unary", "take")
        for count in rounds():
            sending = take()
            for _ in range(count):
                await sending.write(_PIECE)
            await sending.done_writing()
            await sending


@on_asyncio
async def both_ways(path: str) -> None:
    async with _connect(path) as channel:
        back = method(channel, "stream_stream", "back")
        for count in rounds():
            stream = back()
            taking = asyncio.create_task(drain(stream))
            for _ in range(count):
                await stream.write(_PIECE)
            await stream.done_writing()
            await taking


@on_asyncio
async def streams(path: str) -> None:
    async with _connect(path) as channel:
        back = method(channel, "stream_stream", "back")
        for count in rounds():
            opened = []
            for _ in range(count):
                opened.append(back())
                await _ping_pong(opened[-1])
            for stream in opened:
                stream.cancel()
