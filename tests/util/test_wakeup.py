"""Tests of wakeups: none is stored, and none is missed by a waiting task."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from helpers import timed
from jumpstarter._util import trio_private
from jumpstarter._util.wakeup import LazyEvent, LazyParkingLot, Wakeup


@pytest.fixture(params=[True, False], ids=["own request", "Trio's coroutine"], autouse=True)
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test as well as a version of Trio without that private name would."""
    monkeypatch.setattr(trio_private, "CAN_REQUEST_SLEEP", request.param)


class Waiter:
    """A task that waits for wakeups, and counts them in `woken`."""

    def __init__(self, wakeup: Wakeup) -> None:
        self.wakeup = wakeup
        self.scope = trio.CancelScope()
        self.woken = 0

    async def run(self) -> None:
        with self.scope:
            while True:
                await self.wakeup.wait()
                self.woken += 1


@timed()
async def test_a_waiter_sleeps_until_it_is_woken() -> None:
    waiter = Waiter(Wakeup())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        assert waiter.woken == 0
        for times in (1, 2, 3):
            waiter.wakeup.set()
            await wait_all_tasks_blocked()
            assert waiter.woken == times
        nursery.cancel_scope.cancel()


@timed()
async def test_waking_without_a_waiter_has_no_effect() -> None:
    waiter = Waiter(Wakeup())
    waiter.wakeup.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        assert waiter.woken == 0
        nursery.cancel_scope.cancel()


@timed()
async def test_a_wait_that_ctrl_c_has_ended_before_it_slept_is_not_woken() -> None:
    if not trio_private.CAN_REQUEST_SLEEP:
        pytest.skip("the coroutine of Trio sleeps for the task that has made it")
    wakeup = Wakeup()
    wakeup.wait()  # Ctrl-C is raised here, in the task that would await this
    wakeup.set()
    with trio.move_on_after(0.01) as another_sleep:
        await trio.sleep_forever()
    assert another_sleep.cancelled_caught


@timed()
async def test_waking_twice_before_the_waiter_runs_wakes_it_once() -> None:
    waiter = Waiter(Wakeup())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        waiter.wakeup.set()
        waiter.wakeup.set()
        await wait_all_tasks_blocked()
        assert waiter.woken == 1
        nursery.cancel_scope.cancel()


@timed()
async def test_a_wait_is_possible_after_a_cancelled_one() -> None:
    waiter = Waiter(Wakeup())
    for times in (1, 2):
        waiter.scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter.run)
            await wait_all_tasks_blocked()
            waiter.wakeup.set()
            await wait_all_tasks_blocked()
            waiter.scope.cancel()
            await wait_all_tasks_blocked()
            waiter.wakeup.set()
            await wait_all_tasks_blocked()
        assert waiter.woken == times
        assert waiter.scope.cancelled_caught


@timed()
async def test_only_one_task_may_wait() -> None:
    waiter = Waiter(Wakeup())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        with pytest.raises(AssertionError, match="only one task can wait"):
            await waiter.wakeup.wait()
        waiter.wakeup.set()
        await wait_all_tasks_blocked()
        assert waiter.woken == 1
        nursery.cancel_scope.cancel()


@timed()
async def test_a_wakeup_that_was_used_does_not_wait_for_the_garbage_collector() -> None:
    class Observed(Wakeup):
        """One to which a weak reference is possible."""

    waiter = Waiter(Observed())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    alive = weakref.ref(waiter.wakeup)
    gc.disable()
    try:
        del waiter
        assert alive() is None
    finally:
        gc.enable()


@timed()
async def test_waiting_is_a_checkpoint() -> None:
    wakeup = Wakeup()
    async with trio.open_nursery() as nursery:

        async def wake() -> None:
            wakeup.set()

        nursery.start_soon(wake)
        with assert_checkpoints():
            await wakeup.wait()


@timed()
async def test_a_cancelled_waiter_leaves_the_wakeup_to_the_next_one() -> None:
    wakeup = Wakeup()
    first, second = Waiter(wakeup), Waiter(wakeup)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        await wait_all_tasks_blocked()
        first.scope.cancel()
        await wait_all_tasks_blocked()
        assert first.scope.cancelled_caught
        wakeup.set()  # has no effect: the waiter has ended
        nursery.start_soon(second.run)
        await wait_all_tasks_blocked()
        wakeup.set()
        await wait_all_tasks_blocked()
        assert (first.woken, second.woken) == (0, 1)
        nursery.cancel_scope.cancel()


@timed()
async def test_a_waiter_that_is_woken_and_then_cancelled_was_woken() -> None:
    waiter = Waiter(Wakeup())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        waiter.wakeup.set()
        waiter.scope.cancel()
    assert waiter.woken == 1
    assert waiter.scope.cancelled_caught


@timed()
async def test_a_waiter_that_is_cancelled_and_then_woken_was_cancelled() -> None:
    waiter = Waiter(Wakeup())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        waiter.scope.cancel()
        waiter.wakeup.set()
    assert waiter.woken == 0


@timed()
async def test_a_loop_of_check_and_wait_misses_no_wakeup() -> None:
    wakeup = Wakeup()
    queue: deque[int] = deque()
    taken: list[int] = []

    async def consume() -> None:
        while len(taken) < 1000:
            while not queue:
                await wakeup.wait()
            taken.append(queue.popleft())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        for number in range(1000):
            queue.append(number)
            wakeup.set()
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
    assert taken == list(range(1000))


# --- any number of tasks ---


async def wait_and_record(wait: Callable[[], Awaitable[None]], name: str, woken: list[str]) -> None:
    await wait()
    woken.append(name)


@timed()
async def test_waiters_are_woken_in_order() -> None:
    waiters, woken = LazyParkingLot(), list[str]()
    async with trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(wait_and_record, waiters.park, name, woken)
            await wait_all_tasks_blocked()
        assert len(waiters) == 4
        for so_far in ("a", "ab"):
            waiters.unpark()
            await wait_all_tasks_blocked()
            assert "".join(woken) == so_far
        waiters.unpark_all()
    assert sorted(woken) == list("abcd")  # Trio runs tasks that were woken together in any order
    assert not waiters


@timed()
async def test_waking_an_empty_parking_lot_has_no_effect() -> None:
    waiters, woken = LazyParkingLot(), list[str]()
    waiters.unpark()
    waiters.unpark_all()
    assert not waiters
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_and_record, waiters.park, "a", woken)
        await wait_all_tasks_blocked()
        assert not woken
        nursery.cancel_scope.cancel()
    assert not waiters


@timed()
async def test_a_lazy_event_releases_all_waiters_once_set() -> None:
    event, woken = LazyEvent(), list[str]()
    async with trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(wait_and_record, event.wait, name, woken)
        await wait_all_tasks_blocked()
        assert not woken
        assert not event.is_set()
        event.set()
        assert event.is_set()
    assert sorted(woken) == ["a", "b"]
    event.set()
    with assert_checkpoints():
        await event.wait()
