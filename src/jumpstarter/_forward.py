"""Local sockets whose connections are carried on somewhere else, bytes both ways.

Each connection has a task of its own, and a stream of its own at the other end. Half-close is
passed on. One that fails ends in a reset where the socket has such a thing, so that nobody takes
what has come for all there was; the others go on. Nothing is left when the block ends.

This file knows Trio streams, and nothing of drivers or clients.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from ._background import open_background

__all__ = ["Opener", "forward", "forward_to", "listen_tcp", "listen_unix"]

_logger = logging.getLogger("jumpstarter.forward")

# Opens the other end for one connection.
Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[trio.abc.HalfCloseableStream]]

_BACKLOG: Final = 1024  # connections that may wait to be accepted: a browser opens dozens at once
_MOST: Final = 512  # connections carried at once: half of the slots that a client has by default
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger


async def forward(one: trio.abc.HalfCloseableStream, other: trio.abc.HalfCloseableStream) -> None:
    """Carry bytes both ways until both directions have ended, or one fails. A checkpoint.

    Neither stream is closed, but each is told when the other has no more to send.

    Raises:
        Exception: What a stream has raised, in whichever direction came first.
    """
    failure: Exception | None = None

    async def carry(
        source: trio.abc.ReceiveStream,
        sink: trio.abc.HalfCloseableStream,
        scope: trio.CancelScope,
    ) -> None:
        nonlocal failure
        try:
            while data := await source.receive_some():
                await sink.send_all(data)
            await sink.send_eof()
        except Exception as exc:  # noqa: BLE001 - raised below, alone and not in a group
            failure = failure or exc
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, one, other, nursery.cancel_scope)
        nursery.start_soon(carry, other, one, nursery.cancel_scope)
    if failure is not None:
        raise failure


def forward_to(open_stream: Opener) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """Make a handler that carries each connection to a stream opened for it.

    Of many at once some wait, so that the slots of whoever opens them are never all taken.
    """
    places = trio.CapacityLimiter(_MOST)

    async def handle(connection: trio.SocketStream) -> None:
        async with connection:
            try:
                async with places, open_stream() as stream:
                    await forward(connection, stream)
            except BaseException as exc:
                with suppress(OSError):  # it may have gone by itself
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                if not isinstance(exc, Exception):
                    raise
                _logger.warning("a forwarded connection has failed: %s", exc)

    return handle


@asynccontextmanager
async def listen_tcp(
    handler: Callable[[trio.SocketStream], Awaitable[Any]],
    *,
    local_host: str = "127.0.0.1",
    local_port: int = 0,
) -> AsyncIterator[tuple[str, int]]:
    """Listen on a TCP port, for the length of the block.

    Args:
        handler: Is called with each connection, in a task of its own, and closes it. What it
            raises is logged, and the others go on. Cancelled at the end of the block.
        local_host: Where to listen; by default nobody but this machine can connect.
        local_port: By default, any that is free.

    Yields:
        The address and the port.

    Raises:
        OSError: It cannot be listened on.
    """
    listeners = await trio.open_tcp_listeners(local_port, host=local_host, backlog=_BACKLOG)
    address, port, *_ = listeners[0].socket.getsockname()
    if local_port == 0:  # which each of a name's addresses has taken another for
        for listener in listeners[1:]:
            await listener.aclose()
        del listeners[1:]
    async with _serving(listeners, handler):
        yield address, port


@asynccontextmanager
async def listen_unix(
    handler: Callable[[trio.SocketStream], Awaitable[Any]], *, path: str | os.PathLike[str] = ""
) -> AsyncIterator[str]:
    """Listen on a Unix socket, for the length of the block. Its owner alone can connect.

    Args:
        handler: As for `listen_tcp`.
        path: Where; by default in a private directory. It is gone at the end.

    Yields:
        The path.

    Raises:
        OSError: It cannot be made: something is there already, or there is no such directory.
    """
    with tempfile.TemporaryDirectory(prefix="jumpstarter-") as private:
        where = Path(path) if path else Path(private, "socket")
        with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as bound:
            await bound.bind(str(where))
            try:
                where.chmod(0o600)  # nobody can connect before it listens
                bound.listen(_BACKLOG)
                async with _serving([trio.SocketListener(bound)], handler):
                    yield str(where)
            finally:
                where.unlink(missing_ok=True)


@asynccontextmanager
async def _serving(
    listeners: list[trio.SocketListener], handler: Callable[[trio.SocketStream], Awaitable[Any]]
) -> AsyncIterator[None]:
    guarded = partial(_guard, handler)
    try:
        async with open_background() as nursery:
            await nursery.start(partial(trio.serve_listeners, guarded, listeners))
            yield
    finally:
        for listener in listeners:
            listener.socket.close()


async def _guard(
    handler: Callable[[trio.SocketStream], Awaitable[Any]], connection: trio.SocketStream
) -> None:
    """Keep one connection's trouble from the others."""
    try:
        await handler(connection)
    except Exception:
        _logger.exception("the handler of a local connection has failed")
