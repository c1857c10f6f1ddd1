"""Tests of `jumpstarter.client._lead`: threads read their own answers beside other calls."""

from __future__ import annotations

import gc
import inspect
import math
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import pytest
import trio

import jumpstarter
from drivers_for_tests import Lab
from helpers import (
    PATIENCE,
    Outcome,
    ScriptedExporter,
    ask,
    begin,
    channel_over,
    counted,
    generator,
    in_time,
    scripted,
    served,
    stream,
    until,
)
from jumpstarter._io.portal import BlockingPortal
from jumpstarter._protocol import events as ev
from jumpstarter.client import DriverClient, _lead
from jumpstarter.client._channel import Channel
from jumpstarter.client._lead import LeadConnection
from jumpstarter.client._outgoing_call import OutgoingCall, Request
from jumpstarter.driver import Driver
from jumpstarter.errors import (
    CallOutcomeUnknown,
    CallRefused,
    Code,
    DriverError,
    DriverInvalidArgument,
    DriverTimeoutError,
)
from transports import unix_pair
from wire import RulesWith

MEGABYTE: Final = bytes(1024 * 1024)


def connection_of(client: DriverClient) -> LeadConnection:
    return client.channel.channel.connection


def portal_of(client: DriverClient) -> BlockingPortal:
    assert client.portal is not None
    return client.portal


def be_led(client: DriverClient) -> LeadConnection:
    """Make calls until the loop's reader has stepped aside and the connection is leased."""
    connection = connection_of(client)
    give_up = time.monotonic() + PATIENCE
    while not connection.is_leased:
        assert client.call("echo_async", 1) == 1
        assert time.monotonic() < give_up, "the loop never steps aside"
    return connection


def call_for_ever(client: DriverClient) -> None:
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        client.call("echo_async", 1)


def led_calls(client: DriverClient) -> int:
    return connection_of(client)._calls


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def client(lab: Lab) -> Iterator[DriverClient]:
    with served(lab) as client:
        yield client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a thread lead for as long as its call takes."""
    monkeypatch.setattr(_lead, "_PATIENCE_MS", int(PATIENCE * 1000))


@pytest.fixture
def unhurried(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the connection leased between calls too, so that a slow test does not lose it."""
    del patient
    monkeypatch.setattr(_lead, "_IDLE", PATIENCE)


# --------------------------------------------------------------------------------- led calls


@pytest.mark.usefixtures("unhurried")
def test_one_call_after_another_is_led_by_its_thread(client: DriverClient) -> None:
    be_led(client)
    before = led_calls(client)
    for number in range(10):
        assert client.call("echo_async", number) == number
        assert client.call("echo", [number]) == [number]
    assert led_calls(client) == before + 20
    assert not connection_of(client).handlers


@pytest.mark.usefixtures("unhurried")
def test_a_call_with_a_result_type_is_led_by_its_thread_too(client: DriverClient) -> None:
    be_led(client)
    before = led_calls(client)
    for number in range(10):
        assert client.call_as(int, "echo_async", number) == number
    with pytest.raises(DriverError, match="its result: "):
        client.call_as(int, "echo_async", "seven")
    assert led_calls(client) == before + 11


@pytest.mark.usefixtures("unhurried")
def test_a_led_call_with_a_result_type_times_out_like_any_other(
    client: DriverClient, lab: Lab
) -> None:
    while not lab.log:  # on a busy machine, the time can run out before the driver begins
        be_led(client)
        with (
            pytest.raises(DriverTimeoutError, match="ran out during the call"),
            client.timeout(0.05),
        ):
            client.call_as(str, "wait")
    assert lab.log == ["wait started", "wait ended"]
    be_led(client)
    assert client.call_as(list[int], "echo", [1]) == [1]


@pytest.mark.usefixtures("unhurried")
def test_a_led_call_fails_as_any_other(client: DriverClient) -> None:
    be_led(client)
    with pytest.raises(DriverTimeoutError, match="the device is slow"):
        client.call("fail")
    be_led(client)
    with pytest.raises(DriverError, match="no such method"):
        client.call("no_such_method")
    with pytest.raises(DriverInvalidArgument):
        client.call("echo", object())
    assert client.call("echo_async", "usable") == "usable"


@pytest.mark.usefixtures("unhurried")
def test_a_message_that_is_too_large_is_refused_and_the_lead_goes_on() -> None:
    with served_with(Lab(), jumpstarter.Limits(max_message=64 * 1024)) as client:
        be_led(client)
        before = led_calls(client)
        with pytest.raises(DriverInvalidArgument, match="the message has"):
            client.call("echo", MEGABYTE)
        assert client.call("echo_async", 1) == 1
        assert led_calls(client) == before + 1


@contextmanager
def served_with(driver: Driver, limits: jumpstarter.Limits) -> Iterator[DriverClient]:
    """Serve a driver in another thread, with the given limits, and connect to it."""
    with (
        ServerContext(driver, limits) as exporter,
        jumpstarter.connect(exporter.address) as client,
        client.timeout(PATIENCE),
    ):
        yield client


class ServerContext:
    """An exporter in its own thread, which a test can drain or end."""

    def __init__(self, driver: Driver, limits: jumpstarter.Limits | None = None) -> None:
        self._driver = driver
        self._limits = limits or jumpstarter.Limits()
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))
        self.address = ""

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with jumpstarter.serve_async(
            self._driver, "tcp://127.0.0.1:0", limits=self._limits
        ) as self.server:
            self.address = self.server.address
            self._started.set()
            await self._end.wait()

    def drain(self) -> None:
        trio.from_thread.run(self.server.drain, PATIENCE, trio_token=self._token)

    def end(self) -> None:
        if self._thread.is_alive():
            self._token.run_sync_soon(self._end.set)
            self._thread.join(PATIENCE)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


# ----------------------------------------------------------- calls that the loop continues


def test_a_slow_call_is_waited_for_by_the_loop(client: DriverClient, lab: Lab) -> None:
    connection = be_led(client)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.call, "wait")
        wait_until(lambda: lab.log == ["wait started"] and not connection.is_leased)
        assert client.call("echo_async", "beside it") == "beside it"
        portal_of(client).call(lab.let_go.set)
        assert waiting.result(PATIENCE) == "wait"


def test_a_slow_call_ends_with_its_timeout(client: DriverClient, lab: Lab) -> None:
    while not lab.log:  # on a busy machine, the time can run out before the driver begins
        be_led(client)
        with pytest.raises(DriverTimeoutError, match="timeout"), client.timeout(0.1):
            client.call("wait")
    assert lab.log == ["wait started", "wait ended"]
    assert client.call("echo_async", 1) == 1


@pytest.mark.parametrize("value", [MEGABYTE, [bytes(40_000)] * 3], ids=["flat", "list"])
def test_large_messages_pass(client: DriverClient, value: Any) -> None:
    for _ in range(3):
        be_led(client)
        assert client.call("echo", value) == value


@pytest.mark.usefixtures("unhurried")
def test_an_answer_in_pieces_is_put_together(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = be_led(client)
    socket = connection._socket
    assert socket is not None
    read = socket.try_read
    rest = bytearray()

    def read_a_byte() -> bytes | None:
        if not rest:
            rest.extend(read() or b"")
            return None  # as if no data had arrived
        return bytes([rest.pop(0)])

    monkeypatch.setattr(socket, "try_read", read_a_byte)
    monkeypatch.setattr(connection, "_poll", _Always())
    assert client.call("echo_async", "whole") == "whole"
    assert connection.is_leased


class _Always:
    def poll(self, _milliseconds: int) -> list[int]:
        return [1]


def test_the_loop_takes_an_idle_connection_back(client: DriverClient) -> None:
    connection = be_led(client)
    wait_until(lambda: not connection.is_leased)
    be_led(client)


@pytest.mark.usefixtures("unhurried")
def test_trio_code_gets_the_connection_between_two_calls(client: DriverClient) -> None:
    connection = be_led(client)
    before = led_calls(client)
    assert portal_of(client).call(client.call_async, "echo_async", "trio") == "trio"
    assert led_calls(client) == before + 1
    assert connection.is_leased
    assert list(client.streamingcall("count", 3)) == [0, 1, 2]
    be_led(client)
    with client.stream() as stream:
        stream.send(b"bytes")
        assert stream.receive() == b"bytes"
        assert client.call("echo_async", "beside a stream") == "beside a stream"


def test_trio_code_gets_the_connection_in_the_midst_of_a_call(
    client: DriverClient, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lead, "_PATIENCE_MS", 100)
    connection = be_led(client)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.call, "wait")
        wait_until(lambda: bool(lab.log))
        assert portal_of(client).call(client.call_async, "echo_async", "trio") == "trio"
        assert not connection.is_leased
        portal_of(client).call(lab.let_go.set)
        assert waiting.result(PATIENCE) == "wait"


@pytest.mark.usefixtures("unhurried")
def test_a_mark_that_the_holder_sees_too_late_is_not_lost(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = be_led(client)
    let_go = connection._let_go
    about_to, go = threading.Event(), threading.Event()

    class Lock:
        """A wrapper around the connection's lock that pauses before one release."""

        def __init__(self, lock: threading.Lock) -> None:
            self.acquire, self._release = lock.acquire, lock.release

        def release(self) -> None:
            if connection._leader == 0 and not about_to.is_set() and armed:
                about_to.set()
                assert go.wait(PATIENCE)
            self._release()

    armed: list[bool] = []

    def arm(*, keep: bool) -> None:
        armed.append(keep)
        let_go(keep=keep)

    lock = connection._lock
    monkeypatch.setattr(connection, "_lock", Lock(lock))
    monkeypatch.setattr(connection, "_let_go", arm)
    with ThreadPoolExecutor(2) as pool:
        led = pool.submit(client.call, "echo_async", "led")
        assert about_to.wait(PATIENCE)
        other = pool.submit(client.call, "echo_async", "other")
        wait_until(lambda: connection._wanted)
        go.set()
        assert (led.result(PATIENCE), other.result(PATIENCE)) == ("led", "other")
    assert armed == [True]
    monkeypatch.setattr(connection, "_lock", lock)


# ---------------------------------------------------------------------------- how connections end


@pytest.mark.usefixtures("patient")
def test_an_exporter_that_ends_in_the_midst_of_a_call_leaves_its_outcome_unknown() -> None:
    lab = Lab()
    with ServerContext(lab) as exporter, jumpstarter.connect(exporter.address) as client:
        connection = be_led(client)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.call, "wait")
            wait_until(lambda: bool(lab.log))
            exporter.end()
            with pytest.raises(DriverError):  # the cancellation, if it arrives before the end
                waiting.result(PATIENCE)
        wait_until(lambda: connection.ended is not None)
        with pytest.raises(CallRefused, match=r"closed the connection|shut"):
            client.call("echo_async", 1)


@pytest.mark.usefixtures("patient")
def test_a_connection_that_broke_between_two_calls_is_found_by_the_next() -> None:
    with ServerContext(Lab()) as exporter, jumpstarter.connect(exporter.address) as client:
        connection = be_led(client)
        exporter.end()
        with pytest.raises(CallRefused, match=r"closed the connection|shut"):
            client.call("echo_async", 1)
        wait_until(lambda: connection.ended is not None)


@pytest.mark.usefixtures("patient")
def test_a_goaway_that_comes_with_an_answer_is_acted_on() -> None:
    with ServerContext(Lab()) as exporter, jumpstarter.connect(exporter.address) as client:
        connection = be_led(client)
        drain = threading.Thread(target=exporter.drain)
        drain.start()  # waits for our acknowledgement
        with pytest.raises(CallRefused, match=r"shut|takes no more calls|closed"):
            call_for_ever(client)
        drain.join(PATIENCE)
        assert not drain.is_alive()
        wait_until(lambda: connection.ended is not None)


def test_the_client_is_closed_while_another_thread_leads(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lead, "_PATIENCE_MS", 100)
    with ThreadPoolExecutor(1) as pool:
        with jumpstarter.serve(lab) as client:
            be_led(client)
            waiting = pool.submit(client.call, "wait")
            wait_until(lambda: bool(lab.log))
        with pytest.raises(DriverError):
            waiting.result(PATIENCE)
    assert lab.log == ["wait started", "wait ended"]


@pytest.mark.usefixtures("unhurried")
def test_an_exception_in_the_midst_of_the_rules_ends_the_connection(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = be_led(client)

    def fail(_: bytes, _turn: int) -> None:
        raise MemoryError

    monkeypatch.setattr(connection, "rules", RulesWith(connection.rules, receive=fail))
    with pytest.raises(MemoryError):
        client.call("echo_async", 1)
    wait_until(lambda: connection.ended is not None)
    with pytest.raises(CallRefused, match="cut off by an exception in the midst of a call"):
        client.call("echo_async", 1)


@pytest.mark.usefixtures("unhurried")
def test_a_finalizer_in_the_midst_of_a_call_is_refused(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = be_led(client)
    receive = connection.rules.receive
    refused: list[str] = []

    def receive_and_finalize(data: bytes, turn: int) -> Any:
        with pytest.raises(RuntimeError, match="finalizer") as caught:
            client.call("echo", 1)
        refused.append(str(caught.value))
        return receive(data, turn)

    rules = RulesWith(connection.rules, receive=receive_and_finalize)
    monkeypatch.setattr(connection, "rules", rules)
    assert client.call("echo_async", 1) == 1
    assert refused
    monkeypatch.undo()
    assert client.call("echo_async", 2) == 2


# ------------------------------------------------------------------------------ led by a task

ONE: Final = jumpstarter.Limits(max_calls=1)


@asynccontextmanager
async def led_by_tasks(driver: Driver) -> AsyncIterator[Channel]:
    """Yield a channel over a socket whose reader has stepped aside."""
    async with in_time(), channel_over(await unix_pair(), driver) as channel:
        await be_led_by_tasks(channel)
        yield channel


async def be_led_by_tasks(channel: Channel) -> None:
    while not channel.connection.is_leased:
        assert await channel.call(ask("echo_async", 1)) == 1


@pytest.mark.usefixtures("unhurried")
async def test_one_call_after_another_is_led_by_its_task() -> None:
    async with led_by_tasks(Lab()) as channel:
        before = channel.connection._calls
        for number in range(10):
            assert await channel.call(ask("echo_async", [number])) == [number]
        with pytest.raises(DriverTimeoutError, match="the device is slow"):
            await channel.call(ask("fail"))
        assert channel.connection._calls == before + 11
        assert channel.connection.is_leased
        assert not channel.connection.handlers


@pytest.mark.usefixtures("unhurried")
async def test_a_call_that_cannot_be_sent_leaves_the_lead_to_the_next() -> None:
    limits = jumpstarter.Limits(max_message=64 * 1024)
    async with (
        in_time(),
        channel_over(await unix_pair(), Lab(), exporter_limits=limits) as channel,
    ):
        await be_led_by_tasks(channel)
        with pytest.raises(DriverInvalidArgument, match="the message has"):
            await channel.call(ask("echo", MEGABYTE))
        assert channel.connection.is_leased


@pytest.mark.usefixtures("unhurried")
async def test_a_cancelled_task_sends_nothing_and_leads_nothing() -> None:
    async with led_by_tasks(Lab()) as channel:
        before = channel.connection._calls
        with trio.CancelScope(deadline=-math.inf):
            await channel.call(ask("wait"))
        assert channel.connection._calls == before
        assert await channel.call(ask("echo_async", 1)) == 1


@pytest.mark.usefixtures("unhurried")
async def test_other_tasks_call_while_one_leads() -> None:
    lab = Lab()
    async with led_by_tasks(lab) as channel, trio.open_nursery() as nursery:
        slow = await begin(nursery, channel.call, ask("wait"))
        assert not channel.connection.is_leased
        assert await channel.call(ask("echo_async", "beside it")) == "beside it"
        assert [item async for item in generator(channel, "count", 3)] == [0, 1, 2]
        assert not slow.ended
        lab.let_go.set()
    assert slow.value == "wait"


@pytest.mark.usefixtures("unhurried")
async def test_tasks_that_wait_for_the_slot_of_a_leading_task_get_it() -> None:
    async with in_time(), channel_over(await unix_pair(), Lab(), exporter_limits=ONE) as channel:
        await be_led_by_tasks(channel)
        results: list[int] = []

        async def echo(number: int) -> None:
            results.append(await channel.call(ask("echo_async", number)))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(echo, number)
    assert sorted(results) == list(range(10))


async def test_a_task_whose_slot_was_taken_by_a_leader_waits_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab()
    leaders: list[OutgoingCall] = []

    async def wait_and_lose(request: Request) -> None:
        await wait(request)
        if not leaders:
            leaders.append(OutgoingCall(channel, ask("echo_async", "faster")))
            channel._start(leaders[0], math.inf)
            channel.connection.writer.flush()

    async with in_time(), channel_over(await unix_pair(), lab, exporter_limits=ONE) as channel:
        wait = channel._slots.wait
        monkeypatch.setattr(channel._slots, "wait", wait_and_lose)
        async with trio.open_nursery() as nursery:
            first = await begin(nursery, channel.call, ask("wait"))
            second = await begin(nursery, channel.call, ask("echo_async", 2))
            lab.let_go.set()
        assert (first.value, second.value) == ("wait", 2)
        assert [call.done for call in leaders] == [True]


@pytest.mark.usefixtures("unhurried")
async def test_a_stream_gets_the_connection_between_two_calls() -> None:
    async with led_by_tasks(Lab()) as channel:
        opened = await stream(channel, "connect")
        assert not channel.connection.is_leased
        await opened.send_all(b"bytes")
        assert await opened.receive_some() == b"bytes"
        assert await channel.call(ask("echo_async", "beside it")) == "beside it"
        await opened.aclose()


@pytest.mark.usefixtures("unhurried")
async def test_a_large_answer_is_read_by_the_reader() -> None:
    async with led_by_tasks(Lab()) as channel:
        assert await channel.call(ask("echo", MEGABYTE)) == MEGABYTE


async def test_the_reader_takes_a_call_over_that_takes_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab()
    async with in_time(), channel_over(await unix_pair(), lab) as channel:
        monkeypatch.setattr(_lead, "_IDLE", 0.001)
        connection = channel.connection
        async with trio.open_nursery() as nursery:
            # Repeat until the call is led: the connection may have been idle longer than `_IDLE`.
            while not lab.log:
                await be_led_by_tasks(channel)
                before = connection._calls
                slow = await begin(nursery, channel.call, ask("wait"))
                await until(lambda: bool(lab.log))
            assert connection._calls == before + 1
            await until(lambda: connection._state is _lead._LOOP)
            assert await channel.call(ask("echo_async", "beside it")) == "beside it"
            lab.let_go.set()
        assert slow.value == "wait"


@pytest.mark.usefixtures("unhurried")
async def test_a_led_call_that_is_cancelled_has_ended_and_the_reader_goes_on() -> None:
    lab = Lab()
    async with led_by_tasks(lab) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.call, ask("wait", "wait", 0.01))
            await until(lambda: bool(lab.log))
            nursery.cancel_scope.cancel()
        assert lab.log == ["wait started", "wait ended"]
        assert await channel.call(ask("echo_async", 1)) == 1


@pytest.mark.usefixtures("unhurried")
async def test_led_call_cancelled_at_any_step_keeps_the_state_consistent() -> None:
    """Cancel the call before each step that any task takes during it."""
    async with led_by_tasks(Lab()) as channel:
        channel.connection._last_wanted = -math.inf
        for at in range(1, 100):
            channel.connection._last_wanted = -math.inf
            await be_led_by_tasks(channel)
            scope = trio.CancelScope()
            with counted(at, scope.cancel) as steps, scope:
                assert await channel.call(ask("echo_async", at)) == at
            assert not channel.connection.handlers, at
            assert await channel.call(ask("echo_async", "usable")) == "usable"
            if steps.taken < at:
                break
        assert 2 < at < 99  # the caller must wait once, the exporter need not wait


async def test_a_writer_that_waits_goes_on_when_the_reader_takes_over_from_a_task() -> None:
    lab = Lab()
    async with led_by_tasks(lab) as channel, trio.open_nursery() as nursery:
        slow = await begin(nursery, channel.call, ask("wait"))
        assert channel.connection._state is _lead._State.TASK
        large = Outcome()
        nursery.start_soon(large.of, channel.call, ask("echo_async", bytes(20_000_000)))
        await until(lambda: channel.connection._state is _lead._State.LOOP)
        await until(lambda: large.ended)
        assert large.value == bytes(20_000_000)
        lab.let_go.set()
        await until(lambda: slow.ended)
        assert slow.value == "wait"


@pytest.mark.usefixtures("unhurried")
async def test_what_a_task_does_to_the_rules_is_protected_from_ctrl_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protected: list[bool] = []

    def note(name: str) -> None:
        original = getattr(LeadConnection, name)

        def noting(self: LeadConnection, *args: Any, **kwargs: Any) -> Any:
            protected.append(trio.lowlevel.currently_ki_protected())
            return original(self, *args, **kwargs)

        monkeypatch.setattr(LeadConnection, name, noting)

    async with led_by_tasks(Lab()) as channel:
        for name in ("_send", "_receive", "_become_ours"):
            note(name)
        for number in range(3):
            assert await channel.call(ask("echo_async", number)) == number
        await channel.connection.reclaim()
    assert len(protected) >= 7
    assert all(protected)


async def test_the_client_is_closed_while_a_task_leads() -> None:
    lab = Lab()
    async with led_by_tasks(lab) as channel, trio.open_nursery() as nursery:
        slow = await begin(nursery, channel.call, ask("wait"))
        await until(lambda: bool(lab.log))
        await channel.aclose()
    assert isinstance(slow.error, DriverError)
    assert lab.log == ["wait started", "wait ended"]


@pytest.mark.usefixtures("unhurried")
async def test_goaway_is_read_before_a_call_is_sent() -> None:
    async with scripted_and_led() as (channel, exporter):
        await exporter.goaway("down for repair")
        with pytest.raises(CallRefused, match="down for repair"):
            await channel.call(ask("on"))


@pytest.mark.usefixtures("unhurried")
async def test_hangup_is_noticed_before_a_call_is_sent() -> None:
    async with scripted_and_led() as (channel, exporter):
        await exporter.stream.aclose()
        with pytest.raises(CallRefused, match="closed the connection"):
            await channel.call(ask("on"))


@pytest.mark.usefixtures("unhurried")
async def test_an_exporter_that_is_gone_leaves_a_led_call_unknown() -> None:
    async with scripted_and_led() as (channel, exporter), trio.open_nursery() as nursery:
        led = await begin(nursery, channel.call, ask("on"))
        await exporter.event(ev.CallReceived)
        await exporter.stream.aclose()
        await until(lambda: led.ended)
        led.failed(CallOutcomeUnknown, "closed the connection")


@pytest.mark.usefixtures("unhurried")
async def test_frames_that_follow_the_answer_are_processed() -> None:
    async with scripted_and_led() as (channel, exporter), trio.open_nursery() as nursery:
        led = await begin(nursery, channel.call, ask("on"))
        slot = (await exporter.event(ev.CallReceived)).slot
        exporter.rules.goaway(Code.OK, 0, "down for repair")
        await exporter.result(slot, "on")
        await until(lambda: led.ended)
        assert led.value == "on"
        await exporter.event(ev.GoawayAcked)
        with pytest.raises(CallRefused, match="down for repair"):
            await channel.call(ask("on"))


@pytest.mark.usefixtures("unhurried")
async def test_an_exception_in_the_rules_ends_the_connection_that_a_task_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with led_by_tasks(Lab()) as channel:

        def fail(_: bytes, _turn: int) -> None:
            raise MemoryError

        rules = RulesWith(channel.connection.rules, receive=fail)
        monkeypatch.setattr(channel.connection, "rules", rules)
        with pytest.raises(MemoryError):
            await channel.call(ask("echo_async", 1))
        await until(lambda: channel.ended is not None)
        with pytest.raises(CallRefused, match="cut off by an exception in the midst of a call"):
            await channel.call(ask("echo_async", 1))


@pytest.mark.usefixtures("unhurried")
def test_a_thread_calls_while_a_task_leads(client: DriverClient, lab: Lab) -> None:
    connection = be_led(client)
    slow = portal_of(client).start_task_soon(client.call_async, "wait")
    wait_until(lambda: bool(lab.log))
    assert not connection.is_leased
    assert client.call("echo_async", "beside it") == "beside it"
    portal_of(client).call(lab.let_go.set)
    assert slow.result(PATIENCE) == "wait"


@asynccontextmanager
async def scripted_and_led() -> AsyncIterator[tuple[Channel, ScriptedExporter]]:
    """Yield a channel whose reader has stepped aside, and the exporter at its other end."""
    pair = await unix_pair()
    async with scripted(make_pair=lambda: pair) as (channel, exporter):
        while not channel.connection.is_leased:
            async with trio.open_nursery() as nursery:
                await begin(nursery, channel.call, ask("echo", 1))
                await exporter.result((await exporter.event(ev.CallReceived)).slot)
        async with exporter.stream:
            yield channel, exporter


# ------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.usefixtures("patient")
def test_ctrl_c_ends_a_led_call_and_the_drivers_code(client: DriverClient, lab: Lab) -> None:
    be_led(client)

    def press_ctrl_c() -> None:
        wait_until(lambda: bool(lab.log))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        pressed = pool.submit(press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            client.call("wait", "wait", 0.1)
        assert lab.log == ["wait started", "wait ended"]
        pressed.result(PATIENCE)
    assert client.call("echo_async", "usable") == "usable"


@pytest.mark.usefixtures("patient")
def test_a_handler_that_raises_nothing_does_not_disturb_a_call(
    client: DriverClient, lab: Lab
) -> None:
    be_led(client)
    ran = threading.Event()

    def send() -> None:
        wait_until(lambda: bool(lab.log))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        assert ran.wait(PATIENCE)
        portal_of(client).call(lab.let_go.set)

    previous = signal.signal(signal.SIGUSR1, lambda *_: ran.set())
    try:
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(send)
            assert client.call("wait") == "wait"
            sent.result(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, previous)


class Strike:
    """Raises KeyboardInterrupt at the n-th traced step: each place where Ctrl-C can strike."""

    OURS: Final = str(Path(jumpstarter.__file__).parent)

    def __init__(self, step: int) -> None:
        self.steps = step

    def trace(self, frame: FrameType, event: str, _arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(self.OURS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.steps -= 1
            if self.steps == 0:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self.trace

    @contextmanager
    def armed(self) -> Iterator[None]:
        before = sys.gettrace()
        frame = inspect.currentframe()
        assert frame is not None
        frame.f_trace_opcodes = True  # Python 3.12 checks every frame for this when tracing is set
        gc.disable()  # the exception would be lost in a finalizer that the collector runs
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(before)
            gc.enable()


@pytest.mark.usefixtures("unhurried")
def test_ctrl_c_at_any_step_of_a_led_call_keeps_the_state_consistent(client: DriverClient) -> None:
    connection = be_led(client)
    step = 0
    while True:
        step += 1
        be_led(client)
        strike = Strike(step)
        try:
            with strike.armed():
                assert client.call("echo_async", step) == step
        except KeyboardInterrupt:
            pass
        else:
            if strike.steps > 0:
                break  # the call has fewer steps
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert client.call("echo_async", "usable") == "usable", step
        assert not connection.handlers, step
    assert step > 500


# ----------------------------------------------------------------------------- concurrent use


THREADS: Final = 8
ROUNDS: Final = 40


def _one_round(client: DriverClient, number: int) -> None:
    kind = number % 5
    if kind in {0, 1}:
        assert client.call("echo", number) == number
        assert client.call("echo_async", [number]) == [number]
    elif kind == 2:
        assert list(client.streamingcall("count_async", number)) == list(range(number))
    elif kind == 3:
        with client.stream() as stream:
            stream.send(str(number).encode())
            assert stream.receive() == str(number).encode()
    else:
        with pytest.raises(DriverTimeoutError), client.timeout(0.001):
            client.call("wait")


class CtrlC:
    """A thread that sends SIGINT to the main thread repeatedly; it interrupts only `struck`."""

    def __init__(self) -> None:
        self._armed = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._press)

    def _press(self) -> None:
        while not self._over.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _handle(self, *_: object) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    def struck(self, function: Callable[[], object]) -> bool:
        """Run `function`, and return True if Ctrl-C interrupted it."""
        try:
            self._armed = True
            function()
            self._armed = False
        except KeyboardInterrupt:
            return True
        return False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._handle)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        signal.signal(signal.SIGINT, self._before)


def test_threads_tasks_and_ctrl_c_concurrently(client: DriverClient) -> None:
    """Each call gets its own answer, and the connection survives, whatever runs concurrently."""
    over = threading.Event()

    def work(thread: int) -> None:
        for number in range(ROUNDS):
            _one_round(client, number + thread)
            time.sleep(0.002 * (thread % 3))  # sometimes a single thread calls, and leads

    async def work_in_trio() -> None:
        while not over.is_set():
            assert await client.call_async("echo_async", "trio") == "trio"
            await trio.sleep(0.03)

    interrupted = 0
    with ThreadPoolExecutor(THREADS) as pool, client.timeout(6 * PATIENCE), CtrlC() as ctrl_c:
        futures = [pool.submit(work, thread) for thread in range(THREADS)]
        beside = portal_of(client).start_task_soon(work_in_trio)
        while not all(future.done() for future in futures) or interrupted < 10:
            interrupted += ctrl_c.struck(lambda: client.call("echo_async", 1))
        over.set()
    for future in [*futures, beside]:
        future.result(PATIENCE)
    assert client.call("echo_async", "usable") == "usable"
    wait_until(lambda: not connection_of(client).handlers)
