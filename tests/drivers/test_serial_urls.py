"""Tests of ports that use their own `read` and `write`: pyserial's wrappers and URLs."""

from __future__ import annotations

import os
import socket
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import serial
import serial.rfc2217
import trio

from helpers import PATIENCE, served, timed
from jumpstarter.client import BlockingStream
from jumpstarter.drivers._ports import stream_of
from jumpstarter.drivers.serial import SerialPort
from jumpstarter.errors import DriverConnectionError, DriverTimeoutError

DATA = os.urandom(20_000)

# pyserial leaves the file of spy:// and the socket of a lost peer to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def line() -> Iterator[tuple[int, str]]:
    """Yield a pseudo-terminal: the board's end as a file descriptor, and the path of its port."""
    board, port = os.openpty()
    tty.setraw(port)
    yield board, os.ttyname(port)
    os.close(port)
    os.close(board)


@contextmanager
def opened(url: str) -> Iterator[BlockingStream]:
    with served(SerialPort(url=url)) as client, client.timeout(PATIENCE), client.stream() as stream:
        yield stream


def heard(stream: BlockingStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += stream.receive()
    return data


def read(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += os.read(descriptor, count)
    return data


# ------------------------------------------------------------------------- on a terminal device


@pytest.mark.parametrize("option", ["", "&all"])
def test_spy_records_both_directions(line: tuple[int, str], tmp_path: Path, option: str) -> None:
    board, path = line
    log = tmp_path / "log"
    with opened(f"spy://{path}?file={log}{option}") as stream:
        stream.send(b"uname\n")
        assert read(board, 6) == b"uname\n"
        os.write(board, b"Linux\n")
        assert heard(stream, 6) == b"Linux\n"
    text = log.read_text()
    assert "TX   0000  75 6E 61 6D 65 0A" in text
    assert "RX   0000  4C 69 6E 75 78 0A" in text


WRAPPED = [
    "spy://{}?file=/dev/null",
    "alt://{}?class=Serial",
    "alt://{}?class=PosixPollSerial",
    "alt://{}?class=VTIMESerial",
]


@pytest.mark.parametrize("url", WRAPPED)
def test_a_wrapper_carries_every_byte(line: tuple[int, str], url: str) -> None:
    board, path = line
    got = b""

    def echo() -> None:
        nonlocal got
        while len(got) < len(DATA):
            piece = os.read(board, 500)
            got += piece
            os.write(board, piece)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    with opened(url.format(path)) as stream:
        back = b""
        for start in range(0, len(DATA), 2000):
            stream.send(DATA[start : start + 2000])
            back += heard(stream, 2000)
    thread.join(PATIENCE)
    assert got == DATA
    assert back == DATA


@pytest.mark.parametrize("url", ["{}", *WRAPPED])
def test_send_to_a_board_that_reads_nothing_can_be_cancelled(
    line: tuple[int, str], url: str
) -> None:
    _, path = line
    with served(SerialPort(url=url.format(path))) as client:
        stream = client.open_stream()
        with pytest.raises(DriverTimeoutError), client.timeout(0.5):
            stream.send(bytes(5_000_000))
        with client.timeout(PATIENCE):
            stream.close()
            client.open_stream().close()


@pytest.mark.parametrize("url", ["{}", *WRAPPED])
def test_a_board_that_hangs_up_breaks_the_stream(url: str) -> None:
    board, port = os.openpty()
    path = os.ttyname(port)
    with served(SerialPort(url=url.format(path))) as client, client.timeout(PATIENCE):
        stream = client.open_stream()
        os.close(port)
        os.close(board)
        with pytest.raises(DriverConnectionError):
            heard(stream, 1)
        with pytest.raises(DriverConnectionError):
            stream.close()


# --------------------------------------------------------------------------------- on a network


@contextmanager
def board_on_tcp() -> Iterator[tuple[str, socket.socket]]:
    """Yield the URL of a board that listens on TCP, and its listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield f"socket://127.0.0.1:{listener.getsockname()[1]}", listener


def test_a_socket_carries_every_byte() -> None:
    with board_on_tcp() as (url, listener), opened(url) as stream:
        board, _ = listener.accept()
        stream.send(DATA)
        got = b""
        while len(got) < len(DATA):
            got += board.recv(65536)
        assert got == DATA
        board.sendall(DATA)
        assert heard(stream, len(DATA)) == DATA
    board.close()


def test_socket_that_ends_breaks_the_stream_after_its_last_bytes() -> None:
    with board_on_tcp() as (url, listener), served(SerialPort(url=url)) as client:
        stream = client.open_stream()
        board, _ = listener.accept()
        with board:
            board.sendall(DATA[:1000])
        with client.timeout(PATIENCE):
            assert heard(stream, 1000) == DATA[:1000]
            with pytest.raises(DriverConnectionError, match="socket disconnected"):
                heard(stream, 1)
            with pytest.raises(DriverConnectionError):
                stream.close()


def test_send_to_a_socket_that_reads_nothing_can_be_cancelled() -> None:
    with board_on_tcp() as (url, listener), served(SerialPort(url=url)) as client:
        stream = client.open_stream()
        board, _ = listener.accept()
        with board, pytest.raises(DriverTimeoutError), client.timeout(0.5):
            stream.send(bytes(50_000_000))
        with client.timeout(PATIENCE):
            stream.close()


def test_missing_board_is_named_in_the_error() -> None:
    with board_on_tcp() as (url, _):
        pass
    with served(SerialPort(url=url)) as client, pytest.raises(OSError, match=url):
        client.open_stream()


def test_a_port_server_carries_every_byte() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=serve_rfc2217, args=(listener,))
        thread.start()
        try:
            with opened(f"rfc2217://127.0.0.1:{listener.getsockname()[1]}") as stream:
                for start in range(0, len(DATA), 1000):
                    stream.send(DATA[start : start + 1000])
                    assert heard(stream, 1000) == DATA[start : start + 1000]
        finally:
            thread.join(PATIENCE)


def serve_rfc2217(listener: socket.socket) -> None:
    """Serve an RFC 2217 port that echoes the bytes it receives, until its client disconnects."""
    connection, _ = listener.accept()
    with connection, serial.serial_for_url("loop://", baudrate=1_000_000, timeout=0) as port:
        connection.settimeout(PATIENCE)
        writer = connection.makefile("wb", buffering=0)
        manager = serial.rfc2217.PortManager(cast("Any", port), cast("Any", writer))
        while data := connection.recv(1024):
            port.write(b"".join(manager.filter(data)))
            connection.sendall(b"".join(manager.escape(port.read(port.in_waiting or 1))))
        writer.close()


# -------------------------------------------------------------------------- results of a write


class Odd(serial.SerialBase):
    """A user's port, which takes a part of each write, and returns a result as the test chooses."""

    def __init__(self, answer: Any, most: int) -> None:
        super().__init__()
        self.taken = b""
        self._answer = answer
        self._most = most

    def _reconfigure_port(self) -> None:
        pass

    def read(self, size: int = 1) -> bytes:
        raise NotImplementedError

    def write(self, data: Any) -> Any:
        piece = bytes(data)[: self._most]
        self.taken += piece
        return self._answer(len(piece))


@pytest.mark.parametrize("most", [1, 100, 1024])
@timed()
async def test_port_with_short_writes_gets_all_bytes(most: int) -> None:
    port = Odd(int, most)
    await stream_of(port).send_all(DATA[:3000])
    assert port.taken == DATA[:3000]


@timed()
async def test_port_whose_write_returns_none_has_written_all() -> None:
    port = Odd(lambda _: None, 10**6)  # as cp2110:// does
    await stream_of(port).send_all(DATA)
    assert port.taken == DATA


@pytest.mark.parametrize("answer", [0, -1, 1025, "all"])
@timed()
async def test_a_port_that_miscounts_is_an_error(answer: Any) -> None:
    with pytest.raises(OSError, match=r"write\(\) of the port's test_serial_urls.Odd"):
        await stream_of(Odd(lambda _: answer, 1024)).send_all(DATA)


@timed()
async def test_a_port_that_fails_breaks_the_stream() -> None:
    def fail(_: int) -> int:
        raise serial.SerialException("it was unplugged")

    with pytest.raises(trio.BrokenResourceError, match="it was unplugged"):
        await stream_of(Odd(fail, 1024)).send_all(DATA)
