"""Run asyncio code for the tasks of a Trio loop, in a helper thread with an asyncio loop.

An exporter has one lane for its drivers, and a blocking client one for its client classes. Calls
cross between the two loops as callbacks: each loop has an inbox, and one wake-up runs everything
that waits in it.

| state   | owner         | next state                                                            |
|---------|---------------|-----------------------------------------------------------------------|
| NEW     | the Trio loop | RUNNING, when the first call starts the thread; ENDED, without one    |
| RUNNING | both loops    | CLOSING, by `aclose`; ENDED, if the thread crashes                    |
| CLOSING | the thread    | ENDED, when the tasks that drivers have left behind have ended        |
| ENDED   | none          | none                                                                  |

The Trio loop owns the state. This module imports asyncio, so it is imported when the first lane is
opened. It knows neither drivers nor clients.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from typing import Any, Final, TypeVar

import trio

from .._util.background import open_background
from .current_lane import enter_lane
from .lane_call import LaneCall, TrioCall
from .lane_contexts import hold_in_asyncio, hold_in_trio
from .portal_job import run_contained

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["AsyncioLane", "LaneState", "open_lane"]

T = TypeVar("T")

# Seconds for the asyncio tasks that drivers have left behind, for their async generators, and for
# the threads of `asyncio.to_thread`, when the lane ends.
END_GRACE: Final = 10.0
_SHOWN: Final = 8  # tasks that one line of the log names

_logger = logging.getLogger("jumpstarter.asyncio")


class LaneState(enum.Enum):
    """How far a lane is; see the table in the module's docstring."""

    NEW = enum.auto()
    RUNNING = enum.auto()
    CLOSING = enum.auto()
    ENDED = enum.auto()


class AsyncioLane:
    """A thread with an asyncio loop, which belongs to a Trio loop. `open_lane` makes it.

    The thread starts with the first call.

    Attributes:
        loop: The asyncio loop; only once the thread was started.
        token: Identifies the Trio loop that the lane belongs to.
        nursery: Runs the Trio tasks that asyncio code has started.
        trio_calls: The functions that run in these tasks.
    """

    def __init__(
        self,
        name: str,
        nursery: trio.Nursery,
        watch: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.nursery: trio.Nursery = nursery
        self.trio_calls: set[TrioCall] = set()
        self.loop: asyncio.AbstractEventLoop
        self._name = name
        self._watch = watch
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self._state = LaneState.NEW
        self._calls: set[LaneCall] = set()  # that have not ended
        self._ended = trio.Event()
        self._stopping: asyncio.Event
        self._threads: _Threads
        self._thread: threading.Thread
        self._failure: BaseException | None = None  # of the thread
        self._inbox: deque[Callable[[], object]] = deque()  # of the asyncio loop
        self._outbox: deque[Callable[[], object]] = deque()  # of the Trio loop
        self._is_asyncio_woken = False
        self._is_trio_woken = False

    # ------------------------------------------------------------------------ in the Trio loop

    @property
    def state(self) -> LaneState:
        """The state."""
        return self._state

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Run an async function in an asyncio task, and return its result.

        It runs in a copy of the calling task's context variables. If the calling task is cancelled,
        the asyncio task gets one CancelledError, and this waits until it has ended.

        Args:
            function: The function, of asyncio or anyio.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Raises:
            BaseException: Raised by the function.
            RuntimeError: The lane has ended, no thread can be started, or the asyncio task was
                cancelled by its own code.
        """
        if args or kwargs:
            function = partial(function, *args, **kwargs)
        call = LaneCall(self, function)
        if call.deadline == -math.inf:  # a cancelled call does not begin
            await trio.lowlevel.checkpoint_if_cancelled()
        self.begin(call)
        await call.join()
        value: T = call.result()
        return value

    def hold(
        self, manager: AbstractAsyncContextManager[T]
    ) -> AbstractAsyncContextManager[T, bool | None]:
        """Make a context manager for Trio code that enters and leaves one of asyncio code.

        One asyncio task does both. See `hold_in_asyncio`.
        """
        return hold_in_asyncio(self, manager)

    def begin(self, call: LaneCall) -> None:
        """Start a call, and the thread if this is the first one.

        Raises:
            RuntimeError: The lane has ended, or no thread can be started.
        """
        if self._state is LaneState.NEW:
            self._start()
        elif self._state is LaneState.ENDED:
            raise RuntimeError(self._why_ended())
        self._calls.add(call)
        self.post(call.begin_task)

    def forget(self, call: LaneCall) -> None:
        """Note that a call has ended."""
        self._calls.discard(call)

    def post(self, callback: Callable[[], object]) -> None:
        """Run a callback in the asyncio loop, soon."""
        self._inbox.append(callback)
        if not self._is_asyncio_woken:
            self._is_asyncio_woken = True
            with suppress(RuntimeError):  # the loop is closed, and nothing waits for the callback
                self.loop.call_soon_threadsafe(self._run_inbox)

    def _start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._threads = _Threads(f"{self._name}-thread")
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.loop.close()
            raise
        self._state = LaneState.RUNNING

    async def aclose(self) -> None:
        """End the thread, after the asyncio tasks that were left behind have ended. Shielded."""
        if self._state is LaneState.NEW:
            self._state = LaneState.ENDED
        if self._state is LaneState.RUNNING:
            self._state = LaneState.CLOSING
            self.post(self._stopping_set)
        if self._state is LaneState.CLOSING:
            with trio.CancelScope(shield=True):
                await self._ended.wait()
        for call in list(self.trio_calls):  # of tasks that did not end within the grace
            call.cancel_now()

    def _stopping_set(self) -> None:
        self._stopping.set()

    def _why_ended(self) -> str:
        if self._failure is None:
            return f"{self._name} has ended"
        return f"{self._name} has crashed: {self._failure!r}"

    def _run_outbox(self) -> None:
        # Before anything else: each callback that is posted from now on must cause a wake-up.
        self._is_trio_woken = False
        for _ in range(len(self._outbox)):
            run_contained(self._outbox.popleft())

    def _on_thread_end(self) -> None:
        self._thread.join()  # it has nothing left to do
        self._state = LaneState.ENDED
        for call in list(self._calls):
            call.fail(RuntimeError(self._why_ended()))
        self._ended.set()

    # --------------------------------------------------------------------- in the asyncio loop

    async def run_in_trio(
        self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any
    ) -> T:
        """Run an async function in a Trio task, and return its result. For asyncio code.

        If the asyncio task is cancelled, the Trio task is cancelled, and this waits for its end.

        Args:
            function: The function, of Trio or anyio.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Raises:
            BaseException: Raised by the function.
        """
        call = TrioCall(self, partial(function, *args, **kwargs))
        call.start()
        await call.join()
        value: T = call.result()
        return value

    def hold_in_trio(
        self, manager: AbstractAsyncContextManager[T]
    ) -> AbstractAsyncContextManager[T, bool | None]:
        """Make a context manager for asyncio code that enters and leaves one of Trio code."""
        return hold_in_trio(self, manager)

    def post_back(self, callback: Callable[[], object]) -> None:
        """Run a callback in the Trio loop, soon."""
        self._outbox.append(callback)
        if not self._is_trio_woken:
            self._is_trio_woken = True
            with suppress(trio.RunFinishedError):
                self.token.run_sync_soon(self._run_outbox)

    def _run_inbox(self) -> None:
        self._is_asyncio_woken = False
        for _ in range(len(self._inbox)):
            run_contained(self._inbox.popleft())

    def _run(self) -> None:
        enter_lane(self)
        _name_library()
        main = self.loop.create_task(self._main())
        try:
            while not main.done():
                try:
                    # Not `run_forever`: anyio stops its threads when this task ends.
                    self.loop.run_until_complete(main)
                except (SystemExit, KeyboardInterrupt):  # of a task that a driver has left behind
                    if main.done():
                        raise
                    _logger.exception("an asyncio task tried to end the program")
        except BaseException as exc:  # the calls that still run raise it
            self._failure = exc
            _logger.exception("%s has crashed", self._name)
        finally:
            enter_lane(None)
            with suppress(Exception):
                self.loop.close()
            self.post_back(self._on_thread_end)

    async def _main(self) -> None:
        self.loop.set_default_executor(self._threads)
        with nullcontext() if self._watch is None else self._watch():
            await self._stopping.wait()
            await self._end_tasks()
        await self._end_generators()
        await self._threads.end(END_GRACE)

    async def _end_generators(self) -> None:
        """Close the async generators that drivers have left suspended, or log that it fails."""
        closing = self.loop.create_task(self.loop.shutdown_asyncgens())
        done, _ = await asyncio.wait([closing], timeout=END_GRACE)
        if not done:
            text = "async generators that were left behind have not ended within %g s"
            _logger.error(text, END_GRACE)
            closing.cancel()
            await asyncio.wait([closing], timeout=END_GRACE)

    async def _end_tasks(self) -> None:
        """Cancel the tasks that drivers have left behind, and wait for them."""
        main = asyncio.current_task()
        until = self.loop.time() + END_GRACE
        cancelled: set[asyncio.Task[Any]] = set()
        while left := {task for task in asyncio.all_tasks() if task is not main}:
            seconds = until - self.loop.time()
            if seconds <= 0:
                text = "asyncio tasks have not ended within %g s of their cancellation: %s"
                _logger.error(text, END_GRACE, _names(left))
                return
            new = left - cancelled
            if new:
                _logger.warning(
                    "asyncio tasks that were left behind are cancelled: %s", _names(new)
                )
            for task in new:
                task.cancel()
            cancelled |= new
            done, _ = await asyncio.wait(left, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and (failure := task.exception()) is not None:
                    text = "an asyncio task that was left behind has failed: %s"
                    _logger.error(text, _names({task}), exc_info=failure)


class _Threads(ThreadPoolExecutor):
    """The threads of `asyncio.to_thread`, which can be waited for with a limit."""

    def __init__(self, name: str) -> None:
        super().__init__(thread_name_prefix=name)
        self._running_futures: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        self._running_futures.add(future)
        future.add_done_callback(self._running_futures.discard)
        return future

    async def end(self, grace: float) -> None:
        """Wait for the threads, or leave them behind and log that."""
        waiting = [asyncio.wrap_future(future) for future in list(self._running_futures)]
        if waiting:
            _, left = await asyncio.wait(waiting, timeout=grace)
            if left:
                text = "%d threads of asyncio.to_thread have not ended within %g s, and go on"
                _logger.error(text, len(left), grace)
                self.shutdown(wait=False, cancel_futures=True)
                return
        self.shutdown()


def _names(tasks: set[asyncio.Task[Any]]) -> str:
    names = []
    for task in list(tasks)[:_SHOWN]:
        coro: Coroutine[Any, Any, Any] | Any = task.get_coro()
        names.append(getattr(coro, "__qualname__", None) or task.get_name())
    more = f", and {len(tasks) - _SHOWN} more" if len(tasks) > _SHOWN else ""
    return ", ".join(sorted(names)) + more


def _name_library() -> None:
    """Tell sniffio that asyncio runs in this thread, whatever the copied context variables say."""
    with suppress(Exception):  # without sniffio, anyio asks asyncio itself
        import sniffio  # noqa: PLC0415 - Trio requires it today, and may cease to

        sniffio.thread_local.name = "asyncio"


@asynccontextmanager
async def open_lane(
    name: str, watch: Callable[[], AbstractContextManager[None]] | None = None
) -> AsyncIterator[AsyncioLane]:
    """Open an asyncio lane for the tasks of this Trio loop. Its thread starts with the first call.

    When the block ends, asyncio tasks that were left behind are cancelled and joined, and the
    thread has ended. That is a checkpoint, shielded from cancellation, and takes at most
    `END_GRACE` seconds for the tasks, and again for async generators that were left suspended, for
    the end of these when they are cancelled, and for the threads of `asyncio.to_thread`.

    Args:
        name: The name of the thread.
        watch: Makes a context manager that the loop's main task holds open: the watchdog.
    """
    async with open_background() as nursery:
        lane = AsyncioLane(name, nursery, watch)
        try:
            yield lane
        finally:
            await lane.aclose()
