"""Reach a server near the exporter, and explain why it cannot be reached."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio

from .._util.checks import check_int, check_text, raise_value_error
from .._util.fork import close_without_fork
from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["check_tcp_server", "open_server", "tcp_address"]


def check_tcp_server(driver: str, host: object, port: object) -> None:
    """Check the fields of a driver that say where its server is.

    Args:
        driver: The driver's class, for messages.
        host: Its host name or address.
        port: Its port.

    Raises:
        ConfigurationError: A field cannot be used.
    """
    name, accepted = f"host of {driver}", "a name or address, as a str"
    text = check_text(name, host, accepted, ConfigurationError)
    if not text or any(mark in text for mark in "/[]@ "):
        accepted = "a name or address alone, like 'board.lab' or '192.0.2.1', without a scheme,"
        raise_value_error(name, text, f"{accepted} a port or a path", ConfigurationError)
    check_int(f"port of {driver}", port, 1, 65535, error=ConfigurationError)


def tcp_address(host: str, port: int) -> str:
    """Return the address of a TCP server, like `tcp://board:80`."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


@asynccontextmanager
async def open_server(
    address: str, connect: Callable[..., Awaitable[trio.SocketStream]], *args: Any
) -> AsyncIterator[trio.SocketStream]:
    """Connect to a server, for the length of the block. Entering is a checkpoint.

    Args:
        address: The server's address, for errors.
        connect: Connects.
        args: The arguments of `connect`.

    Raises:
        OSError: (on entering) The connection failed; `filename` is the server's address.
    """
    with _explained(address):
        stream = await connect(*args)
    try:
        yield stream
    finally:
        close_without_fork(stream.socket)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Make an error name the server's address, and keep the system's error number."""
    try:
        yield
    except OSError as exc:
        first: BaseException | None = exc.__cause__
        while isinstance(first, BaseExceptionGroup):  # Trio adds one error per address of a name
            first = first.exceptions[0]
        why = first if exc.errno is None and isinstance(first, OSError) else exc
        if why.errno is None:
            raise OSError(f"{address}: {why}") from exc
        # Numbers below 0 are the resolver's (socket.gaierror), which os.strerror does not know.
        text = os.strerror(why.errno) if why.errno > 0 else why.strerror
        if why.errno in {errno.ENOENT, errno.ECONNREFUSED}:
            text = f"{text} (no server listens there)"
        raise OSError(why.errno, text, address) from exc
