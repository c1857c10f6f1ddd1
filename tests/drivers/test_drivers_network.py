"""Tests of `jumpstarter.drivers.network`, against real servers."""

from __future__ import annotations

import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

import pytest

from helpers import PATIENCE, served
from jumpstarter.driver import Driver
from jumpstarter.drivers.network import NetworkClient, TcpNetwork, UnixNetwork
from jumpstarter.errors import (
    ConfigurationError,
    DriverConnectionError,
    DriverOSError,
    EndOfStream,
)


class Upper(socketserver.StreamRequestHandler):
    """A handler that reads until the client ends its half, and then answers."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with server:
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def tcp() -> Iterator[Driver]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upper)
    with running(server):
        yield TcpNetwork(host="127.0.0.1", port=server.server_address[1])


@contextmanager
def unix() -> Iterator[Driver]:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory, "socket"))
        with running(socketserver.ThreadingUnixStreamServer(path, Upper)):
            yield UnixNetwork(path=path)


@pytest.mark.parametrize("made", [tcp, unix])
def test_network_client_reaches_a_server_near_the_exporter(
    made: Callable[[], AbstractContextManager[Driver]],
) -> None:
    with made() as driver, served(driver) as client:
        network = cast("NetworkClient", client)
        with network.connect() as stream:
            stream.send(b"hello")
            stream.send_eof()
            assert b"".join(stream) == b"HELLO"
            with pytest.raises(EndOfStream):
                stream.receive()
        with (
            network.portforward() as address,
            socket.create_connection(address, timeout=PATIENCE) as connection,
        ):
            connection.sendall(b"hello")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b"HELLO"


def test_address_is_the_one_that_the_exporter_uses() -> None:
    drivers = {
        "tcp://board:80": TcpNetwork(host="board", port=80),
        "tcp://[::1]:80": TcpNetwork(host="::1", port=80),
        "unix:/run/board": UnixNetwork(path="/run/board"),
    }
    for expected, driver in drivers.items():
        with served(driver) as client:
            assert cast("NetworkClient", client).address() == expected


def test_missing_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        served(TcpNetwork(host="127.0.0.1", port=port)) as client,
        pytest.raises((DriverConnectionError, DriverOSError)),
    ):
        client.open_stream()
    with (
        served(UnixNetwork(path="/no/such/socket")) as client,
        pytest.raises(DriverOSError, match="No such file"),
    ):
        client.open_stream()


@pytest.mark.parametrize("host", ["http://localhost", "localhost/path", "[::1]", "a b", ""])
def test_tcp_network_refuses_a_host_that_is_a_url(host: str) -> None:
    with pytest.raises(ConfigurationError, match="host of TcpNetwork must be a name or address"):
        TcpNetwork(host=host, port=80)
