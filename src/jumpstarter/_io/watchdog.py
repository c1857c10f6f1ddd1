"""Report code that blocks an event loop, so that no other task of the loop runs meanwhile.

One thread of the process looks at each watched loop four times per limit. Trio keeps the running
task where other threads can read it, so this costs the loop nothing, and does not wake an idle
loop. A loop is held if, for as long as the limit, it is found in the same step of the same task,
and in the same call within it. A loop that runs many short steps is never reported.

Two kinds of pauses are not the fault of the code that the loop runs:

- The process was stopped (SIGSTOP, a suspended machine). Then the watching thread was late too. If
  it sleeps longer than intended, the excess counts only as far as the loop's thread used the
  processor: then a C extension held the interpreter's lock.
- Other threads compute, and the loop waits for the interpreter's lock. Then its thread neither used
  the processor nor is in a blocking call. This is reported once per process, without a name.

The library's own tasks are never named. Each name is logged once. This module does not know
drivers: the caller passes a function that names frames.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

import trio

from .._util import trio_private
from .._util.foreign_frames import frame_of, stack_of_thread

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "FROM_A_THREAD",
    "Holder",
    "Namer",
    "Watch",
    "frames_of",
    "function_in",
    "summary_of",
    "watched",
    "watching",
]

_LOOKS: Final = 4  # per limit: a hold is reported at most a quarter of the limit late
_LATE: Final = 1.5  # pauses between two looks: after a longer one the process may have been stopped
_WORKING: Final = 0.5  # a thread computes if it used the processor for this share of the hold
_FRAMES: Final = 30  # the innermost frames of a stack that are logged
_JOIN: Final = 0.1  # seconds to wait for the thread to end: it may be writing to a log
_LIBRARIES: Final = frozenset(
    {"jumpstarter", "trio", "outcome", "anyio", "contextlib", "asyncio", "threading"}
)
_THREAD: Final = "jumpstarter-watchdog"

_IN_A_TASK: Final = (
    "code that blocks must not run in a task of the event loop; "
    "have it run in a thread: await trio.to_thread.run_sync(...)"
)
FROM_A_THREAD: Final = (
    "a thread has handed this to the loop, with from_thread, and it blocks; "
    "call it in the thread itself"
)
_STARVED: Final = (
    "the event loop waited %.1f s for the interpreter's lock, which other threads held: code that "
    "computes in threads slows all tasks down; have it run in fewer threads, or in a process "
    "(this is logged once)"
)
_SERVES_A_THREAD: Final = trio.to_thread.run_sync.__code__
_STARTS_A_THREAD: Final = threading.Thread.start.__code__

_logger = logging.getLogger("jumpstarter.watchdog")


@dataclass(frozen=True, slots=True)
class Holder:
    """The code that holds a loop, as the log names it.

    Attributes:
        name: Its name. Each name is logged once.
        advice: The way to fix it.
        of: An object that differs between calls, to distinguish two calls of the same name.
    """

    name: str
    advice: str
    of: object


Namer = Callable[[FrameType], Holder | None]


@dataclass(frozen=True, slots=True)
class _Hold:
    """One report. Without a holder, other threads held the interpreter's lock."""

    holder: Holder | None
    seconds: float
    stack: traceback.StackSummary

    def log(self) -> None:
        """Write the report to the log."""
        if self.holder is None:
            with suppress(Exception):  # as below
                _logger.warning(_STARVED, self.seconds)
            return
        text = (
            f"{self.holder.name} has held the event loop for {self.seconds:.1f} s, and nothing "
            f"else there goes on: {self.holder.advice}. It is at:"
        )
        with suppress(Exception):  # a log handler that fails must not end the thread
            _logger.warning("%s\n%s", text, "".join(self.stack.format()).rstrip())


def _clock_of_this_thread() -> int | None:
    """Return the clock of this thread's processor time, if the system has one."""
    give = getattr(time, "pthread_getcpuclockid", None)
    return None if give is None else give(threading.get_ident())


@dataclass(eq=False, slots=True)
class Watch:
    """One Trio loop, as the watching thread sees it. Made in the loop's thread.

    Attributes:
        limits: The limits of all blocks that watch it; the lowest one counts.
        namers: The namers of these blocks.
    """

    limits: list[float] = field(default_factory=list)
    namers: list[Namer] = field(default_factory=list)
    _run: dict[str, Any] = field(default_factory=trio_private.run_context)  # of this thread
    _ident: int = field(default_factory=threading.get_ident)
    _native: int = field(default_factory=threading.get_native_id)
    _clock: int | None = field(default_factory=_clock_of_this_thread)
    _spent: float = field(default_factory=time.thread_time)  # processor time at the last look
    _step: object = None
    _of: object = None
    _held: float = 0.0  # seconds in the present step
    _worked: float = 0.0  # seconds of processor time in it
    _logged: set[str] = field(default_factory=set)

    def look(self, since: float, pause: float) -> _Hold | None:
        """Look at what the loop runs, and return a report if it is held for too long.

        Args:
            since: Seconds since the last look.
            pause: Seconds that the watching thread meant to sleep.
        """
        spent = self._spent if self._clock is None else time.clock_gettime(self._clock)
        worked, self._spent = spent - self._spent, spent
        hogged = worked if since > _LATE * pause else 0.0
        counted = max(hogged, min(since, _LATE * pause))
        now = self._now()
        if now is None:
            self._step = self._of = None
            return None
        step, stack = self._step_of(now), self._stack(now)
        holder = self._holder(now, stack)
        of = None if holder is None else holder.of
        if step == self._step and of is self._of:
            self._held += counted
            self._worked += worked
        else:
            self._step, self._of = step, of
            self._held = self._worked = hogged
        if self._held < min(self.limits):
            return None
        return self._report(now, holder, stack)

    def _report(self, now: Any, holder: Holder | None, stack: list[FrameType]) -> _Hold | None:
        hold = None
        if self._is_starved():
            if not _starvation_logged:
                hold = _Hold(None, self._held, summary_of([]))
        elif holder is not None and holder.name not in self._logged:
            hold = _Hold(holder, self._held, summary_of(stack))
        if hold is None or self._now() != now:  # the loop continued while we looked
            return None
        if hold.holder is None:
            _note_starvation()
        else:
            self._logged.add(hold.holder.name)
        return hold

    def _is_starved(self) -> bool:
        """Return True if the thread waits for the interpreter's lock, which other threads hold."""
        if self._clock is None or self._worked >= _WORKING * self._held:
            return False  # it computes, or that is unknown
        return not _is_in_blocking_call(self._native) and _is_lock_contended()

    def _whole_stack(self) -> list[FrameType]:
        """Return the frames of the loop's thread, the innermost first."""
        return stack_of_thread(self._ident)

    def _now(self) -> Any:
        """Return the running task and the number of its step, or None if the loop is idle."""
        task = self._run.get("task")
        return None if task is None else (task, trio_private.steps_of(task))

    def _step_of(self, now: Any) -> object:
        """Return an object that is equal as long as the loop is in the same step."""
        return weakref.ref(now[0]), now[1]

    def _stack(self, now: Any) -> list[FrameType]:
        """Return the frames of the running step, the innermost first."""
        return _stack_of(now[0], self._whole_stack())

    def _holder(self, now: Any, stack: list[FrameType]) -> Holder | None:
        """Name the running code, and cut the stack down to its frames.

        Returns None for the library's own tasks, and while a thread is being started: that waits
        until the new thread runs, which is late if others hold the interpreter's lock.
        """
        if any(frame.f_code is _STARTS_A_THREAD for frame in stack):
            return None
        task: trio.lowlevel.Task = now[0]
        for place, frame in enumerate(stack):
            if holder := self.name(frame):
                del stack[place + 1 :]
                if any(each.f_code is _SERVES_A_THREAD for each in stack):
                    holder = replace(holder, advice=FROM_A_THREAD)
                return holder
        for frame in _frames_above(task):
            if holder := self.name(frame):
                return holder
        if holder := function_in(stack, _IN_A_TASK):
            return holder
        if task.name.partition(".")[0] in _LIBRARIES:
            return None
        return Holder(f"task {task.name}", _IN_A_TASK, None)

    def name(self, frame: FrameType) -> Holder | None:
        """Ask the namers for the code that a frame belongs to."""
        return next((found for namer in self.namers if (found := namer(frame))), None)


def function_in(stack: list[FrameType], advice: str) -> Holder | None:
    """Name the outermost function in a stack that belongs to no library."""
    for frame in reversed(stack):
        if not _is_library(frame):
            code = frame.f_code
            name = f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"
            return Holder(name, advice, None)
    return None


def _stack_of(task: trio.lowlevel.Task, stack: list[FrameType]) -> list[FrameType]:
    """Return the frames of the running task, the innermost first."""
    outermost = frame_of(task.coro)
    if outermost in stack:
        del stack[stack.index(outermost) + 1 :]
    return stack


def _frames_above(task: trio.lowlevel.Task) -> Iterator[FrameType]:
    """Yield the frames of the parent tasks, which wait for this task in their nurseries."""
    nursery = task.parent_nursery
    while nursery is not None:
        yield from frames_of(nursery.parent_task)
        nursery = nursery.parent_task.parent_nursery


def frames_of(task: trio.lowlevel.Task) -> Iterator[FrameType]:
    """Yield the frames of a task that waits, the outermost first."""
    coro: Any = task.coro
    while (frame := frame_of(coro)) is not None:
        yield frame
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None)


def _is_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _LIBRARIES


def summary_of(stack: list[FrameType]) -> traceback.StackSummary:
    """Record the innermost frames, without the library's own at the outer end."""
    shown = stack[:]
    while shown and _is_library(shown[-1]):
        shown.pop()
    shown = (shown or stack)[:_FRAMES]
    lines = ((frame, frame.f_lineno) for frame in reversed(shown))
    return traceback.StackSummary.extract(lines, lookup_lines=False)


_starvation_logged = False


def _note_starvation() -> None:
    global _starvation_logged  # noqa: PLW0603 - once per process
    _starvation_logged = True


def _is_in_blocking_call(thread: int) -> bool:
    """Return True if a thread is known to wait in the kernel for anything but a lock.

    Args:
        thread: Its native id.
    """
    try:
        function = Path(f"/proc/self/task/{thread}/wchan").read_text()
    except OSError:  # not Linux, or the thread has ended
        return False
    return function not in ("", "0") and "futex" not in function


def _is_lock_contended() -> bool:
    """Return True if a thread that releases the interpreter's lock waits to get it back."""
    start = time.monotonic()
    for _ in range(5):  # a single try may find the lock free by chance
        time.sleep(0)  # releases the lock and takes it back
    return time.monotonic() - start > sys.getswitchinterval()


class _Watchdog:
    """The watches of a process, and the thread that looks at them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the attributes below, and the watches
        self._watches: list[Watch] = []
        self._thread: threading.Thread | None = None
        self._failed = False  # a look has raised, which was logged
        # Releasing it wakes the thread. Not a threading.Event, which has inner locks: if the thread
        # held one during a fork, the child would wait for it without end.
        self._bell = threading.Lock()
        self._bell.acquire()

    @trio.lowlevel.enable_ki_protection
    def begin(self, watch: Watch, limit: float, namer: Namer | None) -> None:
        """Watch a loop, or watch it more closely."""
        with self._lock:
            watch.limits.append(limit)
            if namer is not None:
                watch.namers.insert(0, namer)
            if watch not in self._watches:
                self._watches.append(watch)
            if self._thread is not None:
                self._wake()
                return
            self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)
            try:
                self._thread.start()
            except RuntimeError as exc:
                self._thread = None
                _logger.warning("blocking code will not be noticed: no thread (%s)", exc)

    @trio.lowlevel.enable_ki_protection
    def end(self, watch: Watch, limit: float, namer: Namer | None) -> None:
        """Undo `begin`. The last call ends the thread, which may still be writing to the log."""
        with self._lock:
            watch.limits.remove(limit)
            if namer is not None:
                watch.namers.remove(namer)
            if not watch.limits:
                self._watches.remove(watch)
            if self._watches or self._thread is None:
                return
            thread, self._thread = self._thread, None
            self._wake()
        thread.join(_JOIN)

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is waking up already
            self._bell.release()

    def _run(self) -> None:
        this, last = threading.current_thread(), time.monotonic()
        pause = 0.0
        while True:
            with self._lock:
                if self._thread is not this:
                    return
                now = time.monotonic()
                holds = [self._look(watch, now - last, pause) for watch in self._watches]
                last = now
                pause = min(min(watch.limits) for watch in self._watches) / _LOOKS
            for hold in holds:
                if hold is not None:
                    hold.log()
            del holds
            self._bell.acquire(timeout=min(pause, threading.TIMEOUT_MAX))

    def _look(self, watch: Watch, since: float, pause: float) -> _Hold | None:
        try:
            return watch.look(since, pause)
        # Frames and tasks change while we look at them, and a namer is the caller's code. One
        # failure must not end the thread, which watches all loops of the process.
        except Exception:
            if not self._failed:
                self._failed = True
                with suppress(Exception):  # a log handler that fails must not end it either
                    _logger.exception("the watchdog could not look at a loop (logged once)")
            return None


_watchdog = _Watchdog()
_watch_here: Final[trio.lowlevel.RunVar[Watch]] = trio.lowlevel.RunVar("_watch_here")


@contextmanager
def watched(limit: float, namer: Namer | None = None) -> Iterator[None]:
    """Watch the Trio loop of this thread while the block runs. Call it in a task of that loop.

    Neither entering nor leaving is a checkpoint; leaving waits up to 0.1 s for the thread to end.

    Args:
        limit: Seconds for which one step of a task may hold the loop before it is logged.
            `math.inf` turns the watchdog off.
        namer: Names the code that a frame belongs to, or returns None. Called in the watching
            thread.
    """
    if limit == math.inf or not _is_supported():
        yield
        return
    with watching(_watch_of_this_loop(), limit, namer):
        yield


@contextmanager
def watching(watch: Watch, limit: float, namer: Namer | None) -> Iterator[None]:
    """Look at a loop while the block runs; see `watched`."""
    dog = _watchdog
    dog.begin(watch, limit, namer)
    try:
        yield
    finally:
        if dog is _watchdog:  # a forked child has its own
            dog.end(watch, limit, namer)


@functools.cache
def _is_supported() -> bool:
    """Return True if this version of Trio exposes its running task; else warn once.

    Must be called in a task, whose identity it compares.
    """
    try:
        task: Any = trio_private.run_context()["task"]
        if task is trio.lowlevel.current_task() and isinstance(trio_private.steps_of(task), int):
            return True
    except Exception:  # noqa: BLE001, S110 - any error means no
        pass
    _logger.warning(
        "code that blocks the event loop will not be noticed: the watchdog does not know this "
        "version of Trio (%s)",
        trio.__version__,
    )
    return False


def _watch_of_this_loop() -> Watch:
    with suppress(LookupError):
        watch = _watch_here.get()
        if watch.limits:  # else it has ended: start a new one, which logs each name again
            return watch
    watch = Watch()
    _watch_here.set(watch)
    return watch


def _forget_after_fork() -> None:
    """Make a new watchdog in a forked child: the thread and the loops stay in the parent."""
    global _watchdog  # noqa: PLW0603 - one per process
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_forget_after_fork)
