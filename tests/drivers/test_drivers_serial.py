"""Tests of `jumpstarter.drivers.serial`, on a pseudo-terminal and on pyserial's `loop://`."""

from __future__ import annotations

import os
import socket
import sys
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE, served
from jumpstarter.client import BlockingStream
from jumpstarter.drivers.serial import SerialClient, SerialPort
from jumpstarter.errors import DriverConnectionError, DriverError, DriverOSError, DriverTimeoutError


@pytest.fixture
def line() -> Iterator[tuple[int, str]]:
    """Yield a pseudo-terminal: the board's end as a file descriptor, and the path of its port."""
    board, port = os.openpty()
    tty.setraw(port)
    yield board, os.ttyname(port)
    os.close(port)
    os.close(board)


def heard(stream: BlockingStream, count: int) -> bytes:
    """Receive at least `count` bytes."""
    data = b""
    while len(data) < count:
        data += stream.receive()
    return data


def read(descriptor: int, count: int) -> bytes:
    """Read at least `count` bytes."""
    data = b""
    while len(data) < count:
        data += os.read(descriptor, 1024)
    return data


def test_serial_port_carries_all_byte_values_unchanged(line: tuple[int, str]) -> None:
    board, path = line
    with served(SerialPort(url=path)) as client:
        assert isinstance(client, SerialClient)
        assert client.port() == path
        with client.connect() as stream:
            stream.send(bytes(range(256)))
            assert read(board, 256) == bytes(range(256))
            os.write(board, bytes(range(256)))
            assert heard(stream, 256) == bytes(range(256))


def test_serial_port_delivers_the_last_bytes_before_it_closes(line: tuple[int, str]) -> None:
    board, path = line
    with served(SerialPort(url=path)) as client, client.stream() as stream:
        stream.send(b"reboot\n")
    assert read(board, 7) == b"reboot\n"


def test_serial_port_refuses_a_second_client(line: tuple[int, str]) -> None:
    with served(SerialPort(url=line[1])) as client:
        first = client.open_stream()
        with pytest.raises(DriverOSError, match="in use by another client"):
            client.open_stream()
        first.close()
        client.open_stream().close()


def test_serial_port_accepts_a_path_object(line: tuple[int, str]) -> None:
    path: Any = Path(line[1])
    with served(SerialPort(url=path)) as client:
        assert client.call("port") == line[1]
        client.open_stream().close()


def test_missing_serial_port_is_named_in_the_error() -> None:
    with (
        served(SerialPort(url="/dev/no-such-port")) as client,
        pytest.raises(DriverOSError, match="/dev/no-such-port"),
    ):
        client.open_stream()


def test_a_board_that_hangs_up_breaks_the_stream() -> None:
    board, port = os.openpty()
    path = os.ttyname(port)
    with served(SerialPort(url=path)) as client:
        stream = client.open_stream()
        os.close(port)
        os.close(board)
        with pytest.raises(DriverConnectionError):
            heard(stream, 1)
        with pytest.raises(DriverConnectionError):
            stream.close()


def test_serial_client_supports_pexpect(line: tuple[int, str]) -> None:
    board, path = line
    with served(SerialPort(url=path)) as client:
        assert isinstance(client, SerialClient)
        with client.pexpect(timeout=PATIENCE) as session:
            os.write(board, b"board login: ")
            session.expect("login: ")
            session.sendline("root")
            assert read(board, 5) == b"root\n"


def test_serial_port_without_a_descriptor_uses_threads() -> None:
    with served(SerialPort(url="loop://", baudrate=1_000_000)) as client:
        with client.stream() as stream:
            data = os.urandom(20_000)
            half = len(data) // 2
            stream.send(data[:1000])
            assert heard(stream, 1000) == data[:1000]
            for start in range(1000, half, 1000):
                stream.send(data[start : start + 1000])
                assert heard(stream, 1000) == data[start : start + 1000]
        client.open_stream().close()


def test_blocked_write_does_not_keep_a_cancelled_stream_open() -> None:
    with served(SerialPort(url="loop://", baudrate=1_000_000)) as client:
        stream = client.open_stream()
        with pytest.raises(DriverTimeoutError), client.timeout(0.5):
            stream.send(bytes(50_000_000))  # nothing reads these bytes
        stream.close()


def test_missing_pyserial_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with (
        served(SerialPort(url="loop://")) as client,
        pytest.raises(DriverError, match=r"the extra 'serial'.*pip install .*\[serial\]"),
    ):
        client.open_stream()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_forwarded_port_is_free_after_its_program_quits_even_if_the_board_is_silent(
    kind: str, line: tuple[int, str]
) -> None:
    board, path = line
    with served(SerialPort(url=path)) as client, ExitStack() as stack:
        assert isinstance(client, SerialClient)
        name: Any
        if kind == "tcp":
            family, name = socket.AF_INET, stack.enter_context(client.portforward())
        else:
            family, name = socket.AF_UNIX, stack.enter_context(client.portforward_unix())
        with socket.socket(family) as program:
            program.connect(name)
            program.sendall(b"one\n")
            assert read(board, 4) == b"one\n"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                with client.connect() as stream:  # fails while the port is in use
                    stream.send(b"two\n")
                    assert read(board, 4) == b"two\n"
                    return
            except DriverOSError:
                time.sleep(0.05)
        raise AssertionError("the port stays in use")
