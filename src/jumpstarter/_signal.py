"""The smallest way for one task to wait for a change that another one makes.

A `Signal` remembers nothing: the waiter checks its condition, waits, and checks again. Nothing can
be missed in between, because Trio switches tasks only at a checkpoint. It costs half of what
`trio.Event` does and is never used up.
"""

from __future__ import annotations

import trio

__all__ = ["Signal"]


class Signal:
    """Wakes the one task that waits for it, if one does."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    def set(self) -> None:
        """Wake the waiter, if there is one. For the loop's own thread only."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Sleep until `set`. A checkpoint; cancelling it loses nothing. One task at a time."""
        assert self._task is None, "a Signal has one waiter"
        self._task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
