"""Tests of async generators that run in an asyncio lane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anyio
import pytest
import trio

from helpers import begin, timed, until
from jumpstarter._io.asyncio_lane import AsyncioLane, open_lane
from jumpstarter._io.lane_generators import GeneratorEnd, LaneGenerator


class Run:
    """A generator in a lane, and what it has made: batches of items, and the items between them."""

    def __init__(
        self,
        lane: AsyncioLane,
        make: Callable[[], Any],
        capacity: int,
        *,
        cleanup: float = 5,
        send: Callable[[object], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.batch: list[object] = []
        self.between: list[object] = []
        self.capacity = capacity
        self.send = send or self.keep
        self.generator = LaneGenerator(lane, make, self.emit, cleanup)

    def emit(self, item: object) -> int:
        self.batch.append(item)
        return 1

    async def keep(self, item: object) -> None:
        self.between.append(item)

    async def run(self) -> None:
        self.generator.start()
        try:
            while True:
                made = await self.generator.step(self.capacity)
                if isinstance(made, GeneratorEnd):
                    return
                await self.generator.send(made, self.send)
        finally:
            await self.generator.aclose()


class Stop(Exception):
    pass


async def stop(_: object) -> None:
    raise Stop


async def numbers(log: list[str], count: int) -> AsyncIterator[int]:
    task = asyncio.current_task()
    try:
        for number in range(count):
            yield number
            assert asyncio.current_task() is task
        log.append("end")
    finally:
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        log.append("cleaned")


@timed()
@pytest.mark.parametrize("count", [0, 1, 3, 100])
@pytest.mark.parametrize("capacity", [0, 1, 2, 1000])
async def test_items_arrive_in_order_whatever_the_capacity(count: int, capacity: int) -> None:
    log: list[str] = []
    async with open_lane("a lane") as lane:
        run = Run(lane, lambda: numbers(log, count), capacity)
        await run.run()
    assert sorted([*run.batch, *run.between]) == list(range(count))  # type: ignore[type-var]
    assert run.batch == sorted(run.batch)  # type: ignore[type-var]
    assert log == ["end", "cleaned"]
    if capacity == 0:
        assert run.batch == []


@timed()
async def test_exception_of_the_generator_is_raised() -> None:
    async def fails() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    async with open_lane("a lane") as lane:
        run = Run(lane, fails, 10)
        with pytest.raises(LookupError, match="no more"):
            await run.run()
    assert run.batch == [1]


@timed()
async def test_generator_left_at_a_yield_has_cleaned_up() -> None:
    log: list[str] = []

    async with open_lane("a lane") as lane:
        run = Run(lane, lambda: numbers(log, 10), 3, send=stop)
        with pytest.raises(Stop):
            await run.run()
        assert run.batch == [0, 1, 2]
        assert log == ["cleaned"]


@timed()
async def test_generator_cancelled_while_it_waits_has_cleaned_up() -> None:
    log: list[str] = []

    async def waits() -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            log.append("cleaned")

    async with open_lane("a lane") as lane, trio.open_nursery() as nursery:
        run = Run(lane, waits, 10)
        outcome = await begin(nursery, run.run)
        await until(lambda: run.batch == [1])
        await outcome.cancel()
        await until(lambda: outcome.ended)
        assert isinstance(outcome.error, trio.Cancelled)
        assert log == ["cleaned"]


@timed()
async def test_generator_that_never_waits_lets_other_tasks_run_and_can_be_cancelled() -> None:
    async def endless() -> AsyncIterator[int]:
        while True:
            yield 1

    async with open_lane("a lane") as lane, trio.open_nursery() as nursery:
        run = Run(lane, endless, 10**9)
        outcome = await begin(nursery, run.run)
        await lane.run(asyncio.sleep, 0)
        await outcome.cancel()
        await until(lambda: outcome.ended)
        assert isinstance(outcome.error, trio.Cancelled)


@timed()
async def test_generator_cancelled_before_it_began_never_begins() -> None:
    log: list[str] = []
    async with open_lane("a lane") as lane:
        run = Run(lane, lambda: numbers(log, 10), 3)
        with trio.CancelScope() as scope:
            scope.cancel()
            await run.run()
        assert scope.cancelled_caught
    assert log == []
    assert run.batch == []


@timed()
async def test_cleanup_that_takes_too_long_is_cut_short() -> None:
    async def slow() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(3600)

    async with open_lane("a lane") as lane:
        run = Run(lane, slow, 0, cleanup=0.01, send=stop)
        with pytest.raises(trio.TooSlowError, match=r"had not cleaned up in 0\.01 s"):
            await run.run()


@timed()
@pytest.mark.parametrize("library", [asyncio, anyio])
async def test_timeout_around_a_yield_ends_the_generator_and_the_sending(library: Any) -> None:
    async def limited() -> AsyncIterator[int]:
        if library is asyncio:
            async with asyncio.timeout(0.02):
                yield 1
        else:
            with anyio.fail_after(0.02):
                yield 1

    async def never(_: object) -> None:
        await trio.sleep_forever()

    async with open_lane("a lane") as lane:
        run = Run(lane, limited, 0, send=never)
        with pytest.raises(TimeoutError):
            await run.run()


@timed()
async def test_timeout_around_a_yield_can_be_survived() -> None:
    async def limited() -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(0):
                yield "first"
                await asyncio.sleep(3600)
        except TimeoutError:
            yield "after the timeout"

    async with open_lane("a lane") as lane:
        run = Run(lane, limited, 0)
        await run.run()
    assert run.between == ["first", "after the timeout"]


@timed()
async def test_task_group_around_a_yield_is_left_quietly() -> None:
    async def grouped() -> AsyncIterator[int]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            yield 1

    async with open_lane("a lane") as lane:
        run = Run(lane, grouped, 0, send=stop)
        with pytest.raises(Stop):
            await run.run()
