"""Tests of `_exporter.context`: the state that sessions share, and admission over real sockets."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from drivers_for_tests import Echo
from helpers import timed, until
from jumpstarter import Limits, Server, connect_async, serve_async
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter._protocol.codec import decode_goaway, encode_hello
from jumpstarter._protocol.frames import FrameType, Hello
from jumpstarter.errors import Code, HandshakeError
from wire import frame, frames

TOKEN = "the right one"  # noqa: S105 - a token for these tests only
SMALL = Limits(max_connections=2, max_unadmitted=3)


@asynccontextmanager
async def serving(limits: Limits, token: str = "") -> AsyncIterator[Server]:
    async with serve_async(Echo(), "tcp://127.0.0.1:0", limits=limits, token=token) as server:
        yield server


async def stranger(server: Server) -> trio.SocketStream:
    """Connect without sending anything."""
    return await trio.open_tcp_stream("127.0.0.1", int(server.address.rpartition(":")[2]))


async def hung_up(stream: trio.SocketStream) -> bool:
    """Return True if the exporter has closed the connection without sending anything."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    with socket.socket(fileno=os.dup(stream.socket.fileno())) as same:
        try:
            return same.recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False


def test_the_exporter_itself_is_target_zero() -> None:
    tree = DeviceTree(Echo(children={"left": Echo(), "right": Echo()}))
    exporter = ServerContext(tree, DriverExecutor())
    assert [list(target.exports) for target in exporter.targets[:1]] == [
        [
            "board",
            "claim",
            "claim_subtree",
            "join",
            "kick",
            "lend",
            "lent_back",
            "lent_failed",
            "log",
            "log_end",
            "report",
            "who",
        ]
    ]
    assert exporter.targets[1:] == tree.targets
    assert (exporter.limits, exporter.token, exporter.send_tracebacks) == (
        DEFAULT_LIMITS,
        "",
        False,
    )


@timed()
async def test_strangers_have_few_places_and_the_oldest_of_them_gives_way() -> None:
    async with serving(SMALL) as server, AsyncExitStack() as stack:
        strangers = []
        for _ in range(5):
            strangers.append(await stack.enter_async_context(await stranger(server)))
            await trio.testing.wait_all_tasks_blocked(0.01)  # so that they arrive in this order
        for evicted in strangers[:2]:
            assert await evicted.receive_some() == b""
        assert [await hung_up(each) for each in strangers[2:]] == [False] * 3


@timed()
async def test_a_client_gets_in_however_many_strangers_there_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(SMALL) as server, AsyncExitStack() as stack:
        for _ in range(50):
            await stack.enter_async_context(await stranger(server))
            async with connect_async(server.address) as client:
                assert await client.call_async("echo", 1) == 1
            await until(lambda: not server.view().sessions)  # two may be connected
    assert len(caplog.records) < 50


@timed()
async def test_an_admitted_client_is_never_evicted() -> None:
    async with (
        serving(SMALL) as server,
        connect_async(server.address) as client,
        AsyncExitStack() as stack,
    ):
        for _ in range(20):
            await stack.enter_async_context(await stranger(server))
        assert await client.call_async("echo", 1) == 1


@timed()
async def test_one_client_too_many_is_refused_until_another_has_left() -> None:
    async with serving(SMALL) as server:
        async with connect_async(server.address), connect_async(server.address):
            with pytest.raises(HandshakeError, match="2 clients are connected already"):
                async with connect_async(server.address):
                    pass

        got_in = False
        while not got_in:  # the exporter may not have noticed yet that the clients left
            with contextlib.suppress(HandshakeError):
                async with connect_async(server.address) as client:
                    got_in = await client.call_async("echo", True)


@timed()
async def test_a_client_without_a_token_learns_only_that() -> None:
    """It does not learn that the exporter is full, or that it sent a prefix of the right token."""
    async with serving(SMALL, token=TOKEN) as server:
        for token in ("", TOKEN[:-1], TOKEN + " ", "\0", "x" * 4000):
            async with await stranger(server) as stream:
                hello = encode_hello(Hello.of(DEFAULT_LIMITS, token=token))
                await stream.send_all(frame(FrameType.HELLO, 0, hello))
                heard = b"".join([bytes(data) async for data in stream])
            (goaway,) = (decode_goaway(each.payload) for each in frames(heard))
            assert goaway is not None
            assert (goaway.code, goaway.text) == (Code.UNAUTHENTICATED, "not admitted")


@timed()
async def test_a_client_with_a_wrong_token_frees_its_slot_immediately() -> None:
    roomy = dataclasses.replace(SMALL, max_connections=20, max_unadmitted=8)  # five for the tasks
    async with serving(roomy, token=TOKEN) as server:
        hello = frame(FrameType.HELLO, 0, encode_hello(Hello.of(DEFAULT_LIMITS, token=TOKEN[1:])))
        async with trio.open_nursery() as nursery:

            async def knock() -> None:
                for _ in range(20):
                    async with await stranger(server) as stream:
                        await stream.send_all(hello)

            for _ in range(5):
                nursery.start_soon(knock)
            for _ in range(10):
                async with connect_async(server.address, token=TOKEN) as client:
                    assert await client.call_async("echo", 1) == 1


async def test_a_client_that_disconnects_frees_its_slot(mock_clock: MockClock) -> None:
    limits = dataclasses.replace(SMALL, hello_timeout=60)
    mock_clock.rate = 1
    async with serving(limits) as server:
        waiting = [await stranger(server) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        await waiting[0].aclose()
        mock_clock.jump(60)
        assert bytes(await waiting[1].receive_some()) == b""  # after the hello timeout
        await waiting[1].aclose()
        fresh = [await stranger(server) for _ in range(3)]
        assert not await hung_up(fresh[0])
        for each in fresh:
            await each.aclose()
