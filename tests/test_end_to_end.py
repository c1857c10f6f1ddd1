"""Test an exporter in one process with clients in another, and with real devices.

These tests briefly check that all parts work together. The tests of each part cover the details.
"""

from __future__ import annotations

import enum
import http.client
import importlib
import io
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from exporter_process import PATIENCE, TESTS, ExporterProcess, exporter, wait_until_refused
from jumpstarter import connect, connect_async
from jumpstarter.client import BlockingStream, DriverClient
from jumpstarter.errors import CallOutcomeUnknown, CallRefused, DriverError, EndOfStream
from processes import running

EXAMPLES: Final = TESTS.parent / "examples"
LONG: Final = "1000"  # seconds of grace, longer than the timeout of a test


@pytest.fixture(scope="module", params=["unix", "tcp"])
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Run an exporter with a `Probe`, and yield its address."""
    directory = tmp_path_factory.mktemp("exporter")
    options = ["--address", "tcp://127.0.0.1:0"] if request.param == "tcp" else []
    with exporter(directory, *options) as server:
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[DriverClient]:
    with connect(address) as client, client.timeout(PATIENCE):
        yield client


# --- values ---


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**53 + 1,
        -1,
        -(2**63),
        2**64 - 1,
        0.1,
        -math.inf,
        "",
        "grüß\0",
        b"",
        bytes(range(256)),
        [],
        {},
        {1: "a key that is a number", "two": None},
        {"nested": [{"deeper": [[], [1, [2.5, b"\xff"]]]}]},
    ],
    ids=repr,
)
def test_value_is_not_changed_on_its_way(client: DriverClient, value: Any) -> None:
    for method in ("echo", "echo_async"):
        result = client.call(method, value)
        assert result == value
        assert type(result) is type(value)


def test_nan_arrives_as_nan(client: DriverClient) -> None:
    assert math.isnan(client.call("echo", math.nan))


@pytest.mark.parametrize(
    "value",
    [bytes(range(250)) * 200_000, list(range(1_000_000))],
    ids=["50 MB", "a million items"],
)
def test_large_value_is_not_changed_on_its_way(client: DriverClient, value: Any) -> None:
    assert client.call("echo", value) == value


# --- several clients concurrently ---


def use_all_ways(address: str, number: int) -> None:
    """Call, iterate and stream with data that is unique to this client."""
    with connect(address) as client, client.timeout(PATIENCE), client.stream() as stream:
        for turn in range(20):
            value = [number, turn]
            assert client.call("echo", value) == value
            assert list(client.streamingcall("count", number)) == list(range(number))
            data = bytes([number, turn]) * 10_000
            stream.send(data)
            heard = b""
            while len(heard) < len(data):
                heard += stream.receive()
            assert heard == data


def test_concurrent_clients_do_not_mix(address: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(use_all_ways, address, number) for number in range(8)]:
            done.result(PATIENCE)


async def test_an_address_may_be_a_member_of_an_enum(address: str) -> None:
    class Board(enum.StrEnum):
        DESK = address

    async with connect_async(Board.DESK) as client:
        assert await client.call_async("echo", 1) == 1


async def test_trio_client_calls_from_several_tasks(address: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect_async(address) as client, trio.open_nursery() as nursery:

            async def call(number: int) -> None:
                assert await client.call_async("echo_async", number) == number

            for number in range(1000):
                nursery.start_soon(call, number)


# --- devices ---


@pytest.fixture
def in_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client import the modules of the examples."""
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.mark.usefixtures("in_examples")
def test_a_serial_console_on_a_pseudo_terminal(tmp_path: Path) -> None:
    read_until = importlib.import_module("serial_console").read_until
    with (
        exporter(tmp_path, driver="serial_console:SimulatedConsole", cwd=EXAMPLES) as server,
        connect(server.address, allow=["serial_console.*"]) as client,
        client.timeout(PATIENCE),
        client.connect() as console,
    ):
        assert Path(client.device()).is_char_device()
        assert read_until(console, b"$ ") == b"board 1.0 ready\r\n$ "
        console.send(b"echo hello\r")
        assert read_until(console, b"$ ") == b"echo hello\r\nhello\r\n$ "


@pytest.mark.usefixtures("in_examples")
def test_a_bench_with_children_of_several_classes(tmp_path: Path) -> None:
    tcp = ["--address", "tcp://127.0.0.1:0"]
    allow = ["lab.*", "serial_console.*", "example.*"]
    with (
        exporter(tmp_path, *tcp, driver="lab:bench", cwd=EXAMPLES) as server,
        connect(server.address, allow=allow) as bench,
        bench.timeout(PATIENCE),
    ):
        assert bench.labels["place"] == "simulated"
        assert set(bench.children) == {"console", "example"}
        assert len(bench.flash(b"image")) == 64
        assert bench.state() == "flashed"
        assert bench.example.echo("hello") == "hello"
        with bench.console.connect() as console:
            assert console.receive().startswith(b"b")


class StreamSocket:
    """The part of the socket interface that `http.client` uses, over a driver's raw stream."""

    def __init__(self, stream: BlockingStream) -> None:
        self._stream = stream

    def sendall(self, data: bytes) -> None:
        self._stream.send(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(StreamReader(self._stream))

    def close(self) -> None:
        """Leave the stream open, since its opener closes it."""


class StreamReader(io.RawIOBase):
    def __init__(self, stream: BlockingStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.receive(len(buffer))
        except EndOfStream:
            return 0
        buffer[: len(data)] = data
        return len(data)


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[int]:
    """Run a web server for the files of a directory, and yield its port."""
    command = [sys.executable, "-u", "-m", "http.server", "0"]
    command += ["--bind", "127.0.0.1", "--protocol", "HTTP/1.1"]
    with running(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().split()[5])


def test_a_web_server_that_only_the_exporter_reaches(
    client: DriverClient, web_server: int, tmp_path: Path
) -> None:
    page = bytes(range(256)) * 4096
    (tmp_path / "page").write_bytes(page)
    with client.stream("connect_tcp", web_server) as stream:
        connection = http.client.HTTPConnection("the-device")
        connection.sock = StreamSocket(stream)
        for path, status in [("/page", 200), ("/page", 200), ("/none", 404)]:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == status
            body = response.read()
            assert body == page or status == 404


# --- exit of an exporter ---


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ExporterProcess]:
    with exporter(tmp_path, "--grace", LONG) as server:
        yield server


def test_a_stream_and_a_generator_may_end_well_while_the_exporter_drains(
    server: ExporterProcess,
) -> None:
    with connect(server.address) as client, client.timeout(PATIENCE):
        with client.stream() as stream, client.streamingcall("count_async", 2_000) as items:
            assert next(items) == 0
            server.send(signal.SIGTERM)
            wait_until_refused(client)
            assert list(items) == list(range(1, 2_000))
            stream.send(b"still there")
            assert stream.receive() == b"still there"
        assert server.wait() == 0


def test_a_killed_exporter_leaves_every_call_with_an_outcome(server: ExporterProcess) -> None:
    with (
        connect(server.address) as client,
        client.timeout(PATIENCE),
        ThreadPoolExecutor() as pool,
    ):
        held = [pool.submit(client.call, "hold") for _ in range(3)]
        client.call("until_held", 3)
        items = client.streamingcall("count_async", 10**9)
        assert next(items) == 0
        stream = client.open_stream()
        server.send(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        for call in held:
            with pytest.raises(CallOutcomeUnknown, match="sent, but not answered"):
                call.result(PATIENCE)
        with pytest.raises(CallOutcomeUnknown):
            list(items)
        with pytest.raises(CallOutcomeUnknown):
            stream.receive()
        with pytest.raises(CallRefused, match="not sent"):
            client.call("echo")
        with pytest.raises(DriverError):
            stream.close()


def test_the_next_exporter_takes_the_socket_of_a_killed_one(tmp_path: Path) -> None:
    for _ in range(2):
        with exporter(tmp_path) as server:
            with connect(server.address) as client:
                assert client.call("echo", 1) == 1
            server.send(signal.SIGKILL)
            server.wait()
            assert Path(server.address.removeprefix("unix:")).is_socket()
