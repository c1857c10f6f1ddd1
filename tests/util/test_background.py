"""Tests of `jumpstarter._util.background`: tasks that run concurrently with a block."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from helpers import PATIENCE, timed
from jumpstarter._util.background import open_background


class Task:
    """A background task that records its progress."""

    state = "not started"

    async def run(self) -> None:
        self.state = "running"
        try:
            await trio.sleep_forever()
        finally:
            self.state = "ended"


@timed()
async def test_tasks_run_concurrently_with_the_block_and_end_with_it() -> None:
    task = Task()
    async with open_background() as nursery:
        nursery.start_soon(task.run)
        await trio.testing.wait_all_tasks_blocked()
        assert task.state == "running"
    assert task.state == "ended"


@pytest.mark.parametrize(
    "error",
    [ValueError(), KeyboardInterrupt(), StopAsyncIteration(), ExceptionGroup("own", [OSError()])],
    ids=lambda error: type(error).__name__,
)
@timed()
async def test_an_exception_of_the_block_propagates_unchanged_after_the_tasks_end(
    error: BaseException,
) -> None:
    task = Task()
    with pytest.raises(type(error)) as caught:  # noqa: PT012
        async with open_background() as nursery:
            nursery.start_soon(task.run)
            raise error
    assert caught.value is error
    assert caught.value.__context__ is None
    assert task.state in {"not started", "ended"}


@timed()
async def test_an_exception_of_the_block_survives_an_outer_cancellation() -> None:
    error = ValueError()
    with pytest.raises(ValueError) as caught, trio.CancelScope() as scope:  # noqa: PT011, PT012
        async with open_background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            raise error
    assert caught.value is error


@timed()
async def test_a_cancellation_propagates() -> None:
    task = Task()
    with trio.move_on_after(0.01) as scope:
        async with open_background() as nursery:
            nursery.start_soon(task.run)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert task.state == "ended"


@timed()
async def test_a_block_within_a_block_can_be_ended_by_a_task_of_the_outer_one() -> None:
    async with open_background() as outer:
        async with open_background() as inner:
            inner.start_soon(trio.sleep_forever)
            outer.cancel_scope.cancel()
            await trio.sleep_forever()
        raise AssertionError


def test_an_exception_of_a_task_cancels_the_block_and_propagates_in_a_group() -> None:
    async def fail() -> None:
        raise OSError("a bug")

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with open_background() as nursery:
                nursery.start_soon(fail)
                await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        trio.run(main)
    assert caught.group_contains(OSError, match="a bug")
