"""Tests of backpressure: a consumer that stops reading costs each side at most one window.

Other calls on the connection continue. Each test offers a gibibyte to a reader that has stopped.
The exporter and the test each run in a fresh process, since the memory of both is measured.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from driver_flooding import PIECE, PIECES, resident

from alone import alone
from exporter_process import exporter
from jumpstarter import connect_async
from jumpstarter.client import DriverClient

MIB = 1024 * 1024
HERE = Path(__file__).parent
PATIENCE = 120.0  # seconds for a test; each takes two or three
ALLOWED = 8 * MIB  # growth of either side
ECHOES = 200
DRIVER = "driver_flooding:Flooding"
in_each_lane = pytest.mark.parametrize("driver", [DRIVER, "driver_flooding_asyncio:Flooding"])
Open = Callable[[DriverClient, AsyncExitStack], Awaitable[None]]


@asynccontextmanager
async def connected(directory: Path, driver: str = DRIVER) -> AsyncIterator[DriverClient]:
    with (
        trio.fail_after(PATIENCE),
        exporter(directory, driver=driver, cwd=HERE) as process,
    ):
        async with connect_async(process.address) as client:
            for number in range(ECHOES):  # warm up, so that both sides allocate their memory
                assert await client.call_async("echo", number) == number
            yield client


async def settled(client: DriverClient) -> int:
    """Wait until the driver can send no more, and return how many pieces it has sent."""
    before = -1
    while (now := await client.call_async("count")) != before:
        before = now
        for number in range(ECHOES):
            assert await client.call_async("echo", number) == number
    return before


async def open_stream(client: DriverClient, stack: AsyncExitStack) -> None:
    stream = await stack.enter_async_context(client.stream_async("gush"))
    await stream.receive_some(1)


async def open_generator(client: DriverClient, stack: AsyncExitStack) -> None:
    items = await stack.enter_async_context(client.streamingcall_async("items"))
    await items.__anext__()


@in_each_lane
@pytest.mark.parametrize("open_it", [open_stream, open_generator])
@alone
async def test_a_client_that_stops_reading_costs_a_window(
    tmp_path: Path, open_it: Open, driver: str
) -> None:
    async with connected(tmp_path, driver) as client, AsyncExitStack() as stack:
        ours, theirs = resident(), await client.call_async("resident")
        await open_it(client, stack)
        offered = await settled(client)
        assert offered < PIECES
        assert offered * PIECE < ALLOWED
        assert resident() - ours < ALLOWED
        assert await client.call_async("resident") - theirs < ALLOWED


@alone
async def test_a_client_that_has_kept_up_and_then_stops_costs_the_window_it_has_grown_to(
    tmp_path: Path,
) -> None:
    async with connected(tmp_path) as client, client.stream_async("gush") as stream:
        taken = 0
        while taken < 64 * MIB:
            taken += len(await stream.receive_some())
        ours, theirs = resident(), await client.call_async("resident")
        offered = await settled(client)
        assert offered * PIECE - taken < ALLOWED
        assert resident() - ours < ALLOWED
        assert await client.call_async("resident") - theirs < ALLOWED


@in_each_lane
@alone
async def test_a_device_that_takes_nothing_costs_a_window(tmp_path: Path, driver: str) -> None:
    sent = 0

    async def offer(stream: trio.abc.SendStream) -> None:
        nonlocal sent
        for _ in range(PIECES):
            await stream.send_all(bytes(PIECE))
            sent += 1

    async with connected(tmp_path, driver) as client, client.stream_async("stuck") as stream:
        ours, theirs = resident(), await client.call_async("resident")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(offer, stream)
            before = -1
            while before != sent:
                before = sent
                for number in range(ECHOES):
                    assert await client.call_async("echo", number) == number
            assert 0 <= sent < PIECES
            assert sent * PIECE < ALLOWED
            assert resident() - ours < ALLOWED
            assert await client.call_async("resident") - theirs < ALLOWED
            nursery.cancel_scope.cancel()
