"""Tests of `jumpstarter.client._generators`: a driver's generator in Trio code, and how it ends."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from drivers_for_tests import Echo, Lab
from helpers import ask, begin, channel_to, generator, scripted
from jumpstarter._limits import Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.codec import encode_value
from jumpstarter._protocol.frames import FrameType
from jumpstarter.client._generators import RemoteGenerator
from jumpstarter.driver import export
from jumpstarter.errors import CallCancelled, Code, DriverError, DriverInvalidArgument

ONE_CALL = Limits(max_calls=1)
TINY = Limits(max_frame=1024, max_message=4096, max_pending=4096)

T = FrameType


async def test_generator_yields_its_items_and_keeps_its_return_value() -> None:
    async with channel_to(Lab()) as channel:
        items = generator(channel, "count_async", 3)
        assert [item async for item in items] == [0, 1, 2]
        assert items.value is None
        async with generator(channel, "count", 3) as items:
            assert [item async for item in items] == [0, 1, 2]
        assert items.value == "counted"
        assert [item async for item in items] == []


async def test_items_before_a_failure_are_yielded() -> None:
    async with channel_to(Lab()) as channel:
        items = generator(channel, "items_and_failure")
        assert [await anext(items), await anext(items)] == [1, 2]
        with pytest.raises(DriverInvalidArgument, match="'items_and_failure' of the driver: Value"):
            await anext(items)
        assert [item async for item in items] == []


async def test_a_generator_starts_with_its_first_step_or_its_block() -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        by_step = generator(channel, "by_step")
        in_block = generator(channel, "in_block")
        await wait_all_tasks_blocked()
        async with in_block:
            event = await exporter.event(ev.CallReceived)
            assert event.head.method == "in_block"
            await exporter.result(event.slot)
            await wait_all_tasks_blocked()
        step = await begin(nursery, by_step.__anext__)
        event = await exporter.event(ev.CallReceived)
        assert event.head.method == "by_step"
        await exporter.item(event.slot, 1)
        await exporter.result(event.slot)
        await wait_all_tasks_blocked()
        assert step.value == 1


async def test_unstarted_generator_sends_nothing() -> None:
    async with scripted() as (channel, exporter):
        items = generator(channel, "items")
        await items.aclose()
        assert [item async for item in items] == []
        async with items:
            pass
        del items
        generator(channel, "items")  # collected immediately
        gc.collect()
        await channel.aclose()
        assert [sent.type for sent in await exporter.all_frames()] == [T.HELLO]


async def test_a_loop_left_early_ends_the_driver_before_the_block_is_left(
    autojump_clock: MockClock,
) -> None:
    lab = Lab()
    async with channel_to(lab) as channel:
        async with generator(channel, "items", 3, 0.5) as items:
            async for _ in items:
                break
        assert lab.log == ["items started", "items ended"]
        assert autojump_clock.current_time() == pytest.approx(0.5)


async def test_an_exception_leaves_the_block_when_the_driver_has_ended() -> None:
    lab = Lab()
    async with channel_to(lab) as channel:
        with pytest.raises(KeyError):
            async with generator(channel, "items", 3):
                raise KeyError
        assert lab.log == ["items started", "items ended"]


async def test_aclose_ends_the_driver_and_the_iteration() -> None:
    lab = Lab()
    async with channel_to(lab) as channel:
        async with aclosing(generator(channel, "items", 3)) as items:
            assert await anext(items) == 0
        assert lab.log == ["items started", "items ended"]
        assert [item async for item in items] == []
        await items.aclose()


async def test_a_step_that_is_cancelled_ends_the_driver_and_the_iteration() -> None:
    lab = Lab()
    async with channel_to(lab) as channel, trio.open_nursery() as nursery:
        items = generator(channel, "items", 1)
        assert await anext(items) == 0
        step = await begin(nursery, items.__anext__)
        await step.cancel()
        assert isinstance(step.error, trio.Cancelled)
        assert lab.log == ["items started", "items ended"]
        assert [item async for item in items] == []


async def test_unfinished_generator_ends_the_driver_when_collected() -> None:
    lab = Lab()
    async with channel_to(lab, exporter_limits=ONE_CALL) as channel:
        async for _ in generator(channel, "items", 3):
            break
        gc.collect()
        await wait_all_tasks_blocked()
        assert lab.log == ["items started", "items ended"]
        assert await channel.call(ask("echo_async", "usable")) == "usable"


def test_one_that_a_signal_handler_keeps_from_being_made_is_collected_quietly() -> None:
    made = RemoteGenerator.__new__(RemoteGenerator)  # and `__init__` never runs
    del made  # pytest makes an error of what `__del__` raises


async def test_only_one_task_at_a_time_iterates() -> None:
    lab = Lab()
    async with channel_to(lab) as channel, trio.open_nursery() as nursery:
        items = generator(channel, "items", 0)
        step = await begin(nursery, items.__anext__)
        with pytest.raises(trio.BusyResourceError, match="another task is iterating"):
            await anext(items)
        with pytest.raises(trio.BusyResourceError, match="another task is iterating"):
            await items.aclose()
        lab.let_go.set()
        await wait_all_tasks_blocked()
        assert isinstance(step.error, StopAsyncIteration)


async def test_leaving_the_block_ends_the_wait_of_another_task() -> None:
    lab = Lab()
    async with channel_to(lab) as channel, trio.open_nursery() as nursery:
        async with generator(channel, "items", 0) as items:
            step = await begin(nursery, items.__anext__)
        assert lab.log == ["items started", "items ended"]
        await wait_all_tasks_blocked()
        step.failed(CallCancelled, "method 'items' of the driver: the call was cancelled")


async def test_leaving_the_block_ends_the_step_of_another_task_that_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        scripted() as (channel, exporter),
        trio.open_nursery() as nursery,
        generator(channel, "items") as items,
    ):
        slot = (await exporter.event(ev.CallReceived)).slot
        for number in range(40):
            exporter.rules.item(slot, encode_value(number))
        await exporter.send()
        await wait_all_tasks_blocked()

        async def leave() -> None:
            monkeypatch.undo()
            nursery.start_soon(items.__aexit__, None, None, None)
            await wait_all_tasks_blocked()

        async def take() -> None:
            async for _ in items:
                pass

        monkeypatch.setattr(trio.lowlevel, "checkpoint", leave)
        loop = await begin(nursery, take)
        await exporter.event(ev.CancelReceived)
        await exporter.error(slot, Code.CANCELLED)
        await wait_all_tasks_blocked()
        loop.failed(CallCancelled, "method 'items' of the driver")


async def test_leaving_the_block_ends_a_start_that_waits_for_a_slot() -> None:
    async with (
        scripted(exporter_limits=ONE_CALL) as (channel, exporter),
        trio.open_nursery() as nursery,
    ):
        await begin(nursery, channel.call, ask("on"))
        items = generator(channel, "items")
        step = await begin(nursery, items.__anext__)
        await items.__aexit__(None, None, None)
        await exporter.result((await exporter.event(ev.CallReceived)).slot)
        slot = (await exporter.event(ev.CallReceived)).slot
        await exporter.event(ev.CancelReceived)
        await exporter.error(slot, Code.CANCELLED)
        await wait_all_tasks_blocked()
        step.failed(CallCancelled, "method 'items' of the driver")


async def test_taking_arrived_items_lets_other_tasks_run() -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        async with generator(channel, "items") as items:
            slot = (await exporter.event(ev.CallReceived)).slot
            for number in range(100):
                exporter.rules.item(slot, encode_value(number))
            exporter.rules.result(slot, encode_value(None))
            await exporter.send()
            await wait_all_tasks_blocked()
            nursery.start_soon(take_turns)
            assert [item async for item in items] == list(range(100))
        assert 1 <= turns < 10
        nursery.cancel_scope.cancel()


async def test_credit_returns_as_items_are_taken_and_holds_the_driver_back_until_then() -> None:
    limits = Limits(stream_window=500, max_window=500)
    sent = 0

    class Source(Echo):
        @export
        async def source(self) -> AsyncGenerator[bytes, None]:
            nonlocal sent
            for sent in range(200):  # noqa: B007 - the test reads it
                yield bytes(100)

    async with channel_to(Source(), limits=limits) as channel:
        items = generator(channel, "source")
        await anext(items)
        await wait_all_tasks_blocked()
        assert sent < 10
        assert [len(item) async for item in items] == [100] * 199


async def test_an_item_that_cannot_be_decoded_ends_the_generator() -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        items = generator(channel, "items")
        step = await begin(nursery, items.__anext__)
        slot = (await exporter.event(ev.CallReceived)).slot
        exporter.rules.item(slot, bytearray(8) + b"\xc1")
        await exporter.send()
        await exporter.event(ev.CancelReceived)
        await exporter.error(slot, Code.CANCELLED)
        await wait_all_tasks_blocked()
        step.failed(
            DriverError, "method 'items' of the driver: its item: the 1 bytes cannot be decoded"
        )
        assert [item async for item in items] == []


@pytest.mark.parametrize("finishes", [True, False])
async def test_no_item_follows_a_discarded_one(*, finishes: bool) -> None:
    async with scripted(limits=TINY) as (channel, exporter), trio.open_nursery() as nursery:
        items = generator(channel, "items")
        await begin(nursery, items.__aenter__)
        slot = (await exporter.event(ev.CallReceived)).slot
        await begin(nursery, channel.call, ask("read"))
        other = (await exporter.event(ev.CallReceived)).slot
        await exporter.item(slot, "before")
        exporter.rules.item(slot, encode_value(bytes(3072)))
        exporter.rules.result(other, encode_value(bytes(3072)))
        await exporter.send()  # both, interleaved
        await exporter.item(slot, "behind")
        if finishes:
            await exporter.result(slot)
        await wait_all_tasks_blocked()
        assert await anext(items) == "before"
        step = await begin(nursery, items.__anext__)
        if not finishes:
            await exporter.event(ev.CancelReceived)
            await exporter.error(slot, Code.CANCELLED)
            await wait_all_tasks_blocked()
        step.failed(DriverError, "'items' of the driver: it was discarded: over 4096")
        assert [item async for item in items] == []
