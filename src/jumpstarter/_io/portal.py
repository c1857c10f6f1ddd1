"""Run a Trio loop in its own thread, and make blocking calls into it.

The rules:

- Threads reach the loop only through `_Loop.post`: a deque of callbacks, which run in the order of
  posting. One wake-up of the loop runs all callbacks that wait.
- The caller that waits for a job receives any exception of it, SystemExit included, and no callback
  raises into Trio. Either would end the loop, and with it the jobs of all other callers.
- Each job ends exactly once: when its function ends, when the loop refuses it, or with the loop.
- A call that would deadlock raises instead of blocking, and Ctrl-C interrupts every blocking call.
- A process can exit, or fork, while a portal is open.

This module does not know the RPC. It needs POSIX, where a signal interrupts the wait for a lock.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, TypeVarTuple, final, overload

import trio

from .._util.async_library import Choice
from .._util.checks import check_seconds, check_text, raise_type_error
from .._util.no_copies import ReduceEx, no_copies
from .portal_job import (
    Job,
    JobState,
    TaskStatus,
    held_lock,
    in_trio_thread,
    name_of,
    refuse_in_trio,
    run_contained,
    settle,
    stay_at_exit,
)
from .portal_lane import PortalLane

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Unpack

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BlockingPortal", "in_trio_thread", "start_blocking_portal"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Seconds. CPython can miss a signal that arrives just as a thread starts to sleep, until the thread
# wakes up (one in some thousands, measured from 3.11 to 3.13). So a long wait wakes up this often.
_SIGNAL_POLL: Final = 1.0
_EXIT_GRACE: Final = 1.0  # seconds for all open portals together when the interpreter exits

_FUNCTION: Final = "a function, plain or async, which is passed with its arguments, not called"

_logger = logging.getLogger("jumpstarter.portal")
_loops: weakref.WeakSet[_Loop] = weakref.WeakSet()  # for the two hooks at the end of this file


class _Loop(AbstractContextManager["BlockingPortal", None]):
    """The thread, the loop in it, and the callbacks posted to it.

    Threads share `inbox` (any thread appends, the loop removes), `dead` (None, or the reason why
    the loop accepts nothing more) and `exiting`. Only the loop's thread writes anything else.
    """

    def __init__(self, name: str, grace: float) -> None:
        self.name: str = name
        self.grace: float = grace
        self.dead: str | None = None
        self.exiting: bool = False  # the interpreter exits, and kills daemon threads
        self.inbox: deque[Callable[[], object]] = deque()
        self.jobs: set[Job[Any]] = set()
        self.token: trio.lowlevel.TrioToken | None = None
        self.nursery: trio.Nursery
        self.lane: PortalLane = PortalLane(name)
        self.stopping: trio.Event = trio.Event()
        self.ended: threading.Lock = held_lock()
        self.thread: threading.Thread = threading.Thread(target=self._run, name=name, daemon=True)
        _loops.add(self)

    def __enter__(self) -> BlockingPortal:
        try:
            self.thread.start()
        except BaseException:
            self.stop()
            raise
        return BlockingPortal(self)

    def __exit__(self, *exc_info: object) -> None:
        # Not a @contextmanager: the garbage collector would close its generator, and wait here.
        self.stop()
        while not (self.exiting or self.join(_SIGNAL_POLL)):  # at exit, it has had its grace
            pass

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as exc:
            self.dead = f"blocking portal {self.name!r} has crashed: {exc!r}"
            raise  # for threading.excepthook to report
        finally:  # wake every waiting thread, even after a crash
            for job in list(self.jobs):
                job.end(RuntimeError(self.dead))
            self.wake()
            self.ended.release()

    async def _main(self) -> None:
        async with self.lane.available(), trio.open_nursery() as self.nursery:
            self.token = trio.lowlevel.current_trio_token()
            self.wake()
            await self.stopping.wait()
            for job in self.jobs:
                job.cancel()

    def wake(self) -> None:
        """Run the callbacks in the inbox. Those posted meanwhile cause another wake-up."""
        for _ in range(len(self.inbox)):
            run_contained(self.inbox.popleft())

    def post(self, callback: Callable[[], object]) -> None:
        """Run `callback()` in the loop, soon. Never blocks; any thread or finalizer may call it."""
        if self.dead is not None:
            raise RuntimeError(self.dead)
        self._send(callback)

    def post_quietly(self, callback: Callable[[], object]) -> None:
        """Post `callback`, or do nothing if the loop accepts nothing more."""
        with suppress(RuntimeError):
            self.post(callback)

    def _send(self, callback: Callable[[], object]) -> None:
        self.inbox.append(callback)
        if self.token is None:
            return  # _main reads the inbox when it starts
        try:
            self.token.run_sync_soon(self.wake, idempotent=True)
        except (trio.RunFinishedError, OSError):  # OSError: a crashed loop has closed its sockets
            raise RuntimeError(self.dead or f"blocking portal {self.name!r} has ended") from None

    def wait(self, job: Job[Any], callback: Callable[[], object], lock: threading.Lock) -> None:
        """Post a callback of `job`, and block until the loop has released `lock`.

        A KeyboardInterrupt can be raised between any two bytecodes. Before `try`, nothing was
        posted. Within it, the job is cancelled: the inbox keeps the order, so `cancel` follows the
        callback, and a `cancel` without one ends the job. One case remains: after a second Ctrl-C
        just before `cancel` is posted, the job runs until the portal closes.
        """
        try:
            self.post(callback)
            while not lock.acquire(timeout=_SIGNAL_POLL):
                pass
        except BaseException:  # KeyboardInterrupt, or an exception of another signal's handler
            self._abandon(job)
            raise
        finally:
            if self.exiting:
                stay_at_exit()

    def _abandon(self, job: Job[Any]) -> None:
        try:
            self.post_quietly(job.cancel)
            if self.dead is None and job.state is not JobState.ENDED:
                job.done.acquire(timeout=self.grace)
        except KeyboardInterrupt:  # a second one: stop waiting, but make sure it is cancelled
            self.post_quietly(job.cancel)
        except BaseException:  # from another signal's handler; the first is its context
            self.post_quietly(job.cancel)
            raise

    def stop(self) -> None:
        """Accept nothing more, and cancel every job. Never blocks; any thread may call it."""
        if self.dead is None:
            self.dead = f"blocking portal {self.name!r} is closed: start a new one"
            with suppress(RuntimeError):
                self._send(self.stopping.set)

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the thread to end; return False on a timeout."""
        # Not Thread.join: once Ctrl-C has interrupted it, it regards the thread as ended.
        if self.thread.is_alive() and threading.current_thread() is not self.thread:
            if not self.ended.acquire(timeout=timeout):
                return False
            self.ended.release()
            self.thread.join()
        return True


class _BlockingContext(AbstractContextManager[T, bool]):
    """Enter and leave an async context manager by blocking calls. One task holds it open."""

    def __init__(self, loop: _Loop, cm: AbstractAsyncContextManager[T]) -> None:
        self._loop = loop
        self._cm = cm
        self._what = getattr(cm, "func", cm)  # for errors; contextlib drops `func` on entry
        self._value: T
        self._error: BaseException | None = None  # the exception of the body

    def __enter__(self) -> T:
        refuse_in_trio(self._what)
        self._entered = held_lock()
        self._leaving = trio.Event()
        self._job = Job(self._loop, self._hold, (), name=name_of(self._what), then=self._ended)
        self._loop.wait(self._job, self._job.start, self._entered)
        if self._job.state is JobState.ENDED:
            self._job.result()
        return self._value

    def __exit__(self, _: object, exc: BaseException | None, trace: TracebackType | None) -> bool:
        if self._loop.dead is not None:
            return False  # the end of the portal left it, or a forked child leaves it to its parent
        refuse_in_trio(self._what)
        self._error = exc
        try:
            self._loop.wait(self._job, self._leaving.set, self._job.done)
            return self._job.result()
        finally:
            self._error = None
            if exc is not None:
                exc.__traceback__ = trace  # remove the frames that the task has added

    async def _hold(self) -> bool:
        """Enter, wait and leave in one task; return True if it suppressed the body's exception."""
        try:
            async with self._cm as self._value:
                self._entered.release()
                await self._leaving.wait()
                if self._error is not None:
                    raise self._error
        except BaseException as exc:
            if exc is not self._error:
                raise
            return False
        return self._error is not None

    def _ended(self, _: Job[bool]) -> None:
        if self._entered.locked():  # __aenter__ failed, or nothing waits for it any more
            self._entered.release()


@final
class BlockingPortal:
    """Calls functions in a Trio loop from ordinary threads. Made by `start_blocking_portal`.

    Any threads may call any methods concurrently. In a thread where a Trio loop runs, the methods
    that block raise RuntimeError instead. In a forked child, the methods that need the loop raise
    RuntimeError, and a Future made before the fork never completes.
    """

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a portal", "start another one there, by start_blocking_portal()"
    )

    @overload
    def call(self, func: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T: ...
    @overload
    def call(self, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> T: ...
    def call(self, func: Callable[[Unpack[Ts]], Awaitable[T] | T], *args: *Ts) -> T:
        """Run `func(*args)` as a task of the loop, and block until it has ended.

        A function that is written for asyncio runs in an asyncio loop in another thread, which
        starts with the first such function: see docs/howto/asyncio-code.md for how that is decided.

        The task runs in a copy of the calling thread's context variables. Ctrl-C cancels the task
        and waits up to the portal's `grace` for it to end. Then KeyboardInterrupt is raised, even
        if the task has returned a result. A second Ctrl-C ends the wait. The portal stays open.

        Args:
            func: An async or sync function. A sync one runs in the loop's thread too, where it
                blocks all tasks, so it must be quick.
            args: Its positional arguments.

        Raises:
            RuntimeError: This thread runs a Trio loop, which would deadlock; or the portal is
                closed, was closed meanwhile, or belongs to the parent of this forked process.
            BaseException: The exception of `func`, with its traceback, not wrapped in a group.
        """
        refuse_in_trio(func)
        if not callable(func):
            raise_type_error("func", func, _FUNCTION)
        job: Job[T] = Job(self._loop, self._loop.lane.adapt(func), args, name=func)
        self._loop.wait(job, job.start, job.done)
        return job.result()

    def call_in_trio(self, func: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run an async function of Trio as `call` does, without asking for which loop it is."""
        refuse_in_trio(func)
        job: Job[T] = Job(self._loop, func, args)
        self._loop.wait(job, job.start, job.done)
        return job.result()

    @overload
    def start_task_soon(
        self, func: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts, name: object = None
    ) -> Future[T]: ...
    @overload
    def start_task_soon(
        self, func: Callable[[Unpack[Ts]], T], *args: *Ts, name: object = None
    ) -> Future[T]: ...
    def start_task_soon(
        self, func: Callable[[Unpack[Ts]], Awaitable[T] | T], *args: *Ts, name: object = None
    ) -> Future[T]:
        """Start `func(*args)` as a task of the loop, and return immediately.

        Never blocks, so a Trio task may call it.

        Args:
            func: An async or sync function, as for `call`.
            args: Its positional arguments.
            name: The task's name in Trio; by default the function's name.

        Returns:
            A Future of the result. Cancelling it cancels the task, which may still run its cleanup;
            closing the portal cancels both. Waiting for the Future follows the rules of
            `concurrent.futures`: it does not detect deadlocks, and Ctrl-C leaves the task running.

        Raises:
            RuntimeError: The portal is closed, or belongs to the parent of this forked process.
        """
        if not callable(func):
            raise_type_error("func", func, _FUNCTION)
        future: Future[T] = Future()
        adapted = self._loop.lane.adapt(func)
        task_name = func if name is None else name
        job: Job[T] = Job(self._loop, adapted, args, task_name, functools.partial(settle, future))

        def on_done(future: Future[T]) -> None:
            if future.cancelled():
                self._loop.post_quietly(job.cancel)

        future.add_done_callback(on_done)
        self._loop.post(job.start)
        return future

    def start_task(
        self, func: Callable[..., Awaitable[T]], *args: Any, name: object = None
    ) -> tuple[Future[T], Any]:
        """Start `func(*args, task_status=...)` as a task, and block until it says that it is ready.

        Args:
            func: An async function, which calls `task_status.started(value)`.
            args: Its positional arguments.
            name: The task's name in Trio; by default the function's name.

        Returns:
            A Future of the result, as of `start_task_soon`, and the value given to `started`.

        Raises:
            RuntimeError: The function has not called `started`; or as `call` raises it.
            BaseException: Raised by the function before that.
        """
        refuse_in_trio(func)
        status = TaskStatus()
        started = functools.partial(func, *args, task_status=status)
        future = self.start_task_soon(started, name=func if name is None else name)
        future.add_done_callback(status.ended)
        try:
            return future, status.ready.result()
        except BaseException:
            future.cancel()  # after Ctrl-C; otherwise it has ended
            raise

    def adapt_manager(
        self, manager: AbstractAsyncContextManager[T], said: Choice
    ) -> AbstractAsyncContextManager[T, bool | None]:
        """See `PortalLane.adapt_manager`."""
        return self._loop.lane.adapt_manager(manager, said)

    def prepare_lane(self, others: Choice, loop_hold: float) -> None:
        """Set the attributes of its `PortalLane`, before it is used."""
        self._loop.lane.others, self._loop.lane.loop_hold = others, loop_hold

    def wrap_async_context_manager(
        self, cm: AbstractAsyncContextManager[T]
    ) -> AbstractContextManager[T, bool]:
        """Make a blocking context manager of an async one.

        One task enters and leaves it, so nurseries and cancel scopes inside it work. An exception
        of the body is raised in that task, where the context manager may suppress or replace it.
        Entering and leaving block and raise as `call` does, and may happen in different threads.
        Leaving does nothing in a forked child, or after the portal was closed, which cancels the
        task.

        Args:
            cm: The async context manager.

        Raises:
            ArgumentError: `cm` is not an async context manager.
        """
        if not hasattr(type(cm), "__aenter__"):
            raise_type_error("cm", cm, "an async context manager")
        return _BlockingContext(self._loop, self._loop.lane.adapt_manager(cm))

    def run_sync_soon(self, func: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Call `func(*args)` in the loop's thread, soon, outside any task.

        Never blocks, so a finalizer, a signal handler or a Trio task may use it. Does nothing if
        the portal is closed, or belongs to the parent of this forked process. An exception of
        `func` is logged.

        Args:
            func: A sync function. It blocks the loop while it runs, so it must be quick.
            args: Its positional arguments.

        Raises:
            ArgumentError: `func` cannot be called.
        """
        if not callable(func):
            raise_type_error("func", func, _FUNCTION)
        self._loop.post_quietly(functools.partial(func, *args))

    @property
    def closed(self) -> bool:
        """True if it was closed, or belongs to the parent of this forked process."""
        return self._loop.dead is not None

    @property
    def grace(self) -> float:
        """Seconds that a call waits for its task to end after Ctrl-C."""
        return self._loop.grace

    @property
    def exiting(self) -> bool:
        """True once the interpreter exits."""
        return self._loop.exiting

    def in_loop_thread(self) -> bool:
        """Return True if the calling thread runs this portal's loop."""
        return threading.current_thread() is self._loop.thread  # not its ident, which may be reused


def start_blocking_portal(
    *, name: str = "jumpstarter-portal", grace: float = 1.0
) -> AbstractContextManager[BlockingPortal]:
    """Run a Trio loop in its own daemon thread while the context is open.

    Leaving the context cancels all tasks, and waits for them without limit; Ctrl-C ends the wait. A
    context that is dropped, but not left, stays open. When the interpreter exits, open portals have
    one second to end; a daemon thread that still waits for a call then never returns from it.

    Args:
        name: The name of the thread, and of the portal in errors.
        grace: Seconds that a call waits for its task to end after Ctrl-C. The default of 1 suffices
            for cleanup over a network, and is over before most users press Ctrl-C again.

    Yields:
        The portal.

    Raises:
        ArgumentError: `grace` is not a number of seconds, or `name` is not a str.
    """
    return _Loop(
        check_text("name", name), min(check_seconds("grace", grace), threading.TIMEOUT_MAX)
    )


def _stop_at_exit() -> None:
    """Close the open portals. Starts no thread: Python 3.12 forbids that while it exits."""
    deadline = time.monotonic() + _EXIT_GRACE
    with suppress(KeyboardInterrupt):
        for loop in _loops:
            loop.exiting = True
            loop.stop()
        for loop in _loops:
            loop.join(max(0, deadline - time.monotonic()))


def _disown_after_fork() -> None:
    """Mark the loops as the parent's, so that a forked child neither waits for nor wakes them."""
    for loop in _loops:
        text = f"blocking portal {loop.name!r} belongs to the parent of this forked process"
        loop.dead = f"{text}: make a new connection in the child"


atexit.register(_stop_at_exit)
os.register_at_fork(after_in_child=_disown_after_fork)
