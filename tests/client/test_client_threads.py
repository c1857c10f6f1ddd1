"""Tests of calls from threads and tasks that read their own answers, beside other calls.

`jumpstarter._io.leading` and `ownership` describe how; tests/io/test_ownership.py tests them alone.
"""

from __future__ import annotations

import _thread
import dis
import gc
import inspect
import itertools
import math
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

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
    wait_until,
)
from jumpstarter import _nonblocking
from jumpstarter._exporter.led_connection import LedConnection
from jumpstarter._io import leading
from jumpstarter._io.connection import Connection
from jumpstarter._io.ownership import Ownership, Reader
from jumpstarter._io.portal import BlockingPortal
from jumpstarter._io.writer import WriterState
from jumpstarter._limits import DEFAULT_LIMITS, Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol import is_compiled
from jumpstarter.client import DriverClient
from jumpstarter.client._channel import Channel
from jumpstarter.client._outgoing_call import OutgoingCall
from jumpstarter.client._slot_queue import SlotQueue
from jumpstarter.driver import Driver, export
from jumpstarter.errors import (
    CallOutcomeUnknown,
    CallRefused,
    Code,
    DriverError,
    DriverInvalidArgument,
    DriverTimeoutError,
)
from leaks import open_connections
from transports import unix_pair

MEGABYTE: Final = bytes(1024 * 1024)


def connection_of(client: DriverClient) -> Connection:
    return client.channel.channel.connection


def ownership_of(client: DriverClient) -> Ownership:
    return connection_of(client).ownership


def portal_of(client: DriverClient) -> BlockingPortal:
    assert client.portal is not None
    return client.portal


def be_watched(client: DriverClient) -> Connection:
    """Make calls until threads may read the connection."""
    connection = connection_of(client)
    give_up = time.monotonic() + PATIENCE
    while connection.ownership.watch is None:
        assert client.call("echo_async", 1) == 1
        assert time.monotonic() < give_up, "the connection gets no watch"
    return connection


def call_for_ever(client: DriverClient) -> None:
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        client.call("echo_async", 1)


class Leads:
    """Counts how often a thread or task of a client became the reader, since this was made."""

    def __init__(self) -> None:
        # Kept, since one that is collected would no longer be in the sums.
        self._before = {each: _led(each) for each in open_connections()}

    def _count(self, kind: int) -> int:
        for each in open_connections():
            self._before.setdefault(each, (0, 0))
        return sum(
            _led(each)[kind] - before[kind]
            for each, before in self._before.items()
            if not isinstance(each, LedConnection)  # the exporter's, in this process
        )

    @property
    def threads(self) -> int:
        return self._count(0)

    @property
    def tasks(self) -> int:
        return self._count(1)


def _led(connection: Connection) -> tuple[int, int]:
    ownership = connection.ownership
    return ownership.led_by_threads, ownership.led_by_tasks


@pytest.fixture
def leads() -> Leads:
    return Leads()


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
    monkeypatch.setattr(leading, "_PATIENCE_MS", int(PATIENCE * 1000))


# --------------------------------------------------------------------------------- led calls


@pytest.mark.usefixtures("patient")
def test_one_call_after_another_is_led_by_its_thread(client: DriverClient, leads: Leads) -> None:
    be_watched(client)
    before = leads.threads
    for number in range(10):
        assert client.call("echo_async", number) == number
        assert client.call("echo", [number]) == [number]
        assert ownership_of(client).reader is Reader.LOOP
    assert leads.threads == before + 20
    assert not connection_of(client).handlers


@pytest.mark.usefixtures("patient")
def test_a_call_with_a_result_type_is_led_by_its_thread_too(
    client: DriverClient, leads: Leads
) -> None:
    be_watched(client)
    before = leads.threads
    for number in range(10):
        assert client.call_as(int, "echo_async", number) == number
    with pytest.raises(DriverError, match="its result: "):
        client.call_as(int, "echo_async", "seven")
    assert leads.threads == before + 11


@pytest.mark.usefixtures("patient")
def test_a_led_call_with_a_result_type_times_out_like_any_other(
    client: DriverClient, lab: Lab
) -> None:
    while not lab.log:  # on a busy machine, the time can run out before the driver begins
        be_watched(client)
        with (
            pytest.raises(DriverTimeoutError, match="ran out during the call"),
            client.timeout(0.05),
        ):
            client.call_as(str, "wait")
    assert lab.log == ["wait started", "wait ended"]
    be_watched(client)
    assert client.call_as(list[int], "echo", [1]) == [1]


@pytest.mark.usefixtures("patient")
def test_a_led_call_fails_as_any_other(client: DriverClient) -> None:
    be_watched(client)
    with pytest.raises(DriverTimeoutError, match="the device is slow"):
        client.call("fail")
    be_watched(client)
    with pytest.raises(DriverError, match="no such method"):
        client.call("no_such_method")
    with pytest.raises(DriverInvalidArgument):
        client.call("echo", object())
    assert client.call("echo_async", "usable") == "usable"


@pytest.mark.usefixtures("patient")
def test_a_message_that_is_too_large_is_refused_and_the_next_is_led(leads: Leads) -> None:
    with served_with(Lab(), Limits(max_message=64 * 1024)) as client:
        be_watched(client)
        before = leads.threads
        with pytest.raises(DriverInvalidArgument, match="the message has"):
            client.call("echo", MEGABYTE)
        assert ownership_of(client).reader is Reader.LOOP
        assert client.call("echo_async", 1) == 1
        assert leads.threads == before + 2


@contextmanager
def served_with(driver: Driver, limits: Limits) -> Iterator[DriverClient]:
    """Serve a driver in another thread, with the given limits, and connect to it."""
    with (
        ServerContext(driver, limits) as exporter,
        jumpstarter.connect(exporter.address) as client,
        client.timeout(PATIENCE),
    ):
        yield client


class ServerContext:
    """An exporter in its own thread, which a test can drain or end."""

    def __init__(self, driver: Driver, limits: Limits | None = None) -> None:
        self._driver = driver
        self._limits = limits or Limits()
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
    connection = be_watched(client)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.call, "wait")
        wait_until(lambda: lab.log == ["wait started"])
        wait_until(lambda: connection.ownership.reader is Reader.LOOP)
        assert client.call("echo_async", "beside it") == "beside it"
        portal_of(client).call(lab.let_go.set)
        assert waiting.result(PATIENCE) == "wait"


def test_a_slow_call_ends_with_its_timeout(client: DriverClient, lab: Lab) -> None:
    while not lab.log:  # on a busy machine, the time can run out before the driver begins
        be_watched(client)
        with pytest.raises(DriverTimeoutError, match="timeout"), client.timeout(0.1):
            client.call("wait")
    assert lab.log == ["wait started", "wait ended"]
    assert client.call("echo_async", 1) == 1


@pytest.mark.parametrize("value", [MEGABYTE, [bytes(40_000)] * 3], ids=["flat", "list"])
def test_large_messages_pass(client: DriverClient, value: Any) -> None:
    for _ in range(3):
        be_watched(client)
        assert client.call("echo", value) == value


@pytest.mark.usefixtures("patient")
def test_an_answer_in_pieces_is_put_together(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = be_watched(client)
    socket = connection.reader._socket
    assert socket is not None
    looks = 0

    def read_a_byte() -> bytes | None:
        nonlocal looks
        looks += 1
        return None if looks == 1 else _nonblocking.read(socket.fileno(), 1)

    monkeypatch.setattr(socket, "try_read", read_a_byte)
    assert client.call("echo_async", "whole") == "whole"
    assert connection.ownership.reader is Reader.LOOP


def test_calls_beside_a_thread_that_computes_get_their_answers(client: DriverClient) -> None:
    be_watched(client)
    over = threading.Event()
    give_up = time.monotonic() + PATIENCE

    def compute() -> None:
        while not over.is_set():
            pass

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        number = 0
        while not _nonblocking.is_crowded():  # until a call had to wait for the interpreter
            number += 1
            assert client.call("echo_async", number) == number
            assert time.monotonic() < give_up
        for method in ("echo", "echo_async") * 3:
            assert client.call(method, [number]) == [number]
    finally:
        over.set()
        thread.join()
    assert not connection_of(client).handlers


def test_trio_code_calls_between_two_calls_of_a_thread(client: DriverClient) -> None:
    be_watched(client)
    assert portal_of(client).call(client.call_async, "echo_async", "trio") == "trio"
    assert list(client.streamingcall("count", 3)) == [0, 1, 2]
    with client.stream() as stream:
        stream.send(b"bytes")
        assert stream.receive() == b"bytes"
        assert client.call("echo_async", "beside a stream") == "beside a stream"


@pytest.mark.usefixtures("patient")
def test_a_thread_that_leads_answers_tasks_and_other_threads(
    client: DriverClient, lab: Lab
) -> None:
    connection = be_watched(client)
    with ThreadPoolExecutor(1) as pool, client.timeout(PATIENCE):
        waiting = pool.submit(client.call, "wait")
        try:
            wait_until(lambda: lab.log == ["wait started"])
            assert connection.ownership.reader is Reader.THREAD
            assert portal_of(client).call(client.call_async, "echo_async", "task") == "task"
            assert client.call("echo_async", "thread") == "thread"
            assert list(client.streamingcall("count_async", 10)) == list(range(10))
            with client.stream() as stream:
                stream.send(b"bytes")
                assert stream.receive() == b"bytes"
            assert connection.ownership.reader is Reader.THREAD
        finally:
            portal_of(client).call(lab.let_go.set)
        assert waiting.result(PATIENCE) == "wait"
    wait_until(lambda: ownership_of(client).reader is Reader.LOOP)


@pytest.mark.usefixtures("patient")
def test_calls_are_led_while_a_console_is_open_and_another_thread_receives(
    client: DriverClient, lab: Lab, leads: Leads
) -> None:
    del lab
    be_watched(client)
    with ThreadPoolExecutor(1) as pool, client.stream() as console:
        receiving = pool.submit(console.receive)
        wait_until(lambda: ownership_of(client).reader is Reader.THREAD)
        before = leads.threads
        assert client.call("echo_async", 1) == 1  # the other thread reads its answer
        assert leads.threads == before
        console.send(b"something")
        assert receiving.result(PATIENCE) == b"something"
        wait_until(lambda: ownership_of(client).reader is Reader.LOOP)
        assert client.call("echo_async", 2) == 2
        assert leads.threads > before


def test_a_receiver_that_waits_for_long_leaves_the_socket_to_others(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_watched(client)
    with ThreadPoolExecutor(1) as pool, client.stream() as console:
        receiving = pool.submit(console.receive)
        wait_until(lambda: console._remote.receive_baton is not None)
        monkeypatch.setattr(leading, "_PATIENCE_MS", int(PATIENCE * 1000))
        leads = Leads()
        for number in range(10):
            assert client.call("echo_async", number) == number
        assert leads.threads == 10
        console.send(b"something")
        assert receiving.result(PATIENCE) == b"something"


@pytest.mark.usefixtures("patient")
def test_a_thread_leads_the_wait_for_bytes_and_items(client: DriverClient, leads: Leads) -> None:
    be_watched(client)
    with client.stream() as stream:
        before = leads.threads
        for number in range(10):
            stream.send(b"%d" % number)
            assert stream.receive() == b"%d" % number
        assert leads.threads > before
    before = leads.threads
    assert list(client.streamingcall("count_async", 100)) == list(range(100))
    assert leads.threads > before


@dataclass(kw_only=True)
class Pausing(Lab):
    """Its generator ends when a thread lets it."""

    go: threading.Event = field(default_factory=threading.Event)

    @export
    def paused(self) -> Generator[int, None, str]:
        yield 0
        self.go.wait(PATIENCE)
        return "over"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("when", ["before the last step", "during it"])
def test_the_end_of_an_iteration_needs_no_job_of_the_portal(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    driver = Pausing()

    def let_go() -> None:
        wait_until(lambda: ownership.reader is Reader.THREAD)
        driver.go.set()

    with served(driver) as client, ThreadPoolExecutor(1) as pool:
        connection = be_watched(client)
        ownership = connection.ownership
        items = client.streamingcall("paused")
        assert next(items) == 0
        for name in ("call_in_trio", "start_task_soon"):
            monkeypatch.setattr(BlockingPortal, name, NotImplemented)
        if when == "during it":
            letting = pool.submit(let_go)
        else:
            driver.go.set()
            wait_until(lambda: not connection.handlers)
        with pytest.raises(StopIteration) as caught:
            next(items)
        assert caught.value.value == "over"
        monkeypatch.undo()
        if when == "during it":
            letting.result(PATIENCE)


# ---------------------------------------------------------------------------- how connections end


@pytest.mark.usefixtures("patient")
def test_no_thread_leads_while_the_loop_has_frames_to_handle(client: DriverClient) -> None:
    """Many items arrive in one read, and the loop handles all but the first thousand of them."""
    be_watched(client)
    with client.timeout(PATIENCE):  # a thread that led meanwhile would wait for that long
        for _ in range(5):
            items = client.streamingcall("count_async", 20_000)
            assert list(items) == list(range(20_000))


@pytest.mark.usefixtures("patient")
def test_a_second_thread_that_begins_the_same_generator_iterates_over_the_rest(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_watched(client)
    items = client.streamingcall("count_async", 20_000)  # more than its window holds
    got: list[Any] = []
    really_begin = leading.begin

    def begin_late(*args: Any) -> bool:
        monkeypatch.setattr(leading, "begin", really_begin)
        with ThreadPoolExecutor(1) as pool, client.timeout(PATIENCE):
            got.append(pool.submit(next, items).result(PATIENCE))
        return really_begin(*args)

    monkeypatch.setattr(leading, "begin", begin_late)
    with client.timeout(PATIENCE):
        got.append(next(items))
        assert [*got, *items] == list(range(20_000))


@pytest.mark.usefixtures("patient")
def test_an_exporter_that_ends_in_the_midst_of_a_call_leaves_its_outcome_unknown() -> None:
    lab = Lab()
    with ServerContext(lab) as exporter, jumpstarter.connect(exporter.address) as client:
        connection = be_watched(client)
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
        connection = be_watched(client)
        exporter.end()
        with pytest.raises(CallRefused, match=r"closed the connection|shut"):
            client.call("echo_async", 1)
        wait_until(lambda: connection.ended is not None)


@pytest.mark.usefixtures("patient")
def test_a_goaway_that_comes_with_an_answer_is_acted_on() -> None:
    with ServerContext(Lab()) as exporter, jumpstarter.connect(exporter.address) as client:
        connection = be_watched(client)
        drain = threading.Thread(target=exporter.drain)
        drain.start()  # waits for our acknowledgement
        with pytest.raises(CallRefused, match=r"shut|takes no more calls|closed"):
            call_for_ever(client)
        drain.join(PATIENCE)
        assert not drain.is_alive()
        wait_until(lambda: connection.ended is not None)


@pytest.mark.usefixtures("patient")
def test_the_client_is_closed_while_another_thread_leads(lab: Lab) -> None:
    with ThreadPoolExecutor(1) as pool:
        with jumpstarter.serve(lab) as client:
            be_watched(client)
            waiting = pool.submit(client.call, "wait")
            wait_until(lambda: bool(lab.log))
        with pytest.raises(DriverError):
            waiting.result(PATIENCE)
    assert lab.log == ["wait started", "wait ended"]


class _LimitsThat:
    """Takes the place of a connection's rate limits, to run code while it handles a frame."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    @property
    def total(self) -> int:
        self._act()
        return 0


def fail_to_act(monkeypatch: pytest.MonkeyPatch, connection: Connection) -> None:
    """Make the handling of the next frames fail."""

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(connection, "_rate_limits", _LimitsThat(fail))


@pytest.mark.usefixtures("patient")
def test_an_exception_in_the_midst_of_the_rules_ends_the_connection(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = be_watched(client)

    fail_to_act(monkeypatch, connection)
    with pytest.raises(MemoryError):
        client.call("echo_async", 1)
    wait_until(lambda: connection.ended is not None)
    with pytest.raises(CallRefused, match="cut off by an exception in the midst of a call"):
        client.call("echo_async", 1)


@pytest.mark.usefixtures("patient")
def test_a_finalizer_in_the_midst_of_a_call_is_refused(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = be_watched(client)
    refused: list[str] = []

    def finalize() -> None:
        with pytest.raises(RuntimeError, match="finalizer") as caught:
            client.call("echo", 1)
        refused.append(str(caught.value))

    monkeypatch.setattr(connection, "_rate_limits", _LimitsThat(finalize))
    assert client.call("echo_async", 1) == 1
    assert refused
    monkeypatch.undo()
    assert client.call("echo_async", 2) == 2


@pytest.mark.usefixtures("patient")
def test_a_finalizer_in_the_midst_of_a_call_may_call_another_client(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = be_watched(client)
    answers: list[object] = []

    with served(Lab()) as other:
        before = be_watched(other).ownership.led_by_threads

        def finalize() -> None:
            if not answers:
                answers.append(other.call("echo", 3))
                answers.append(other.call("echo_async", 4))

        monkeypatch.setattr(connection, "_rate_limits", _LimitsThat(finalize))
        assert client.call("echo_async", 1) == 1
        assert answers == [3, 4]
        monkeypatch.undo()
        assert other.call("echo_async", 5) == 5
        assert connection_of(other).ownership.led_by_threads > before
    assert client.call("echo_async", 2) == 2


@pytest.mark.usefixtures("patient")
def test_steps_in_a_thread_that_runs_a_trio_loop_are_refused(client: DriverClient) -> None:
    """A finalizer in the portal's own loop would wait for what only that loop can do."""
    be_watched(client)
    with client.stream() as stream, client.streamingcall("count_async", 3) as items:
        steps: list[Callable[[], object]] = [
            lambda: stream.send(b"x"),
            stream.receive,
            lambda: next(items),
        ]

        async def use() -> None:
            for step in steps:
                with pytest.raises(RuntimeError, match="inside a Trio task"):
                    step()

        trio.run(use)
        portal_of(client).call(use)
        assert list(items) == [0, 1, 2]
        stream.send(b"usable")
        assert stream.receive() == b"usable"


class _FinalizingLock:
    """A lock after whose acquisition a finalizer runs, as may happen since Python 3.12."""

    def __init__(self, lock: threading.Lock, finalize: Callable[[], None]) -> None:
        self._lock = lock
        self._finalize = finalize
        self.release = lock.release

    def acquire(self) -> None:
        self._lock.acquire()
        self._finalize()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.usefixtures("patient")
def test_a_finalizer_that_runs_as_the_lock_is_taken_is_refused(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ownership = be_watched(client).ownership
    refused: list[str] = []

    def finalize() -> None:
        with pytest.raises(RuntimeError, match="finalizer") as caught:
            client.call("echo", 1)
        refused.append(str(caught.value))

    # As in Python 3.12, whatever this one is.
    monkeypatch.setattr("jumpstarter._io.ownership.ARRIVES", True)
    monkeypatch.setattr(ownership, "lock", _FinalizingLock(ownership.lock, finalize))
    assert client.call("echo_async", 1) == 1
    with client.stream() as stream:
        stream.send(b"x")
    assert len(refused) >= 3  # to send the call, to read its answer, and to send the byte
    monkeypatch.undo()
    assert client.call("echo_async", 2) == 2


# ------------------------------------------------------------------------------ led by a task

ONE: Final = Limits(max_calls=1)


@asynccontextmanager
async def led_by_tasks(
    driver: Driver, exporter_limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[Channel]:
    """Yield a channel over a socket that its tasks may read."""
    pair = await unix_pair()
    async with in_time(), channel_over(pair, driver, exporter_limits=exporter_limits) as channel:
        while channel.connection.ownership.watch is None:
            assert await channel.call(ask("echo_async", 1)) == 1
        yield channel


async def test_one_call_after_another_is_led_by_its_task(leads: Leads) -> None:
    async with led_by_tasks(Lab()) as channel:
        before = leads.tasks
        for number in range(10):
            assert await channel.call(ask("echo_async", [number])) == [number]
        with pytest.raises(DriverTimeoutError, match="the device is slow"):
            await channel.call(ask("fail"))
        assert leads.tasks == before + 11
        assert channel.connection.ownership.reader is Reader.LOOP
        assert not channel.connection.handlers


async def test_a_client_that_makes_few_calls_needs_no_watch() -> None:
    async with in_time(), channel_over(await unix_pair(), Lab()) as channel:
        assert await channel.call(ask("echo_async", 1)) == 1
        assert channel.connection.ownership.watch is None


async def test_a_call_that_cannot_be_sent_leaves_the_lead_to_the_next(leads: Leads) -> None:
    limits = Limits(max_message=64 * 1024)
    async with (
        in_time(),
        channel_over(await unix_pair(), Lab(), exporter_limits=limits) as channel,
    ):
        while channel.connection.ownership.watch is None:
            await channel.call(ask("echo_async", 1))
        with pytest.raises(DriverInvalidArgument, match="the message has"):
            await channel.call(ask("echo", MEGABYTE))
        assert channel.connection.ownership.reader is Reader.LOOP
        before = leads.tasks
        assert await channel.call(ask("echo_async", 1)) == 1
        assert leads.tasks == before + 1


async def test_a_cancelled_task_sends_nothing_and_leads_nothing(leads: Leads) -> None:
    async with led_by_tasks(Lab()) as channel:
        before = leads.tasks
        with trio.CancelScope(deadline=-math.inf):
            await channel.call(ask("wait"))
        assert leads.tasks == before
        assert await channel.call(ask("echo_async", 1)) == 1


async def test_other_tasks_call_while_one_leads() -> None:
    lab = Lab()
    async with led_by_tasks(lab) as channel, trio.open_nursery() as nursery:
        slow = await begin(nursery, channel.call, ask("wait"))
        assert channel.connection.ownership.reader is Reader.TASK
        assert await channel.call(ask("echo_async", "beside it")) == "beside it"
        assert [item async for item in generator(channel, "count", 3)] == [0, 1, 2]
        assert not slow.ended
        lab.let_go.set()
    assert slow.value == "wait"


async def test_tasks_that_wait_for_the_slot_of_a_leading_task_get_it(leads: Leads) -> None:
    async with led_by_tasks(Lab(), ONE) as channel:
        before = leads.tasks
        results: list[int] = []

        async def echo(number: int) -> None:
            results.append(await channel.call(ask("echo_async", number)))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(echo, number)
        assert leads.tasks > before
    assert sorted(results) == list(range(10))


async def test_a_slot_that_a_task_was_promised_goes_to_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab()
    started: list[bool] = []

    async def wait_and_be_raced() -> None:
        await wait()
        faster = OutgoingCall(channel, ask("echo_async", "faster"))
        with channel.connection.lock:
            started.append(channel.start(faster, math.inf))

    async with in_time(), channel_over(await unix_pair(), lab, exporter_limits=ONE) as channel:
        wait = channel._slots.wait
        monkeypatch.setattr(channel._slots, "wait", wait_and_be_raced)
        async with trio.open_nursery() as nursery:
            first = await begin(nursery, channel.call, ask("wait"))
            second = await begin(nursery, channel.call, ask("echo_async", 2))
            lab.let_go.set()
        assert (first.value, second.value) == ("wait", 2)
        assert started == [False]


async def let_go(lab: Lab) -> None:
    await wait_all_tasks_blocked()
    lab.let_go.set()


@contextmanager
def ctrl_c_in(function: Callable[..., object], local: str = "") -> Iterator[None]:
    """Press Ctrl-C once as a function begins, or as soon as it has assigned a local variable."""
    struck = function.__code__
    before = sys.gettrace()

    def strike(frame: FrameType, _event: str, _arg: object) -> Any:
        if frame.f_code is not struck:
            return None
        if local and local not in frame.f_locals:
            return strike
        sys.settrace(before)
        signal.raise_signal(signal.SIGINT)
        return None

    sys.settrace(strike)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("function", [SlotQueue.register, SlotQueue.wait, SlotQueue.redeem])
def test_ctrl_c_in_a_task_that_waits_for_a_slot_loses_no_slot(
    function: Callable[..., object],
) -> None:
    """It comes as the function begins, where no `try` can catch it yet."""

    async def main() -> None:
        lab = Lab()
        async with in_time(), channel_over(await unix_pair(), lab, exporter_limits=ONE) as channel:

            async def call_on() -> None:
                await channel.call(ask("echo_async", 2))
                await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                first = await begin(nursery, channel.call, ask("wait"))
                if function is SlotQueue.redeem:
                    nursery.start_soon(let_go, lab)
                with ctrl_c_in(function), pytest.raises(KeyboardInterrupt):
                    await call_on()
                lab.let_go.set()
            assert first.value == "wait"
            assert not channel.connection.slot_waiters
            assert await channel.call(ask("echo_async", 3)) == 3

    trio.run(main)


def test_ctrl_c_as_an_unsent_call_is_taken_back_loses_no_slot() -> None:
    async def main() -> None:
        async with in_time(), channel_over(await unix_pair(), Lab()) as channel:

            async def cancel_soon(scope: trio.CancelScope) -> None:
                await wait_all_tasks_blocked()
                scope.cancel()

            async def call_on() -> None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_soon, nursery.cancel_scope)
                    await channel.call(ask("echo_async", bytes(100_000)))
                await trio.lowlevel.checkpoint()

            channel.connection.writer.state = WriterState.WRITING  # so that no frame leaves
            with ctrl_c_in(Channel.ask_to_end, "asked"), pytest.raises(KeyboardInterrupt):
                await call_on()
            assert not channel.connection.handlers
            channel.connection.writer.state = WriterState.IDLE
            assert await channel.call(ask("echo_async", 2)) == 2

    trio.run(main)


async def test_a_stream_is_served_by_a_task_that_leads() -> None:
    lab = Lab()
    async with led_by_tasks(lab) as channel, trio.open_nursery() as nursery:
        slow = await begin(nursery, channel.call, ask("wait"))
        opened = await stream(channel, "connect")
        assert channel.connection.ownership.reader is Reader.TASK
        await opened.send_all(b"bytes")
        assert await opened.receive_some() == b"bytes"
        assert await channel.call(ask("echo_async", "beside it")) == "beside it"
        await opened.aclose()
        lab.let_go.set()
    assert slow.value == "wait"


async def test_a_large_answer_is_read_by_the_read_task() -> None:
    async with led_by_tasks(Lab()) as channel:
        assert await channel.call(ask("echo", MEGABYTE)) == MEGABYTE


async def test_a_led_call_that_is_cancelled_has_ended_and_the_reader_goes_on() -> None:
    lab = Lab()
    async with led_by_tasks(lab) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.call, ask("wait", "wait", 0.01))
            await until(lambda: bool(lab.log))
            nursery.cancel_scope.cancel()
        assert lab.log == ["wait started", "wait ended"]
        assert await channel.call(ask("echo_async", 1)) == 1


async def test_led_call_cancelled_at_any_step_keeps_the_state_consistent() -> None:
    """Cancel the call before each step that any task takes during it."""
    async with led_by_tasks(Lab()) as channel:
        for at in range(1, 100):
            scope = trio.CancelScope()
            with counted(at, scope.cancel) as steps, scope:
                assert await channel.call(ask("echo_async", at)) == at
            assert not channel.connection.handlers, at
            assert await channel.call(ask("echo_async", "usable")) == "usable"
            if steps.taken < at:
                break
        assert 2 < at < 99  # the caller must wait once, the exporter need not wait


async def test_a_writer_waits_for_the_socket_beside_a_task_that_leads() -> None:
    lab = Lab()
    async with led_by_tasks(lab) as channel, trio.open_nursery() as nursery:
        slow = await begin(nursery, channel.call, ask("wait"))
        assert channel.connection.ownership.reader is Reader.TASK
        large = Outcome()
        nursery.start_soon(large.of, channel.call, ask("echo_async", bytes(20_000_000)))
        await until(lambda: large.ended)
        assert large.value == bytes(20_000_000)
        lab.let_go.set()
        await until(lambda: slow.ended)
        assert slow.value == "wait"


async def test_a_task_that_leads_is_protected_from_ctrl_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protected: list[bool] = []

    def note() -> None:
        protected.append(trio.lowlevel.currently_ki_protected())

    async with led_by_tasks(Lab()) as channel:
        monkeypatch.setattr(channel.connection, "_rate_limits", _LimitsThat(note))
        for number in range(3):
            assert await channel.call(ask("echo_async", number)) == number
        monkeypatch.undo()
    assert len(protected) == 3
    assert all(protected)


async def test_the_client_is_closed_while_a_task_leads() -> None:
    lab = Lab()
    async with led_by_tasks(lab) as channel, trio.open_nursery() as nursery:
        slow = await begin(nursery, channel.call, ask("wait"))
        await until(lambda: bool(lab.log))
        await channel.aclose()
    assert isinstance(slow.error, DriverError)
    assert lab.log == ["wait started", "wait ended"]


async def test_goaway_is_read_before_a_call_is_sent() -> None:
    async with scripted_and_led() as (channel, exporter):
        await exporter.goaway("down for repair")
        with pytest.raises(CallRefused, match="down for repair"):
            await channel.call(ask("on"))


async def test_hangup_is_noticed_before_a_call_is_sent() -> None:
    async with scripted_and_led() as (channel, exporter):
        await exporter.stream.aclose()
        with pytest.raises(CallRefused, match="closed the connection"):
            await channel.call(ask("on"))


async def test_an_exporter_that_is_gone_leaves_a_led_call_unknown() -> None:
    async with scripted_and_led() as (channel, exporter), trio.open_nursery() as nursery:
        led = await begin(nursery, channel.call, ask("on"))
        await exporter.event(ev.CallReceived)
        await exporter.stream.aclose()
        await until(lambda: led.ended)
        led.failed(CallOutcomeUnknown, "closed the connection")


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


async def test_an_exception_in_the_rules_ends_the_connection_that_a_task_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with led_by_tasks(Lab()) as channel:
        fail_to_act(monkeypatch, channel.connection)
        with pytest.raises(MemoryError):
            await channel.call(ask("echo_async", 1))
        await until(lambda: channel.ended is not None)
        with pytest.raises(CallRefused, match="cut off by an exception in the midst of a call"):
            await channel.call(ask("echo_async", 1))


@pytest.mark.usefixtures("patient")
def test_a_thread_takes_the_lead_from_a_task(client: DriverClient, lab: Lab, leads: Leads) -> None:
    connection = be_watched(client)
    slow = portal_of(client).start_task_soon(client.call_async, "wait")
    wait_until(lambda: bool(lab.log))
    assert connection.ownership.reader is Reader.TASK
    assert client.call("echo_async", "beside it") == "beside it"
    wait_until(lambda: connection.ownership.reader is Reader.LOOP)
    before = leads.threads
    assert client.call("echo_async", "led") == "led"
    assert leads.threads == before + 1
    portal_of(client).call(lab.let_go.set)
    assert slow.result(PATIENCE) == "wait"


@asynccontextmanager
async def scripted_and_led() -> AsyncIterator[tuple[Channel, ScriptedExporter]]:
    """Yield a channel that its tasks may read, and the exporter at its other end."""
    pair = await unix_pair()
    async with scripted(make_pair=lambda: pair) as (channel, exporter):
        while channel.connection.ownership.watch is None:
            async with trio.open_nursery() as nursery:
                await begin(nursery, channel.call, ask("echo", 1))
                await exporter.result((await exporter.event(ev.CallReceived)).slot)
        async with exporter.stream:
            yield channel, exporter


# ------------------------------------------------------------------------------------- Ctrl-C


def test_ctrl_c_ends_a_led_call_and_the_drivers_code(client: DriverClient, lab: Lab) -> None:
    be_watched(client)

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


def test_a_handler_that_raises_nothing_does_not_disturb_a_call(
    client: DriverClient, lab: Lab
) -> None:
    be_watched(client)
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


def test_an_interruption_from_another_thread_ends_a_passive_wait(
    client: DriverClient, lab: Lab
) -> None:
    """No system call is interrupted by it: the waiting thread must look for it by itself."""
    be_watched(client)

    def interrupt() -> None:
        wait_until(lambda: bool(lab.log) and ownership_of(client).reader is Reader.LOOP)
        _thread.interrupt_main()

    with ThreadPoolExecutor(1) as pool, client.timeout(PATIENCE):
        pressed = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.call("wait")
        pressed.result(PATIENCE)
    assert lab.log == ["wait started", "wait ended"]
    assert client.call("echo_async", "usable") == "usable"


class Strike:
    """Sends a signal at the n-th traced step: each place where a handler can raise.

    Within compiled code, no handler runs. Nor does one between a value and its return, where a
    tracer could raise.

    Args:
        step: The number of the step.
        within: The packages whose steps count.
        signum: The signal: by default that of Ctrl-C.

    Attributes:
        step: The number of the step.
        left: How many steps there were too few; 0 or less once the signal was sent.
    """

    OURS: Final = Path(jumpstarter.__file__).parent
    RETURNS: Final = {dis.opmap[each] for each in dis.opmap if each.startswith("RETURN_")}

    def __init__(
        self, step: int, within: tuple[str, ...] = ("",), signum: int = signal.SIGINT
    ) -> None:
        self.step = self.left = step
        self._signum = signum
        self._within = tuple(str(self.OURS / each) for each in within)

    def trace(self, frame: FrameType, event: str, _arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._within):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_code.co_code[frame.f_lasti] not in self.RETURNS:
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                signal.raise_signal(self._signum)
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


def sweep(within: tuple[str, ...] = ("",), signum: int = signal.SIGINT) -> Iterator[Strike]:
    """Yield a `Strike` for each step of what the caller does, and a last one without effect."""
    for step in itertools.count(1):
        strike = Strike(step, within, signum)
        yield strike
        if strike.left > 0:
            return


PATIENCES: Final = pytest.mark.parametrize("patience", [10_000, 0], ids=["led", "passive"])


@PATIENCES
def test_ctrl_c_at_any_step_of_a_led_call_keeps_the_state_consistent(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    monkeypatch.setattr(leading, "_PATIENCE_MS", patience)
    connection = be_watched(client)
    for strike in sweep():
        be_watched(client)
        with suppress(KeyboardInterrupt), strike.armed():
            assert client.call("echo_async", strike.step) == strike.step
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert client.call("echo_async", "usable") == "usable", strike.step
        assert not connection.handlers, strike.step
    assert strike.step > (20 if is_compiled() else 500)  # 30 on Python 3.13


def test_ctrl_c_at_any_step_of_a_call_beside_a_stream_keeps_the_state_consistent(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes for the stream arrive as the call waits for its answer."""
    monkeypatch.setattr(leading, "_PATIENCE_MS", 10_000)
    be_watched(client)
    with client.stream() as stream:
        for strike in sweep():
            sent = b"%d" % strike.step
            stream.send(sent)
            with suppress(KeyboardInterrupt), strike.armed():
                assert client.call("echo_async", strike.step) == strike.step
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert client.call("echo_async", "usable") == "usable", strike.step
            received = b""
            while len(received) < len(sent):
                received += stream.receive()
            assert received == sent
    assert strike.step > 20  # 30 compiled, on Python 3.13


class Poking(Lab):
    """Sends the client's main thread a signal while it waits for the answer."""

    @export
    async def poke(self, number: int) -> int:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        return number


@pytest.mark.parametrize("calls_in", ["the handler", "a thread"])
def test_a_handler_may_use_the_client_that_it_interrupts(calls_in: str) -> None:
    """Bytes for a stream arrive meanwhile, so the call reads for others too."""
    answers: list[str] = []

    def ask_again() -> str:
        with client.timeout(PATIENCE):
            return client.call_as(str, "echo_async", "answer")

    def handle(*_: object) -> None:
        in_thread = calls_in == "a thread"
        answers.append(pool.submit(ask_again).result(PATIENCE) if in_thread else ask_again())

    with served(Poking()) as client, ThreadPoolExecutor(1) as pool, client.stream() as stream:
        be_watched(client)
        previous = signal.signal(signal.SIGUSR1, handle)
        try:
            for number in range(100):
                stream.send(b"x")
                assert client.call("poke", number) == number
                assert stream.receive() == b"x"
        finally:
            signal.signal(signal.SIGUSR1, previous)
    assert answers == ["answer"] * 100


@PATIENCES
def test_a_handler_that_raises_at_any_step_of_receiving_loses_no_bytes(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    """Raise at each step but those after the bytes have left `receive`, on their way out."""
    monkeypatch.setattr(leading, "_PATIENCE_MS", patience)
    connection = be_watched(client)
    with client.stream() as stream:
        for strike in sweep(within=("_io", "_protocol", "_util/deferred_signals.py")):
            sent = b"%d" % strike.step
            stream.send(sent)
            received = b""
            try:
                with strike.armed():
                    received = stream.receive()
            except KeyboardInterrupt:
                received = stream.receive()
            assert received == sent, strike.step
            assert connection.ownership.reader is not Reader.THREAD, strike.step
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert client.call("echo_async", "usable") == "usable"
    assert strike.step > (100 if is_compiled() else 300)


def test_a_handler_that_raises_at_any_step_of_sending_leaves_the_stream_usable(
    client: DriverClient,
) -> None:
    be_watched(client)
    with client.stream() as stream:
        received = sent = 0
        for strike in sweep():
            try:
                with strike.armed():
                    stream.send(b"x")
                sent += 1
            except KeyboardInterrupt:  # it is unknown whether it was sent
                stream.send(b"|")
                while True:
                    data = stream.receive()
                    if b"|" in data:
                        break
                    received += len(data)
                assert set(data) <= set(b"x|"), strike.step
                received = sent = 0
        assert client.call("echo_async", "usable") == "usable"
    assert strike.step > (100 if is_compiled() else 200)


@PATIENCES
def test_a_handler_that_raises_at_any_step_of_an_iteration_ends_the_generator(
    client: DriverClient, lab: Lab, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    monkeypatch.setattr(leading, "_PATIENCE_MS", patience)
    connection = be_watched(client)
    for strike in sweep():
        lab.log.clear()
        items = client.streamingcall("count_async", 3)
        try:
            with strike.armed():
                assert next(items) == 0
        except KeyboardInterrupt:
            items.close()
        else:
            assert list(items) == [1, 2]
        assert not connection.handlers, strike.step
        assert connection.ownership.reader is not Reader.THREAD, strike.step
    assert client.call("echo_async", "usable") == "usable"
    assert strike.step > (100 if is_compiled() else 300)


class Alarm(Exception):
    """Raised by a signal handler, as by one that limits the time of a test."""


class RuntimeAlarm(RuntimeError):
    """The same, of the class of the exceptions that refuse a step."""


@pytest.mark.parametrize("alarm", [Alarm, RuntimeAlarm])
def test_a_handler_that_raises_at_any_step_of_an_iteration_loses_no_item_silently(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch, alarm: type[Exception]
) -> None:
    """The iteration may end there. If it goes on, then with the item that it has not returned."""

    def ring(*_: object) -> None:
        raise alarm

    monkeypatch.setattr(leading, "_PATIENCE_MS", 10_000)
    be_watched(client)
    previous = signal.signal(signal.SIGUSR1, ring)
    try:
        for strike in sweep(signum=signal.SIGUSR1):
            items = client.streamingcall("count_async", 3)
            got: list[int] = []
            with suppress(alarm), strike.armed():
                got = [next(items)]
            assert [*got, *items] in ([], [0], [0, 1, 2]), strike.step
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert strike.step > (100 if is_compiled() else 300)


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
