"""Read the stack frames of code that another thread runs, without ending the process.

The interpreter makes a frame's object when somebody first asks for it. In Python 3.11 this may
start a garbage collection. A finalizer that it runs may let another thread run, which leaves the
frame, and then the new object points at memory that other frames use. To read the local variables
of a frame is as dangerous in Python 3.12 too: the frame remembers the values that it gave before,
and dropping an old one may run its finalizer.

So each function here makes frame objects only while the garbage collector is off, and in functions
of C that call each other: between two of them, no other thread runs. The objects may be used like
any others afterwards.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate, chain, repeat, takewhile
from operator import call, is_not, methodcaller
from types import FrameType
from typing import Any, Final, TypeVar

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["call_uncollected", "frame_of", "locals_of", "stack_of_thread"]

_Result = TypeVar("_Result")

_SWITCHES: Final = (gc.disable, gc.enable)
_KEPT: Final = "jumpstarter's former values"  # not a possible name of a variable
_SNAPSHOTS: Final = sys.version_info < (3, 13)  # f_locals is a dict that each access updates


def call_uncollected(function: Callable[[], _Result]) -> _Result:
    """Call a function of C while the garbage collector is off, without letting other threads run.

    Args:
        function: It must not call Python code.
    """
    before: list[bool] = []
    result: list[_Result] = []
    steps: tuple[Callable[[], object], ...] = (
        partial(before.extend, map(call, (gc.isenabled,))),
        gc.disable,
        partial(result.extend, map(call, (function,))),
        # The iterator asks for the first item of `before` only now.
        partial(next, map(call, map(_SWITCHES.__getitem__, before))),
    )
    try:
        list(map(call, steps))
    except BaseException:
        if before == [True]:
            gc.enable()
        raise
    return result[0]


def stack_of_thread(ident: int) -> list[FrameType]:
    """Return the frames that a thread runs now, the innermost first.

    Args:
        ident: The thread's identifier. If it has ended, there are no frames.
    """
    innermost = map(methodcaller("get", ident), map(call, (sys._current_frames,)))  # noqa: SLF001 - the documented way to read another thread's frame
    frames = accumulate(chain(innermost, repeat("f_back")), getattr)
    return call_uncollected(partial(list, takewhile(partial(is_not, None), frames)))


def frame_of(coro: Any) -> FrameType | None:
    """Return the frame of a coroutine or generator, or None if it has ended or is neither."""
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame: FrameType | None = call_uncollected(partial(getattr, coro, name, None))
        if frame is not None:
            return frame
    return None


def locals_of(frame: FrameType) -> Mapping[str, Any]:
    """Return the local variables of a function's frame."""
    variables: Any = call_uncollected(partial(getattr, frame, "f_locals"))
    if _SNAPSHOTS:
        former = variables.pop(_KEPT, None)
        variables[_KEPT] = list(variables.values())  # the next access does not drop the last one
        del former
    return variables  # type: ignore[no-any-return]
