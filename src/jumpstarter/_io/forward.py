"""Forward the connections of local sockets to streams that are opened for them.

Each connection has its own task and its own stream. Half-close is forwarded. A connection that
fails is reset, on TCP, so that its program does not take the truncated data for complete; the other
connections go on. When the block ends, nothing stays open.

The stream of a program that has gone must be closed, but while the device sends nothing, no write
fails that would reveal it. So a task watches each connection:

| state       | meaning                    | left by                                              |
|-------------|----------------------------|------------------------------------------------------|
| OPENING     | its stream is being opened | the stream is open: OPEN; the program has gone: GONE |
| OPEN        | bytes flow both ways       | the program's END was read: HALF_CLOSED; it has gone |
|             |                            | and the device takes nothing: GONE                   |
| HALF_CLOSED | the program may still read | it has gone, or may have and all is quiet: GONE      |
| GONE        | the scopes were cancelled  | none                                                 |

The task `_Program.watch` owns the state. This module does not know drivers or clients.
"""

from __future__ import annotations

import enum
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
from .byte_stream import SlotStream
from .hangup import at_end, is_gone
from .listener import SocketListener
from .sockets import listen_at_host, private_socket_path

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "QUIET_LIMIT",
    "STALL",
    "Opener",
    "forward",
    "forward_to",
    "keep_alive",
    "listen_tcp",
    "listen_unix",
]

_logger = logging.getLogger("jumpstarter.forward")

# Opens the stream for one connection.
Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[trio.abc.HalfCloseableStream]]

# Seconds of silence after which a program that may have gone is regarded as gone. A program that
# half-closes and waits has its answer by then, and the next user of the board waits only this long.
QUIET_LIMIT: Final = 30.0

# Seconds for which a device may accept none of the bytes of a program that has gone. Progress is
# visible in steps of half a window, for which a serial line at 9,600 baud may need 34 s.
STALL: Final = 60.0

_BACKLOG: Final = 1024  # connections that may wait to be accepted: a browser opens dozens together
_MAX_CONNECTIONS: Final = 512  # concurrent ones: half of a client's slots by default
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger
_FIRST_LOOK: Final = 0.02  # seconds between two looks for the program, doubled each time
_LAST_LOOK: Final = 1.0  # up to this
# TCP notices that a program's machine has gone after 10 s and three tries, 5 s apart.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


async def forward(one: trio.abc.HalfCloseableStream, other: trio.abc.HalfCloseableStream) -> None:
    """Copy bytes both ways until both directions have ended, or one fails. A checkpoint.

    Forwards the end of each direction by `send_eof`. Closes neither stream. Cancelling it loses the
    bytes that were read and not written. If a raw stream to a driver has failed, the bytes that had
    arrived from it before are still copied.

    Raises:
        Exception: The first exception of either stream, not wrapped in a group.
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
        except Exception as exc:  # noqa: BLE001 - raised below, outside the nursery, so not in a group
            failure = failure or exc
            # A slot that is over receives nothing more, so the other direction ends by itself.
            if not (isinstance(sink, SlotStream) and sink.over):
                scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, one, other, nursery.cancel_scope)
        nursery.start_soon(carry, other, one, nursery.cancel_scope)
    if failure is not None:
        raise failure


class ProgramState(enum.Enum):
    """See the table in the module's docstring."""

    OPENING = enum.auto()
    OPEN = enum.auto()
    HALF_CLOSED = enum.auto()
    GONE = enum.auto()


class _Program(trio.abc.HalfCloseableStream):
    """The connection of a program, with a watch that finds out when the program has gone.

    A program that goes is not a failure. Its bytes are still delivered while the device accepts
    them; bytes for it are dropped.

    Args:
        connection: The program's connection.
        quiet_limit: See `forward_to`.

    Attributes:
        all: The cancel scope of everything that is done for it. Cancelling it loses the bytes that
            were not delivered.
        carrying: The cancel scope, within that, of the forwarding.
        opened: Set when its stream is open.
        state: See the table in the module's docstring. Only `watch` changes it.
    """

    def __init__(self, connection: trio.SocketStream, quiet_limit: float) -> None:
        self._connection = connection
        self._quiet_limit = quiet_limit
        self.all, self.carrying = trio.CancelScope(), trio.CancelScope()
        self.opened = trio.Event()
        self.state: ProgramState = ProgramState.OPENING
        self._ended = trio.Event()  # all bytes of its half were read
        self._moved = 0  # transfers in either direction
        self._delivering = False  # the device has not accepted the last bytes yet
        self._deaf = False  # it has gone: bytes for it are dropped

    # ------------------------------------------------------------------------ as a stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive from the program. A program that is gone has ended its half."""
        self._delivering = False
        try:
            data = await self._connection.receive_some(max_bytes)
        except trio.BrokenResourceError:  # the program closed with unread bytes
            data = b""
        self._moved += 1
        self._delivering = bool(data)
        if not data:
            self._ended.set()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send to the program. If it is gone, the bytes are dropped."""
        self._moved += 1
        if self._deaf:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._connection.send_all(data)
        except trio.BrokenResourceError:
            self._deaf = True

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self._connection.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """End this half, if the program is still there."""
        with suppress(trio.BrokenResourceError):
            await self._connection.send_eof()

    async def aclose(self) -> None:
        """Close the connection to the program."""
        await self._connection.aclose()

    # -------------------------------------------------------------------------- the watch

    def has_hung_up(self) -> bool:
        """Return True if the program has gone and left nothing to deliver."""
        return at_end(self._connection.socket) and bool(is_gone(self._connection.socket))

    async def watch(self) -> None:
        """End the forwarding when the program has gone."""
        await self._watch_opening()
        self.state = ProgramState.OPEN
        await self._watch_open()
        self.state = ProgramState.HALF_CLOSED
        await self._watch_ended()
        self._end(self.carrying)

    def _end(self, scope: trio.CancelScope) -> None:
        self.state = ProgramState.GONE
        scope.cancel()

    async def _watch_opening(self) -> None:
        """State OPENING: return when its stream is open; cancel all if it hangs up before."""
        delay = _FIRST_LOOK
        while not self.opened.is_set():
            if self.has_hung_up():
                self._end(self.all)
            with trio.move_on_after(delay):
                await self.opened.wait()
            delay = min(2 * delay, _LAST_LOOK)

    async def _watch_open(self) -> None:
        """State OPEN: return at its END; cancel all if it has gone and the device accepts none."""
        while not self._ended.is_set():
            moved, delivering = self._moved, self._delivering
            with trio.move_on_after(STALL):
                await self._ended.wait()
            if delivering and moved == self._moved and is_gone(self._connection.socket):
                _logger.warning(
                    "a forwarded connection was ended: its program has gone, and the driver has "
                    "taken none of its bytes for %g s",
                    STALL,
                )
                self._end(self.all)

    async def _watch_ended(self) -> None:
        """State HALF_CLOSED: return when it has gone, or may have gone and all is quiet."""
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
    """Make a handler that forwards each connection to a stream that is opened for it.

    At most 512 connections are forwarded concurrently, half of a client's slots; others wait.

    Args:
        open_stream: Opens the stream for a connection.
        quiet_limit: Seconds without a byte in either direction after which a connection is ended if
            its program has ended its half and the system cannot tell whether the program has gone.

    Raises:
        ArgumentError: The limit is not a number of seconds.
    """
    check_seconds("quiet_limit", quiet_limit)
    places = trio.CapacityLimiter(_MAX_CONNECTIONS)

    async def handle(connection: trio.SocketStream) -> None:
        try:
            keep_alive(connection)
            await _carry(_Program(connection, quiet_limit), open_stream, places)
        except BaseException as exc:
            with suppress(OSError):  # the program may have closed it already
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
                    return  # without opening a stream
                async with open_stream() as stream:
                    program.opened.set()
                    with program.carrying:
                        await forward(program, stream)


def keep_alive(connection: trio.SocketStream) -> None:
    """Have the kernel find out within 25 s that the peer of a TCP connection is gone."""
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
    """Listen on a TCP port while the block runs. Entering and leaving are checkpoints.

    Args:
        handler: Called with each connection, in a task of its own; closes the connection. Its
            exceptions are logged. Cancelled at the end of the block.
        local_host: The address to listen at; by default only this machine can connect.
        local_port: The port; 0 takes any free port.

    Yields:
        The address and the port.

    Raises:
        OSError: Listening failed.
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
    """Listen on a Unix socket while the block runs. Only its owner can connect.

    Entering and leaving are checkpoints.

    Args:
        handler: As for `listen_tcp`.
        path: The socket's path; by default in a private directory. Removed at the end.

    Yields:
        The path.

    Raises:
        OSError: The path exists already, or its directory does not.
    """
    with private_socket_path() if not path else nullcontext(Path(path)) as where:
        with no_fork():
            bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener = SocketListener(bound)
        with bound:
            bound.bind(os.fspath(where))
            owner = os.getpid()
            try:
                where.chmod(0o600)  # no peer can connect before it listens
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
    """Log the failure of one connection, so that it does not end the others."""
    try:
        await handler(connection)
    except Exception:  # from the code of the stream or the driver
        _logger.exception("the handler of a local connection has failed")
