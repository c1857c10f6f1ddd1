"""Tests of `on_disconnect`: functions that run when a client's connection has ended."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from drivers_for_tests import Plain
from helpers import PATIENCE, ask, channel_to, served, timed, until
from jumpstarter import connect_async, serve_async
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.session import Session
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter.client._channel import Channel
from jumpstarter.driver import Caller, Driver, caller, export, on_disconnect
from jumpstarter.errors import DriverError


class Relay(Plain):
    """A relay that serves one user at a time, and switches off when its user disconnects."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self._user: Caller | None = None
        self._stay: Callable[[], None] | None = None

    @export
    async def on(self) -> None:
        me = caller()
        if self._user not in (None, me):
            raise PermissionError(f"the relay is in use by {self._user}")
        self._user = me
        self._stay = on_disconnect(self._let_go)
        self.log.append("on")

    async def _let_go(self) -> None:
        self.log.append(f"off after {caller().connection}")
        self._user = None

    @export
    def on_in_thread(self) -> None:
        on_disconnect(self._off_in_thread)

    def _off_in_thread(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.log.append(f"off in a thread after {caller().connection}")

    @export
    async def stay_on(self) -> None:
        assert self._stay is not None
        self._stay()
        self._stay()

    @export
    async def sleep(self) -> None:
        on_disconnect(self._let_go)
        self.log.append("a call waits")
        try:
            await trio.sleep_forever()
        finally:
            self.log.append("the call has ended")

    @export
    def items(self) -> Iterator[int]:
        on_disconnect(self._let_go)
        yield 1
        yield 2


@timed()
async def test_a_hook_runs_once_even_if_registered_several_times(tmp_path: Path) -> None:
    relay = Relay()
    async with serve_async(relay, f"unix:{tmp_path}/socket") as server:
        async with connect_async(server.address) as client:
            for _ in range(3):
                await client.call_async("on")
            assert relay.log == ["on"] * 3
        await until(lambda: len(relay.log) > 3)
        async with connect_async(server.address) as client:
            await client.call_async("on")
    assert relay.log == ["on", "on", "on", "off after 1", "on", "off after 2"]


@timed()
async def test_a_second_user_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    relay = Relay()
    async with (
        serve_async(relay, f"unix:{tmp_path}/socket") as server,
        connect_async(server.address) as second,
    ):
        async with connect_async(server.address, name="the first") as first:
            await first.call_async("on")
            with pytest.raises(PermissionError, match=r"in use by uid .* says 'the first'"):
                await second.call_async("on")
        await until(lambda: relay.log[-1] == "off after 2")
        await second.call_async("on")


def test_blocking_code_and_threads_do_as_well() -> None:
    relay = Relay()
    with served(relay) as client:
        client.call("on_in_thread")
        assert list(client.streamingcall("items")) == [1, 2]
        client.call("on_in_thread")
    assert relay.log == ["off after 1", "off in a thread after 1"]


async def test_a_hook_that_was_unregistered_does_not_run() -> None:
    relay = Relay()
    async with channel_to(relay) as channel:
        await channel.call(ask("on"))
        await channel.call(ask("stay_on"))
        await channel.aclose()
    assert relay.log == ["on"]


async def test_a_hook_runs_after_the_calls_of_its_connection() -> None:
    relay = Relay()
    async with channel_to(relay) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(partial(_fails, channel, "sleep"))
        await trio.testing.wait_all_tasks_blocked()
        channel.connection.end(ConnectionError("cut"))
    assert relay.log == ["a call waits", "the call has ended", "off after 1"]


async def _fails(channel: Channel, method: str) -> None:
    with pytest.raises(DriverError):
        await channel.call(ask(method))


@timed()
async def test_a_hook_runs_before_the_drivers_are_closed(tmp_path: Path) -> None:
    class Closing(Relay):
        def close(self) -> None:
            self.log.append("closed")
            super().close()

    relay = Closing()

    async def use(address: str) -> None:
        async with connect_async(address) as client:
            await client.call_async("on")
            with pytest.raises(DriverError):
                await client.call_async("sleep")

    async with (
        trio.open_nursery() as nursery,
        serve_async(relay, f"unix:{tmp_path}/socket") as server,
    ):
        nursery.start_soon(use, server.address)
        await until(lambda: "a call waits" in relay.log)
    assert relay.log == ["on", "a call waits", "the call has ended", "off after 1", "closed"]


# -------------------------------------------------------------------------------- failures


class Registering(Plain):
    """A driver that registers the functions that a test passes to it."""

    def __init__(self, *hooks: Any) -> None:
        super().__init__()
        self._hooks = hooks

    @export
    async def register(self) -> None:
        for hook in self._hooks:
            on_disconnect(hook)


async def register_and_leave(driver: Driver) -> None:
    async with channel_to(driver) as channel:
        await channel.call(ask("register"))
        await channel.aclose()


async def test_hooks_run_in_reverse_order_and_after_one_has_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []

    def fail() -> NoReturn:
        log.append("fail")
        raise OSError(5, "the relay is stuck")

    async def leave() -> NoReturn:
        log.append("leave")
        raise SystemExit(3)

    hooks = [partial(log.append, "first"), fail, leave, partial(log.append, "last")]
    await register_and_leave(Registering(*hooks))
    assert log == ["last", "leave", "fail", "first"]
    assert "raised OSError" in caplog.text
    assert "the function given to on_disconnect() (" in caplog.text
    assert "fail) raised" in caplog.text
    assert "raised SystemExit" in caplog.text


async def test_a_hook_may_register_another() -> None:
    log: list[str] = []

    def first() -> None:
        log.append("first")
        on_disconnect(partial(log.append, "second"))

    await register_and_leave(Registering(first))
    assert log == ["first", "second"]


@timed()
async def test_hooks_that_register_hooks_come_to_an_end() -> None:
    log: list[str] = []

    def itself() -> None:
        log.append("itself")
        on_disconnect(itself)

    async def another() -> None:
        log.append("another")
        on_disconnect(partial(another))

    await register_and_leave(Registering(itself, another))
    assert log.count("itself") == 1
    assert log.count("another") == 1023


def hangs_in_thread(release: threading.Event, *_: object) -> None:
    release.wait(PATIENCE)


async def _drained(
    driver: Driver, hurry_after: float = math.inf, *, client_stays: bool = True
) -> float:
    """Let a client register functions, then drain its session; return the seconds that it takes."""
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session(ServerContext(DeviceTree(driver), DriverExecutor()), theirs, "the client")
    channel = Channel(ours, "the exporter")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        async with trio.open_nursery() as client:
            await channel.begin(client)
            await channel.call(ask("register"))
            if not client_stays:
                await channel.aclose()
                await trio.testing.wait_all_tasks_blocked()
            start = trio.current_time()
            with trio.move_on_after(hurry_after):
                await session.drain(60, "the end")
            took = trio.current_time() - start
            await channel.aclose()
    return took


@pytest.mark.parametrize("client_stays", [True, False])
async def test_the_hooks_of_a_connection_share_one_timeout_in_a_drain(
    client_stays: bool, autojump_clock: MockClock
) -> None:
    log: list[str] = []

    async def hang(name: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"{name} was cancelled")

    async def off() -> None:
        log.append("off")

    hooks = [off, *(partial(hang, number) for number in range(100))]
    took = await _drained(Registering(*hooks), client_stays=client_stays)
    assert took == pytest.approx(11), autojump_clock  # 10 s for them all, 1 s for the rest
    assert "off" in log
    assert len(log) == 101


async def test_a_hurried_drain_ends_the_hooks(autojump_clock: MockClock) -> None:
    log: list[str] = []

    async def hang() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("cancelled")

    async def off() -> None:
        log.append("off")

    took = await _drained(Registering(off, hang), hurry_after=3)
    assert took == pytest.approx(4), autojump_clock
    assert sorted(log) == ["cancelled", "off"]


@timed(30)
async def test_a_hung_plain_hook_is_logged_when_the_exporter_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jumpstarter._exporter.disconnect_hooks.LAST_MOMENT", 0.05)
    release = threading.Event()
    driver = Registering(partial(hangs_in_thread, release))

    async def let_go() -> None:
        await until(lambda: "hangs_in_thread" in caplog.text)
        release.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        await _drained(driver, hurry_after=0.1)
    assert "goes on for the client; the exporter ends when it has returned, or by" in caplog.text


async def test_a_hung_hook_is_cancelled_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    log: list[str] = []

    async def hang() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"ended at {trio.current_time() - start:.0f}")

    start = trio.current_time()
    ours, theirs = trio.testing.memory_stream_pair()
    async with _session(Registering(partial(log.append, "next"), hang), theirs):
        channel = Channel(ours, "the exporter")
        async with trio.open_nursery() as nursery:
            await channel.begin(nursery)
            await channel.call(ask("register"))
            await channel.aclose()
    assert sorted(log) == ["ended at 10", "next"], autojump_clock
    assert "has not ended 10 s after the client had left" in caplog.text


@asynccontextmanager
async def _session(driver: Driver, stream: trio.abc.Stream) -> AsyncIterator[None]:
    session = Session(ServerContext(DeviceTree(driver), DriverExecutor()), stream, "the client")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        yield


@timed(30)
async def test_a_hung_plain_hook_does_not_delay_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jumpstarter._exporter.disconnect_hooks.HOOK_TIMEOUT", 0.1)
    release, ran = threading.Event(), threading.Event()
    driver = Registering(ran.set, partial(release.wait, 20))
    async with serve_async(driver, f"unix:{tmp_path}/socket") as server:
        async with connect_async(server.address) as client:
            await client.call_async("register")
        await until(ran.is_set)
        assert not release.is_set()
        release.set()


@timed(30)
async def test_a_hook_runs_even_if_calls_occupy_all_threads(tmp_path: Path) -> None:
    release, ran = threading.Event(), threading.Event()

    class Busy(Plain):
        @export
        async def register(self) -> None:
            on_disconnect(ran.set)

        @export
        def hold(self) -> None:
            release.wait(PATIENCE)

    async with (
        serve_async(Busy(), f"unix:{tmp_path}/socket", threads=1) as server,
        connect_async(server.address) as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(other.call_async, "hold")
        async with connect_async(server.address) as client:
            await client.call_async("register")
        await until(ran.is_set)
        release.set()


WRONG: Final[list[Any]] = [None, "off", 5]


@pytest.mark.parametrize("given", WRONG, ids=repr)
async def test_a_hook_that_is_not_callable_is_refused(given: Any) -> None:
    async with channel_to(Registering(given)) as channel:
        with pytest.raises(
            DriverError, match=r"a function without .*\(pass self.off, and not self.off"
        ):
            await channel.call(ask("register"))


async def test_the_number_of_hooks_is_limited() -> None:
    log: list[int] = []
    hooks = [partial(log.append, number) for number in range(1025)]
    async with channel_to(Registering(*hooks)) as channel:
        with pytest.raises(DriverError, match=r"1024 functions are registered .* it counts once"):
            await channel.call(ask("register"))
        await channel.aclose()
    assert log == list(range(1023, -1, -1))


async def test_outside_of_a_call_there_is_nothing_to_wait_for() -> None:
    with pytest.raises(RuntimeError, match=r"on_disconnect\(\): no client's call"):
        on_disconnect(print)


async def test_behind_the_end_there_is_nothing_to_wait_for() -> None:
    contexts: list[contextvars.Context] = []

    class Keeping(Plain):
        @export
        async def register(self) -> None:
            contexts.append(contextvars.copy_context())

    await register_and_leave(Keeping())
    with pytest.raises(RuntimeError, match="has ended, and its functions have run"):
        contexts[0].run(on_disconnect, print)
