"""Test that `Server.drain` lets running calls finish and answers every call."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from drivers_for_tests import Echo
from jumpstarter import Limits, Server, connect_async, serve_async
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.session import Session
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._io.addresses import parse_address
from jumpstarter._io.sockets import open_listeners
from jumpstarter._protocol.frames import Kind
from jumpstarter.client import DriverClient
from jumpstarter.client._channel import Channel
from jumpstarter.client._outgoing_call import Request
from jumpstarter.driver import export
from jumpstarter.errors import CallCancelled, HandshakeError

IMPATIENT = Limits(hello_timeout=0.1)


class Holding(Echo):
    """A driver with a call that ends only when it is cancelled."""

    @export
    async def hold(self) -> None:
        await trio.sleep_forever()


async def test_an_answer_leaves_before_the_end_however_slowly_the_client_takes_it(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - only its presence matters
) -> None:
    executor = DriverExecutor()
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session(ServerContext(DeviceTree(Echo()), executor), theirs, "a slow client")
    channel = Channel(ours, "the exporter")
    value = b"x" * 1_000_000
    answers = []

    async def call() -> None:
        request = Request(1, Kind.UNARY, "echo_async", (value,), driver="the driver")
        answers.append(await channel.call(request))

    deliver = theirs.send_stream.send_all_hook
    assert deliver is not None

    async def take_a_second() -> None:
        await trio.sleep(1)
        await deliver()

    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await channel.begin(nursery)
            theirs.send_stream.send_all_hook = take_a_second  # for each of the 16 batches
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            await session.drain(60, "the end")
    assert answers == [value]


async def test_a_drain_that_is_cancelled_still_answers_every_call(tmp_path: Path) -> None:
    outcomes: list[type[BaseException]] = []

    async def hold(client: DriverClient) -> None:
        with pytest.raises(CallCancelled) as info:
            await client.call_async("hold")
        outcomes.append(info.type)

    with trio.fail_after(30):
        async with (
            serve_async(Holding(), f"unix:{tmp_path}/socket") as server,
            connect_async(server.address) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(4):
                nursery.start_soon(hold, client)
            await client.call_async("echo_async")
            with trio.CancelScope() as scope:
                scope.cancel()
                await server.drain(1000)
    assert len(outcomes) == 4


async def test_a_drained_server_admits_nobody_and_has_ended(tmp_path: Path) -> None:
    executor = DriverExecutor()
    exporter = ServerContext(DeviceTree(Echo()), executor)
    with trio.fail_after(30):
        listeners = await open_listeners(parse_address(f"unix:{tmp_path}/socket"))
        server = Server(exporter, listeners)
        async with listeners, trio.open_nursery() as nursery:  # waits for the server to end
            await nursery.start(server.run)
            async with connect_async(server.address) as client:
                assert await client.call_async("echo_async", 1) == 1
                await server.drain(1000)
                with pytest.raises(HandshakeError):
                    await connect_async(server.address, limits=IMPATIENT).__aenter__()
