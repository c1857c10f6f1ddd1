"""Tests of `_exporter.worker`: one thread answers calls that come faster than it answers them."""

from __future__ import annotations

import math
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from helpers import PATIENCE, ask, until, wait_until
from jumpstarter._exporter import led_connection, worker
from jumpstarter._exporter.led_connection import LedConnection
from jumpstarter._exporter.worker import Worker
from jumpstarter._io.ownership import Reader
from jumpstarter._protocol.codec import encode_cancel
from jumpstarter._protocol.frames import FrameType
from jumpstarter.client._outgoing_call import OutgoingCall
from jumpstarter.errors import CallOutcomeUnknown, CallRefused, Code, DriverError
from led_bench import Led, led
from transports import PairMaker, memory_pair, unix_pair

_METHODS: Final = ("plain", "slow", "polling", "fail", "sized", "leave_open")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Make all methods quick, on any machine. Returns the workers that have held the role."""
    monkeypatch.setattr(worker, "_STAYS", 1_000_000)
    monkeypatch.setattr(worker, "_QUICK", math.inf)
    workers: list[Worker] = []
    watch = LedConnection.watch_time_of

    def watch_time_of(self: LedConnection, each: Worker) -> None:
        workers.append(each)
        watch(self, each)

    monkeypatch.setattr(LedConnection, "watch_time_of", watch_time_of)
    return workers


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never take the role back, however slow the machine is."""
    monkeypatch.setattr(led_connection, "_LOOK", PATIENCE)


def send(it: Led, *calls: tuple[Any, ...], cancel: bool = False) -> list[OutgoingCall]:
    """Send calls together, so that the exporter reads all of them in one read.

    Args:
        it: The two ends.
        calls: The method and the arguments of each.
        cancel: Whether to cancel the first, with a frame behind the others.
    """
    connection = it.channel.connection
    made = [OutgoingCall(it.channel, ask(*call)) for call in calls]
    with connection.lock:
        for each in made:
            assert it.channel.start(each, math.inf)
        if cancel:
            frame = FrameType.CANCEL, made[0].slot, encode_cancel(Code.CANCELLED)
            connection.rules.send_queue.add_frame(*frame)
        connection.writer.flush_now()
    return made


async def prepare(it: Led) -> None:
    """Let a thread wait for calls, which knows all methods as quick."""
    it.session.executor.quick.update((1, method) for method in _METHODS)
    assert await it.call("plain") is None
    it.driver.threads.clear()


def is_held(it: Led) -> bool:
    return it.connection.ownership.reader is Reader.HELD


async def value_of(it: Led, call: OutgoingCall) -> Any:
    await call.join()
    if call.failure is not None:
        raise call.failure
    return it.channel.decode(call.value)


# ---------------------------------------------------------------------------------- quick methods


@pytest.mark.usefixtures("unwatched")
async def test_calls_that_arrive_together_are_answered_by_one_thread_in_order() -> None:
    async with led() as it:
        await prepare(it)
        calls = send(it, *(("plain", number) for number in range(100)))
        assert [await value_of(it, call) for call in calls] == list(range(100))
        assert len(it.driver.threads) == 100
        assert len(set(it.driver.threads)) == 1
        assert await it.call("echo_async", 1) == 1
        assert not it.connection.handlers
        assert not it.session.running


@pytest.mark.usefixtures("unwatched")
async def test_a_thread_that_held_the_role_reads_on() -> None:
    async with led() as it:
        await prepare(it)
        for number in range(10):
            first, second = send(it, ("plain", number), ("plain", -number))
            assert await value_of(it, first) == number
            assert await value_of(it, second) == -number
            assert await it.call("plain", "alone") == "alone"
        assert len(set(it.driver.threads)) == 1


async def test_the_watch_ends_when_no_more_calls_arrive_together(quick: list[Worker]) -> None:
    async with led() as it:
        await prepare(it)
        for number in range(2):
            for call in send(it, ("plain", 1), ("plain", 2)):
                await value_of(it, call)
            await until(lambda: len(quick) > number)  # noqa: B023 - awaited within the iteration
            await until(lambda: not quick[-1].is_watched)
            assert await it.call("echo_async", 1) == 1
            assert await it.call("plain", 3) == 3  # by a new thread


async def test_only_methods_that_were_quick_hold_the_role(monkeypatch: pytest.MonkeyPatch) -> None:
    async with led() as it:
        it.driver.let_go.set()
        await it.call("slow")
        assert (1, "slow") in it.session.executor.quick
        monkeypatch.setattr(worker, "_QUICK", -1)
        await it.call("slow")
        assert (1, "slow") not in it.session.executor.quick
        it.driver.let_go.clear()
        it.driver.begun.clear()
        assert it.is_led
        first, second = send(it, ("slow", 1), ("plain", 2))
        wait_until(it.driver.begun.is_set)  # the loop stands still meanwhile
        wait_until(lambda: it.connection.ownership.reader is Reader.LOOP)
        assert await value_of(it, second) == 2
        it.driver.let_go.set()
        assert await value_of(it, first) == 1


async def test_a_method_that_was_slow_and_failed_holds_no_role(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with led() as it:
        await prepare(it)
        monkeypatch.setattr(worker, "_QUICK", -1)
        with pytest.raises(ValueError, match="no"):
            await it.call("fail")
        assert (1, "fail") not in it.session.executor.quick


@pytest.mark.parametrize("size", [16 * 1024, 64 * 1024])
@pytest.mark.usefixtures("unwatched")
async def test_large_answers_among_others_arrive(size: int) -> None:
    async with led() as it:
        await prepare(it)
        calls = send(it, *(("sized", size) for _ in range(8)), ("plain", 1))
        for call in calls[:-1]:
            assert await value_of(it, call) == bytes(size)
        assert await value_of(it, calls[-1]) == 1


@pytest.mark.usefixtures("unwatched")
async def test_a_call_that_fails_among_others_holds_nothing_up() -> None:
    async with led() as it:
        await prepare(it)
        one, two, three = send(it, ("plain", 1), ("fail",), ("plain", 3))
        assert await value_of(it, one) == 1
        with pytest.raises(ValueError, match="no"):
            await value_of(it, two)
        assert await value_of(it, three) == 3


async def test_other_frames_among_calls_go_to_the_loop_in_order() -> None:
    async with led() as it:
        await prepare(it)
        methods = ["plain", "echo_async", "plain", "plain", "echo_async", "plain"]
        calls = send(it, *((method, number) for number, method in enumerate(methods)))
        assert [await value_of(it, call) for call in calls] == list(range(6))


@pytest.mark.usefixtures("unwatched")
async def test_a_thread_that_others_need_leaves_what_it_has_read_to_the_loop() -> None:
    async with led(threads=4) as it:
        await prepare(it)
        first, second = send(it, ("slow", 1), ("plain", 2))
        wait_until(it.driver.begun.is_set)
        assert is_held(it)
        limiter = it.session._dispatcher.executor.limiter
        for borrower in range(2):
            limiter.acquire_on_behalf_of_nowait(borrower)
        it.driver.let_go.set()
        assert await value_of(it, first) == 1
        assert await value_of(it, second) == 2
        assert not it.is_led
        for borrower in range(2):
            limiter.release_on_behalf_of(borrower)


# ----------------------------------------------------------------- methods that are slow this time


@pytest.mark.parametrize("make_pair", [unix_pair, memory_pair])
async def test_a_method_that_is_slow_this_time_keeps_no_call_behind_it(
    make_pair: PairMaker,
) -> None:
    async with led(make_pair=make_pair) as it:
        await prepare(it)
        first, second, third = send(it, ("slow", 1), ("plain", 2), ("echo_async", 3))
        wait_until(lambda: make_pair is memory_pair or it.driver.begun.is_set())
        assert is_held(it) is (make_pair is unix_pair)
        assert await value_of(it, second) == 2
        assert await value_of(it, third) == 3
        assert await it.call("echo_async", 4) == 4
        assert not it.driver.log
        it.driver.let_go.set()
        assert await value_of(it, first) == 1


async def test_an_answer_does_not_wait_for_a_slow_method_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "_TOGETHER", math.inf)
    async with led() as it:
        await prepare(it)
        first, second, third = send(it, ("plain", 1), ("slow", 2), ("plain", 3))
        wait_until(it.driver.begun.is_set)
        assert is_held(it)
        assert await value_of(it, first) == 1
        assert await value_of(it, third) == 3
        it.driver.let_go.set()
        assert await value_of(it, second) == 2


@pytest.mark.parametrize("together", [True, False])
async def test_a_call_whose_thread_holds_the_role_can_be_cancelled(together: bool) -> None:
    async with led() as it:
        await prepare(it)
        first, second = send(it, ("polling",), ("plain", 2), cancel=together)
        wait_until(it.driver.begun.is_set)
        assert is_held(it)
        if not together:
            assert it.channel.ask_to_end(first, Code.CANCELLED)
        with pytest.raises(DriverError):
            await value_of(it, first)
        assert it.driver.log == ["polling ended"]
        assert await value_of(it, second) == 2
        assert await it.call("check_cancelled") == "not cancelled"


@pytest.mark.usefixtures("unwatched")
async def test_a_cancelled_call_that_returns_leaves_those_behind_it_to_the_loop() -> None:
    async with led() as it:
        await prepare(it)
        first, second = send(it, ("slow", 1), ("plain", 2))
        wait_until(it.driver.begun.is_set)
        with it.connection.lock:
            [running] = it.session.running
            running.cancel("by a test")
        it.driver.let_go.set()
        assert await value_of(it, first) == 1
        assert await value_of(it, second) == 2


async def test_an_exporter_drains_while_a_thread_holds_the_role() -> None:
    async with led() as it, trio.open_nursery() as nursery:
        await prepare(it)
        first, second = send(it, ("slow", "in time"), ("plain", 2))
        wait_until(it.driver.begun.is_set)
        assert is_held(it)
        nursery.start_soon(it.session.drain, PATIENCE, "shutting down")
        with pytest.raises(CallRefused):  # the exporter had not looked at it
            await value_of(it, second)
        it.driver.let_go.set()
        assert await value_of(it, first) == "in time"


@pytest.mark.usefixtures("unwatched")
async def test_a_session_that_ends_while_a_thread_holds_the_role_begins_no_call() -> None:
    async with led() as it:
        await prepare(it)
        calls = send(it, ("slow", 1), ("plain", 2))
        wait_until(it.driver.begun.is_set)
        it.connection.end(ConnectionError("pulled"))
        it.driver.let_go.set()
        for call in calls:
            with pytest.raises(CallOutcomeUnknown):
                await value_of(it, call)
        await until(lambda: not it.session.running)
        assert not it.driver.threads


async def test_a_client_that_leaves_while_a_thread_holds_the_role_is_noticed() -> None:
    async with led() as it:
        await prepare(it)
        send(it, ("polling",), ("plain", 2))
        wait_until(it.driver.begun.is_set)
        assert is_held(it)
        await it.channel.aclose()
        await it.connection.finished.wait()
        await until(lambda: it.driver.log == ["polling ended"])


async def test_a_fault_of_ours_as_a_thread_stops_holding_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError("our own")

    monkeypatch.setattr(worker, "_TOGETHER", math.inf)
    async with led() as it:
        await prepare(it)
        monkeypatch.setattr(it.connection.reader._socket, "try_write", broken)
        calls = send(it, ("plain", 1), ("fail",), ("plain", 3))
        for call in calls:
            with pytest.raises(CallOutcomeUnknown):
                await value_of(it, call)
        await it.connection.finished.wait()
        await until(lambda: not it.connection.tasks)
    assert "our own" in caplog.text


# ------------------------------------------------------------------------------------- the clock


async def test_a_clock_that_stands_still_never_takes_a_role_back() -> None:
    assert led_connection._goes_on(trio.lowlevel.current_clock())
    assert not led_connection._goes_on(MockClock())
    assert not led_connection._goes_on(MockClock(autojump_threshold=0))
