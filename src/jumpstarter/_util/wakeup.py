"""Cheap ways for Trio tasks to wait until another task changes something.

A `Wakeup` stores nothing: the waiter checks its condition, waits, and checks again. It cannot miss
a change, because Trio switches tasks only at checkpoints. It costs half as much as a `trio.Event`,
and can be used again.

`LazyParkingLot` and `LazyEvent` are a `trio.lowlevel.ParkingLot` and a `trio.Event` that allocate
their 250 bytes when a task first waits. Most connections end without that, and a thousand of them
may be idle.

This module is compiled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, Final

import trio

from . import trio_private

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["NOTHING", "LazyEvent", "LazyParkingLot", "Wakeup"]

_SUCCEEDED: Final = trio.lowlevel.Abort.SUCCEEDED


class _Nothing:
    """The outcome of a wait that returns None.

    Trio makes an `outcome.Value` for each task that it wakes, and each can be unwrapped once, which
    takes three Python functions. It only calls `unwrap`.
    """

    __slots__ = ()

    def unwrap(self) -> None:
        """Return None."""


# In an `Any`, since Trio annotates its parameter with the classes of `outcome`.
NOTHING: Final[Any] = _Nothing()


class Sleeper:
    """The task that waits for a `Wakeup`.

    It is an object of its own since Trio's request has its abort function, and the wake-up has the
    request: without it, each wake-up would refer to itself, and wait for the garbage collector.

    Attributes:
        task: The task; None while none waits.
    """

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None

    def abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """Let Trio cancel the wait."""
        self.task = None
        return _SUCCEEDED


class Wakeup:
    """Wake the one task that waits, if one does."""

    __slots__ = ("_request", "_sleeper")

    def __init__(self) -> None:
        self._sleeper: Sleeper | None = None  # made by the first wait, as is the request
        self._request: object = None

    def set(self) -> None:
        """Wake the waiting task, if there is one. Only in the loop's thread."""
        sleeper = self._sleeper
        if sleeper is not None and sleeper.task is not None:
            task, sleeper.task = sleeper.task, None
            trio.lowlevel.reschedule(task, NOTHING)

    def wait(self) -> Awaitable[None]:
        """Sleep until `set` is called. For one task at a time, which awaits this immediately.

        A checkpoint; cancelling it loses nothing.
        """
        sleeper = self._sleeper
        if sleeper is None:
            sleeper = self._sleeper = Sleeper()
            self._request = trio_private.request_to_sleep(sleeper.abort)
        assert sleeper.task is None, "only one task can wait for a Wakeup"
        if self._request is None:
            sleeper.task = trio_private.current_task()
            return trio.lowlevel.wait_task_rescheduled(sleeper.abort)  # noqa: ASYNC105
        return self

    def __await__(self) -> Generator[object, Any, None]:
        """Sleep, after `wait`: with the same request each time, and no coroutine of Trio's."""
        # Here, and not in `wait`: Ctrl-C between the two would leave the task behind, and a later
        # `set` would wake it from another sleep. It is not raised between here and the yield.
        sleeper = self._sleeper
        assert sleeper is not None, "wait() begins a wait"
        sleeper.task = trio_private.current_task()
        outcome = yield self._request
        if outcome is not NOTHING:  # which only spares a call of Python code
            try:
                outcome.unwrap()
            finally:
                del outcome  # its exception refers to this frame


class LazyParkingLot:
    """A queue of waiting tasks. Its length is their number."""

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
        """Wake the task that has waited longest, if there is one."""
        if self._lot is not None:
            self._lot.unpark()

    def unpark_all(self) -> None:
        """Wake all waiting tasks."""
        if self._lot is not None:
            self._lot.unpark_all()


class LazyEvent(LazyParkingLot):
    """An event that, once set, stays set: every `wait` then returns.

    It is a parking lot and does not have one, which would be a second object for each event.
    """

    __slots__ = ("_is_set",)

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether the event was set."""
        return self._is_set

    def set(self) -> None:
        """Set the event and wake all waiting tasks."""
        self._is_set = True
        self.unpark_all()

    async def wait(self) -> None:
        """Wait until the event is set. Always a checkpoint; cancelling it loses nothing."""
        if self._is_set:
            await trio.lowlevel.checkpoint()
        else:
            await self.park()
