"""Notices code that holds an event loop: while it blocks, nothing else of the loop goes on.

One thread of the process looks at every watched loop a few times in each limit. The loop does
nothing for that: Trio keeps the task that runs now where other threads of the process can read it,
so a call costs nothing more, and a loop that waits is left alone. A loop is held if it is found at
the same step of the same task, and within it at the same call, for as long as the limit. A loop
that is busy with many short steps never is.

Time in which the process was stopped (SIGSTOP, a suspended machine) is not counted: the watching
thread was late as well. If the loop's own thread has used the processor meanwhile, it is counted:
then code of a C extension has held the interpreter's lock.

Each name is logged once. This file knows no drivers: who watches says how a frame is named.
"""

from __future__ import annotations

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
from types import FrameType
from typing import Any, Final

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["FROM_A_THREAD", "Holder", "watched"]

_LOOKS: Final = 4  # in each limit: a hold is told when it is a quarter longer, at the latest
_LATE: Final = 1.5  # times the pause between two looks; from then on the process may have stopped
_FRAMES: Final = 30  # the innermost ones of a stack that are logged
_JOIN: Final = 0.1  # seconds that leaving waits for the thread, which may be writing to a log
_LIBRARIES: Final = frozenset({"jumpstarter", "trio", "outcome", "anyio", "contextlib"})
_THREAD: Final = "jumpstarter-watchdog"

_IN_A_TASK: Final = (
    "code that blocks must not run in a task of the event loop; "
    "have it run in a thread: await trio.to_thread.run_sync(...)"
)
FROM_A_THREAD: Final = (
    "a thread has handed this to the loop, with from_thread, and it blocks; "
    "call it in the thread itself"
)
_SERVES_A_THREAD: Final = trio.to_thread.run_sync.__code__

_logger = logging.getLogger("jumpstarter.watchdog")


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds a loop, as the log names it.

    Attributes:
        name: Each is logged once.
        advice: What its author can do.
        of: An object that is another one for each call; by itself nothing.
    """

    name: str
    advice: str
    of: object


Namer = Callable[[FrameType], Holder | None]


@dataclass(frozen=True, slots=True)
class _Hold:
    """What is logged of one."""

    holder: Holder
    seconds: float
    stack: traceback.StackSummary

    def log(self) -> None:
        text = (
            f"{self.holder.name} has held the event loop for {self.seconds:.1f} s, and nothing "
            f"else there goes on: {self.holder.advice}. It is at:"
        )
        with suppress(Exception):  # a handler that fails must not end the thread
            _logger.warning("%s\n%s", text, "".join(self.stack.format()).rstrip())


def _clock_of_this_thread() -> int | None:
    """Give the clock of the processor time of this thread, where the system has one."""
    give = getattr(time, "pthread_getcpuclockid", None)
    return None if give is None else give(threading.get_ident())


@dataclass(eq=False, slots=True)
class _Watch:
    """One loop, as the watching thread sees it. Made in the loop's thread.

    Attributes:
        limits: Of all those who watch it; the least one counts.
        namers: Theirs.
    """

    limits: list[float] = field(default_factory=list)
    namers: list[Namer] = field(default_factory=list)
    _run: dict[str, Any] = field(default_factory=lambda: vars(GLOBAL_RUN_CONTEXT))  # this thread's
    _ident: int = field(default_factory=threading.get_ident)
    _clock: int | None = field(default_factory=_clock_of_this_thread)
    _spent: float = field(default_factory=time.thread_time)  # by its thread, at the last look
    _step: tuple[weakref.ref[Any], int] | None = None  # a task, and how often it has waited
    _of: object = None
    _held: float = 0.0
    _told: set[str] = field(default_factory=set)

    def look(self, since: float, pause: float) -> _Hold | None:
        """See where the loop is; give what is to be logged, if it is held.

        Args:
            since: Seconds since the last look.
            pause: Seconds that were meant to pass.
        """
        spent = self._spent if self._clock is None else time.clock_gettime(self._clock)
        worked, self._spent = spent - self._spent, spent
        hogged = worked if since > _LATE * pause else 0.0
        counted = max(hogged, min(since, _LATE * pause))
        now = self._now()
        if now is None:
            self._step = self._of = None
            return None
        task, step = now[0], (weakref.ref(now[0]), now[1])
        frame = sys._current_frames().get(self._ident)  # noqa: SLF001 - its one purpose
        stack = [] if frame is None else _stack_of(task, frame)
        holder = self._holder(task, stack)
        if step == self._step and holder.of is self._of:
            self._held += counted
        else:
            self._step, self._of = step, holder.of
            self._held = hogged
        if self._held < min(self.limits) or holder.name in self._told:
            return None
        hold = _Hold(holder, self._held, _summary(stack))
        if self._now() != now:
            return None  # it went on while we looked
        self._told.add(holder.name)
        return hold

    def _now(self) -> tuple[trio.lowlevel.Task, int] | None:
        """Give the task that runs, if one does, and how often it has waited before."""
        task = self._run.get("task")
        return None if task is None else (task, task._schedule_points)  # noqa: SLF001 - no other way

    def _holder(self, task: trio.lowlevel.Task, stack: list[FrameType]) -> Holder:
        """Name what runs; leave in the stack what is its own."""
        for place, frame in enumerate(stack):
            if holder := self._name(frame):
                del stack[place + 1 :]
                if any(each.f_code is _SERVES_A_THREAD for each in stack):
                    holder = replace(holder, advice=FROM_A_THREAD)
                return holder
        for frame in _frames_above(task):
            if holder := self._name(frame):
                return holder
        for frame in reversed(stack):
            if not _is_library(frame):
                code = frame.f_code
                name = f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"
                return Holder(name, _IN_A_TASK, None)
        return Holder(f"task {task.name}", _IN_A_TASK, None)

    def _name(self, frame: FrameType) -> Holder | None:
        return next((found for namer in self.namers if (found := namer(frame))), None)


def _stack_of(task: trio.lowlevel.Task, frame: FrameType) -> list[FrameType]:
    """Give the frames of a task that runs, the innermost first."""
    stack = []
    outermost = _frame_of(task.coro)
    for each, _ in traceback.walk_stack(frame):
        stack.append(each)
        if each is outermost:
            break
    return stack


def _frames_above(task: trio.lowlevel.Task) -> Iterator[FrameType]:
    """Give the frames of the tasks that have started a task, which wait for it."""
    nursery = task.parent_nursery
    while nursery is not None:
        coro: Any = nursery.parent_task.coro
        while (frame := _frame_of(coro)) is not None:
            yield frame
            coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None)
        nursery = nursery.parent_task.parent_nursery


def _frame_of(coro: Any) -> FrameType | None:
    return getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)


def _is_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _LIBRARIES


def _summary(stack: list[FrameType]) -> traceback.StackSummary:
    """Note the innermost frames, but for the outer ones that are no driver's."""
    shown = stack[:]
    while shown and _is_library(shown[-1]):
        shown.pop()
    shown = (shown or stack)[:_FRAMES]
    lines = ((frame, frame.f_lineno) for frame in reversed(shown))
    return traceback.StackSummary.extract(lines, lookup_lines=False)


class _Watchdog:
    """The watches of a process, and the thread that is there while there are some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for all below, and the watches
        self._watches: list[_Watch] = []
        self._thread: threading.Thread | None = None
        # Held but for a moment, when the thread is to wake up. An Event has locks within, one of
        # which a fork may find held by the thread, and a child would wait for it for ever.
        self._bell = threading.Lock()
        self._bell.acquire()

    @trio.lowlevel.enable_ki_protection
    def begin(self, watch: _Watch, limit: float, namer: Namer | None) -> None:
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
    def end(self, watch: _Watch, limit: float, namer: Namer | None) -> None:
        """Undo `begin`. When the last one has, the thread has ended, but for its last line."""
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
        with suppress(RuntimeError):  # it wakes up already
            self._bell.release()

    def _run(self) -> None:
        this, last = threading.current_thread(), time.monotonic()
        pause = 0.0
        while True:
            with self._lock:
                if self._thread is not this:
                    return
                now = time.monotonic()
                holds = [watch.look(now - last, pause) for watch in self._watches]
                last = now
                pause = min(min(watch.limits) for watch in self._watches) / _LOOKS
            for hold in holds:
                if hold is not None:
                    hold.log()
            del holds
            self._bell.acquire(timeout=min(pause, threading.TIMEOUT_MAX))


_watchdog = _Watchdog()
_watch_here: Final[trio.lowlevel.RunVar[_Watch]] = trio.lowlevel.RunVar("_watch_here")


@contextmanager
def watched(limit: float, namer: Namer | None = None) -> Iterator[None]:
    """Watch the Trio loop of this thread for the length of a block, in one of its tasks.

    Args:
        limit: Seconds for which one step of a task may hold the loop before it is logged; infinite
            to watch nothing.
        namer: Names what a frame of a task belongs to, if it knows. In the watching thread.
    """
    if limit == math.inf:
        yield
        return
    dog, watch = _watchdog, _watch_of_this_loop()
    dog.begin(watch, limit, namer)
    try:
        yield
    finally:
        if dog is _watchdog:  # not in a forked child, which has another, and no thread of this one
            dog.end(watch, limit, namer)


def _watch_of_this_loop() -> _Watch:
    with suppress(LookupError):
        watch = _watch_here.get()
        if watch.limits:  # else it is over, and what it has told may be told again
            return watch
    watch = _Watch()
    _watch_here.set(watch)
    return watch


def _forget_after_fork() -> None:
    """Begin anew in a child: the thread is its parent's, and so are the loops, and maybe a lock."""
    global _watchdog  # noqa: PLW0603 - one of a process
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_forget_after_fork)
