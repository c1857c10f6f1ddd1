"""The library's clients, written as users would write them."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import trio

import jumpstarter
from jumpstarter import Limits
from jumpstarter.client import DriverClient

from .ends import Do, on_trio, repeat_among, repeat_at_once, repeat_beside_bulk
from .idle import MANY_CALLS, IdleDriver
from .loops import repeat, repeat_async, repeat_from_threads
from .payloads import ANSWER, MESSAGE, PIECE, VALUE, encode_order
from .worker import rounds

__all__ = [
    "async_beside_bulk",
    "async_both_ways",
    "async_call",
    "async_calls_at_once",
    "async_connections",
    "async_download",
    "async_generator",
    "async_meeting",
    "async_ping_pong",
    "async_set_up",
    "async_streams",
    "async_upload",
    "blocking_call",
    "blocking_calls_from_threads",
    "blocking_generator",
    "blocking_ping_pong",
    "blocking_serve_and_call",
    "blocking_set_up",
]


def _connect(path: str, limits: Limits | None = None) -> AbstractAsyncContextManager[DriverClient]:
    limits = Limits() if limits is None else limits
    return jumpstarter.connect_async(f"unix:{path}", limits=limits)


# -------------------------------------------------------------------------------------- calls


@on_trio
async def async_call(path: str, method: str, size: str = "16") -> None:
    value = bytes(int(size))
    async with _connect(path) as client:
        await repeat_async(functools.partial(client.call_async, method, value))


@on_trio
async def async_calls_at_once(path: str, method: str, tasks: str) -> None:
    async with _connect(path) as client:
        await repeat_at_once(functools.partial(client.call_async, method, VALUE), int(tasks))


@on_trio
async def async_meeting(path: str) -> None:
    """Run all calls of a round concurrently: none returns before the last has arrived."""
    async with _connect(path, MANY_CALLS) as client:
        for count in rounds():
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(client.call_async, "meet", count)


@on_trio
async def async_set_up(path: str) -> None:
    async def set_up() -> None:
        async with _connect(path) as client:
            await client.call_async("echo_async", VALUE)

    await repeat_async(set_up)


@on_trio
async def async_connections(path: str, each: str) -> None:
    """Hold connections open concurrently, and do `each` of the round's operations on every one."""

    async def hold(*, task_status: trio.TaskStatus[Do]) -> None:
        async with _connect(path) as client:
            task_status.started(functools.partial(client.call_async, "echo_async", VALUE))
            await trio.sleep_forever()

    await repeat_among(hold, int(each))


def blocking_call(path: str, method: str) -> None:
    with jumpstarter.connect(f"unix:{path}") as client:
        repeat(functools.partial(client.call, method, VALUE))


def blocking_calls_from_threads(path: str, method: str, threads: str) -> None:
    with jumpstarter.connect(f"unix:{path}") as client:
        repeat_from_threads(functools.partial(client.call, method, VALUE), int(threads))


def blocking_serve_and_call(_path: str, method: str) -> None:
    """Run both ends in one process, as tests of drivers do."""
    with jumpstarter.serve(IdleDriver()) as client:
        repeat(functools.partial(client.call, method, VALUE))


def blocking_set_up(path: str) -> None:
    def set_up() -> None:
        with jumpstarter.connect(f"unix:{path}") as client:
            client.call("echo", VALUE)

    repeat(set_up)


# --------------------------------------------------------------------------------- generators


@on_trio
async def async_generator(path: str, method: str) -> None:
    async with _connect(path) as client:
        for count in rounds():
            async with client.streamingcall_async(method, count) as items:
                async for _ in items:
                    pass


def blocking_generator(path: str, method: str) -> None:
    with jumpstarter.connect(f"unix:{path}") as client:
        for count in rounds():
            for _ in client.streamingcall(method, count):
                pass


# -------------------------------------------------------------------------------- raw streams


@asynccontextmanager
async def _stream(path: str, method: str) -> AsyncIterator[trio.abc.Stream]:
    async with _connect(path) as client, client.stream_async(method) as stream:
        yield stream


async def _ping_pong(stream: trio.abc.Stream) -> None:
    await stream.send_all(MESSAGE)
    reply = await stream.receive_some()
    assert len(reply) == len(MESSAGE)


async def _take(stream: trio.abc.Stream, size: int) -> None:
    while size:
        size -= len(await stream.receive_some())


async def _send_piecewise(stream: trio.abc.Stream, count: int) -> None:
    for _ in range(count):
        await stream.send_all(PIECE)


async def _order(stream: trio.abc.Stream, count: int) -> None:
    await stream.send_all(encode_order(count))
    await _take(stream, count * len(PIECE))


@on_trio
async def async_ping_pong(path: str) -> None:
    async with _stream(path, "bytes_back") as stream:
        await repeat_async(functools.partial(_ping_pong, stream))


@on_trio
async def async_upload(path: str) -> None:
    async with _stream(path, "bytes_up") as stream:
        for count in rounds():
            await stream.send_all(encode_order(count))
            await _send_piecewise(stream, count)
            answer = await stream.receive_some()
            assert answer == ANSWER


@on_trio
async def async_download(path: str) -> None:
    async with _stream(path, "bytes_down") as stream:
        for count in rounds():
            await _order(stream, count)


@on_trio
async def async_both_ways(path: str) -> None:
    async with _stream(path, "bytes_back") as stream:
        for count in rounds():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_take, stream, count * len(PIECE))
                await _send_piecewise(stream, count)


@on_trio
async def async_beside_bulk(path: str, streams: str) -> None:
    async with _connect(path) as client, AsyncExitStack() as stack:
        bulk = [
            await stack.enter_async_context(client.stream_async("bytes_down"))
            for _ in range(int(streams))
        ]
        downloads = [functools.partial(_order, stream) for stream in bulk]

        def call() -> Awaitable[object]:
            return client.call_async("echo_async", VALUE)

        await repeat_beside_bulk(downloads, call)


@on_trio
async def async_streams(path: str) -> None:
    """Hold one stream open concurrently for each operation of a round."""
    async with _connect(path) as client:

        async def hold(*, task_status: trio.TaskStatus[Do]) -> None:
            async with client.stream_async("bytes_back") as stream:
                task_status.started(functools.partial(_ping_pong, stream))
                await trio.sleep_forever()

        await repeat_among(hold, each=1)


def blocking_ping_pong(path: str) -> None:
    with jumpstarter.connect(f"unix:{path}") as client, client.stream("bytes_back") as stream:

        def ping_pong() -> None:
            stream.send(MESSAGE)
            reply = stream.receive()
            assert len(reply) == len(MESSAGE)

        repeat(ping_pong)
