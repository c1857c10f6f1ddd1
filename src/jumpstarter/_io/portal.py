"""A Trio loop in a thread of its own, and blocking calls into it.

Its rules:

- Threads and the loop meet in one place, `_Loop.post`: a deque of callbacks, and one wake-up of the
  loop however many of them wait. They run in the order of posting.
- Whatever a job raises, SystemExit too, belongs to whoever waits for it, and no callback raises
  into Trio: either would end the loop under everybody else's feet.
- A job is ended exactly once, and always: by its own end, by being refused, or with the loop.
- Nothing blocks where it would deadlock, and nothing that blocks is deaf to Ctrl-C.
- A process can exit, or fork, with a portal open.

It knows no RPC. Only POSIX: elsewhere a thread that waits for a lock cannot be interrupted.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    TypeVar,
    TypeVarTuple,
    final,
    overload,
)

import trio

from .._util.checks import check_seconds, check_text, raise_type_error
from .._util.no_copies import ReduceEx, no_copies
from .portal_job import Job, JobState, held_lock, name_of, run_contained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Unpack

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BlockingPortal", "in_trio_thread", "start_blocking_portal"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Seconds. CPython can miss a signal that comes just as a thread falls asleep (1 in some thousands,
# measured from 3.11 to 3.13), until it wakes up: so a thread that waits for long does so, briefly.
_SIGNAL_POLL: Final = 1.0
_EXIT_GRACE: Final = 1.0  # seconds for all open portals together when the interpreter exits

_FUNCTION: Final = "a function, plain or async, which is passed with its arguments, not called"

_logger = logging.getLogger("jumpstarter.portal")
_loops: weakref.WeakSet[_Loop] = weakref.WeakSet()  # for the two hooks at the end of this file


def in_trio_thread() -> bool:
    """Say whether a Trio loop runs in this thread; it does not in Trio's worker threads."""
    # A loop sets its thread's hooks for generators; that there are none is quick to see, and to ask
    # Trio in a thread where it never ran takes four times as long.
    return sys.get_asyncgen_hooks()[0] is not None and trio.lowlevel.in_trio_run()


def _refuse_in_trio(what: object) -> None:
    if in_trio_thread():
        text = (
            f"blocking call of {name_of(what)} inside a Trio task: the loop would wait for itself"
        )
        raise RuntimeError(f"{text} and deadlock; await the async twin instead")


class _Loop(AbstractContextManager["BlockingPortal", None]):
    """The thread, the loop in it, and what is on its way there.

    Shared between threads: `inbox` (appended by any, emptied by the loop), `dead` (None, then why
    nothing more is accepted) and `exiting`. All else is written by the loop's thread alone.
    """

    def __init__(self, name: str, grace: float) -> None:
        self.name: str = name
        self.grace: float = grace
        self.dead: str | None = None
        self.exiting: bool = False  # the interpreter is, and takes daemon threads along
        self.inbox: deque[Callable[[], object]] = deque()
        self.jobs: set[Job[Any]] = set()
        self.token: trio.lowlevel.TrioToken | None = None
        self.nursery: trio.Nursery
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
        # No generator, which would be left by the garbage collector too, and wait there.
        self.stop()
        while not (self.exiting or self.join(_SIGNAL_POLL)):  # when exiting, it has had its time
            pass

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as exc:
            self.dead = f"blocking portal {self.name!r} has crashed: {exc!r}"
            raise  # for threading.excepthook to report
        finally:  # no one is left waiting, whatever has happened
            for job in list(self.jobs):
                job.end(RuntimeError(self.dead))
            self.wake()
            self.ended.release()

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self.token = trio.lowlevel.current_trio_token()
            self.wake()
            await self.stopping.wait()
            for job in self.jobs:
                job.cancel()

    def wake(self) -> None:
        """Run what is in the inbox. What is posted meanwhile has a wake-up of its own."""
        for _ in range(len(self.inbox)):
            run_contained(self.inbox.popleft())

    def post(self, callback: Callable[[], object]) -> None:
        """Have `callback()` run in the loop. From any thread, a finalizer too; never blocks."""
        if self.dead is not None:
            raise RuntimeError(self.dead)
        self._send(callback)

    def post_quietly(self, callback: Callable[[], object]) -> None:
        """Post, or do nothing when the loop takes no more."""
        with suppress(RuntimeError):
            self.post(callback)

    def _send(self, callback: Callable[[], object]) -> None:
        self.inbox.append(callback)
        if self.token is None:
            return  # _main has yet to look into the inbox
        try:
            self.token.run_sync_soon(self.wake, idempotent=True)
        except (trio.RunFinishedError, OSError):  # OSError: a crashed loop has closed its sockets
            raise RuntimeError(self.dead or f"blocking portal {self.name!r} has ended") from None

    def wait(self, job: Job[Any], callback: Callable[[], object], lock: threading.Lock) -> None:
        """Post a callback of `job`, and block until the loop has released `lock`.

        A KeyboardInterrupt can strike between any two bytecodes. Before `try` nothing is posted;
        within, the job is cancelled even where the callback was still on its way (the inbox keeps
        the order) or never set out (`cancel` comes alone, and ends the job). What remains is a
        second one just before `cancel` is posted: the job then runs until the portal closes.
        """
        try:
            self.post(callback)
            while not lock.acquire(timeout=_SIGNAL_POLL):
                pass
        except BaseException:  # KeyboardInterrupt, or what another signal's handler has raised
            self._abandon(job)
            raise
        finally:
            if self.exiting and threading.current_thread().daemon:
                held_lock().acquire()  # for ever: an error here would be printed on the way out

    def _abandon(self, job: Job[Any]) -> None:
        try:
            self.post_quietly(job.cancel)
            if self.dead is None and job.state is not JobState.ENDED:
                job.done.acquire(timeout=self.grace)
        except KeyboardInterrupt:  # a second one: wait no longer, but be sure of the cancellation
            self.post_quietly(job.cancel)
        except BaseException:  # of another signal's handler; the first one is its context
            self.post_quietly(job.cancel)
            raise

    def stop(self) -> None:
        """Accept nothing more, and have all that runs cancelled. From any thread; never blocks."""
        if self.dead is None:
            self.dead = f"blocking portal {self.name!r} is closed: start a new one"
            with suppress(RuntimeError):
                self._send(self.stopping.set)

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the thread's end; say if the wait is over."""
        # Not by Thread.join, which takes a thread for ended once Ctrl-C has interrupted it.
        if self.thread.is_alive() and threading.current_thread() is not self.thread:
            if not self.ended.acquire(timeout=timeout):
                return False
            self.ended.release()
            self.thread.join()
        return True


class _BlockingContext(AbstractContextManager[T, bool]):
    """An async context manager held open by one task of the loop, entered and left by blocking."""

    def __init__(self, loop: _Loop, cm: AbstractAsyncContextManager[T]) -> None:
        self._loop = loop
        self._cm = cm
        self._what = getattr(cm, "func", cm)  # for errors; contextlib's forget it once entered
        self._value: T
        self._error: BaseException | None = None  # what the body has raised

    def __enter__(self) -> T:
        _refuse_in_trio(self._what)
        self._entered = held_lock()
        self._leaving = trio.Event()
        self._job = Job(self._loop, self._hold, (), name=name_of(self._what), then=self._ended)
        self._loop.wait(self._job, self._job.start, self._entered)
        if self._job.state is JobState.ENDED:
            self._job.result()
        return self._value

    def __exit__(self, _: object, exc: BaseException | None, trace: TracebackType | None) -> bool:
        if self._loop.dead is not None:
            return False  # the portal's end has left it, or the parent of this forked child will
        _refuse_in_trio(self._what)
        self._error = exc
        try:
            self._loop.wait(self._job, self._leaving.set, self._job.done)
            return self._job.result()
        finally:
            self._error = None
            if exc is not None:
                exc.__traceback__ = trace  # without the frames of its way through the task

    async def _hold(self) -> bool:
        """Be the task; say whether the context manager has suppressed the body's exception."""
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
        if self._entered.locked():  # it never came so far, or was left and no one waits
            self._entered.release()


@final
class BlockingPortal:
    """The way from ordinary threads into a Trio loop. Made by `start_blocking_portal`.

    All methods may be called from any thread, at the same time. Those that block refuse to do so in
    a thread where a Trio loop runs. In a forked child all that needs the loop raises RuntimeError,
    and a Future taken before the fork never completes.
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

        The task sees the calling thread's context variables. Ctrl-C cancels it, waits for its end
        up to the portal's `grace`, and is then raised, even over a result; a second one ends the
        wait. The portal lives on.

        Args:
            func: Async, or sync: then it runs in the loop's thread too, and must be quick.
            args: Its positional arguments.

        Raises:
            RuntimeError: This thread runs a Trio loop, which would deadlock; or the portal is
                closed, was closed meanwhile, or belongs to the parent of this forked process.
            BaseException: What `func` has raised, with its traceback, in no group of ours.
        """
        _refuse_in_trio(func)
        if not callable(func):
            raise_type_error("func", func, _FUNCTION)
        job = Job(self._loop, func, args)
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
        """Start `func(*args)` as a task of the loop, and return at once. A Trio task may call it.

        Args:
            func: Async, or sync, as for `call`.
            args: Its positional arguments.
            name: What Trio calls the task; by default the function's name.

        Returns:
            A Future of its result. Cancelling it cancels the task, whose cleanup may go on; closing
            the portal cancels both. Waiting for it is `concurrent.futures`' business: it looks for
            no deadlocks, and Ctrl-C leaves the task running.

        Raises:
            RuntimeError: The portal is closed, or the parent's of this forked process.
        """
        if not callable(func):
            raise_type_error("func", func, _FUNCTION)
        future: Future[T] = Future()
        job = Job(self._loop, func, args, name, functools.partial(_settle, future))

        def on_done(future: Future[T]) -> None:
            if future.cancelled():
                self._loop.post_quietly(job.cancel)

        future.add_done_callback(on_done)
        self._loop.post(job.start)
        return future

    def wrap_async_context_manager(
        self, cm: AbstractAsyncContextManager[T]
    ) -> AbstractContextManager[T, bool]:
        """Make a blocking context manager of an async one.

        One task enters it, stays, and leaves it, so nurseries and cancel scopes inside work. An
        exception of the body is raised in that task, which may suppress or replace it. Entering and
        leaving block and raise as `call` does; they may happen in different threads. Leaving does
        nothing once the portal has closed, which cancels the task, or in a forked child.

        Raises:
            ArgumentError: It is no async context manager.
        """
        if not hasattr(type(cm), "__aenter__"):
            raise_type_error("cm", cm, "an async context manager")
        return _BlockingContext(self._loop, cm)

    def run_sync_soon(self, func: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Have `func(*args)` called in the loop's thread, soon, in no task of its own.

        Never blocks and never raises, so that it may be used by a finalizer, in a signal handler or
        in a Trio task: does nothing if the portal is closed, or is the parent's of this forked
        process. What `func` raises is logged.
        """
        if not callable(func):
            raise_type_error("func", func, _FUNCTION)
        self._loop.post_quietly(functools.partial(func, *args))

    @property
    def closed(self) -> bool:
        """True once it takes nothing more: it is closed, or the parent's of this forked process."""
        return self._loop.dead is not None

    @property
    def grace(self) -> float:
        """Seconds that a call waits, after Ctrl-C, for its task to have ended."""
        return self._loop.grace

    def in_loop_thread(self) -> bool:
        """Say whether the calling thread is the one of this portal's loop."""
        return threading.current_thread() is self._loop.thread  # an ident would be used again


def _settle(future: Future[T], job: Job[T]) -> None:
    if job.cancelled:
        future.cancel()
    if not future.set_running_or_notify_cancel():
        return
    if job.error is None:
        future.set_result(job.value)
    else:
        future.set_exception(job.error)
        job.error = None  # as in Job.result


def start_blocking_portal(
    *, name: str = "jumpstarter-portal", grace: float = 1.0
) -> AbstractContextManager[BlockingPortal]:
    """Run a Trio loop in a daemon thread of its own for as long as the context lasts.

    Leaving it cancels all that still runs there, and waits for it without limit; Ctrl-C ends the
    wait. A context that is dropped, but not left, stays open. What is open when the interpreter
    exits has one second to end in; daemon threads which still wait for a call then never return.

    Args:
        name: Of the thread, and of the portal in errors.
        grace: Seconds that a call waits, after Ctrl-C, for its task to have ended. 1 by default:
            cleanup over a network fits in, and nobody hits Ctrl-C again before.

    Raises:
        ArgumentError: `grace` is no number of seconds, or `name` is no text.
    """
    return _Loop(
        check_text("name", name), min(check_seconds("grace", grace), threading.TIMEOUT_MAX)
    )


def _stop_at_exit() -> None:
    """End what is still open. Starts no thread, which Python 3.12 forbids here, and is quiet."""
    deadline = time.monotonic() + _EXIT_GRACE
    with suppress(KeyboardInterrupt):
        for loop in _loops:
            loop.exiting = True
            loop.stop()
        for loop in _loops:
            loop.join(max(0, deadline - time.monotonic()))


def _disown_after_fork() -> None:
    """Let no one wait in a child for a loop that only the parent has, or wake it from there."""
    for loop in _loops:
        text = f"blocking portal {loop.name!r} belongs to the parent of this forked process"
        loop.dead = f"{text}: make a new connection in the child"


atexit.register(_stop_at_exit)
os.register_at_fork(after_in_child=_disown_after_fork)
