"""Listeners on local sockets, for code in either kind of loop; they need the extra `compat`."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from socket import AddressFamily
from typing import Any, TypeAlias

from .._io.sockets import private_socket_path as TemporarySocket  # noqa: N812 - drivers' name
from .._util.extras import requires_extra
from .._util.fork import close_in_children, is_child

with requires_extra("compat", "a listener for driver code"):
    import anyio
    from anyio.abc import AnyByteStream, SocketAttribute


__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["TemporarySocket", "TemporaryTcpListener", "TemporaryUnixListener"]

_logger = logging.getLogger("jumpstarter.forward")

_BACKLOG = 1024  # connections that may wait to be accepted: a browser opens dozens together

Handler: TypeAlias = Callable[[Any], Awaitable[Any]]


@asynccontextmanager
async def TemporaryTcpListener(  # noqa: N802, PLR0917 - as drivers import and call it
    handler: Handler,
    local_host: str = "127.0.0.1",
    local_port: int = 0,
    family: AddressFamily = AddressFamily.AF_UNSPEC,
    backlog: int = _BACKLOG,
    reuse_port: bool = False,
) -> AsyncIterator[tuple[Any, ...]]:
    """Listen on a TCP port while the block runs. Entering and leaving are checkpoints.

    Args:
        handler: Called with each connection, a stream of anyio, in a task of its own. It is
            cancelled at the end of the block. If it raises, that is logged, and the others go on.
        local_host: The address to listen at; by default only this machine can connect.
        local_port: The port; 0 takes any free port.
        family: The kind of address; by default whichever the host has.
        backlog: How many connections may wait to be accepted.
        reuse_port: Share the port with other sockets that have this option.

    Yields:
        The address: the host, the port, and for IPv6 two more numbers.

    Raises:
        OSError: Listening failed.
        ExceptionGroup: The block raised an exception; it is the only member. Drivers and client
            classes of the published package handle it so.
    """
    async with await anyio.create_tcp_listener(
        local_host=local_host,
        local_port=local_port,
        family=family,  # type: ignore[arg-type]  # anyio wants literals
        backlog=backlog,
        reuse_port=reuse_port,
    ) as listener:
        for each in listener.listeners:
            close_in_children(each.extra(SocketAttribute.raw_socket))
        async with _serving(listener, handler):
            yield tuple(listener.extra(SocketAttribute.local_address))


@asynccontextmanager
async def TemporaryUnixListener(  # noqa: N802 - the name that drivers import
    handler: Handler, path: str | os.PathLike[str] | None = None
) -> AsyncIterator[Path]:
    """Listen on a Unix socket while the block runs. Only its owner can connect.

    Entering and leaving are checkpoints.

    Args:
        handler: As for `TemporaryTcpListener`.
        path: The socket's path; by default in a private directory. Removed at the end.

    Yields:
        The path.

    Raises:
        OSError: Listening failed.
        ExceptionGroup: As for `TemporaryTcpListener`.
    """
    with TemporarySocket() if path is None else nullcontext(Path(path)) as where:
        async with await anyio.create_unix_listener(where, mode=0o600) as listener:
            close_in_children(listener.extra(SocketAttribute.raw_socket))
            owner = os.getpid()
            try:
                async with _serving(listener, handler):
                    yield where
            finally:
                if not is_child(owner):
                    where.unlink(missing_ok=True)


class _Owner:
    """The owner of a connection's descriptor; asyncio's own object cannot be referred to weakly."""

    def __init__(self, connection: Any) -> None:
        self.fileno: Callable[[], int] = connection.fileno


@asynccontextmanager
async def _serving(listener: Any, handler: Handler) -> AsyncIterator[None]:
    async def guarded(connection: AnyByteStream) -> None:
        owner = _Owner(connection.extra(SocketAttribute.raw_socket))
        close_in_children(owner)
        try:
            async with connection:
                await handler(connection)
        except Exception:  # of the driver's code; it must not end the other connections
            _logger.exception("the handler of a local connection has failed")
        finally:
            del owner  # it has lived as long as the connection

    # Not open_tasks: drivers expect what the block raises in an ExceptionGroup.
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, guarded, tasks)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
