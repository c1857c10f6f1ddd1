"""Floors: bare bytes over a Unix socket, between a Trio server and a Trio or blocking client.

The clients read a small message with one call. A message of this size arrives in one piece on a
Unix socket, and a receive loop would dominate the measurement. An assertion checks the length.
"""

from __future__ import annotations

import functools
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import trio

from .ends import Do, on_trio, repeat_among, repeat_beside_bulk, stay
from .loops import repeat, repeat_async, repeat_timed
from .payloads import ANSWER, MESSAGE, PIECE, Tally, decode_order, encode_order
from .worker import ready, rounds

__all__ = [
    "blocking_download",
    "blocking_ping_pong",
    "blocking_ping_pong_timed",
    "blocking_set_up",
    "serve_beside_bulk",
    "serve_blocking",
    "serve_downloads",
    "serve_echo",
    "serve_messages",
    "serve_uploads",
    "trio_beside_bulk",
    "trio_both_ways",
    "trio_connections",
    "trio_download",
    "trio_messages",
    "trio_ping_pong",
    "trio_pipeline",
    "trio_set_up",
    "trio_upload",
]

Handler = Callable[[trio.SocketStream], Awaitable[object]]

_READ: Final = 64 * 1024  # bytes; Trio's own read size
_PIECES: Final = {"message": MESSAGE, "piece": PIECE}
_BACKLOG: Final = 4096  # connections that arrive concurrently


# ------------------------------------------------------------------------------------ servers


async def _serve(handlers: dict[str, Handler]) -> None:
    """Listen on each path, and run its handler for each connection."""
    async with trio.open_nursery() as nursery:
        for path, handler in handlers.items():
            sock = trio.socket.socket(socket.AF_UNIX)
            await sock.bind(path)
            sock.listen(_BACKLOG)
            listener = trio.SocketListener(sock)
            nursery.start_soon(functools.partial(trio.serve_listeners, handler, [listener]))
        await stay()
        nursery.cancel_scope.cancel()


async def _echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def _send_pieces(piece: bytes, stream: trio.SocketStream) -> None:
    async for order in stream:
        for _ in range(decode_order(order)):
            await stream.send_all(piece)


@on_trio
async def serve_echo(path: str) -> None:
    await _serve({path: _echo})


@on_trio
async def serve_messages(path: str, size: str) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        while data := await _receive(stream, int(size)):
            await stream.send_all(data)

    await _serve({path: answer})


@on_trio
async def serve_uploads(path: str) -> None:
    async def count(stream: trio.SocketStream) -> None:
        tally = Tally()
        async for data in stream:
            if tally.add(data):
                await stream.send_all(ANSWER)

    await _serve({path: count})


@on_trio
async def serve_downloads(path: str, kind: str) -> None:
    await _serve({path: functools.partial(_send_pieces, _PIECES[kind])})


@on_trio
async def serve_beside_bulk(path: str) -> None:
    await _serve({path: functools.partial(_send_pieces, PIECE), _small(path): _echo})


def serve_blocking(path: str) -> None:
    """Echo to one client after the other, with blocking sockets."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threading.Thread(target=_echo_blocking, args=(listener,), daemon=True).start()
    ready()
    sys.stdin.read()


def _echo_blocking(listener: socket.socket) -> None:
    while True:
        sock, _address = listener.accept()
        with sock:
            while data := sock.recv(_READ):
                sock.sendall(data)


def _small(path: str) -> str:
    """Return the path of the socket for small calls during bulk transfers."""
    return f"{path}-small"


# ------------------------------------------------------------------------------- Trio clients


async def _ping_pong(stream: trio.SocketStream) -> None:
    await stream.send_all(MESSAGE)
    reply = await stream.receive_some(_READ)
    assert len(reply) == len(MESSAGE)


async def _receive(stream: trio.SocketStream, size: int) -> bytearray:
    """Receive `size` bytes, or fewer if the stream ends before that."""
    received = bytearray()
    while len(received) < size and (data := await stream.receive_some(_READ)):
        received += data
    return received


async def _take(stream: trio.SocketStream, size: int) -> None:
    """Receive `size` bytes and discard them."""
    while size:
        size -= len(await stream.receive_some(_READ))


async def _send_piecewise(stream: trio.SocketStream, count: int) -> None:
    for _ in range(count):
        await stream.send_all(PIECE)


@on_trio
async def trio_ping_pong(path: str) -> None:
    async with await trio.open_unix_socket(path) as stream:
        await repeat_async(functools.partial(_ping_pong, stream))


@on_trio
async def trio_messages(path: str, size: str) -> None:
    message = bytes(int(size))

    async def round_trip() -> None:
        await stream.send_all(message)
        assert len(await _receive(stream, len(message))) == len(message)

    async with await trio.open_unix_socket(path) as stream:
        await repeat_async(round_trip)


@on_trio
async def trio_pipeline(path: str) -> None:
    """Send all messages of a round without waiting for replies."""
    async with await trio.open_unix_socket(path) as stream:
        for count in rounds():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_take, stream, count * len(MESSAGE))
                for _ in range(count):
                    await stream.send_all(MESSAGE)


@on_trio
async def trio_upload(path: str) -> None:
    async with await trio.open_unix_socket(path) as stream:
        for count in rounds():
            await stream.send_all(encode_order(count))
            await _send_piecewise(stream, count)
            answer = await stream.receive_some(_READ)
            assert answer == ANSWER


@on_trio
async def trio_download(path: str, kind: str) -> None:
    size = len(_PIECES[kind])
    async with await trio.open_unix_socket(path) as stream:
        for count in rounds():
            await stream.send_all(encode_order(count))
            await _take(stream, count * size)


@on_trio
async def trio_both_ways(path: str) -> None:
    async with await trio.open_unix_socket(path) as stream:
        for count in rounds():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_take, stream, count * len(PIECE))
                await _send_piecewise(stream, count)


@on_trio
async def trio_beside_bulk(path: str, streams: str) -> None:
    async def download(stream: trio.SocketStream, count: int) -> None:
        await stream.send_all(encode_order(count))
        await _take(stream, count * len(PIECE))

    async with AsyncExitStack() as stack:
        small = await stack.enter_async_context(await trio.open_unix_socket(_small(path)))
        bulk = [
            await stack.enter_async_context(await trio.open_unix_socket(path))
            for _ in range(int(streams))
        ]
        downloads = [functools.partial(download, stream) for stream in bulk]
        await repeat_beside_bulk(downloads, functools.partial(_ping_pong, small))


@on_trio
async def trio_set_up(path: str) -> None:
    async def set_up() -> None:
        async with await trio.open_unix_socket(path) as stream:
            await _ping_pong(stream)

    await repeat_async(set_up)


@on_trio
async def trio_connections(path: str, each: str) -> None:
    """Hold connections open concurrently, and do `each` of the round's operations on every one."""

    async def hold(*, task_status: trio.TaskStatus[Do]) -> None:
        async with await trio.open_unix_socket(path) as stream:
            task_status.started(functools.partial(_ping_pong, stream))
            await trio.sleep_forever()

    await repeat_among(hold, int(each))


# --------------------------------------------------------------------------- blocking clients


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def _ping_pong_blocking(sock: socket.socket) -> None:
    sock.sendall(MESSAGE)
    reply = sock.recv(_READ)
    assert len(reply) == len(MESSAGE)


def blocking_ping_pong(path: str) -> None:
    with _connect(path) as sock:
        repeat(functools.partial(_ping_pong_blocking, sock))


def blocking_ping_pong_timed(path: str, beside: str = "nothing") -> None:
    with _connect(path) as sock:
        repeat_timed(functools.partial(_ping_pong_blocking, sock), beside)


def blocking_set_up(path: str) -> None:
    def set_up() -> None:
        with _connect(path) as sock:
            _ping_pong_blocking(sock)

    repeat(set_up)


def blocking_download(path: str, kind: str) -> None:
    size = len(_PIECES[kind])
    with _connect(path) as sock:
        for count in rounds():
            sock.sendall(encode_order(count))
            left = count * size
            while left:
                left -= len(sock.recv(_READ))
