"""The ends of grpclib: gRPC in plain Python, on asyncio and h2."""

from __future__ import annotations

from typing import Any

from google.protobuf.wrappers_pb2 import BytesValue
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

from ..loops import repeat_async
from ..payloads import VALUE, decode_order, encode_order
from ..worker import rounds
from .common import on_asyncio, repeat_at_once, stay

__all__ = ["call", "calls_at_once", "generator", "serve", "set_up"]


class _Bench:
    async def echo(self, stream: Any) -> None:
        await stream.send_message(await stream.recv_message())

    async def items(self, stream: Any) -> None:
        order = await stream.recv_message()
        for _ in range(decode_order(order.value)):
            await stream.send_message(BytesValue(value=VALUE))

    def __mapping__(self) -> dict[str, Any]:
        return {
            "/Bench/echo": Handler(self.echo, Cardinality.UNARY_UNARY, BytesValue, BytesValue),
            "/Bench/items": Handler(self.items, Cardinality.UNARY_STREAM, BytesValue, BytesValue),
        }


@on_asyncio
async def serve(path: str) -> None:
    server = Server([_Bench()])
    await server.start(path=path)
    await stay()
    server.close()


def _echo(channel: Any) -> Any:
    return UnaryUnaryMethod(channel, "/Bench/echo", BytesValue, BytesValue)


@on_asyncio
async def call(path: str) -> None:
    async with Channel(path=path) as channel:
        echo = _echo(channel)
        await repeat_async(lambda: echo(BytesValue(value=VALUE)))


@on_asyncio
async def calls_at_once(path: str, tasks: str) -> None:
    async with Channel(path=path) as channel:
        echo = _echo(channel)
        await repeat_at_once(lambda: echo(BytesValue(value=VALUE)), int(tasks))


@on_asyncio
async def generator(path: str) -> None:
    async with Channel(path=path) as channel:
        items = UnaryStreamMethod(channel, "/Bench/items", BytesValue, BytesValue)
        for count in rounds():
            async with items.open() as stream:
                await stream.send_message(BytesValue(value=encode_order(count)), end=True)
                async for _ in stream:
                    pass


@on_asyncio
async def set_up(path: str) -> None:
    async def connect_and_call() -> None:
        async with Channel(path=path) as channel:
            await _echo(channel)(BytesValue(value=VALUE))

    await repeat_async(connect_and_call)
