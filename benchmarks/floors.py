"""The floors: bare bytes over a Unix socket, between a Trio server and a Trio or blocking client.

A message is taken to come in one piece: these few bytes do on a Unix socket, and a loop to make
sure would be the larger part of what is measured. That it did is checked.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from .ends import on_trio, stay
from .payloads import ANSWER, MESSAGE, PIECE, Tally, decode_order, encode_order
from .worker import rounds

__all__ = [
    "blocking_download",
    "blocking_ping_pong",
    "serve_downloads",
    "serve_echo",
    "serve_uploads",
    "trio_download",
    "trio_ping_pong",
    "trio_upload",
]

_READ: Final = 64 * 1024  # bytes: what Trio reads at once too
_PIECES: Final = {"message": MESSAGE, "piece": PIECE}


# ------------------------------------------------------------------------------------ servers


async def _serve(path: str, handler: Callable[[trio.SocketStream], Awaitable[object]]) -> None:
    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.bind(path)
        sock.listen()
        serve = functools.partial(trio.serve_listeners, handler, [trio.SocketListener(sock)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await stay()
            nursery.cancel_scope.cancel()


@on_trio
async def serve_echo(path: str) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    await _serve(path, echo)


@on_trio
async def serve_uploads(path: str) -> None:
    async def count(stream: trio.SocketStream) -> None:
        tally = Tally()
        async for data in stream:
            if tally.add(data):
                await stream.send_all(ANSWER)

    await _serve(path, count)


@on_trio
async def serve_downloads(path: str, kind: str) -> None:
    piece = _PIECES[kind]

    async def send(stream: trio.SocketStream) -> None:
        async for order in stream:
            for _ in range(decode_order(order)):
                await stream.send_all(piece)

    await _serve(path, send)


# ------------------------------------------------------------------------------- Trio clients


@on_trio
async def trio_ping_pong(path: str) -> None:
    async with await trio.open_unix_socket(path) as stream:
        for count in rounds():
            for _ in range(count):
                await stream.send_all(MESSAGE)
                reply = await stream.receive_some(_READ)
                assert len(reply) == len(MESSAGE)


@on_trio
async def trio_upload(path: str) -> None:
    async with await trio.open_unix_socket(path) as stream:
        for count in rounds():
            await stream.send_all(encode_order(count))
            for _ in range(count):
                await stream.send_all(PIECE)
            answer = await stream.receive_some(_READ)
            assert answer == ANSWER


@on_trio
async def trio_download(path: str, kind: str) -> None:
    size = len(_PIECES[kind])
    async with await trio.open_unix_socket(path) as stream:
        for count in rounds():
            await stream.send_all(encode_order(count))
            left = count * size
            while left:
                left -= len(await stream.receive_some(_READ))


# --------------------------------------------------------------------------- blocking clients


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def blocking_ping_pong(path: str) -> None:
    with _connect(path) as sock:
        for count in rounds():
            for _ in range(count):
                sock.sendall(MESSAGE)
                reply = sock.recv(_READ)
                assert len(reply) == len(MESSAGE)


def blocking_download(path: str, kind: str) -> None:
    size = len(_PIECES[kind])
    with _connect(path) as sock:
        for count in rounds():
            sock.sendall(encode_order(count))
            left = count * size
            while left:
                left -= len(sock.recv(_READ))
