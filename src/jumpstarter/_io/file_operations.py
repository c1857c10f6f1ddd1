"""Run operations on files in worker threads, which the kernel may block without end.

Any operation on a file can block: a FIFO waits for its peer in `open`, a network file system waits
for its server anywhere, a device for its medium. Neither a signal nor a cancellation ends such a
thread. So each operation runs in a worker thread. A cancelled caller waits `GRACE` seconds for it
and then abandons the thread, which is logged once. The thread then does the cleanup (close the
file, remove its unfinished copy) when the kernel lets it go.

This module does not know what an operation does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["GRACE", "FileOperations", "abandoned_threads"]

# Seconds: a disk that is there answers sooner, and Ctrl-C and timeouts are late by no more.
GRACE: Final = 0.5
_THREADS: Final = 40  # per loop, as many as Trio's own limit; abandoned threads do not count

T = TypeVar("T")

_logger = logging.getLogger("jumpstarter.files")
_limiter: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("jumpstarter_files")

# Abandoned threads that have not returned.
abandoned_threads: Final[set[threading.Thread]] = set()


def _file_limiter() -> trio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
        return limiter


class _Step(Generic[T]):
    """A function that runs once in a worker thread.

    The thread and the loop share `_thread`, `_ended`, `_left` and `_then`, under the lock.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None  # once it runs
        self._ended = False
        self._left = False  # it was abandoned: nothing waits for it
        self._then: list[Callable[[], object]] = []  # cleanup for the thread to do at its end
        self._notify: Callable[[], object] | None = None
        self._value: T
        self._error: BaseException | None = None

    def run(self) -> T:
        """Run the function. In the thread."""
        with self._lock:
            if self._left:
                raise RuntimeError("the operation was cancelled before it began")
            self._thread = threading.current_thread()
        try:
            self._value = self._function()
        except BaseException as exc:  # raised again here, and by `result` if it came in the grace
            self._error = exc
            raise
        finally:
            self._end()
        return self._value

    def _end(self) -> None:
        while True:
            with self._lock:
                if not self._then:
                    self._ended = True
                    abandoned_threads.discard(threading.current_thread())
                    break
                then = self._then.pop(0)
            try:
                then()
            except Exception:  # no caller waits here, and the next callbacks must run
                _logger.exception("cleaning up after an abandoned thread failed")
        if self._notify is not None:
            with suppress(trio.RunFinishedError):
                self._notify()

    def result(self) -> T:
        """Return the result of the function, or raise its exception, after it has ended."""
        if self._error is not None:
            raise self._error
        return self._value

    async def ends(self, grace: float) -> bool:
        """Wait up to `grace` seconds; return True if it has ended. In the loop, when cancelled."""
        ended = trio.Event()
        token = trio.lowlevel.current_trio_token()
        with self._lock:
            if self._thread is None:
                self._left = True  # the thread that may still come finds nothing to do
                return False
            self._notify = partial(token.run_sync_soon, ended.set)
            if self._ended:
                return True
        with trio.move_on_after(grace, shield=True):
            await ended.wait()
        with self._lock:
            if not self._ended:
                self._left = True
                self._notify = None
                abandoned_threads.add(self._thread)
        return not self._left

    @property
    def ended(self) -> bool:
        """True once the thread has done everything."""
        return self._ended

    @property
    def began(self) -> bool:
        """True once its thread runs, or has run."""
        return self._thread is not None

    def afterwards(self, function: Callable[[], object]) -> bool:
        """Have the thread call this at its end. Returns False if it has returned already."""
        with self._lock:
            if not self._ended:
                self._then.append(function)
            return not self._ended


class FileOperations:
    """Runs operations on one file, one after the other, each in a worker thread.

    Args:
        name: The file's name in the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._abandoned: _Step[Any] | None = None  # the operation whose thread was abandoned

    @property
    def is_hanging(self) -> bool:
        """True while the kernel blocks a thread that was abandoned here."""
        return self._abandoned is not None and not self._abandoned.ended

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(*args)` in a worker thread. A checkpoint.

        If it is cancelled, it waits up to `GRACE` seconds for the function and returns its result
        if there is one by then. Otherwise it abandons the thread and raises `trio.Cancelled`.

        Raises:
            BaseException: The exception of the function.
        """
        return await self._run(_Step(partial(function, *args)), _file_limiter(), GRACE)

    async def finish(self, function: Callable[[], object]) -> None:
        """Run the last operation, even in a cancelled scope. A checkpoint.

        An abandoned thread runs it itself, when the kernel lets it go. In a scope that is cancelled
        already, the operation is waited for up to `GRACE` seconds.
        """
        if self._abandoned is not None and self._abandoned.afterwards(function):
            return
        step = _Step(function)
        # A limiter of its own: this must not wait for blocked threads.
        limiter = trio.CapacityLimiter(1)
        try:
            await self._run(step, limiter, GRACE)
        except trio.Cancelled:
            if not step.began:
                with trio.move_on_after(GRACE, shield=True):
                    await self._run(_Step(function), limiter, 0)
            raise

    async def _run(self, step: _Step[T], limiter: trio.CapacityLimiter, grace: float) -> T:
        try:
            return await trio.to_thread.run_sync(
                step.run, abandon_on_cancel=True, limiter=limiter, thread_name="jumpstarter file"
            )
        except trio.Cancelled:
            if await step.ends(grace):
                return step.result()
            if step.began:
                self._abandon(step, limiter)
            raise

    def _abandon(self, step: _Step[Any], limiter: trio.CapacityLimiter) -> None:
        self._abandoned = step
        token = trio.lowlevel.current_trio_token()
        left = time.monotonic()
        limiter.total_tokens += 1  # an abandoned thread does not count

        def returned() -> None:
            _logger.info("%s: the thread has returned, %.1f s late", self._name, late())
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(_take_back, limiter)

        def late() -> float:
            return time.monotonic() - left

        if not step.afterwards(returned):
            _take_back(limiter)
            return
        _logger.warning(
            "%s: the operating system has not returned from an operation on it %g s after the"
            " operation was cancelled; its caller goes on, and one thread stays until the system"
            " lets it go",
            self._name,
            GRACE,
        )


def _take_back(limiter: trio.CapacityLimiter) -> None:
    limiter.total_tokens -= 1
