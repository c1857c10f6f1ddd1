"""The jobs of a blocking portal: functions that threads have its loop run.

| state   | owner              | next state                                                       |
|---------|--------------------|------------------------------------------------------------------|
| POSTED  | the portal's queue | RUNNING: the loop starts its task; ENDED: cancelled, loop closed |
| RUNNING | its task           | ENDED: the task has returned, raised, or was cancelled           |
| ENDED   | the waiting thread | none                                                             |

The state is read and written in the loop's thread. The waiting thread reads it after `done` was
released, or as a hint.
"""

from __future__ import annotations

import contextvars
import enum
import functools
import inspect
import logging
import sys
import threading
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import trio

from .._util.tracebacks import trim_traceback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Job",
    "JobState",
    "TaskStatus",
    "held_lock",
    "in_trio_thread",
    "name_of",
    "refuse_in_trio",
    "run_contained",
    "settle",
    "stay_at_exit",
]

T = TypeVar("T")

_logger = logging.getLogger("jumpstarter.portal")


class JobState(enum.Enum):
    """See the table in the module's docstring."""

    POSTED = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


class JobLoop(Protocol):
    """The portal's loop, as far as its jobs need it."""

    dead: str | None
    jobs: set[Job[Any]]
    nursery: trio.Nursery


def name_of(what: object) -> str:
    """Name a function, a `functools.partial`, or what `@asynccontextmanager` has made."""
    what = getattr(what, "func", what)
    return getattr(what, "__qualname__", None) or type(what).__qualname__


def in_trio_thread() -> bool:
    """Return True if a Trio loop runs in this thread. Trio's worker threads run none."""
    # A loop sets its thread's hooks for async generators. Looking for them first is four times as
    # fast as asking Trio in a thread where it never ran.
    return sys.get_asyncgen_hooks()[0] is not None and trio.lowlevel.in_trio_run()


def refuse_in_trio(what: object) -> None:
    """Raise RuntimeError in a thread that runs a Trio loop."""
    if in_trio_thread():
        text = (
            f"blocking call of {name_of(what)} inside a Trio task: the loop would wait for itself"
        )
        raise RuntimeError(f"{text} and deadlock; await the async twin instead")


def run_contained(callback: Callable[..., object], *args: object) -> None:
    """Call `callback(*args)`, and log an exception: one that reached Trio would end the loop."""
    try:
        callback(*args)
    except BaseException:  # in the loop's own thread, where no signal handler runs
        _logger.exception("%s raised in the portal's loop", name_of(callback))


def held_lock() -> threading.Lock:
    """Make a lock that is held, to be released as a signal."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def stay_at_exit() -> None:
    """Never return, in a daemon thread: the exit would print an error that is raised there.

    Only while the interpreter exits.
    """
    if threading.current_thread().daemon:
        held_lock().acquire()


class Job(Generic[T]):
    """A function to be run as a task of the portal's loop, and its outcome.

    Args:
        loop: The portal's loop.
        func: The function, async or sync.
        args: Its positional arguments.
        name: The task's name; None for the function's.
        then: Called once in the loop's thread, when the job has ended.

    Attributes:
        state: See the table in the module's docstring.
        done: A held lock, released when the job has ended.
        cancelled: The task was cancelled.
        error: The exception that the function raised, or the reason why it did not run.
    """

    __slots__ = (
        "args", "cancelled", "context", "done", "error", "func", "loop", "name", "scope",
        "state", "then", "value",
    )  # fmt: skip

    def __init__(
        self,
        loop: JobLoop,
        func: Callable[..., Awaitable[T] | T],
        args: tuple[object, ...],
        name: object = None,
        then: Callable[[Job[T]], object] | None = None,
    ) -> None:
        self.loop: JobLoop = loop
        self.func: Callable[..., Awaitable[T] | T] = func
        self.args: tuple[object, ...] = args
        self.name: object = func if name is None else name
        # Called once in the loop's thread, when the job has ended.
        self.then: Callable[[Job[T]], object] | None = then
        self.context: contextvars.Context = contextvars.copy_context()
        self.scope: trio.CancelScope = trio.CancelScope()
        self.done: threading.Lock = held_lock()
        self.state: JobState = JobState.POSTED
        self.cancelled: bool = False
        self.error: BaseException | None = None
        self.value: T

    def start(self) -> None:
        """Start the task, or end the job if the loop accepts no more. In the loop's thread."""
        if self.loop.dead is not None:
            self.end(RuntimeError(self.loop.dead))
            return
        self.state = JobState.RUNNING
        self.loop.jobs.add(self)
        spawn = functools.partial(self.loop.nursery.start_soon, self._run, name=self.name)
        self.context.run(spawn)

    async def _run(self) -> None:
        try:
            with self.scope:
                await trio.lowlevel.checkpoint_if_cancelled()
                value = self.func(*self.args)
                self.value = await value if inspect.isawaitable(value) else value
            self.cancelled = self.scope.cancelled_caught
        except trio.Cancelled:  # not by this job's scope: the whole loop ends
            self.cancelled = True
        except BaseException as exc:  # noqa: BLE001 - raised in the caller, whatever it is
            self.end(exc)
        if self.cancelled:
            self.end(RuntimeError(f"{name_of(self.func)} was cancelled: its portal was closed"))
        else:
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        """Record the outcome and release the waiting thread. Only the first call has an effect.

        In the loop's thread.
        """
        if self.state is JobState.ENDED:
            return
        self.state, self.error = JobState.ENDED, error
        self.loop.jobs.discard(self)
        if self.then is not None:
            run_contained(self.then, self)
            self.then = None  # breaks a cycle: it may refer to a Future that refers to this job
        self.done.release()

    def cancel(self) -> None:
        """Cancel the task, or end the job before it starts. In the loop's thread; idempotent."""
        if self.state is JobState.POSTED:
            self.end()
        else:
            self.scope.cancel()

    def result(self) -> T:
        """Return the result of `func`, or raise its exception. Once."""
        if self.error is None:
            return self.value
        try:
            raise trim_traceback(self.error)
        finally:
            self.error = None  # breaks a cycle: its traceback refers to this job


class TaskStatus:
    """The argument `task_status` of a function for `start_task`. In any thread."""

    def __init__(self) -> None:
        self.ready: Future[Any] = Future()

    def started(self, value: object = None) -> None:
        """Let `start_task` return.

        Raises:
            RuntimeError: It was called before.
        """
        try:
            self.ready.set_result(value)
        except InvalidStateError:
            raise RuntimeError("task_status.started() was called twice") from None

    def ended(self, future: Future[Any]) -> None:
        """Let `start_task` raise an error if the task has ended without calling `started`."""
        if self.ready.done():
            return
        error: BaseException | None = None if future.cancelled() else future.exception()
        text = "the task has ended without calling task_status.started()"
        self.ready.set_exception(error or RuntimeError(text))


def settle(future: Future[T], job: Job[T]) -> None:
    """Complete a Future with the outcome of a job."""
    if job.cancelled:
        future.cancel()
    if not future.set_running_or_notify_cancel():
        return
    if job.error is None:
        future.set_result(job.value)
    else:
        future.set_exception(job.error)
        job.error = None  # as in Job.result
