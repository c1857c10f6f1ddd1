"""Tests of the asyncio lane: calls into it and back, cancellation, held contexts, and its end."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from helpers import PATIENCE, Outcome, begin, timed, until
from jumpstarter._io.asyncio_lane import AsyncioLane, LaneState, open_lane
from jumpstarter._io.current_lane import current_lane
from jumpstarter._io.lane_call import TrioCall
from leaks import look

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Log(list[str]):
    """What has happened, in order; and an event of asyncio that a test waits for."""

    def __init__(self) -> None:
        self.reached = threading.Event()

    async def reach(self) -> None:
        await until(self.reached.is_set)


async def forever(log: Log, *, cleanup: float = 0) -> None:
    log.append("begin")
    log.reached.set()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        log.append("cancelled")
        raise
    finally:
        await asyncio.sleep(cleanup)
        log.append("end")


async def library() -> str:
    await anyio.lowlevel.checkpoint()
    return anyio.get_cancelled_exc_class().__name__


async def raises(exc: BaseException) -> None:
    await asyncio.sleep(0)
    raise exc


async def raises_in_trio(exc: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise exc


# ------------------------------------------------------------------------------------ calls


@timed()
async def test_function_runs_in_an_asyncio_task_of_a_thread_and_returns() -> None:
    async def function(text: str, *, times: int) -> tuple[str, Any, threading.Thread]:
        await asyncio.sleep(0)
        assert asyncio.current_task() is not None
        return text * times, current_lane(), threading.current_thread()

    async with open_lane("a lane") as lane:
        text, here, thread = await lane.run(function, "ab", times=2)
        assert (text, here, thread.name) == ("abab", lane, "a lane")
        assert current_lane() is None
    assert lane.state is LaneState.ENDED
    assert not thread.is_alive()


@timed()
async def test_lane_that_is_not_used_starts_no_thread() -> None:
    before = look().threads  # without Trio's own threads, which start and end when they like
    async with open_lane("a lane") as lane:
        assert lane.state is LaneState.NEW
        assert look().threads <= before
    with pytest.raises(RuntimeError, match="a lane has ended"):
        await lane.run(asyncio.sleep, 0)


@timed()
async def test_anyio_works_in_both_loops_whatever_context_is_copied() -> None:
    def in_thread() -> str:
        return anyio.from_thread.run(library)

    async def in_asyncio(lane: AsyncioLane) -> list[str]:
        return [
            await library(),
            await lane.run_in_trio(library),
            await anyio.to_thread.run_sync(in_thread),
            await lane.run_in_trio(anyio.to_thread.run_sync, in_thread),
        ]

    names = ["CancelledError", "Cancelled", "CancelledError", "Cancelled"]
    async with open_lane("a lane") as lane:
        assert await lane.run(in_asyncio, lane) == names
        in_trio = await anyio.to_thread.run_sync(anyio.from_thread.run, lane.run, in_asyncio, lane)
        assert in_trio == names


@timed()
async def test_context_variables_are_copied_into_the_task_and_back() -> None:
    async def inner() -> str:
        return variable.get()

    async def function(lane: AsyncioLane) -> list[str]:
        before = variable.get()
        variable.set("inner")
        return [before, await lane.run_in_trio(inner)]

    async with open_lane("a lane") as lane:
        variable.set("outer")
        assert await lane.run(function, lane) == ["outer", "inner"]
        assert variable.get() == "outer"


@timed()
@pytest.mark.parametrize(
    "exc", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), OSError(2, "no")]
)
async def test_exception_leaves_the_call_and_nothing_else(exc: BaseException) -> None:
    async with open_lane("a lane") as lane:
        with pytest.raises(type(exc)) as caught:
            await lane.run(raises, exc)
        assert caught.value is exc
        assert await lane.run(library) == "CancelledError"


@timed()
async def test_cancelled_call_has_ended_when_it_raises_with_its_cleanup() -> None:
    log = Log()
    async with open_lane("a lane") as lane:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: lane.run(forever, log, cleanup=0.01))
                await log.reach()
                scope.cancel()
        assert scope.cancelled_caught
        assert log == ["begin", "cancelled", "end"]


@timed()
async def test_deadline_cancels_the_asyncio_task() -> None:
    log = Log()
    async with open_lane("a lane") as lane:
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(0.05):
                await lane.run(forever, log)
        assert log in (["begin", "cancelled", "end"], [])


@timed()
async def test_call_cancelled_before_it_began_never_begins() -> None:
    log = Log()
    async with open_lane("a lane") as lane:
        await lane.run(asyncio.sleep, 0)
        with trio.CancelScope() as scope:
            scope.cancel()
            await lane.run(forever, log)
        assert scope.cancelled_caught
        assert log == []


@timed()
async def test_call_that_swallows_its_cancellation_is_waited_for() -> None:
    log = Log()

    async def stubborn() -> str:
        try:
            await forever(log)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
        return "late"

    async with open_lane("a lane") as lane, trio.open_nursery() as nursery:
        outcome = await begin(nursery, lane.run, stubborn)
        await log.reach()
        await outcome.cancel()
        await until(lambda: outcome.ended)
        assert outcome.value == "late"


@timed()
async def test_task_that_cancels_itself_is_an_error_and_no_cancellation() -> None:
    async def function() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async with open_lane("a lane") as lane:
        with pytest.raises(RuntimeError, match="nobody has cancelled the call"):
            await lane.run(function)


@timed()
async def test_error_of_the_cleanup_replaces_the_cancellation() -> None:
    log = Log()

    async def function() -> None:
        try:
            await forever(log)
        finally:
            raise ValueError("relay is stuck")

    async with open_lane("a lane") as lane, trio.open_nursery() as nursery:
        outcome = await begin(nursery, lane.run, function)
        await log.reach()
        await outcome.cancel()
        await until(lambda: outcome.ended)
        outcome.failed(ValueError, "relay is stuck")


# --------------------------------------------------------------------------------- the way back


@timed()
async def test_way_back_runs_in_the_trio_loop_and_passes_exceptions() -> None:
    async def inner(fails: bool) -> int:
        await trio.lowlevel.checkpoint()
        if fails:
            raise LookupError("not there")
        return threading.get_ident()

    async with open_lane("a lane") as lane:
        assert await lane.run(lane.run_in_trio, inner, False) == threading.get_ident()
        with pytest.raises(LookupError, match="not there"):
            await lane.run(lane.run_in_trio, inner, True)


@timed()
async def test_cancelling_the_call_cancels_what_it_runs_in_trio_and_waits() -> None:
    log = Log()

    async def inner() -> None:
        log.reached.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            log.append("trio ended")

    async def outer(lane: AsyncioLane) -> None:
        try:
            await lane.run_in_trio(inner)
        finally:
            await lane.run_in_trio(trio.sleep, 0)  # the cancellation is delivered once
            log.append("asyncio ended")

    async with open_lane("a lane") as lane, trio.open_nursery() as nursery:
        outcome = await begin(nursery, lane.run, outer, lane)
        await log.reach()
        await outcome.cancel()
        await until(lambda: outcome.ended)
        assert isinstance(outcome.error, trio.Cancelled)
        assert log == ["trio ended", "asyncio ended"]


@timed()
async def test_asyncio_timeout_ends_what_runs_in_trio() -> None:
    async def outer(lane: AsyncioLane) -> None:
        async with asyncio.timeout(0.01):
            await lane.run_in_trio(trio.sleep_forever)

    async with open_lane("a lane") as lane:
        with pytest.raises(TimeoutError):
            await lane.run(outer, lane)


@timed()
async def test_deadline_around_the_lane_holds_for_what_it_runs_in_trio() -> None:
    async def inner() -> float:
        return trio.current_effective_deadline()

    async with open_lane("a lane") as lane:
        with trio.move_on_after(1000) as scope:
            assert await lane.run(lane.run_in_trio, inner) == scope.deadline
            with trio.CancelScope(deadline=trio.current_time() + 0.01):
                await lane.run(lane.run_in_trio, trio.sleep_forever)
        assert await lane.run(lane.run_in_trio, inner) == float("inf")


# ------------------------------------------------------------------------------ held contexts


@asynccontextmanager
async def logged(log: Log, *, suppress: bool = False) -> AsyncIterator[str]:
    task = asyncio.current_task()
    log.append("enter")
    try:
        yield "value"
    except BaseException as exc:
        log.append(type(exc).__name__)
        if not suppress:
            raise
    finally:
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        log.append("leave")


@timed()
async def test_one_task_enters_and_leaves_a_held_context() -> None:
    log = Log()
    async with open_lane("a lane") as lane:
        async with lane.hold(logged(log)) as value:
            log.append(value)
        assert log == ["enter", "value", "leave"]


@timed()
async def test_exception_of_the_body_is_raised_in_the_held_context() -> None:
    log = Log()
    mistake = ValueError("mine")
    async with open_lane("a lane") as lane:
        with pytest.raises(ValueError, match="mine") as caught:
            async with lane.hold(logged(log)):
                await raises_in_trio(mistake)
        assert caught.value is mistake
        async with lane.hold(logged(log, suppress=True)):
            await raises_in_trio(mistake)
        assert log == ["enter", "ValueError", "leave"] * 2


@timed()
async def test_cancelled_body_gives_the_held_context_one_cancellation() -> None:
    log = Log()
    async with open_lane("a lane") as lane:
        with trio.CancelScope() as scope:
            async with lane.hold(logged(log)):
                scope.cancel()
                await trio.sleep(3600)
        assert scope.cancelled_caught
        assert log == ["enter", "CancelledError", "leave"]


@timed()
async def test_context_that_fails_to_enter_raises() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        await raises(OSError(2, "no such port"))
        yield

    async with open_lane("a lane") as lane:
        with pytest.raises(OSError, match="no such port"):
            await lane.hold(broken()).__aenter__()


@timed()
async def test_task_group_that_fails_in_a_held_context_ends_the_body() -> None:
    @asynccontextmanager
    async def grouped() -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raises, ValueError("in the background"))
            yield

    async with open_lane("a lane") as lane:
        with pytest.raises(ExceptionGroup) as caught:
            async with lane.hold(grouped()):
                await trio.sleep(3600)
        assert caught.group_contains(ValueError, match="in the background")


@timed()
async def test_context_that_times_out_and_suppresses_it_ends_the_body() -> None:
    @asynccontextmanager
    async def limited() -> AsyncIterator[None]:
        with anyio.move_on_after(0.01):
            yield

    async with open_lane("a lane") as lane, lane.hold(limited()):
        await trio.sleep(3600)


@timed()
async def test_trio_context_is_held_open_for_asyncio_code() -> None:
    log = Log()

    @asynccontextmanager
    async def in_trio() -> AsyncIterator[str]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                yield "value"
            except BaseException as exc:
                log.append(type(exc).__name__)
                raise
            finally:
                nursery.cancel_scope.cancel()

    async def function(lane: AsyncioLane, error: BaseException | None) -> None:
        async with lane.hold_in_trio(in_trio()) as value:
            log.append(value)
            if error is not None:
                raise error

    async with open_lane("a lane") as lane:
        await lane.run(function, lane, None)
        with pytest.raises(ExceptionGroup):
            await lane.run(function, lane, ValueError("mine"))
        with pytest.raises(RuntimeError, match="nobody has cancelled"):
            await lane.run(function, lane, asyncio.CancelledError())
        assert log == ["value", "value", "ValueError", "value", "Cancelled"]


# ----------------------------------------------------------------------------------- its end


@timed()
async def test_tasks_that_were_left_behind_are_cancelled_joined_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Log()
    kept = set()

    async def leave_behind() -> None:
        kept.add(asyncio.create_task(forever(log, cleanup=0.01)))

    async with open_lane("a lane") as lane:
        await lane.run(leave_behind)
        await log.reach()
        assert log == ["begin"]
    assert log == ["begin", "cancelled", "end"]
    assert "left behind are cancelled: forever" in caplog.text


@timed()
async def test_task_that_was_left_behind_cannot_end_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = []

    async def leave_behind() -> None:
        kept.append(asyncio.create_task(raises(SystemExit(1))))

    async with open_lane("a lane") as lane:
        await lane.run(leave_behind)
        for _ in range(3):
            await lane.run(asyncio.sleep, 0)
        assert lane.state is LaneState.RUNNING
    assert "tried to end the program" in caplog.text
    assert isinstance(kept[0].exception(), SystemExit)


@timed()
async def test_failure_of_a_task_that_was_left_behind_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ValueError("cannot stop") from None

    kept = []

    async def leave_behind() -> None:
        kept.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)

    async with open_lane("a lane") as lane:
        await lane.run(leave_behind)
    assert "has failed: " in caplog.text
    assert "cannot stop" in caplog.text


@timed()
async def test_task_that_does_not_end_is_logged_and_dropped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jumpstarter._io.asyncio_lane.END_GRACE", 0.05)
    ends: list[int] = []

    async def stubborn(lane: AsyncioLane) -> None:
        while not ends:
            try:
                await lane.run_in_trio(trio.sleep_forever)
            except asyncio.CancelledError:
                await asyncio.sleep(0.2)
                ends.append(1)

    kept = []

    async def leave_behind(lane: AsyncioLane) -> None:
        kept.append(asyncio.create_task(stubborn(lane)))
        kept[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own message
        await asyncio.sleep(0)

    async with open_lane("a lane") as lane:
        await lane.run(leave_behind, lane)
    assert lane.state is LaneState.ENDED
    assert "have not ended within 0.05 s" in caplog.text


@timed()
async def test_thread_of_to_thread_is_waited_for() -> None:
    release = threading.Event()
    ended = []

    def work() -> None:
        release.wait(PATIENCE)
        ended.append(1)

    async def leave_behind() -> None:
        asyncio.get_running_loop().run_in_executor(None, work)

    async with open_lane("a lane") as lane:
        await lane.run(leave_behind)
        release.set()
    assert ended == [1]


@timed()
async def test_many_lanes_leak_nothing() -> None:
    for _ in range(20):
        async with open_lane("a lane") as lane:
            assert await lane.run(asyncio.to_thread, lambda: 1) == 1
            assert await lane.run(lane.run_in_trio, trio.to_thread.run_sync, lambda: 2) == 2


@timed()
async def test_lane_ends_although_its_block_is_cancelled() -> None:
    log = Log()
    with trio.CancelScope() as scope:
        async with open_lane("a lane") as lane, trio.open_nursery() as nursery:
            outcome = Outcome()
            nursery.start_soon(outcome.of, lane.run, forever, log)
            await log.reach()
            scope.cancel()
    assert lane.state is LaneState.ENDED
    assert log == ["begin", "cancelled", "end"]


@timed()
async def test_without_a_thread_the_call_fails_and_the_next_one_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with open_lane("a lane") as lane:
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", fail)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await lane.run(asyncio.sleep, 0)
        assert await lane.run(library) == "CancelledError"


@timed()
async def test_crash_of_the_thread_ends_the_calls(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()

    async def crash(lane: AsyncioLane) -> None:
        def fail() -> None:
            raise MemoryError("no memory")

        # A loop that has crashed cannot end its tasks. asyncio would say so when they are
        # collected, which may be after the last test.
        for task in asyncio.all_tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        lane.loop._run_once = fail  # type: ignore[attr-defined]
        await asyncio.sleep(3600)

    async with open_lane("a lane") as lane:
        async with trio.open_nursery() as nursery:
            outcome = await begin(nursery, lane.run, forever, log)
            await log.reach()
            with pytest.raises(RuntimeError, match="a lane has crashed"):
                await lane.run(crash, lane)
        outcome.failed(RuntimeError, "a lane has crashed")
        assert lane.state is LaneState.ENDED
    assert "a lane has crashed" in caplog.text


@timed()
async def test_async_generator_that_does_not_close_is_logged_and_dropped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jumpstarter._io.asyncio_lane.END_GRACE", 0.05)
    log = Log()

    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await forever(log)

    source = stubborn()
    async with open_lane("a lane") as lane:
        await lane.run(anext, source)
    assert lane.state is LaneState.ENDED
    assert log == ["begin", "cancelled", "end"]
    assert "async generators that were left behind have not ended within 0.05 s" in caplog.text


@timed()
async def test_a_cancellation_outlives_the_failure_of_a_trio_function() -> None:
    seen = []

    async def code(lane: AsyncioLane) -> None:
        task = asyncio.current_task()
        assert task is not None

        async def fail() -> None:  # its cancellation comes when it has already failed
            lane.loop.call_soon_threadsafe(task.cancel)
            raise ValueError("too late")

        try:
            await lane.run_in_trio(fail)
        except asyncio.CancelledError as exc:
            seen.append(repr(exc.__cause__))

    async with open_lane("a lane") as lane:
        await lane.run(code, lane)
    assert seen == ["ValueError('too late')"]


@timed()
async def test_trio_function_that_begins_as_the_lane_ends_is_cancelled() -> None:
    ended = []

    async def function() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(1)

    async with open_lane("a lane") as lane:
        await lane.run(asyncio.sleep, 0)
        # In the asyncio loop, after which the lane ends immediately.
        call = TrioCall(lane, function)
        call._begin_task()
        assert call in lane.trio_calls
    assert ended in ([], [1])
