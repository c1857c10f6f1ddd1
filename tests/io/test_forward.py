"""Test `_io.forward` over real sockets: both directions, half-close, failures and the end."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from helpers import begin, timed
from jumpstarter._io.forward import forward, forward_to, listen_tcp, listen_unix


@asynccontextmanager
async def echo() -> AsyncIterator[trio.abc.HalfCloseableStream]:
    """Open a stream that, after the end of its input, sends it all back."""
    near, far = trio.testing.memory_stream_pair()

    async def answer() -> None:
        heard = b"".join([bytes(data) async for data in far])
        await far.send_all(heard)
        await far.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        yield near
        nursery.cancel_scope.cancel()


async def ask(stream: trio.SocketStream, data: bytes) -> bytes:
    """Send the data, half-close, and return the answer."""
    async with stream:
        await stream.send_all(data)
        await stream.send_eof()
        return b"".join([bytes(data) async for data in stream])


# -------------------------------------------------------------------------------- two streams


@timed()
async def test_each_direction_ends_independently() -> None:
    one, one_far = trio.testing.memory_stream_pair()
    other, other_far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        carrying = await begin(nursery, forward, one_far, other_far)
        await one.send_all(b"up")
        await one.send_eof()
        assert await other.receive_some(10) == b"up"
        assert await other.receive_some(10) == b""
        assert not carrying.ended
        await other.send_all(b"down")
        assert await one.receive_some(10) == b"down"
        await other.send_eof()
        assert await one.receive_some(10) == b""
        await wait_all_tasks_blocked()
        assert carrying.ended


@timed()
async def test_a_failure_in_one_direction_ends_both_and_is_raised_alone() -> None:
    one, one_far = trio.testing.memory_stream_pair()
    _, other_far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        carrying = await begin(nursery, forward, one_far, other_far)
        await other_far.aclose()
        await wait_all_tasks_blocked()
        carrying.failed(trio.ClosedResourceError, "")
        await one.aclose()


# -------------------------------------------------------------------------------- the listeners


@timed()
async def test_tcp_port_is_forwarded_with_half_close() -> None:
    async with listen_tcp(forward_to(echo)) as (host, port):
        assert host == "127.0.0.1"
        data = os.urandom(300_000)
        assert await ask(await trio.open_tcp_stream(host, port), data) == data
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream(host, port)


@timed()
async def test_unix_socket_is_forwarded_and_only_its_owner_can_connect(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with listen_unix(forward_to(echo), path=path) as where:
        assert where == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await ask(await trio.open_unix_socket(where), b"hello") == b"hello"
    assert not path.exists()


@timed()
async def test_by_default_a_unix_socket_has_a_directory_of_its_own() -> None:
    async with listen_unix(forward_to(echo)) as where:
        assert stat.S_IMODE(Path(where).parent.stat().st_mode) == 0o700
        assert await ask(await trio.open_unix_socket(where), b"hello") == b"hello"
    assert not Path(where).parent.exists()


@timed()
async def test_existing_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        async with listen_unix(forward_to(echo), path=path):
            raise AssertionError
    assert path.read_text() == "precious"


@timed()
async def test_a_name_with_several_addresses_has_one_port() -> None:
    async with listen_tcp(forward_to(echo), local_host="localhost") as (host, port):
        assert await ask(await trio.open_tcp_stream(host, port), b"hello") == b"hello"


@timed()
async def test_a_port_can_be_chosen_and_one_in_use_is_refused() -> None:
    async with listen_tcp(forward_to(echo)) as (_, port):
        with pytest.raises(OSError, match="in use"):
            async with listen_tcp(forward_to(echo), local_port=port):
                raise AssertionError


@timed(60)
async def test_three_hundred_concurrent_connections() -> None:
    right: list[bool] = []

    async def one(host: str, port: int, number: int) -> None:
        data = bytes([number % 256]) * 10_000
        right.append(await ask(await trio.open_tcp_stream(host, port), data) == data)

    async with listen_tcp(forward_to(echo)) as (host, port), trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(one, host, port, number)
    assert right == [True] * 300


@timed()
async def test_the_end_of_the_block_ends_every_connection() -> None:
    opened = trio.Event()
    ended = 0

    @asynccontextmanager
    async def silent() -> AsyncIterator[trio.abc.HalfCloseableStream]:
        nonlocal ended
        near, _ = trio.testing.memory_stream_pair()
        opened.set()
        try:
            yield near
        finally:
            ended += 1

    async with listen_tcp(forward_to(silent)) as (host, port):
        stream = await trio.open_tcp_stream(host, port)
        await opened.wait()
    assert ended == 1
    async with stream:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)


@timed()
async def test_connection_whose_stream_fails_to_open_is_logged_and_reset_and_others_continue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def unplugged() -> AsyncIterator[trio.abc.HalfCloseableStream]:
        if len(caplog.records) == 0:
            raise OSError("the board is unplugged")
        async with echo() as stream:
            yield stream

    async with listen_tcp(forward_to(unplugged)) as (host, port):
        async with await trio.open_tcp_stream(host, port) as stream:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)
        assert "the board is unplugged" in caplog.text
        assert await ask(await trio.open_tcp_stream(host, port), b"hello") == b"hello"


@timed()
async def test_failed_transfer_is_reset_and_does_not_look_complete(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def breaking() -> AsyncIterator[trio.abc.HalfCloseableStream]:
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(b"half of it")

        async def fail() -> None:
            raise trio.BrokenResourceError("the driver has failed")

        near.receive_stream.receive_some_hook = fail
        yield near

    async with (
        listen_tcp(forward_to(breaking)) as (host, port),
        await trio.open_tcp_stream(host, port) as stream,
    ):
        with pytest.raises(trio.BrokenResourceError):
            [piece async for piece in stream]
    assert "the driver has failed" in caplog.text
