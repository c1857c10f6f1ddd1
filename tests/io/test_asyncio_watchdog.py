"""Test that the log names code that holds the asyncio loop of a lane."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from asyncio_drivers import Asyncio, Echo
from helpers import PATIENCE, timed
from jumpstarter import Limits, serve
from jumpstarter._io.asyncio_lane import open_lane
from jumpstarter._io.asyncio_watchdog import watched_asyncio
from jumpstarter.driver import export, exportstream

STRICT = Limits(loop_hold=0.1)
HOLD = 1.0  # seconds: ten times the limit, for a loaded machine

Told = Callable[[], list[str]]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """Return the lines of the log about the lane so far."""

    def lines() -> list[str]:
        texts = [record.getMessage() for record in caplog.records]
        return [text for text in texts if "has held the event loop" in text]

    return lines


def nap() -> None:
    time.sleep(0.001)


def block() -> None:
    time.sleep(HOLD)


class Blocking(Asyncio):
    """A driver that blocks its loop."""

    @export
    async def block_until_released(self) -> None:
        self.started.set()
        self.release.wait(3 * PATIENCE)

    @export
    async def block(self) -> None:
        await asyncio.sleep(0)
        block()

    @export
    async def items(self) -> AsyncIterator[int]:
        yield 1
        block()

    @exportstream
    @asynccontextmanager
    async def opens(self) -> AsyncIterator[Echo]:
        block()
        yield Echo(self.log)

    @export
    async def in_task(self) -> None:
        await asyncio.create_task(self.other())

    async def other(self) -> None:
        block()

    @export
    async def busy(self) -> None:
        end = time.monotonic() + HOLD
        while time.monotonic() < end:
            nap()
            await asyncio.sleep(0)


def test_methods_that_block_the_lane_are_named_once_with_advice(told: Told) -> None:
    with serve(Blocking(), limits=STRICT) as client:
        for _ in range(2):
            client.call("block")
        [line] = told()
        assert line.startswith("method 'block' of driver 'root' (test_asyncio_watchdog.Blocking)")
        assert "await asyncio.to_thread(...)" in line
        assert "in block\n" in line
        list(client.streamingcall("items"))
        assert told()[1].startswith("generator 'items' of driver 'root'")
        with client.stream("opens"):
            pass
        assert told()[2].startswith("stream 'opens' of driver 'root'")
        client.call("in_task")
        assert told()[3].startswith("Blocking.other (")
    assert len(told()) == 4


def test_trio_goes_on_while_the_lane_is_blocked() -> None:
    driver = Blocking()
    with serve(driver) as client:
        thread = threading.Thread(target=client.call, args=("block_until_released",))
        thread.start()
        assert driver.started.wait(PATIENCE)
        assert client.call("plain_counted") == 1
        assert thread.is_alive()
        driver.release.set()
        thread.join()


def test_lane_that_is_busy_with_short_steps_is_not_reported(told: Told) -> None:
    with serve(Blocking(), limits=Limits(loop_hold=0.5)) as client:
        client.call("busy")
    assert told() == []


async def blocks() -> None:
    await asyncio.sleep(0)
    block()


def test_asyncio_code_of_a_client_is_named(told: Told) -> None:
    with serve(Asyncio(), limits=STRICT) as client:
        assert client.portal is not None
        client.portal.call(blocks)
    [line] = told()
    assert line.startswith("blocks (")


@timed(3 * PATIENCE)
async def test_idle_lane_and_one_without_a_limit_are_not_reported(told: Told) -> None:
    async with open_lane("a lane", lambda: watched_asyncio(0.05)) as lane:
        await lane.run(asyncio.sleep, 0.3)
    async with open_lane("a lane", lambda: watched_asyncio(math.inf)) as lane:
        await lane.run(blocks)
    assert told() == []
