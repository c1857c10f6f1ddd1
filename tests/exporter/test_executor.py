"""Tests of `_exporter.executor`: `async` code runs in the call's own task, other code in a thread.

Threads are real, and wait for events that the test sets, so no test depends on real time. Tests
with a virtual clock use no threads.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from jumpstarter._exporter import executor as executor_module
from jumpstarter._exporter.executor import DriverExecutor, NoThreadError, in_worker_thread
from jumpstarter._util.reentrancy import CallOrigin, call_origin
from jumpstarter.errors import DriverConnectionError

DEADLINE = 60.0  # seconds, for steps that take milliseconds


@pytest.fixture
def executor() -> DriverExecutor:
    return DriverExecutor(2)


@pytest.fixture(autouse=True)
async def the_default_threads_are_left_alone() -> AsyncIterator[None]:
    """Hold all of Trio's default threads: code that needs one of them would hang."""
    default = trio.to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(default.total_tokens))]
    for holder in holders:
        default.acquire_on_behalf_of_nowait(holder)
    yield
    for holder in holders:
        default.release_on_behalf_of(holder)


async def call(
    executor: DriverExecutor, method: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    with trio.fail_after(DEADLINE):
        return await executor.call(method, list(args), kwargs)


async def iterate(executor: DriverExecutor, method: Callable[..., Any], *args: Any) -> list[Any]:
    """Run a generator to its end; return its items, then its return value."""
    items: list[Any] = []

    async def send(item: Any) -> None:
        items.append(item)

    with trio.fail_after(DEADLINE):
        returned = await executor.iterate(method, list(args), {}, send)
    return [*items, returned]


class LeftError(Exception):
    """Raised by a consumer that leaves a generator early."""


async def leave(_item: object) -> None:
    """Take one item, then leave."""
    raise LeftError


async def take_one(executor: DriverExecutor, method: Callable[..., Any]) -> None:
    """Run a generator up to its first item, then leave it."""
    with trio.fail_after(DEADLINE), pytest.raises(LeftError):
        await executor.iterate(method, [], {}, leave)


def undisguised(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def disguised(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate so that `inspect` sees a plain function."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


both_disguises = pytest.mark.parametrize("decorate", [undisguised, disguised])


class LazyEvent:
    """A gate for a thread: the thread sets `arrived`, then waits until the test sets `open`."""

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.open = threading.Event()
        self.left = False

    def pass_through(self) -> None:
        trio.from_thread.run_sync(self.arrived.set)
        assert self.open.wait(DEADLINE)
        self.left = True


# --- methods ---


async def test_a_plain_method_runs_in_a_thread_of_the_exporters_own_supply(
    executor: DriverExecutor,
) -> None:
    def method(one: int, *, other: int) -> tuple[int, int, int, float]:
        return one, other, threading.get_ident(), executor.limiter.borrowed_tokens

    one, other, thread, borrowed = await call(executor, method, 1, other=2)
    assert (one, other) == (1, 2)
    assert thread != threading.get_ident()
    assert borrowed == 1
    assert executor.limiter.borrowed_tokens == 0


@both_disguises
async def test_an_async_method_runs_in_the_task_of_its_call(
    executor: DriverExecutor, decorate: Callable[[Any], Any]
) -> None:
    @decorate
    async def method(one: int, *, other: int) -> tuple[int, int, trio.lowlevel.Task]:
        await trio.lowlevel.checkpoint()
        return one, other, trio.lowlevel.current_task()

    assert await call(executor, method, 1, other=2) == (1, 2, trio.lowlevel.current_task())


async def test_a_plain_method_may_call_back_into_the_loop(executor: DriverExecutor) -> None:
    def method() -> int:
        return trio.from_thread.run(asynchronous) + trio.from_thread.run_sync(lambda: 1)

    async def asynchronous() -> int:
        await trio.lowlevel.checkpoint()
        return 1

    assert await call(executor, method) == 2


async def test_calls_beyond_the_supply_of_threads_wait_their_turn() -> None:
    executor = DriverExecutor(1)
    gate = LazyEvent()
    ran: list[str] = []
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.call, gate.pass_through, [], {})
            await gate.arrived.wait()
            nursery.start_soon(executor.call, ran.append, ["second"], {})
            await wait_all_tasks_blocked()
            assert executor.limiter.statistics().tasks_waiting == 1
            assert ran == []
            gate.open.set()
    assert ran == ["second"]


async def test_a_cancelled_call_that_waits_for_a_thread_never_starts() -> None:
    executor = DriverExecutor(1)
    gate = LazyEvent()
    ran: list[str] = []
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.call, gate.pass_through, [], {})
            await gate.arrived.wait()
            async with trio.open_nursery() as waiting:
                waiting.start_soon(executor.call, ran.append, ["never"], {})
                await wait_all_tasks_blocked()
                waiting.cancel_scope.cancel()
            gate.open.set()
    assert ran == []


async def test_a_cancelled_call_waits_for_its_thread(executor: DriverExecutor) -> None:
    gate = LazyEvent()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.call, gate.pass_through, [], {})
            await gate.arrived.wait()
            nursery.cancel_scope.cancel()
            with trio.fail_after(DEADLINE, shield=True):
                await wait_all_tasks_blocked()
                assert len(nursery.child_tasks) == 1
                gate.open.set()
    assert gate.left


async def test_a_thread_can_ask_if_its_call_was_cancelled(executor: DriverExecutor) -> None:
    gate = LazyEvent()
    cleaned: list[str] = []

    def method() -> None:
        trio.from_thread.check_cancelled()
        gate.pass_through()
        try:
            trio.from_thread.check_cancelled()
        finally:
            cleaned.append("cancelled")
        raise AssertionError("it was cancelled")

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.call, method, [], {})
            await gate.arrived.wait()
            nursery.cancel_scope.cancel()
            gate.open.set()
    assert cleaned == ["cancelled"]


async def test_a_hidden_coroutine_is_awaited_even_if_its_call_was_cancelled_meanwhile(
    executor: DriverExecutor,
) -> None:
    gate = LazyEvent()
    ran: list[str] = []

    async def method() -> None:
        ran.append("started")
        await trio.lowlevel.checkpoint()
        ran.append("went on")

    def slow_to_begin() -> Any:
        gate.pass_through()
        return method()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.call, slow_to_begin, [], {})
            await gate.arrived.wait()
            nursery.cancel_scope.cancel()
            gate.open.set()
    gc.collect()  # a coroutine never awaited would warn, and fail this test
    assert ran == ["started"]


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
@both_disguises
async def test_the_exception_of_a_method_is_raised(
    executor: DriverExecutor, failure: BaseException, decorate: Callable[[Any], Any]
) -> None:
    def method() -> None:
        raise failure

    @decorate
    async def async_method() -> None:
        raise failure

    for each in (method, async_method):
        with pytest.raises(type(failure)) as caught:
            await call(executor, each)
        assert caught.value is failure


# --- calls that drivers make ---


async def test_a_call_made_by_a_driver_needs_none_of_the_threads_that_others_hold() -> None:
    executor = DriverExecutor(1)
    gate = LazyEvent()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.call, gate.pass_through, [], {})
            await gate.arrived.wait()
            call_origin.set(CallOrigin.NESTED)
            assert await call(executor, threading.get_ident) != threading.get_ident()
            gate.open.set()


async def test_calls_that_call_each_other_without_end_are_refused(
    executor: DriverExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "NESTED_THREADS", 3)
    executor = DriverExecutor(1)
    depth: list[int] = []

    def method() -> None:
        depth.append(1)
        trio.from_thread.run(executor.call, method, [], {})

    call_origin.set(CallOrigin.NESTED)
    with pytest.raises(DriverConnectionError, match=r"3 calls by drivers.*itself endlessly"):
        await call(executor, method)
    assert len(depth) == 3


# --- fairness between clients ---


class BackpressureSource:
    """A client that reads, or that does not read until the test calls `read`."""

    def __init__(self, *, reads: bool = True) -> None:
        self.write_paused = not reads
        self.emptied = trio.Event()

    async def wait_writable(self) -> None:
        await self.emptied.wait()

    def read(self) -> None:
        self.write_paused = False
        self.emptied.set()


@pytest.mark.parametrize(("threads", "share"), [(1, 1), (3, 3), (4, 3), (64, 48)])
async def test_one_client_never_has_all_of_many_threads(threads: int, share: int) -> None:
    executor = DriverExecutor(threads)
    one, other = (
        executor.for_client(BackpressureSource()),
        executor.for_client(BackpressureSource()),
    )
    gates = [LazyEvent() for _ in range(share + 1)]
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            for gate in gates:
                nursery.start_soon(one.call, gate.pass_through, [], {})
            await wait_all_tasks_blocked(0.01)
            assert executor.limiter.borrowed_tokens == share
            if share < threads:
                assert await other.call(threading.get_ident, [], {}) != threading.get_ident()
            for gate in gates:
                gate.open.set()
    assert all(gate.left for gate in gates)


async def test_a_drivers_own_calls_need_no_share() -> None:
    executor = DriverExecutor(1).for_client(BackpressureSource())
    gate = LazyEvent()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.call, gate.pass_through, [], {})
            await gate.arrived.wait()
            call_origin.set(CallOrigin.NESTED)
            assert await call(executor, threading.get_ident) != threading.get_ident()
            gate.open.set()


async def test_no_thread_begins_before_there_is_room_for_its_answer() -> None:
    client = BackpressureSource(reads=False)
    executor = DriverExecutor(4)
    stuck, other = executor.for_client(client), executor.for_client(BackpressureSource())
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            begun: list[int] = []
            for number in range(5):
                nursery.start_soon(stuck.call, begun.append, [number], {})
            await wait_all_tasks_blocked()
            assert begun == []
            assert executor.limiter.borrowed_tokens == 0
            assert await other.call(len, [""], {}) == 0
            client.read()
    assert sorted(begun) == list(range(5))


async def test_a_share_is_given_back_by_a_call_that_is_cancelled_as_it_waits() -> None:
    client = BackpressureSource(reads=False)
    executor = DriverExecutor(1).for_client(client)
    with trio.move_on_after(0) as scope:
        await executor.call(len, [""], {})
    assert scope.cancelled_caught
    client.read()
    with trio.fail_after(DEADLINE):
        assert await executor.call(len, [""], {}) == 0


async def test_a_plain_generator_is_closed_though_its_client_does_not_read() -> None:
    """Calls wait until the client reads, but the close of, for example, a relay must not."""
    client, closed = BackpressureSource(), threading.Event()
    executor = DriverExecutor(1).for_client(client)

    def count() -> Iterator[int]:
        try:
            yield 1
        finally:
            closed.set()

    async def send(_item: object) -> None:
        client.write_paused = True
        await wait_all_tasks_blocked()
        raise LeftError

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:

            async def leave_it() -> None:
                with pytest.raises(LeftError):
                    await executor.iterate(count, [], {}, send)
                nursery.cancel_scope.cancel()

            nursery.start_soon(leave_it)
            await wait_all_tasks_blocked(0.01)
            for _ in range(3):
                nursery.start_soon(executor.call, len, [""], {})
    assert closed.is_set()


async def test_the_ends_of_generators_take_no_more_than_the_share_either() -> None:
    executor = DriverExecutor(4)
    one, other = (
        executor.for_client(BackpressureSource()),
        executor.for_client(BackpressureSource()),
    )
    gates = [LazyEvent() for _ in range(5)]

    def hold(gate: LazyEvent) -> Iterator[int]:
        try:
            yield 1
        finally:
            gate.pass_through()

    async def left(gate: LazyEvent) -> None:
        with pytest.raises(LeftError):
            await one.iterate(hold, [gate], {}, leave)

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            for gate in gates:
                nursery.start_soon(left, gate)
            await wait_all_tasks_blocked(0.01)
            assert executor.limiter.borrowed_tokens == 3
            assert await other.call(len, [""], {}) == 0
            for gate in gates:
                gate.open.set()
    assert all(gate.left for gate in gates)


async def test_a_client_has_a_share_of_the_threads_for_nested_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor_module, "NESTED_THREADS", 4)
    executor = DriverExecutor(1)
    liar, driver = (
        executor.for_client(BackpressureSource()),
        executor.for_client(BackpressureSource()),
    )
    gates = [LazyEvent() for _ in range(3)]
    call_origin.set(CallOrigin.NESTED)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            for gate in gates:
                nursery.start_soon(liar.call, gate.pass_through, [], {})
            await wait_all_tasks_blocked(0.01)
            with pytest.raises(DriverConnectionError, match="3 calls by drivers are under way"):
                await liar.call(len, [""], {})
            assert await driver.call(len, [""], {}) == 0
            for gate in gates:
                gate.open.set()


# --- generators ---


def plain_count(stop: int) -> Generator[int, None, str]:
    yield from range(stop)
    return "counted"


async def async_count(stop: int) -> AsyncGenerator[int, None]:
    for number in range(stop):
        await trio.lowlevel.checkpoint()
        yield number


@both_disguises
async def test_a_generator_gives_its_items_and_then_what_it_returned(
    executor: DriverExecutor, decorate: Callable[[Any], Any]
) -> None:
    assert await iterate(executor, decorate(plain_count), 3) == [0, 1, 2, "counted"]
    assert await iterate(executor, decorate(plain_count), 0) == ["counted"]
    assert await iterate(executor, decorate(async_count), 3) == [0, 1, 2, None]
    assert await iterate(executor, decorate(async_count), 0) == [None]


async def test_a_plain_generator_takes_a_thread_per_step_and_none_after_its_end(
    executor: DriverExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    async def counted(limiter: trio.CapacityLimiter, function: Callable[[], Any]) -> Any:
        nonlocal steps
        steps += 1
        return await in_worker_thread(limiter, function)

    monkeypatch.setattr("jumpstarter._exporter.executor.in_worker_thread", counted)
    assert await iterate(executor, plain_count, 3) == [0, 1, 2, "counted"]
    assert steps == 5  # to call it, for three items, and for its end


async def test_no_line_of_a_plain_generator_runs_on_the_event_loop(
    executor: DriverExecutor,
) -> None:
    threads: list[int] = []

    def note() -> None:
        threads.append(threading.get_ident())

    def method() -> Generator[int, None, None]:
        try:
            note()
            yield 1
            note()
            yield 2
        finally:
            note()

    def decorated() -> Generator[int, None, None]:
        note()
        return method()

    assert await iterate(executor, decorated) == [1, 2, None]
    await take_one(executor, decorated)
    assert len(threads) == 4 + 3
    assert threading.get_ident() not in threads


async def test_the_loop_goes_on_while_a_plain_generator_blocks(executor: DriverExecutor) -> None:
    gate = LazyEvent()

    def method() -> Generator[int, None, None]:
        gate.pass_through()
        yield 1

    async def open_the_gate() -> None:
        await gate.arrived.wait()
        gate.open.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_the_gate)
        assert await iterate(executor, method) == [1, None]


async def test_an_async_generator_runs_in_one_task_from_its_start_to_its_end(
    executor: DriverExecutor,
) -> None:
    tasks: list[trio.lowlevel.Task] = []

    async def method() -> AsyncGenerator[int, None]:
        try:
            tasks.append(trio.lowlevel.current_task())
            yield 1
            tasks.append(trio.lowlevel.current_task())
        finally:
            await trio.lowlevel.checkpoint()
            tasks.append(trio.lowlevel.current_task())

    assert await iterate(executor, method) == [1, None]
    assert tasks == [trio.lowlevel.current_task()] * 3


async def test_an_async_generator_may_hold_a_nursery_and_a_deadline(
    executor: DriverExecutor, autojump_clock: trio.testing.MockClock
) -> None:
    async def method() -> AsyncGenerator[str, None]:
        sender, receiver = trio.open_memory_channel[str](0)

        async def work() -> None:
            await trio.sleep(1)
            await sender.send("worked")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            yield await receiver.receive()
        with trio.move_on_after(5):
            yield "waiting"
            await trio.sleep_forever()
        yield "gave up"

    del autojump_clock
    assert await iterate(executor, method) == ["worked", "waiting", "gave up", None]


class WithNursery:
    """A class whose async generator has a task that runs while the generator is suspended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def work(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.ended.append("task")

    async def method(self) -> AsyncGenerator[int, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.work)
            await trio.lowlevel.checkpoint()
            yield 1
        raise AssertionError("nobody wants any more")


async def test_a_nursery_around_a_yield_is_joined_when_the_consumer_leaves(
    executor: DriverExecutor,
) -> None:
    generator = WithNursery()
    await take_one(executor, generator.method)
    assert generator.ended == ["task"]


async def test_a_nursery_around_a_yield_is_joined_when_the_call_is_cancelled(
    executor: DriverExecutor,
) -> None:
    generator = WithNursery()
    with trio.move_on_after(0.01) as scope:
        await executor.iterate(generator.method, [], {}, sleep_while_sending)
    assert scope.cancelled_caught
    assert generator.ended == ["task"]


async def test_a_failure_in_a_nursery_around_a_yield_ends_the_generator(
    executor: DriverExecutor,
) -> None:
    async def method() -> AsyncGenerator[int, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield 1

    async def fail() -> None:
        raise ValueError("in the background")

    with trio.fail_after(DEADLINE), pytest.raises(ExceptionGroup) as caught:
        await executor.iterate(method, [], {}, sleep_while_sending)
    assert [str(failure) for failure in caught.value.exceptions] == ["in the background"]


async def test_a_deadline_around_a_yield_counts_while_the_consumer_is_busy(
    executor: DriverExecutor, autojump_clock: trio.testing.MockClock
) -> None:
    begun: list[str] = []

    async def send(item: str) -> None:
        begun.append(item)
        await trio.sleep(3)

    async def method() -> AsyncGenerator[str, None]:
        with trio.move_on_after(5):
            yield "in time"
            yield "too late"
            yield "never"
        yield "after"
        with trio.fail_after(1):
            yield "last"

    with pytest.raises(trio.TooSlowError):
        await executor.iterate(method, [], {}, send)
    assert begun == ["in time", "too late", "after", "last"]
    assert autojump_clock.current_time() == 3 + 2 + 3 + 1


async def test_a_generator_that_outlived_its_own_deadline_can_still_be_cancelled(
    executor: DriverExecutor, autojump_clock: trio.testing.MockClock
) -> None:
    async def send(_item: str) -> None:
        with trio.fail_after(DEADLINE):
            await trio.sleep_forever()

    async def method() -> AsyncGenerator[str, None]:
        with trio.move_on_after(1):
            yield "too late"
        yield "after"

    with trio.move_on_after(3) as scope:
        await executor.iterate(method, [], {}, send)
    assert scope.cancelled_caught
    assert autojump_clock.current_time() == 3


# --- the end of a generator ---


async def sleep_while_sending(_item: object) -> None:
    await trio.sleep_forever()


class Generators:
    """A plain and an async generator that behave alike, and log how far they came."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.runs = trio.Event()

    def plain(self) -> Generator[int, None, None]:
        try:
            yield 1
            trio.from_thread.run_sync(self.runs.set)
            trio.from_thread.run(trio.sleep_forever)
        finally:
            self.log.append("finally")

    async def asynchronous(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
            self.runs.set()
            await trio.sleep_forever()
        finally:
            self.log.append("finally")


both_kinds = pytest.mark.parametrize("kind", ["plain", "asynchronous"])


@both_kinds
async def test_a_generator_whose_consumer_fails_is_closed(
    executor: DriverExecutor, kind: str
) -> None:
    generators = Generators()
    await take_one(executor, getattr(generators, kind))
    assert generators.log == ["finally"]


@both_kinds
async def test_a_generator_cancelled_while_it_is_suspended_is_closed(
    executor: DriverExecutor, kind: str
) -> None:
    generators = Generators()

    async def send(_item: object) -> None:
        scope.cancel()
        await trio.sleep_forever()

    with trio.fail_after(DEADLINE), trio.CancelScope() as scope:
        await executor.iterate(getattr(generators, kind), [], {}, send)
    assert scope.cancelled_caught
    assert generators.log == ["finally"]


@both_kinds
async def test_a_generator_cancelled_while_it_runs_is_closed(
    executor: DriverExecutor, kind: str
) -> None:
    generators = Generators()

    async def send(_item: object) -> None:
        pass

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.iterate, getattr(generators, kind), [], {}, send)
            await generators.runs.wait()
            nursery.cancel_scope.cancel()
    assert generators.log == ["finally"]


@both_kinds
async def test_a_generator_cancelled_before_its_start_runs_nothing(
    executor: DriverExecutor, kind: str
) -> None:
    generators = Generators()
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.lowlevel.checkpoint()
        await executor.iterate(getattr(generators, kind), [], {}, leave)
    assert generators.log == []


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(1), GeneratorExit()])
async def test_what_a_generator_raises_comes_after_the_items_from_before(
    executor: DriverExecutor, failure: BaseException
) -> None:
    log: list[str] = []

    def plain() -> Generator[int, None, None]:
        try:
            yield 1
            raise failure
        finally:
            log.append("finally")

    async def asynchronous() -> AsyncGenerator[int, None]:
        try:
            yield 1
            raise failure
        finally:
            log.append("finally")

    for method in (plain, asynchronous):
        items: list[int] = []

        async def send(item: int, items: list[int] = items) -> None:
            items.append(item)

        with trio.fail_after(DEADLINE), pytest.raises(type(failure)) as caught:
            await executor.iterate(method, [], {}, send)
        assert caught.value is failure
        assert items == [1]
    assert log == ["finally", "finally"]


async def test_the_cleanup_of_a_plain_generator_is_waited_for_however_long(
    executor: DriverExecutor,
) -> None:
    gate = LazyEvent()
    sending = trio.Event()

    def method() -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            gate.pass_through()

    async def send(_item: object) -> None:
        sending.set()
        await trio.sleep_forever()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.iterate, method, [], {}, send)
            await sending.wait()
            nursery.cancel_scope.cancel()
            with trio.fail_after(DEADLINE, shield=True):
                await gate.arrived.wait()
                assert len(nursery.child_tasks) == 1
                gate.open.set()
    assert gate.left


class Slow:
    """A class whose async generator takes some time to clean up."""

    def __init__(self, needs: float) -> None:
        self.needs = needs
        self.log: list[str] = []

    async def method(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            try:
                await trio.sleep(self.needs)
                self.log.append("relay off")
            except trio.Cancelled:
                self.log.append("given up")
                raise


async def test_an_async_generator_ended_at_a_yield_may_await_in_its_cleanup(
    executor: DriverExecutor, autojump_clock: trio.testing.MockClock
) -> None:
    slow = Slow(4)
    with trio.move_on_after(1) as scope:
        await executor.iterate(slow.method, [], {}, sleep_while_sending)
    assert scope.cancelled_caught
    with pytest.raises(LeftError):
        await executor.iterate(slow.method, [], {}, leave)
    assert slow.log == ["relay off", "relay off"]
    assert autojump_clock.current_time() == 1 + 4 + 4


async def test_the_cleanup_of_an_async_generator_ends_after_five_seconds(
    executor: DriverExecutor, autojump_clock: trio.testing.MockClock
) -> None:
    slow = Slow(6)
    with pytest.raises(trio.TooSlowError, match="not cleaned up in 5 s"), trio.move_on_after(1):
        await executor.iterate(slow.method, [], {}, sleep_while_sending)
    with pytest.raises(trio.TooSlowError, match="not cleaned up in 5 s"):
        await executor.iterate(slow.method, [], {}, leave)
    assert slow.log == ["given up", "given up"]
    assert autojump_clock.current_time() == 1 + 5 + 5


async def test_a_generator_that_goes_on_after_its_close_fails(executor: DriverExecutor) -> None:
    def plain() -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            yield 2

    async def asynchronous() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            yield 2

    for method in (plain, asynchronous):
        with trio.fail_after(DEADLINE), pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            await executor.iterate(method, [], {}, leave)


# --- iterators that decorators make from generators ---


async def test_an_iterator_need_not_be_a_generator(executor: DriverExecutor) -> None:
    class AsyncCount:
        def __init__(self) -> None:
            self.number = 0

        def __aiter__(self) -> AsyncCount:
            return self

        async def __anext__(self) -> int:
            self.number += 1
            if self.number > 2:
                raise StopAsyncIteration
            return self.number

    def mapped() -> Iterator[int]:
        return map(abs, range(3))

    assert await iterate(executor, mapped) == [0, 1, 2, None]
    assert await iterate(executor, AsyncCount) == [1, 2, None]
    await take_one(executor, mapped)
    await take_one(executor, AsyncCount)
    with trio.move_on_after(0) as scope:
        await executor.iterate(AsyncCount, [], {}, sleep_while_sending)
    assert scope.cancelled_caught


async def test_what_is_no_iterator_is_named(executor: DriverExecutor) -> None:
    with pytest.raises(TypeError, match="'list' object is not an iterator"):
        await iterate(executor, lambda: [1, 2])


# --- context variables ---

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE")


async def test_a_thread_sees_the_context_of_its_call_and_changes_none_but_its_own(
    executor: DriverExecutor,
) -> None:
    VARIABLE.set("of the call")

    def method() -> str:
        seen = VARIABLE.get()
        VARIABLE.set("of the thread")
        return seen

    assert await call(executor, method) == "of the call"
    assert await call(executor, method) == "of the call"
    assert VARIABLE.get() == "of the call"


async def test_the_steps_of_a_plain_generator_share_one_context(executor: DriverExecutor) -> None:
    VARIABLE.set("of the call")
    log: list[str] = []

    def method() -> Generator[str, None, None]:
        token = VARIABLE.set("of the generator")
        try:
            yield VARIABLE.get()
            yield VARIABLE.get()
        finally:
            VARIABLE.reset(token)
            log.append(VARIABLE.get())

    assert await iterate(executor, method) == ["of the generator", "of the generator", None]
    await take_one(executor, method)
    assert log == ["of the call", "of the call"]
    assert VARIABLE.get() == "of the call"


# --- when the system has no more threads ---


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return a function that makes the start of threads fail, as at the system's limit, or work."""
    really_start = trio._core._thread_cache.start_thread_soon
    refused = False

    def start(*args: Any, **kwargs: Any) -> None:
        if refused:
            raise RuntimeError("can't start new thread")
        really_start(*args, **kwargs)

    def switch(off: bool) -> None:
        nonlocal refused
        refused = off

    monkeypatch.setattr(trio._threads, "start_thread_soon", start)
    return switch


async def test_a_method_without_a_thread_never_begins(
    executor: DriverExecutor, no_threads: Callable[[bool], None]
) -> None:
    begun: list[int] = []

    def count() -> Generator[int, None, None]:
        begun.append(2)
        yield 1

    no_threads(True)
    for _ in range(5):  # more often than there are tokens: none may leak
        with pytest.raises(NoThreadError, match="starts no more threads"):
            await call(executor, begun.append, 1)
        with pytest.raises(NoThreadError):
            await iterate(executor, count)
    assert not begun
    assert executor.limiter.borrowed_tokens == 0
    no_threads(False)
    await call(executor, begun.append, 1)
    assert await iterate(executor, count) == [1, None]
    assert begun == [1, 2]


async def test_a_method_that_starts_a_thread_in_vain_has_begun(executor: DriverExecutor) -> None:
    def method() -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
        await call(executor, method)


async def test_a_generator_that_has_begun_waits_for_its_next_thread(
    executor: DriverExecutor, no_threads: Callable[[bool], None]
) -> None:
    done: list[str] = []

    def count() -> Generator[int, None, str]:
        try:
            yield 1
            yield 2
            return "counted"
        finally:
            done.append("cleaned up")

    async def send(item: int) -> None:
        assert item
        no_threads(True)
        nursery.start_soon(come_back)

    async def come_back() -> None:
        await trio.sleep(0.15)
        no_threads(False)

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            assert await executor.iterate(count, [], {}, send) == "counted"
    assert done == ["cleaned up"]


async def test_a_generator_is_closed_once_there_is_a_thread_for_it(
    executor: DriverExecutor, no_threads: Callable[[bool], None]
) -> None:
    done: list[str] = []

    def count() -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            done.append("cleaned up")

    async def leave_without_threads(_item: object) -> None:
        no_threads(True)
        nursery.start_soon(come_back)
        raise LeftError

    async def come_back() -> None:
        await trio.sleep(0.15)
        assert not done
        no_threads(False)

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            with pytest.raises(LeftError):
                await executor.iterate(count, [], {}, leave_without_threads)
    assert done == ["cleaned up"]
