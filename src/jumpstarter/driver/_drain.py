"""Notify drivers that their exporter is draining, so that endless generators and streams can end.

A drain lets running calls finish. But a generator of readings, or a console that a client watches,
would run until the client stops it. Drivers can check for a drain and return by themselves. After
`DRAIN_GRACE` seconds, the exporter ends generators, and streams on which the client sends nothing.

    state      next
    RUNNING    DRAINING, by `Drain.begin`, when the first session drains
    DRAINING   -
"""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from typing import Final

import trio

from .._util.checks import check_seconds
from .._util.wakeup import LazyEvent

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DRAIN_GRACE", "Drain", "current_drain", "draining", "until_draining"]

# Seconds for what a client only listens to: enough for one more reading and the cleanup, and short
# compared to how long an operator, or a system that shuts down, waits for an exporter.
DRAIN_GRACE: Final = 5.0


class Drain:
    """The drain of one exporter, for which drivers can wait."""

    def __init__(self) -> None:
        self._event = LazyEvent()

    @property
    def has_begun(self) -> bool:
        """True once the exporter drains. In any thread."""
        return self._event.is_set()

    def begin(self) -> None:
        """Wake all waiters. In the loop."""
        if not self.has_begun:
            self._event.set()

    async def wait(self, at_most: float = math.inf) -> None:
        """Wait until the exporter drains, at most for the given number of seconds. A checkpoint."""
        with trio.move_on_after(at_most):
            await self._event.wait()


# Of the exporter whose call is being answered. Worker threads inherit it.
current_drain: Final[ContextVar[Drain | None]] = ContextVar("jumpstarter_drain", default=None)


def draining(wait: float = 0) -> bool:
    """Return True if the exporter is draining, so that a generator or raw stream should end.

    Call it in a driver's code, plain or `async`, while it answers a call. Anywhere else, as in a
    test that calls the method itself, it returns False. A plain generator uses it instead of
    `time.sleep`:

        while not draining(wait=1):
            yield self.read()

    Args:
        wait: Seconds to wait for a drain. In plain code only, since it blocks the thread; it raises
            `trio.Cancelled` if the call is cancelled. In `async` code await `until_draining()`.

    Raises:
        ArgumentError: `wait` is not a number of seconds >= 0.
        RuntimeError: `wait` was given in the Trio loop, which it would block.
    """
    drain = current_drain.get()
    if wait != 0 and check_seconds("wait", wait):
        if trio.lowlevel.in_trio_run():
            text = "draining(wait=...) blocks, and would block the exporter's Trio loop: use"
            raise RuntimeError(f"{text} `with trio.move_on_after(...): await until_draining()`")
        if drain is None:
            time.sleep(wait)
        elif not drain.has_begun:
            trio.from_thread.run(drain.wait, wait)
    return drain is not None and drain.has_begun


async def until_draining() -> None:
    """Wait until the exporter drains. For a driver's `async` code while it answers a call.

    A checkpoint. Anywhere else it waits until it is cancelled. An `async` generator uses it instead
    of `trio.sleep`:

        while not draining():
            yield await self.read()
            with trio.move_on_after(1):
                await until_draining()
    """
    await (current_drain.get() or Drain()).wait()
