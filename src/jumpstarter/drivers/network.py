"""A server near the exporter as a raw stream: what listens on a TCP port, or on a Unix socket.

With `portforward` of the client, whatever program runs beside the test can reach it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import trio

from .._io.sockets import open_tcp_stream, open_unix_stream
from .._util.checks import check_int, check_path, check_text
from .._util.fork import close_without_fork
from ..client import DriverClient
from ..driver import Driver, export, exportstream
from ..errors import ConfigurationError
from .mixins import StreamMixin

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["NetworkClient", "TcpNetwork", "UnixNetwork"]


@dataclass(kw_only=True)
class TcpNetwork(Driver):
    """A TCP server, connected to anew by each client that opens the stream.

    Attributes:
        host: Its name or address, as the exporter knows it.
        port: Its port.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_text(
            "host of TcpNetwork", self.host, "a name or address, as a str", ConfigurationError
        )
        check_int("port of TcpNetwork", self.port, 1, 65535, error=ConfigurationError)

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "jumpstarter.drivers.network.NetworkClient"

    @export
    def address(self) -> str:
        """Say where the server is, from the exporter's point of view."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """Connect to the server.

        Raises:
            OSError: It cannot be reached; `filename` is its address.
        """
        with _connecting(self.address()):
            stream = await open_tcp_stream(self.host, self.port)
        try:
            yield stream
        finally:
            close_without_fork(stream.socket)


@dataclass(kw_only=True)
class UnixNetwork(Driver):
    """A server on a Unix socket.

    Attributes:
        path: Of the socket.
    """

    path: str

    def __post_init__(self) -> None:
        """Check the field."""
        super().__post_init__()
        self.path = check_path("path of UnixNetwork", self.path, ConfigurationError)

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "jumpstarter.drivers.network.NetworkClient"

    @export
    def address(self) -> str:
        """Say where the server is, from the exporter's point of view."""
        return f"unix:{self.path}"

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """Connect to the server.

        Raises:
            OSError: It cannot be reached; `filename` is its address.
        """
        with _connecting(self.address()):
            stream = await open_unix_stream(self.path)
        try:
            yield stream
        finally:
            close_without_fork(stream.socket)


@contextmanager
def _connecting(address: str) -> Iterator[None]:
    """Have a failure say where the server was looked for, and keep the system's number."""
    try:
        yield
    except OSError as exc:
        first: BaseException | None = exc.__cause__
        while isinstance(first, BaseExceptionGroup):  # of Trio: one for each address of a name
            first = first.exceptions[0]
        why = first if exc.errno is None and isinstance(first, OSError) else exc
        if why.errno is None:
            raise OSError(f"{address}: {why}") from exc
        text = (
            os.strerror(why.errno) if why.errno > 0 else why.strerror
        )  # below 0 is the resolver's
        if why.errno in {errno.ENOENT, errno.ECONNREFUSED}:
            text = f"{text} (no server listens there)"
        raise OSError(why.errno, text, address) from exc


class NetworkClient(StreamMixin, DriverClient):
    """What a test has of a server: `connect()` and `portforward()`."""

    def address(self) -> str:
        """Say where the server is, from the exporter's point of view."""
        return self.call_as(str, "address")
