"""Test `jumpstarter.portal` within one process; signals, forks and exits have another file.

Most tests call from their own thread, where a mistake would hang: each async function that waits
has a deadline, and pytest's faulthandler ends the rest.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import threading
import traceback
import weakref
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, NoReturn, assert_type

import pytest
import trio
import trio.testing

from jumpstarter.portal import BlockingPortal, in_trio_thread, start_blocking_portal
from leaks import look

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

TIMEOUT = 60.0  # seconds; each test takes far less

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


async def double(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * number


async def sleep_forever() -> NoReturn:
    with trio.fail_after(TIMEOUT):
        await trio.sleep_forever()
    raise AssertionError


class Recorder:
    """A task that reports its progress, and waits until it is cancelled or released."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.events: list[str] = []
        self.let_go = trio.Event()

    async def run(self) -> str:
        self.events.append("started")
        self.running.set()
        try:
            with trio.fail_after(TIMEOUT):
                await self.let_go.wait()
        except trio.Cancelled:
            self.events.append("cancelled")
            raise
        finally:
            self.events.append("ended")
        return "let go"


def in_thread(func: Callable[[], object]) -> object:
    """Run func in another thread; return its result or its exception."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(func())
        except BaseException as exc:  # noqa: BLE001 - the test examines it
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(TIMEOUT)
    assert outcome, "the thread is stuck"
    return outcome[0]


# --- call: arguments, results and exceptions ---


def test_call_returns_what_the_async_function_returns(portal: BlockingPortal) -> None:
    assert assert_type(portal.call(double, 21), int) == 42


def test_call_runs_a_sync_function_in_a_task_of_the_loop(portal: BlockingPortal) -> None:
    def where() -> tuple[bool, bool]:
        return portal.in_loop_thread(), trio.lowlevel.in_trio_task()

    assert assert_type(portal.call(where), tuple[bool, bool]) == (True, True)
    assert not portal.in_loop_thread()


def test_call_awaits_what_a_sync_function_returns(portal: BlockingPortal) -> None:
    assert portal.call(lambda: double(21)) == 42
    assert portal.call(functools.partial(double, 21)) == 42


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        ExceptionGroup("g", [OSError()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_call_raises_the_functions_exception_and_the_loop_continues(
    portal: BlockingPortal, error: BaseException
) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - its identity is checked below
        portal.call(fail)
    assert caught.value is error
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert frames[0].startswith("test_call_raises")
    assert frames[-1] == "fail"
    assert portal.call(double, 4) == 8


@pytest.mark.parametrize("how", ["call", "start_task_soon", "body"])
def test_an_error_leaves_no_reference_cycle(portal: BlockingPortal, how: str) -> None:
    class MarkedError(Exception):
        pass

    async def fail() -> None:
        raise MarkedError

    def use() -> None:
        if how == "call":
            portal.call(fail)
        elif how == "start_task_soon":
            portal.start_task_soon(fail).result(TIMEOUT)
        else:
            with portal.wrap_async_context_manager(contextlib.nullcontext()):
                raise MarkedError

    gc.collect()
    gc.disable()
    try:
        try:
            use()
        except MarkedError as error:
            reference = weakref.ref(error)
        portal.call(trio.testing.wait_all_tasks_blocked)  # the task is gone too
        assert reference() is None
    finally:
        gc.enable()


def test_call_runs_in_a_copy_of_the_callers_context(portal: BlockingPortal) -> None:
    async def look_and_set() -> str:
        value = variable.get()
        variable.set("set by the task")
        return value

    token = variable.set("set by the caller")
    try:
        assert portal.call(look_and_set) == "set by the caller"
        assert variable.get() == "set by the caller"
        assert portal.start_task_soon(variable.get).result(TIMEOUT) == "set by the caller"
    finally:
        variable.reset(token)
    assert portal.call(variable.get) == "unset"


def test_calls_of_many_threads_run_concurrently(portal: BlockingPortal) -> None:
    here = 0
    all_here = trio.Event()

    async def meet(number: int) -> int:
        nonlocal here
        here += 1
        if here == 8:
            all_here.set()
        with trio.fail_after(TIMEOUT):
            await all_here.wait()
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(portal.call, meet, number) for number in range(8)]
        assert [future.result(TIMEOUT) for future in futures] == list(range(8))


async def test_call_from_a_worker_thread_of_another_loop(portal: BlockingPortal) -> None:
    with trio.fail_after(TIMEOUT):
        assert await trio.to_thread.run_sync(portal.call, double, 21) == 42


def test_call_from_a_worker_thread_of_the_portals_own_loop(portal: BlockingPortal) -> None:
    async def nest() -> int:
        with trio.fail_after(TIMEOUT):
            return await trio.to_thread.run_sync(portal.call, double, 21)

    assert portal.call(nest) == 42


# --- deadlocks ---


@asynccontextmanager
async def resource() -> AsyncIterator[str]:
    yield "open"


def blocking_uses(portal: BlockingPortal) -> dict[str, Callable[[], object]]:
    entered = portal.wrap_async_context_manager(resource())
    entered.__enter__()
    return {
        "double": functools.partial(portal.call, double, 21),
        "sleep_forever": functools.partial(portal.call, functools.partial(sleep_forever)),
        "resource": portal.wrap_async_context_manager(resource()).__enter__,
        "resource ": functools.partial(entered.__exit__, None, None, None),
    }


@pytest.mark.parametrize("where", ["own task", "own callback", "task of another loop"])
def test_blocking_where_a_trio_loop_runs_is_refused(portal: BlockingPortal, where: str) -> None:
    for name, use in blocking_uses(portal).items():
        done = threading.Event()
        errors: list[RuntimeError] = []

        def attempt(
            use: Callable[[], object] = use,
            done: threading.Event = done,
            errors: list[RuntimeError] = errors,
        ) -> None:
            with contextlib.suppress(TypeError), pytest.raises(RuntimeError) as caught:
                use()
            errors.append(caught.value)
            done.set()

        async def attempt_in_task(attempt: Callable[[], None] = attempt) -> None:
            attempt()

        if where == "own task":
            portal.call(attempt_in_task)
        elif where == "own callback":
            portal.run_sync_soon(attempt)
        else:
            trio.run(attempt_in_task)
        assert done.wait(TIMEOUT)
        assert f"blocking call of {name.strip()} inside a Trio task" in str(errors[0])
        assert "await the async twin" in str(errors[0])


async def test_task_may_use_methods_that_do_not_block(portal: BlockingPortal) -> None:
    called = trio.Event()
    token = trio.lowlevel.current_trio_token()
    with trio.fail_after(TIMEOUT):
        portal.run_sync_soon(token.run_sync_soon, called.set)
        await called.wait()
        future = portal.start_task_soon(double, 21)
        assert await trio.to_thread.run_sync(future.result, TIMEOUT) == 42


async def test_in_trio_thread_is_about_the_thread() -> None:
    assert in_trio_thread()
    with trio.fail_after(TIMEOUT):
        assert not await trio.to_thread.run_sync(in_trio_thread)
    assert in_thread(in_trio_thread) is False


# --- start_task_soon ---


def test_a_future_has_the_result(portal: BlockingPortal) -> None:
    assert assert_type(portal.start_task_soon(double, 21).result(TIMEOUT), int) == 42


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3)])
def test_a_future_has_the_exception(portal: BlockingPortal, error: BaseException) -> None:
    async def fail() -> None:
        raise error

    assert portal.start_task_soon(fail).exception(TIMEOUT) is error
    assert portal.call(double, 4) == 8


def test_a_task_has_the_name_asked_for(portal: BlockingPortal) -> None:
    def task_name() -> str:
        return trio.lowlevel.current_task().name

    assert portal.start_task_soon(task_name, name="Zaphod").result(TIMEOUT) == "Zaphod"
    assert portal.start_task_soon(task_name).result(TIMEOUT).endswith("task_name")


def test_cancelling_a_future_cancels_its_task(portal: BlockingPortal) -> None:
    task = Recorder()
    future = portal.start_task_soon(task.run)
    assert task.running.wait(TIMEOUT)
    assert future.cancel()
    portal.call(trio.testing.wait_all_tasks_blocked)
    assert task.events == ["started", "cancelled", "ended"]
    done, _ = concurrent.futures.wait([future], TIMEOUT)
    assert done == {future}


def test_a_task_cancelled_before_it_was_started_never_starts(portal: BlockingPortal) -> None:
    task = Recorder()
    with held_loop(portal):
        future = portal.start_task_soon(task.run)
        future.cancel()
    portal.call(trio.testing.wait_all_tasks_blocked)
    assert task.events == []


def test_cancelling_a_future_whose_task_has_ended_does_nothing(portal: BlockingPortal) -> None:
    future = portal.start_task_soon(double, 21)
    assert future.result(TIMEOUT) == 42
    assert not future.cancel()
    assert portal.call(double, 4) == 8


def test_future_is_cancelled_even_if_its_task_ignores_cancellation(
    portal: BlockingPortal,
) -> None:
    running = threading.Event()

    async def stubborn() -> str:
        running.set()
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep_forever()
        return "made it"

    future = portal.start_task_soon(stubborn)
    assert running.wait(TIMEOUT)
    future.cancel()
    portal.call(trio.testing.wait_all_tasks_blocked)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(TIMEOUT)


def test_a_done_callback_that_raises_does_not_end_the_loop(
    portal: BlockingPortal, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(_: object) -> NoReturn:
        raise SystemExit(3)

    with held_loop(portal):
        portal.start_task_soon(double, 21).add_done_callback(leave)
    portal.call(trio.testing.wait_all_tasks_blocked)
    assert "SystemExit: 3" in caplog.text


# --- run_sync_soon ---


@contextlib.contextmanager
def held_loop(portal: BlockingPortal) -> Iterator[None]:
    """Block the loop while the body runs."""
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert let_go.wait(TIMEOUT)

    portal.run_sync_soon(hold)
    assert held.wait(TIMEOUT)
    yield
    let_go.set()


def test_callbacks_run_in_order_and_share_one_wake_up(portal: BlockingPortal) -> None:
    seen: list[int] = []
    sizes: list[int] = []

    def measure() -> None:
        sizes.append(trio.lowlevel.current_statistics().run_sync_soon_queue_size)

    def post_some() -> None:
        measure()
        for number in range(100):
            portal.run_sync_soon(seen.append, number)
        measure()

    portal.run_sync_soon(post_some)
    portal.call(trio.testing.wait_all_tasks_blocked)
    assert seen == list(range(100))
    assert sizes == [0, 1]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_callback_that_raises_is_logged_and_the_loop_continues(
    portal: BlockingPortal, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def fail() -> NoReturn:
        raise error

    portal.run_sync_soon(fail)
    assert portal.call(double, 21) == 42
    (record,) = caplog.records
    assert record.name == "jumpstarter.portal"
    assert "fail raised in the portal's loop" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is error


class Closing:
    """An object like a client: its finalizer posts its close."""

    def __init__(self, portal: BlockingPortal, closed: list[int]) -> None:
        self.portal = portal
        self.closed = closed
        self.me = self  # a cycle: only the collector finds it

    def __del__(self) -> None:
        closed = self.closed
        self.portal.run_sync_soon(lambda: closed.append(threading.get_ident()))


@pytest.mark.parametrize("where", ["caller's thread", "loop's thread"])
def test_finalizer_can_post_from_any_thread(portal: BlockingPortal, where: str) -> None:
    closed: list[int] = []
    Closing(portal, closed)
    if where == "caller's thread":
        gc.collect()
    else:
        portal.call(gc.collect)
    portal.call(trio.testing.wait_all_tasks_blocked)
    assert closed == [portal.call(threading.get_ident)]


# --- wrap_async_context_manager ---


def test_a_context_manager_lives_in_one_task_and_may_hold_a_nursery(
    portal: BlockingPortal,
) -> None:
    tasks: list[trio.lowlevel.Task] = []

    @asynccontextmanager
    async def server() -> AsyncIterator[int]:
        tasks.append(trio.lowlevel.current_task())
        variable.set("set on entering")
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sleep_forever)
                yield 42
                nursery.cancel_scope.cancel()
        assert variable.get() == "set on entering"
        tasks.append(trio.lowlevel.current_task())

    with portal.wrap_async_context_manager(server()) as value:
        assert assert_type(value, int) == 42
        assert portal.call(double, value) == 84
        assert len(tasks) == 1
    assert tasks[0] is tasks[1]


def test_a_context_manager_that_fails_to_enter(portal: BlockingPortal) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        with trio.fail_after(TIMEOUT):
            await trio.lowlevel.checkpoint()
            if variable.get() == "unset":
                raise ConnectionRefusedError("no one is there")
        yield

    with (
        pytest.raises(ConnectionRefusedError, match="no one is there"),
        portal.wrap_async_context_manager(broken()),
    ):
        pytest.fail("it was entered")


class Seen(AbstractAsyncContextManager[None]):
    """A context manager that records its exception, and then suppresses, raises or returns."""

    def __init__(self, then: bool | BaseException = False) -> None:
        self.then = then
        self.left_with: list[BaseException | None] = []

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.left_with.append(exc)
        if isinstance(self.then, BaseException):
            raise self.then
        return self.then


ERRORS = [
    ValueError("x"),
    KeyboardInterrupt(),
    StopIteration(1),
    GeneratorExit(),
    ExceptionGroup("g", [OSError()]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_bodys_exception_goes_through_the_context_manager(
    portal: BlockingPortal, error: BaseException
) -> None:
    cm = Seen()
    with pytest.raises(type(error)) as caught, portal.wrap_async_context_manager(cm):
        raise error
    assert caught.value is error
    assert cm.left_with == [error]
    assert [f.name for f in traceback.extract_tb(error.__traceback__)] == [
        "test_the_bodys_exception_goes_through_the_context_manager"
    ]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_context_manager_may_suppress_the_bodys_exception(
    portal: BlockingPortal, error: BaseException
) -> None:
    cm = Seen(then=True)
    with portal.wrap_async_context_manager(cm):
        raise error
    assert cm.left_with == [error]


def test_a_context_manager_may_replace_the_bodys_exception(portal: BlockingPortal) -> None:
    first, second = ValueError("first"), OSError("second")
    with (
        pytest.raises(OSError, match="second") as caught,
        portal.wrap_async_context_manager(Seen(then=second)),
    ):
        raise first
    assert caught.value.__context__ is first


def test_suppressing_context_manager_returns_false_without_an_exception(
    portal: BlockingPortal,
) -> None:
    cm = portal.wrap_async_context_manager(Seen(then=True))
    assert cm.__enter__() is not None
    assert cm.__exit__(None, None, None) is False


def test_a_context_manager_may_be_left_in_another_thread(portal: BlockingPortal) -> None:
    seen = Seen()
    cm = portal.wrap_async_context_manager(seen)
    cm.__enter__()
    assert in_thread(lambda: cm.__exit__(None, None, None)) is False
    assert seen.left_with == [None]


def test_a_context_manager_can_be_wrapped_for_more_than_one_use(portal: BlockingPortal) -> None:
    seen = Seen()
    cm = portal.wrap_async_context_manager(seen)
    for _ in range(2):
        with cm:
            assert portal.call(double, 1) == 2
    assert seen.left_with == [None, None]


# --- closing ---


def test_closing_cancels_running_tasks_and_waits_for_them() -> None:
    task, seen, begun = Recorder(), Seen(), threading.Event()
    threads = look().threads

    async def sleep_for_ever() -> None:
        begun.set()
        await trio.sleep_forever()

    with start_blocking_portal(name="Arthur") as portal:
        future = portal.start_task_soon(task.run)
        held = portal.wrap_async_context_manager(seen)
        held.__enter__()
        waiting = concurrent.futures.ThreadPoolExecutor(1)
        call = waiting.submit(portal.call, sleep_for_ever)
        assert task.running.wait(TIMEOUT)
        assert begun.wait(TIMEOUT)
    assert task.events == ["started", "cancelled", "ended"]
    assert future.cancelled()
    with pytest.raises(RuntimeError, match="sleep_for_ever was cancelled: its portal was closed"):
        call.result(TIMEOUT)
    waiting.shutdown()
    assert isinstance(seen.left_with[0], trio.Cancelled)
    assert held.__exit__(None, None, None) is False
    assert look().threads <= threads


def test_use_after_close_raises() -> None:
    with start_blocking_portal(name="Arthur") as portal:
        pass
    for use in (
        lambda: portal.call(double, 1),
        lambda: portal.start_task_soon(double, 1),
        portal.wrap_async_context_manager(resource()).__enter__,
    ):
        with pytest.raises(RuntimeError, match="portal 'Arthur' is closed: start a new one"):
            use()
    portal.run_sync_soon(pytest.fail, "it was called")


def test_nothing_new_is_accepted_while_closing() -> None:
    refusals: list[BaseException | None] = []

    async def clean_up_by_calling(portal: BlockingPortal) -> None:
        try:
            await sleep_forever()
        finally:
            with trio.CancelScope(shield=True), trio.fail_after(TIMEOUT):
                try:
                    await trio.to_thread.run_sync(portal.call, double, 1)
                except RuntimeError as exc:
                    refusals.append(exc)

    with start_blocking_portal() as portal:
        portal.start_task_soon(clean_up_by_calling, portal)
        portal.call(trio.testing.wait_all_tasks_blocked)
    assert "is closed" in str(refusals[0])


def test_closing_rejects_jobs_that_were_posted_but_not_started() -> None:
    closing = threading.Thread()
    with start_blocking_portal() as portal:
        with held_loop(portal):
            future = portal.start_task_soon(double, 1)
            closing = threading.Thread(target=portal._loop.stop)
            closing.start()
            closing.join(TIMEOUT)
        assert "is closed" in str(future.exception(TIMEOUT))


def test_closing_in_the_loops_own_thread_does_not_wait_for_itself() -> None:
    cm = start_blocking_portal()
    portal = cm.__enter__()
    thread = portal._loop.thread
    assert portal.start_task_soon(cm.__exit__, None, None, None).exception(TIMEOUT) is None
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_portal_whose_context_was_dropped_stays_open() -> None:
    portal = start_blocking_portal().__enter__()
    gc.collect()
    assert portal.call(double, 21) == 42
    portal._loop.__exit__()


def test_a_portal_opened_and_closed_many_times_leaves_nothing() -> None:
    threads = look().threads
    references = []
    for number in range(50):
        with start_blocking_portal() as portal:
            assert portal.call(double, number) == 2 * number
        references.append(weakref.ref(portal._loop))
    del portal
    gc.collect()
    assert look().threads <= threads
    assert not any(reference() for reference in references)


@pytest.mark.parametrize("grace", [-1.0, float("nan")])
def test_invalid_grace_is_rejected(grace: float) -> None:
    with (
        pytest.raises(ValueError, match="grace must be a number of seconds"),
        start_blocking_portal(grace=grace),
    ):
        pytest.fail("it was started")


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"), start_blocking_portal():
        pytest.fail("it was started")


def test_interrupted_while_the_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_and_strike(thread: threading.Thread) -> NoReturn:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_strike)
    with pytest.raises(KeyboardInterrupt), start_blocking_portal():
        pytest.fail("it was entered")
    (thread,) = started
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_crash_of_the_loop_wakes_every_waiting_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    async def boom() -> NoReturn:
        raise ZeroDivisionError

    def crash() -> None:
        trio.lowlevel.spawn_system_task(boom)

    with start_blocking_portal(name="Marvin") as portal:
        future = portal.start_task_soon(sleep_forever)
        portal.call(crash)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(TIMEOUT)
        portal._loop.thread.join(TIMEOUT)
        with pytest.raises(RuntimeError, match="portal 'Marvin' has crashed: TrioInternalError"):
            portal.call(double, 1)
        portal.run_sync_soon(pytest.fail, "it was called")
    (report,) = reported
    assert report.exc_type is trio.TrioInternalError


@pytest.mark.parametrize("error", [trio.RunFinishedError, OSError])
def test_a_loop_that_ends_while_it_is_posted_to(
    portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    class EndedToken:
        def run_sync_soon(self, *_: object, **__: object) -> NoReturn:
            raise error

    portal.call(double, 1)
    with monkeypatch.context() as patch:
        patch.setattr(portal._loop, "token", EndedToken())
        with pytest.raises(RuntimeError, match="portal 'jumpstarter-portal' has ended"):
            portal.start_task_soon(double, 1)
        portal.run_sync_soon(int)


# --- interrupts, at each place where a signal can arrive ---


class Interrupted(BaseException):
    """An exception that the handler of another signal raises."""


@pytest.fixture
def patient_portal() -> Iterator[BlockingPortal]:
    """Yield a portal with such a long grace that a needless wait makes the test hang."""
    with start_blocking_portal(grace=3600) as portal:
        yield portal


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted])
def test_interrupted_before_anything_was_posted(
    patient_portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    portal = patient_portal
    task = Recorder()
    post = portal._loop.post

    def strike(_: Callable[[], object]) -> None:
        monkeypatch.setattr(portal._loop, "post", post)
        raise error

    monkeypatch.setattr(portal._loop, "post", strike)
    with pytest.raises(error):
        portal.call(task.run)
    portal.call(trio.testing.wait_all_tasks_blocked)
    assert task.events == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted])
def test_interrupted_when_the_job_was_on_its_way(
    patient_portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    portal = patient_portal
    task = Recorder()
    post = portal._loop.post

    def strike(callback: Callable[[], object]) -> None:
        monkeypatch.setattr(portal._loop, "post", post)
        post(callback)
        assert task.running.wait(TIMEOUT)
        raise error

    monkeypatch.setattr(portal._loop, "post", strike)
    with pytest.raises(error):
        portal.call(task.run)
    assert task.events == ["started", "cancelled", "ended"]
    assert portal.call(double, 4) == 8


def test_interrupted_twice_before_the_cancellation_was_posted(
    patient_portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = patient_portal
    task = Recorder()
    post = portal._loop.post
    strikes = 0

    def strike(callback: Callable[[], object]) -> None:
        nonlocal strikes
        strikes += 1
        if strikes == 1:
            post(callback)
            assert task.running.wait(TIMEOUT)
        if strikes <= 2:
            raise KeyboardInterrupt
        post(callback)

    monkeypatch.setattr(portal._loop, "post", strike)
    with pytest.raises(KeyboardInterrupt):
        portal.call(task.run)
    portal.call(trio.testing.wait_all_tasks_blocked)
    assert task.events == ["started", "cancelled", "ended"]


def test_portal_exposes_grace_and_closed() -> None:
    with start_blocking_portal(grace=2.5) as portal:
        assert portal.grace == 2.5
        assert not portal.closed
    assert portal.closed
