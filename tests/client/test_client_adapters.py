"""Tests of `jumpstarter.client.adapters`, through the mixins and directly."""

from __future__ import annotations

import io
import math
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

import pexpect
import pytest
import trio
import trio.testing

from drivers_for_tests import Echo, Lab
from helpers import PATIENCE, served, timed
from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import (
    PexpectAdapter,
    TcpPortforwardAdapter,
    UnixPortforwardAdapter,
    blocking,
)
from jumpstarter.driver import exportstream
from jumpstarter.drivers.mixins import StreamMixin
from jumpstarter.errors import DriverOSError, DriverTimeoutError, MissingExtra
from jumpstarter.testing import client_for_async
from leaks import look

HOST = "127.0.0.1"


class StreamClient(StreamMixin, DriverClient):
    """The client class of every driver in this module."""


class Console(Echo):
    """A driver whose streams behave in different ways."""

    @classmethod
    def client(cls) -> str:
        return "test_client_adapters.StreamClient"

    @exportstream
    @asynccontextmanager
    async def board(self) -> AsyncIterator[trio.abc.Stream]:
        """Send a login prompt, answer one line, and disconnect."""
        ours, theirs = trio.testing.memory_stream_pair()

        async def talk() -> None:
            await ours.send_all(b"board login: ")
            name = b""
            while not name.endswith(b"\n"):
                name += await ours.receive_some()
            await ours.send_all(b"hello, " + name + b"$ ")
            await ours.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            yield theirs
            nursery.cancel_scope.cancel()

    @exportstream
    @asynccontextmanager
    async def deaf(self) -> AsyncIterator[trio.abc.Stream]:
        """Yield a stream whose far end receives nothing."""
        ours, theirs = trio.testing.lockstep_stream_pair()
        async with ours:
            yield theirs

    @exportstream
    @asynccontextmanager
    async def slow(self) -> AsyncIterator[trio.abc.Stream]:
        """Block forever before the stream opens."""
        await trio.sleep(math.inf)
        yield trio.testing.memory_stream_pair()[0]

    @exportstream
    @asynccontextmanager
    async def unplugged(self) -> AsyncIterator[trio.abc.Stream]:
        yield await trio.open_unix_socket("/no/such/port")


class Recording(Lab):
    """A lab driver whose client has the stream methods."""

    @classmethod
    def client(cls) -> str:
        return "test_client_adapters.StreamClient"


@contextmanager
def console() -> Iterator[StreamClient]:
    with served(Console()) as client:
        yield cast("StreamClient", client)


def ask(address: tuple[str, int], data: bytes) -> bytes:
    """Send bytes, half-close, and return everything that is received."""
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# --------------------------------------------------------------------------------- forwarding


def test_a_local_port_reaches_the_drivers_stream() -> None:
    with console() as client:
        with client.portforward() as address:
            assert address[0] == HOST
            assert ask(address, b"hello") == b"hello"
            assert ask(address, bytes(300_000)) == bytes(300_000)
        with pytest.raises(ConnectionRefusedError):
            ask(address, b"hello")
        with TcpPortforwardAdapter(client=client, local_host=HOST) as address:
            assert ask(address, b"hello") == b"hello"


def test_a_local_socket_reaches_the_drivers_stream(tmp_path: Path) -> None:
    with console() as client:
        for forwarding in (
            client.portforward_unix(path=str(tmp_path / "socket")),
            client.portforward_unix(),
            UnixPortforwardAdapter(client=client),
        ):
            with forwarding as path, socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(path)
                connection.sendall(b"hello")
                assert connection.recv(100) == b"hello"
            assert not Path(path).exists()


@timed()
async def test_adapters_work_in_trio_code() -> None:
    async with client_for_async(Console()) as client:
        streams = cast("StreamClient", client)
        async with (
            streams.portforward_async() as (host, port),
            await trio.open_tcp_stream(host, port) as stream,
        ):
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        async with (
            streams.portforward_unix_async() as path,
            await trio.open_unix_socket(path) as stream,
        ):
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"


def test_two_hundred_concurrent_connections_are_forwarded() -> None:
    heard: list[bytes] = []
    with console() as client, client.portforward() as address:
        barrier = threading.Barrier(200)

        def one() -> None:
            with socket.create_connection(address, timeout=6 * PATIENCE) as connection:
                barrier.wait(6 * PATIENCE)
                connection.sendall(b"hello")
                heard.append(connection.recv(100))

        threads = [threading.Thread(target=one) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert heard == [b"hello"] * 200


def test_a_stream_that_cannot_be_opened_resets_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with console() as client, client.portforward("unplugged") as address:
        with pytest.raises(ConnectionResetError):
            ask(address, b"")
        assert "No such file" in caplog.text


def test_the_end_of_the_block_ends_the_drivers_code() -> None:
    lab = Recording()
    with served(lab) as client, cast("StreamClient", client).portforward("sink") as address:
        connection = socket.create_connection(address, timeout=PATIENCE)
        connection.sendall(b"abc")
        give_up = time.monotonic() + PATIENCE
        while "took 3" not in lab.log and time.monotonic() < give_up:
            time.sleep(0.001)
    assert "took 3" in lab.log
    assert lab.log[-1] == "sink ended"
    connection.close()


@timed()
async def test_blocking_adapters_are_refused_for_trio_code() -> None:
    async with client_for_async(Console()) as client:
        with pytest.raises(RuntimeError, match="use tcp_portforward"):
            cast("StreamClient", client).portforward()


def test_blocking_wraps_a_user_defined_adapter() -> None:
    @blocking
    @asynccontextmanager
    async def shout(*, client: DriverClient, text: str) -> AsyncIterator[str]:
        yield (await client.call_async("echo_async", text)).upper()

    with console() as client, shout(client=client, text="hello") as shouted:
        assert shouted == "HELLO"


# ------------------------------------------------------------------------------------ pexpect


def test_a_console_is_a_pexpect_session() -> None:
    with console() as client, client.pexpect("board", timeout=PATIENCE) as session:
        session.expect("login: ")
        session.sendline("root")
        session.expect("hello, (.*)\n")
        assert isinstance(session.match, re.Match)
        assert session.match.group(1) == b"root"
        session.expect(pexpect.EOF)
        assert session.before == b"$ "
    assert not session.isalive()


def test_a_session_takes_the_options_of_pexpect() -> None:
    log = io.StringIO()
    with (
        console() as client,
        PexpectAdapter(client=client, method="board", encoding="utf-8", logfile=log) as session,
    ):
        session.expect("login: ", timeout=PATIENCE)
        assert isinstance(session.after, str)
        with pytest.raises(pexpect.TIMEOUT):
            session.expect("password", timeout=0.01)
    assert log.getvalue() == "board login: "


def test_last_sent_bytes_reach_the_driver() -> None:
    lab = Recording()
    with served(lab) as client, cast("StreamClient", client).pexpect("sink") as session:
        session.send(b"x" * 100_000)
    taken = [int(line.removeprefix("took ")) for line in lab.log if line.startswith("took ")]
    assert sum(taken) == 100_000


def test_session_may_be_closed_within_its_block() -> None:
    with console() as client, client.pexpect("board") as session:
        session.close()


def test_leaving_a_session_raises_the_drivers_failure() -> None:
    with (  # noqa: PT012 - leaving the block raises
        served(Recording()) as client,
        pytest.raises(DriverOSError, match="the device has gone"),
        cast("StreamClient", client).pexpect("sink") as session,
    ):
        session.send(b"fail")
        session.expect(pexpect.EOF, timeout=PATIENCE)


def test_exception_of_the_body_is_raised_unchanged() -> None:
    with console() as client, pytest.raises(ZeroDivisionError), client.pexpect("board"):
        raise ZeroDivisionError


def test_missing_pexpect_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pexpect.fdpexpect", None)
    with (
        console() as client,
        pytest.raises(MissingExtra, match=r"the extra 'pexpect'.*pip install .*\[pexpect\]"),
        client.pexpect("board"),
    ):
        raise AssertionError


def test_an_option_that_is_none_leaves_no_descriptor_open() -> None:
    with console() as client:
        with client.pexpect("board"):
            pass
        before = look().files  # which may include some that the other side is closing
        with pytest.raises(TypeError, match="timout"), client.pexpect("board", timout=1):
            raise AssertionError
        deadline = time.monotonic() + PATIENCE
        while look().files - before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_bytes_that_the_driver_does_not_take_raise_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jumpstarter.client.adapters._LINGER", 0.1)
    with (
        console() as client,
        pytest.raises(DriverTimeoutError, match="has not taken everything that was sent"),
        client.pexpect("deaf") as session,
    ):
        session.send(b"x" * 150_000)  # more than a window, less than a window plus a socket buffer


def test_timeout_limits_entering_a_block_but_not_its_body() -> None:
    with console() as client:
        with (
            client.timeout(0.1),
            pytest.raises(
                DriverTimeoutError,
                match="ran out during the use of pexpect_session",
            ),
            PexpectAdapter(client=client, method="slow"),
        ):
            pass
        with client.timeout(5), PexpectAdapter(client=client, method="board") as session:
            session.expect_exact("login: ")
