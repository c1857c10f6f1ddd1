"""Tests of `jumpstarter._exporter.eager`: a call begins in the task that has read it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import trio
import trio.testing

from drivers_for_tests import Plain
from helpers import ask, begin, channel_over, channel_to, in_time
from jumpstarter._exporter.eager import resume
from jumpstarter._io.keepalive import Keepalive
from jumpstarter._limits import Limits
from jumpstarter._stepping import advance, enter_copied_context, leave_context
from jumpstarter.client._channel import Channel
from jumpstarter.driver import Driver, export
from jumpstarter.errors import CallCancelled, DriverError, DriverTimeoutError, HandshakeError
from transports import PairMaker, memory_pair, unix_pair

_said: Final[ContextVar[str]] = ContextVar("said", default="nothing")


@dataclass(kw_only=True)
class Tasks(Plain):
    """A driver that records which task runs each of its calls."""

    tasks: list[trio.lowlevel.Task] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    let_go: trio.Event = field(default_factory=trio.Event)
    left: list[Any] = field(default_factory=list)

    def _sign(self) -> None:
        self.tasks.append(trio.lowlevel.current_task())

    @export
    async def quick(self, value: Any = None) -> Any:
        self._sign()
        return value

    @export
    async def sized(self, size: int) -> bytes:
        return bytes(size)

    @export
    async def slow(self) -> str:
        self._sign()
        try:
            await self.let_go.wait()
        finally:
            self.log.append("slow ended")
        return "slow"

    @export
    async def say(self, text: str, wait: bool = False) -> list[str]:
        before = _said.get()
        _said.set(text)
        if wait:
            await trio.lowlevel.checkpoint()
        return [before, _said.get()]

    @export
    async def fail(self) -> None:
        self._sign()
        raise ValueError("no")

    @export
    async def seconds_left(self) -> float:
        return trio.current_effective_deadline() - trio.current_time()

    @export
    async def leave_open(self, what: str, wait: bool = False) -> None:
        if wait:
            await trio.lowlevel.checkpoint()
        scope: Any = trio.CancelScope() if what == "scope" else trio.open_nursery()
        self.left.append(scope)
        if what == "scope":
            scope.__enter__()
            scope.deadline = trio.current_time() + 60
        else:
            nursery = await scope.__aenter__()
            nursery.start_soon(self._background)

    async def _background(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.log.append("background ended")

    @export
    async def cancel_myself(self) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.lowlevel.checkpoint()

    @export
    async def raise_cancelled(self) -> None:
        scope = trio.CancelScope()
        try:
            with scope:
                scope.cancel()
                try:
                    await trio.lowlevel.checkpoint()
                except trio.Cancelled as exc:
                    kept = exc
                    raise
        finally:
            raise kept


@asynccontextmanager
async def calling(driver: Driver) -> AsyncIterator[Channel]:
    async with channel_to(driver) as channel:
        yield channel


async def test_calls_that_do_not_wait_are_answered_by_the_task_that_reads() -> None:
    driver = Tasks()
    async with calling(driver) as channel:
        living = trio.lowlevel.current_statistics().tasks_living
        for number in range(5):
            assert await channel.call(ask("quick", number)) == number
        assert trio.lowlevel.current_statistics().tasks_living == living
    assert len(set(driver.tasks)) == 1


async def test_a_call_that_waits_keeps_its_task_and_another_one_reads_on() -> None:
    driver = Tasks()
    async with calling(driver) as channel, trio.open_nursery() as nursery:
        first = await begin(nursery, channel.call, ask("slow"))
        second = await begin(nursery, channel.call, ask("slow"))
        assert await channel.call(ask("quick", 1)) == 1
        assert len(set(driver.tasks)) == 3
        driver.let_go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (first.value, second.value) == ("slow", "slow")
        await channel.call(ask("quick"))
        assert driver.tasks[-1] is driver.tasks[2]  # this task still reads the connection


async def test_calls_behind_one_that_waits_do_not_wait_for_it() -> None:
    driver = Tasks()
    async with calling(driver) as channel, trio.open_nursery() as nursery:
        outcomes = []

        async def ask_for(method: str) -> None:
            outcomes.append((method, await channel.call(ask(method))))

        for method in ("quick", "slow", "quick", "slow", "quick"):  # all of them arrive in one read
            nursery.start_soon(ask_for, method)
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == [("quick", None)] * 3
        driver.let_go.set()
    assert outcomes[3:] == [("slow", "slow")] * 2


async def test_a_call_that_fails_immediately_affects_no_other() -> None:
    driver = Tasks()
    async with calling(driver) as channel:
        with pytest.raises(ValueError, match="no"):
            await channel.call(ask("fail"))
        assert await channel.call(ask("quick", 1)) == 1
    assert len(set(driver.tasks)) == 1


@pytest.mark.parametrize("wait", [False, True])
async def test_each_call_has_a_context_to_itself(*, wait: bool) -> None:
    async with calling(Tasks()) as channel:
        for text in ("one", "two"):
            assert await channel.call(ask("say", text, wait)) == ["nothing", text]


async def test_a_deadline_is_seen_from_the_beginning_and_by_no_later_call() -> None:
    async with calling(Tasks()) as channel:
        with trio.fail_after(30):
            assert 0 < await channel.call(ask("seconds_left")) <= 30
        assert await channel.call(ask("seconds_left")) == float("inf")


async def test_a_deadline_that_has_passed_meanwhile_ends_no_other_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    driver = Tasks()
    async with calling(driver) as channel:
        with trio.move_on_after(1) as scope:
            await channel.call(ask("slow"))
        assert scope.cancelled_caught
        assert driver.log == ["slow ended"]
        with trio.fail_after(1):
            assert await channel.call(ask("quick", 1)) == 1
        await trio.sleep(5)
        assert await channel.call(ask("quick", 2)) == 2
    del autojump_clock


async def test_a_call_that_was_cancelled_with_its_coming_is_not_begun() -> None:
    driver = Tasks()
    async with calling(driver) as channel, trio.open_nursery() as nursery:
        outcome = await begin(nursery, channel.call, ask("slow"))
        outcome.scope.cancel()
        nursery.start_soon(channel.call, ask("quick"))
        await trio.testing.wait_all_tasks_blocked()
    assert driver.log == ["slow ended"]
    async with calling(driver) as channel:
        driver.tasks.clear()
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.call(ask("quick"))
    assert driver.tasks == []


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("what", ["scope", "nursery"])
async def test_what_a_call_leaves_open_ends_with_it(what: str, *, wait: bool) -> None:
    driver = Tasks()
    async with calling(driver) as channel:
        with pytest.raises(DriverError, match="left a cancel scope or a nursery open"):
            await channel.call(ask("leave_open", what, wait))
        await trio.testing.wait_all_tasks_blocked()
        assert driver.log == (["background ended"] if what == "nursery" else [])
        assert await channel.call(ask("seconds_left")) == float("inf")
        assert await channel.call(ask("quick", 1)) == 1


async def test_scopes_of_a_drivers_own_are_its_own_business() -> None:
    async with calling(Tasks()) as channel:
        assert await channel.call(ask("cancel_myself")) is None
        with pytest.raises(CallCancelled):
            await channel.call(ask("raise_cancelled"))
        assert await channel.call(ask("quick", 1)) == 1


@pytest.mark.parametrize("make_pair", [unix_pair, memory_pair])
async def test_a_call_that_waits_for_room_is_not_woken_before_it_waits(
    make_pair: PairMaker,
) -> None:
    """The answer before it, from the same read, frees room as it is sent."""
    limits = Limits(max_unsent=64 * 1024)
    for _ in range(20):
        driver = Tasks()
        async with (
            in_time(),
            channel_over(await make_pair(), driver, exporter_limits=limits) as channel,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(channel.call, ask("sized", 1_000_000))
            with trio.move_on_after(0.002):
                await channel.call(ask("quick", 1))
            assert await channel.call(ask("quick", 2)) == 2


async def test_the_end_of_a_connection_ends_calls_in_whatever_task_they_are() -> None:
    driver = Tasks()
    async with calling(driver) as channel, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_ask_in_vain, channel)
        await trio.testing.wait_all_tasks_blocked()
        channel.connection.end(ConnectionError("pulled"))
    assert driver.log == ["slow ended"] * 3


async def _ask_in_vain(channel: Channel) -> None:
    with pytest.raises(DriverError):
        await channel.call(ask("slow"))


async def test_a_timeout_of_a_call_that_waits_is_told_as_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    driver = Tasks()
    async with calling(driver) as channel:
        request = ask("slow")
        request.set_timeout(1000)
        with pytest.raises(DriverTimeoutError, match="its deadline passed, 1 s after"):
            await channel.call(request)


# ---------------------------------------------------------------------------- advance, resume


def test_a_coroutine_that_does_not_wait_has_returned() -> None:
    async def work() -> str:
        _said.set("in there")
        return "done"

    context = enter_copied_context()
    assert advance(work()) == (False, "done")
    assert _said.get() == "in there"
    leave_context(context)
    assert _said.get() == "nothing"
    assert context[_said] == "in there"


def test_what_a_coroutine_raises_before_it_waits_is_raised() -> None:
    async def work() -> None:
        raise KeyError("none")

    for _ in range(3):
        with pytest.raises(KeyError, match="none"):
            advance(work())
    with pytest.raises(RuntimeError, match="cannot exit context"):
        leave_context(Context())
    with pytest.raises(AttributeError, match="send"):
        advance(5)  # type: ignore[arg-type]


async def test_a_coroutine_that_waits_is_resumed() -> None:
    log = []

    async def work() -> str:
        log.append("begun")
        for number in range(3):
            await trio.lowlevel.checkpoint()
            log.append(f"step {number}")
        return "done"

    begun = work()
    waits, trap = advance(begun)
    assert waits
    log.append("told")
    assert await resume(begun, trap) == "done"
    assert log == ["begun", "told", "step 0", "step 1", "step 2"]


async def test_what_is_raised_at_a_wait_reaches_the_coroutine() -> None:
    async def work() -> None:
        with pytest.raises(TypeError, match="trio"):
            await _foreign()
        with trio.move_on_after(0):
            await trio.sleep_forever()
        raise KeyError("after all")

    begun = work()
    waits, trap = advance(begun)
    assert waits
    with pytest.raises(KeyError, match="after all"):
        await resume(begun, trap)


class _foreign:  # noqa: N801 - awaited like a function of another event loop
    def __await__(self) -> Any:
        yield "not Trio's"


async def test_a_fault_of_ours_as_it_looks_for_the_peer_ends_its_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Keepalive) -> float:
        raise ZeroDivisionError("our own")

    with monkeypatch.context() as patch:
        patch.setattr(Keepalive, "look", broken)
        with pytest.raises(HandshakeError):
            async with in_time(), channel_over(await unix_pair(), Tasks()):
                pass
    assert "our own" in caplog.text
