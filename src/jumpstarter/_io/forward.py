"""Local sockets whose connections are carried on somewhere else, bytes both ways.

Each connection has a task of its own, and a stream of its own at the other end. Half-close is
passed on. One that fails ends in a reset where the socket has such a thing, so that nobody takes
what has come for all there was; the others go on. Nothing is left when the block ends.

A program that has gone needs no stream any more, and a device that says nothing would never find
out. So a connection is watched once its program has ended its half: see `_Program`.

This file knows Trio streams, and nothing of drivers or clients.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from .._util.background import open_background
from .._util.checks import check_seconds
from .._util.fork import close_without_fork, is_child, no_fork
from .addresses import Address
from .hangup import at_end, is_gone
from .listener import SocketListener
from .sockets import listen_at_host, private_socket_path

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["QUIET_LIMIT", "STALL", "Opener", "forward", "forward_to", "listen_tcp", "listen_unix"]

_logger = logging.getLogger("jumpstarter.forward")

# Opens the other end for one connection.
Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[trio.abc.HalfCloseableStream]]

# Seconds, where nobody can tell whether a program has gone. Programs that end their half and wait
# have an answer by then, or its first bytes; and a board is not kept from the next user for long.
QUIET_LIMIT: Final = 30.0

# Seconds in which a device may take nothing of what a program has left that has gone. We hear of
# half a window at a time, for which a serial line at 9,600 baud may need 34 s.
STALL: Final = 60.0

_BACKLOG: Final = 1024  # connections that may wait to be accepted: a browser opens dozens at once
_MOST: Final = 512  # connections carried at once: half of the slots that a client has by default
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger
_FIRST_LOOK: Final = 0.02  # seconds until a program is looked for again; each time twice as long,
_LAST_LOOK: Final = 1.0  # up to this
# How soon TCP finds that a program's whole machine has gone: after 10 s, and three tries each 5 s.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


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
        except Exception as exc:  # noqa: BLE001 - raised below as it is, in no group
            failure = failure or exc
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, one, other, nursery.cancel_scope)
        nursery.start_soon(carry, other, one, nursery.cancel_scope)
    if failure is not None:
        raise failure


class _Program(trio.abc.HalfCloseableStream):
    """The connection of a program, and a look at whether the program is still there.

    A program that has gone is no failure. What it has sent is still delivered, as long as the
    device takes it; what the device says to it is dropped.

    Args:
        connection: The program's.
        quiet_limit: See `forward_to`.

    Attributes:
        all: The scope of all that is done for it. Cancelled, what was not delivered is lost.
        carrying: The scope in which bytes are carried, within that.
        opened: There is a stream for it.
    """

    def __init__(self, connection: trio.SocketStream, quiet_limit: float) -> None:
        self._connection = connection
        self._quiet_limit = quiet_limit
        self.all, self.carrying = trio.CancelScope(), trio.CancelScope()
        self.opened = trio.Event()
        self._ended = trio.Event()  # its half has, and we have read all of it
        self._moved = 0  # how often bytes went either way
        self._delivering = False  # we have some of its bytes, which the device has not taken yet
        self._deaf = False  # it takes no more

    # ------------------------------------------------------------------------ as a stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self._delivering = False
        try:
            data = await self._connection.receive_some(max_bytes)
        except trio.BrokenResourceError:  # most often it had not read all when it went
            data = b""
        self._moved += 1
        self._delivering = bool(data)
        if not data:
            self._ended.set()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._moved += 1
        if self._deaf:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._connection.send_all(data)
        except trio.BrokenResourceError:
            self._deaf = True

    async def wait_send_all_might_not_block(self) -> None:
        await self._connection.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        with suppress(trio.BrokenResourceError):
            await self._connection.send_eof()

    async def aclose(self) -> None:
        await self._connection.aclose()

    # -------------------------------------------------------------------------- the watch

    def has_hung_up(self) -> bool:
        """Tell if it has gone and left nothing that is to be delivered."""
        return at_end(self._connection.socket) and bool(is_gone(self._connection.socket))

    async def watch(self) -> None:
        """End all that is done for it once it has gone."""
        await self._watch_opening()
        await self._watch_open()
        await self._watch_ended()
        self.carrying.cancel()

    async def _watch_opening(self) -> None:
        """Return once there is a stream for it, or end all if it hangs up before."""
        delay = _FIRST_LOOK
        while not self.opened.is_set():
            if self.has_hung_up():
                self.all.cancel()
            with trio.move_on_after(delay):
                await self.opened.wait()
            delay = min(2 * delay, _LAST_LOOK)

    async def _watch_open(self) -> None:
        """Return once its half has ended; end all if it has gone and the device takes nothing."""
        while not self._ended.is_set():
            moved, delivering = self._moved, self._delivering
            with trio.move_on_after(STALL):
                await self._ended.wait()
            if delivering and moved == self._moved and is_gone(self._connection.socket):
                _logger.warning(
                    "a forwarded connection was ended: its program has gone, and the driver has "
                    "taken nothing of what it left for %g s",
                    STALL,
                )
                self.all.cancel()

    async def _watch_ended(self) -> None:
        """Return once a program that has ended its half has gone, or may have, and all is quiet."""
        delay, moved, since = _FIRST_LOOK, self._moved, trio.current_time()
        while not (gone := is_gone(self._connection.socket)):
            await trio.sleep(delay)
            delay = min(2 * delay, _LAST_LOOK)
            if moved != self._moved:
                moved, since = self._moved, trio.current_time()
            elif gone is None and trio.current_time() - since >= self._quiet_limit:
                _logger.warning(
                    "a forwarded connection was ended: its program has ended its half, the driver "
                    "has said nothing for %g s (quiet_limit), and nobody can tell from here if the "
                    "program is still there",
                    self._quiet_limit,
                )
                return


def forward_to(
    open_stream: Opener, *, quiet_limit: float = QUIET_LIMIT
) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """Make a handler that carries each connection to a stream opened for it.

    Of many concurrent ones some wait, so that the slots which the opener uses are never all taken.

    Args:
        open_stream: Opens the stream.
        quiet_limit: Seconds without a byte either way until a connection is ended whose program has
            ended its half, if nobody can tell whether the program is still there.

    Raises:
        ArgumentError: The limit is not a number of seconds.
    """
    check_seconds("quiet_limit", quiet_limit)
    places = trio.CapacityLimiter(_MOST)

    async def handle(connection: trio.SocketStream) -> None:
        try:
            _keep_alive(connection)
            await _carry(_Program(connection, quiet_limit), open_stream, places)
        except BaseException as exc:
            with suppress(OSError):  # it may have gone by itself
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            if not isinstance(exc, Exception):
                raise
            _logger.warning("a forwarded connection has failed: %s", exc)
        finally:
            close_without_fork(connection.socket)

    return handle


async def _carry(program: _Program, open_stream: Opener, places: trio.CapacityLimiter) -> None:
    with program.all:
        async with open_background() as watching:
            watching.start_soon(program.watch)
            async with places:
                if program.has_hung_up():
                    return  # it costs no device
                async with open_stream() as stream:
                    program.opened.set()
                    with program.carrying:
                        await forward(program, stream)


def _keep_alive(connection: trio.SocketStream) -> None:
    if connection.socket.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


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
    where = Address("tcp", host=local_host, port=local_port)
    listeners = await listen_at_host(where, anywhere=True)
    address, port, *_ = listeners[0].socket.getsockname()
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
    with private_socket_path() if not path else nullcontext(Path(path)) as where:
        with no_fork():
            bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener = SocketListener(bound)
        with bound:
            bound.bind(os.fspath(where))
            owner = os.getpid()
            try:
                where.chmod(0o600)  # nobody can connect before it listens
                bound.listen(_BACKLOG)
                async with _serving([listener], handler):
                    yield str(where)
            finally:
                if not is_child(owner):
                    where.unlink(missing_ok=True)


@asynccontextmanager
async def _serving(
    listeners: list[SocketListener], handler: Callable[[trio.SocketStream], Awaitable[Any]]
) -> AsyncIterator[None]:
    guarded = partial(_guard, handler)
    try:
        async with open_background() as nursery:
            await nursery.start(partial(trio.serve_listeners, guarded, listeners))
            yield
    finally:
        for listener in listeners:
            close_without_fork(listener.socket)


async def _guard(
    handler: Callable[[trio.SocketStream], Awaitable[Any]], connection: trio.SocketStream
) -> None:
    """Keep one connection's trouble from the others."""
    try:
        await handler(connection)
    except Exception:  # of the stream's or the driver's own code, in the loop
        _logger.exception("the handler of a local connection has failed")
