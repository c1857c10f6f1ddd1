"""The smallest ways for tasks to wait for a change that another one makes.

A `Signal` remembers nothing: the waiter checks its condition, waits, and checks again. Nothing can
be missed in between, because Trio switches tasks only at a checkpoint. It costs half of what
`trio.Event` does and is never used up.

The other two are a `trio.lowlevel.ParkingLot` and a `trio.Event` that take their 250 bytes only
once somebody waits: most connections end without that, and a thousand of them may be idle.
"""

from __future__ import annotations

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LazyEvent", "LazyParkingLot", "Wakeup"]


class Wakeup:
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


class LazyParkingLot:
    """Tasks that wait, in order. True while there are any."""

    __slots__ = ("_lot",)

    def __init__(self) -> None:
        self._lot: trio.lowlevel.ParkingLot | None = None

    def __len__(self) -> int:
        return 0 if self._lot is None else len(self._lot)

    async def park(self) -> None:
        """Sleep until woken. A checkpoint; cancelling it loses nothing."""
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()

    def unpark(self) -> None:
        """Wake the one that has waited longest, if there is one."""
        if self._lot is not None:
            self._lot.unpark()

    def unpark_all(self) -> None:
        """Wake all."""
        if self._lot is not None:
            self._lot.unpark_all()


class LazyEvent:
    """Is passed by all who wait once it was opened, and by all who come then."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting = LazyParkingLot()

    def is_set(self) -> bool:
        """Tell if it is open."""
        return self._is_set

    def set(self) -> None:
        """Open it, for good."""
        self._is_set = True
        self._waiting.unpark_all()

    async def wait(self) -> None:
        """Wait until it is open. A checkpoint."""
        if self._is_set:
            await trio.lowlevel.checkpoint()
        else:
            await self._waiting.park()
