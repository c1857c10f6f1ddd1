"""Report code that blocks the asyncio loop of a lane.

The loop is read from the outside, as the watchdog does with Trio: from the frames of its thread. As
long as the same frame of a callback is there, the loop is in the same step. uvloop's callbacks have
no such frame, so its loops are not watched.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from types import CodeType, FrameType
from typing import Any, Final

from .._util.foreign_frames import locals_of
from .lane_call import LaneCall
from .watchdog import Holder, Namer, Watch, frames_of, function_in, watching

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["watched_asyncio"]

_CALLBACK: Final[CodeType] = asyncio.Handle._run.__code__  # noqa: SLF001 - only its code object is used
_CALL: Final[CodeType] = LaneCall._run.__code__  # noqa: SLF001 - as above
_IN_TRIO: Final = "await trio.to_thread.run_sync(...)"
_IN_ASYNCIO: Final = "await asyncio.to_thread(...)"
_ADVICE: Final = (
    "code that blocks must not run in a task of the event loop; "
    f"have it run in a thread: {_IN_ASYNCIO}"
)


@dataclass(eq=False, slots=True)
class _AsyncioWatch(Watch):
    """One asyncio loop. Made in the loop's thread."""

    def _now(self) -> Any:
        """Return the frame of the running callback, or None if the loop is idle."""
        callbacks = (frame for frame in self._whole_stack() if frame.f_code is _CALLBACK)
        return next(callbacks, None)

    def _step_of(self, now: Any) -> object:
        return now  # until the next look, so that no other frame can have its identity

    def _stack(self, now: Any) -> list[FrameType]:
        return list(takewhile(lambda frame: frame is not now, self._whole_stack()))

    def _holder(self, now: Any, stack: list[FrameType]) -> Holder | None:
        del now
        for place, frame in enumerate(stack):
            if frame.f_code is _CALL and (holder := self._of_call(frame)):
                del stack[place + 1 :]
                return replace(holder, advice=holder.advice.replace(_IN_TRIO, _IN_ASYNCIO))
        return function_in(stack, _ADVICE)

    def _of_call(self, frame: FrameType) -> Holder | None:
        """Ask for the method of the call in whose name the Trio task waits."""
        task = locals_of(frame)["self"].waiting_task
        for each in () if task is None else frames_of(task):
            if holder := self.name(each):
                return holder
        return None


@contextmanager
def watched_asyncio(limit: float, namer: Namer | None = None) -> Iterator[None]:
    """Watch the asyncio loop of this thread while the block runs.

    Args:
        limit: Seconds for which one callback may hold the loop before it is logged. `math.inf`
            turns the watchdog off.
        namer: Names the code that a frame of the waiting Trio task belongs to.
    """
    if limit == math.inf:
        yield
        return
    with watching(_AsyncioWatch(), limit, namer):
        yield
