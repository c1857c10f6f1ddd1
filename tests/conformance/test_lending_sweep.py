"""Tests that cancelling a lending at any step of any task leaves nothing lent, open or running.

The tests work like those of `test_cancel_sweep`: all runs share one connection. They lend streams
of the same loop, because the steps of a thread cannot be counted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, cast

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from helpers import counted, in_time
from jumpstarter.testing import client_for_async
from leaks import leaked_since, look
from resources_for_tests import Library, Reader

PATIENCE: Final = 120.0  # seconds
SIZE: Final = 100_000  # more than a window, so that the sender waits for credit


class Source(trio.abc.ReceiveStream):
    """A stream that returns `SIZE` bytes, a piece at a time."""

    def __init__(self) -> None:
        self._left = SIZE

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        await trio.lowlevel.checkpoint()
        piece = bytes(min(self._left, 30_000))
        self._left -= len(piece)
        return piece

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Sink(trio.abc.SendStream):
    """A stream that discards the bytes sent to it."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        del data
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def read(client: Reader) -> None:
    async with client.resource_async(Source()) as handle:
        await client.call_async("read", handle)


async def read_compressed(client: Reader) -> None:
    async with client.resource_async(Source(), compress=True) as handle:
        await client.call_async("read", handle)


async def read_some(client: Reader) -> None:
    async with client.resource_async(Source()) as handle:
        await client.call_async("read_some", handle, 10)


async def write(client: Reader) -> None:
    async with client.resource_async(Sink(), write=True) as handle:
        await client.call_async("write", handle, bytes(SIZE // 2), 2)


@pytest.mark.parametrize("case", [read, read_compressed, read_some, write])
async def test_lending_can_be_cancelled_at_every_step(
    case: Callable[[Reader], Awaitable[None]],
) -> None:
    driver = Library()
    async with in_time(PATIENCE), client_for_async(driver) as client:
        reader = cast("Reader", client)
        rules = reader.channel.channel.connection.rules

        async def run_once(at: int) -> tuple[int, bool]:
            scope = trio.CancelScope()
            with counted(at, scope.cancel) as steps, scope:
                await case(reader)
            return steps.taken, scope.cancelled_caught

        async def settled() -> tuple[int, int]:
            await wait_all_tasks_blocked()
            return rules.busy_slots, trio.lowlevel.current_statistics().tasks_living

        total, _ = await run_once(0)
        baseline = await settled()
        before = look()
        cut_short = 0
        for step in range(1, total + 1):
            _, caught = await run_once(step)
            cut_short += caught
            assert driver.resources == {}, f"cancelled at step {step}"
            assert await settled() == baseline, f"cancelled at step {step}"
            assert leaked_since(before) == [], f"cancelled at step {step}"
    assert cut_short, "no cancellation has had an effect"
