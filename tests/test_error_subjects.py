"""Test that a system error names its subject: the path, the address or the program."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from helpers import PATIENCE, served
from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import TcpPortforwardAdapter, UnixPortforwardAdapter
from jumpstarter.driver import Driver
from jumpstarter.drivers.network import TcpNetwork, UnixNetwork
from jumpstarter.drivers.serial import SerialPort
from jumpstarter.drivers.shell import Shell, ShellClient
from jumpstarter.drivers.storage import FileStorage, StorageClient
from jumpstarter.errors import DriverError
from ports import free_port

MISSING = "/no/such/thing"


@pytest.fixture
def dead_socket(tmp_path: Path) -> str:
    """Return the path of a Unix socket without a listener."""
    path = str(tmp_path / "dead")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
    return path


def failure_to_open(driver: Driver) -> OSError:
    with (
        served(driver) as client,
        client.timeout(PATIENCE),
        pytest.raises(OSError, match=r"connect") as caught,
    ):
        client.open_stream()
    assert isinstance(caught.value, DriverError)
    return cast("OSError", caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_missing_tcp_server_is_named(host: str) -> None:
    port = free_port()
    error = failure_to_open(TcpNetwork(host=host, port=port))
    assert error.errno == errno.ECONNREFUSED
    assert isinstance(error, ConnectionRefusedError)
    assert f"no server listens there): 'tcp://{host}:{port}'" in str(error)


def test_unknown_host_is_named() -> None:
    error = failure_to_open(TcpNetwork(host="no-such-host.invalid", port=80))
    assert "tcp://no-such-host.invalid:80" in str(error)


def test_missing_unix_server_is_named(dead_socket: str) -> None:
    error = failure_to_open(UnixNetwork(path=MISSING))
    assert isinstance(error, FileNotFoundError)
    assert error.errno == errno.ENOENT
    assert f"(no server listens there): 'unix:{MISSING}'" in str(error)
    error = failure_to_open(UnixNetwork(path=dead_socket))
    assert isinstance(error, ConnectionRefusedError)
    assert f"'unix:{dead_socket}'" in str(error)


def test_too_long_path_is_named() -> None:
    path = "/tmp/" + "x" * 200  # noqa: S108 - never created
    assert path in str(failure_to_open(UnixNetwork(path=path)))


@pytest.mark.parametrize(
    ("url", "number"),
    [(MISSING, errno.ENOENT), ("/", errno.EISDIR), ("/dev/null", errno.ENOTTY)],
)
def test_file_that_is_not_a_serial_port_is_named(url: str, number: int) -> None:
    error = failure_to_open(SerialPort(url=url))
    assert error.errno == number
    assert str(error).endswith(f": '{url}'")


def test_missing_program_is_named() -> None:
    with (
        served(Shell(commands={"boot": [MISSING, "now"]})) as client,
        pytest.raises(FileNotFoundError, match=MISSING),
    ):
        cast("ShellClient", client).run("boot")


def test_unusable_storage_path_is_named(tmp_path: Path) -> None:
    image = tmp_path / "image.img"
    image.write_bytes(b"an image")
    with served(FileStorage(path=MISSING)) as client:
        storage = cast("StorageClient", client)
        with pytest.raises(FileNotFoundError, match=rf"'{MISSING}'"):
            storage.flash(image)
        with pytest.raises(FileNotFoundError, match=rf"'{MISSING}'"):
            storage.dump(tmp_path / "dump.img")


def test_unusable_local_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "image.img").write_bytes(b"an image")
    with served(FileStorage(path=str(tmp_path / "image.img"))) as client:
        storage = cast("StorageClient", client)
        with pytest.raises(FileNotFoundError, match=rf"'{MISSING}'"):
            storage.flash(MISSING)
        with pytest.raises(FileNotFoundError, match=rf"'{MISSING}'"):
            storage.dump(MISSING)


@pytest.fixture
def client() -> Iterator[DriverClient]:
    with served(UnixNetwork(path=MISSING)) as client:
        yield client


def test_local_port_in_use_is_named(client: DriverClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with (
            pytest.raises(OSError, match=rf"in use.*'127.0.0.1:{port}'"),
            TcpPortforwardAdapter(client=client, local_port=port),
        ):
            raise AssertionError


def test_unusable_local_socket_path_is_named(client: DriverClient, dead_socket: str) -> None:
    for path in (MISSING, dead_socket, "/tmp/" + "x" * 200):  # noqa: S108 - as above
        with (
            pytest.raises(OSError, match=path),
            UnixPortforwardAdapter(client=client, path=path),
        ):
            raise AssertionError


def test_an_error_of_the_body_is_not_renamed(client: DriverClient) -> None:
    with (
        pytest.raises(OSError, match=r"^\[Errno 5\] mine$"),
        TcpPortforwardAdapter(client=client),
    ):
        raise OSError(errno.EIO, "mine")
