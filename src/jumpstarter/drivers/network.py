"""A server near the exporter as a raw stream: one that listens on a TCP port or a Unix socket.

With the client's `portforward`, any program on the client's machine can connect to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from .._io.sockets import open_tcp_stream, open_unix_stream
from .._util.checks import check_path
from ..client import DriverClient
from ..driver import Driver, export, exportstream
from ..errors import ConfigurationError
from ._servers import check_tcp_server, open_server, tcp_address
from .mixins import StreamMixin

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["NetworkClient", "TcpNetwork", "UnixNetwork"]


@dataclass(kw_only=True)
class TcpNetwork(Driver):
    """A TCP server. Each stream that a client opens is a new connection to it.

    Attributes:
        host: A host name or an IP address, as the exporter resolves it.
        port: The TCP port.

    Raises:
        ConfigurationError: A field cannot be used.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_tcp_server("TcpNetwork", self.host, self.port)

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.network.NetworkClient"

    @export(read_only=True)
    def address(self) -> str:
        """Return the server's address as the exporter sees it, like `tcp://board:80`."""
        return tcp_address(self.host, self.port)

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """Connect to the server.

        Raises:
            OSError: The connection failed; `filename` is the server's address.
        """
        place = (self.host, self.port)
        async with open_server(self.address(), open_tcp_stream, *place) as stream:
            yield stream


@dataclass(kw_only=True)
class UnixNetwork(Driver):
    """A server on a Unix socket. Each stream that a client opens is a new connection to it.

    Attributes:
        path: The path of the socket.

    Raises:
        ConfigurationError: A field cannot be used.
    """

    path: str

    def __post_init__(self) -> None:
        """Check the field."""
        super().__post_init__()
        self.path = check_path("path of UnixNetwork", self.path, ConfigurationError)

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.network.NetworkClient"

    @export(read_only=True)
    def address(self) -> str:
        """Return the server's address as the exporter sees it, like `unix:/run/board`."""
        return f"unix:{self.path}"

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """Connect to the server.

        Raises:
            OSError: The connection failed; `filename` is the server's address.
        """
        async with open_server(self.address(), open_unix_stream, self.path) as stream:
            yield stream


class NetworkClient(StreamMixin, DriverClient):
    """The client of a server: `connect()` and `portforward()`."""

    def address(self) -> str:
        """Return the server's address as the exporter sees it."""
        return self.call_as(str, "address")
