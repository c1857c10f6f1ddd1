"""Test that `socket.setdefaulttimeout` neither shortens waits nor truncates data."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trustme

from drivers_for_tests import Echo
from helpers import PATIENCE, served
from jumpstarter import connect, serve_async
from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import TcpPortforwardAdapter, UnixPortforwardAdapter
from jumpstarter.driver import export
from jumpstarter.drivers.network import TcpNetwork, UnixNetwork
from jumpstarter.portal import start_blocking_portal

TIMEOUT = 0.05  # seconds
PAYLOAD = bytes(range(256)) * 12_000  # 3 MB: more than all buffers and windows together


@dataclass(kw_only=True)
class Slow(Echo):
    """A driver whose call takes longer than the default timeout."""

    @export
    def nap(self) -> str:
        time.sleep(6 * TIMEOUT)
        return "slept"


@pytest.fixture(autouse=True)
def _default_timeout() -> Iterator[None]:
    socket.setdefaulttimeout(TIMEOUT)
    yield
    socket.setdefaulttimeout(None)


@pytest.fixture(params=["unix", "tcp", "tls"])
def client(request: pytest.FixtureRequest) -> Iterator[DriverClient]:
    """Yield a client over each kind of transport."""
    directory = tempfile.mkdtemp(prefix="timeout-")
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    address = f"unix:{directory}/socket" if request.param == "unix" else "tcp://localhost:0"
    if request.param == "tls":
        authority = trustme.CA()
        address = "tls://localhost:0"
        theirs["ssl_context"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(theirs["ssl_context"])
        ours["ssl_context"] = ssl.create_default_context()
        authority.configure_trust(ours["ssl_context"])
    serving = serve_async(Slow(), address, **theirs)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving) as server,
        connect(server.address, **ours) as client,
        client.timeout(3 * PATIENCE),
    ):
        yield client
    shutil.rmtree(directory)


def echoed(stream: Any) -> bytes:
    """Send PAYLOAD to a raw stream or a socket, and return the echo."""
    is_socket = isinstance(stream, socket.socket)
    sender = threading.Thread(target=stream.sendall if is_socket else stream.send, args=(PAYLOAD,))
    sender.start()
    heard = bytearray()
    while len(heard) < len(PAYLOAD):
        data = stream.recv(65536) if is_socket else stream.receive()
        assert data
        heard += data
    sender.join(PATIENCE)
    return bytes(heard)


def test_calls_and_large_values_are_complete(client: DriverClient) -> None:
    assert client.call("nap") == "slept"
    assert client.call("echo", PAYLOAD) == PAYLOAD
    time.sleep(2 * TIMEOUT)
    assert client.call("echo_async", PAYLOAD) == PAYLOAD
    assert list(client.streamingcall("count", 1000)) == list(range(1000))


def test_raw_streams_are_complete(client: DriverClient) -> None:
    with client.stream() as stream:
        time.sleep(2 * TIMEOUT)
        assert echoed(stream) == PAYLOAD


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_forwarded_connections_are_complete(client: DriverClient, kind: str) -> None:
    with connected(client, kind) as program:
        time.sleep(2 * TIMEOUT)
        assert echoed(program) == PAYLOAD


@contextmanager
def connected(client: DriverClient, kind: str) -> Iterator[socket.socket]:
    """Yield a program's connection to a forwarded stream, with a long timeout of its own."""
    if kind == "tcp":
        with (
            TcpPortforwardAdapter(client=client) as address,
            socket.create_connection(address, timeout=PATIENCE) as program,
        ):
            yield program
    else:
        with (
            UnixPortforwardAdapter(client=client) as path,
            socket.socket(socket.AF_UNIX) as program,
        ):
            program.settimeout(PATIENCE)
            program.connect(path)
            yield program


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_network_driver_streams_are_complete(kind: str) -> None:
    family, name = (socket.AF_INET, ("127.0.0.1", 0)) if kind == "tcp" else (socket.AF_UNIX, "")
    with socket.socket(family) as listener, tempfile.TemporaryDirectory() as directory:
        listener.bind(name or f"{directory}/socket")
        listener.listen()
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=echo_one, args=(listener,))
        thread.start()
        driver = (
            TcpNetwork(host="127.0.0.1", port=listener.getsockname()[1])
            if kind == "tcp"
            else UnixNetwork(path=f"{directory}/socket")
        )
        with served(driver) as network, network.timeout(3 * PATIENCE), network.stream() as stream:
            time.sleep(2 * TIMEOUT)
            assert echoed(stream) == PAYLOAD
        thread.join(PATIENCE)


def echo_one(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(PATIENCE)
        while data := connection.recv(65536):
            connection.sendall(data)
