"""How a driver learns that its exporter drains, and how long generators and streams may go on then.

A drain lets what runs finish, but a generator of readings, or a console that a client watches, has
no end of its own. So drivers are told, and can end by themselves; and what a client only listens to
is ended `DRAIN_GRACE` seconds later.
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

__all__ = ["DRAIN_GRACE", "Drain", "draining", "drains", "until_draining"]

# Seconds that what a client only listens to goes on: enough for one more reading and the cleanup,
# and short beside what an operator, or a system that goes down, waits for an exporter's end.
DRAIN_GRACE: Final = 5.0


class Drain:
    """Whether one exporter drains."""

    def __init__(self) -> None:
        self._begun = LazyEvent()

    @property
    def begun(self) -> bool:
        """True once it does. In any thread."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Tell all who wait. In the loop."""
        if not self.begun:
            self._begun.set()

    async def wait(self, at_most: float = math.inf) -> None:
        """Wait until it does, or for so many seconds. A checkpoint."""
        with trio.move_on_after(at_most):
            await self._begun.wait()


# That of the exporter whose call is being answered. It follows the code into worker threads.
drains: Final[ContextVar[Drain | None]] = ContextVar("jumpstarter_drains", default=None)


def draining(wait: float = 0) -> bool:
    """Tell if the exporter drains, so that a generator or a raw stream should come to its end.

    For a driver's code while it answers a call, plain or `async`. Elsewhere, as where a test calls
    the method itself, nothing drains. A plain generator waits by it, instead of `time.sleep`:

        while not draining(wait=1):
            yield self.read()

    Args:
        wait: Seconds to wait for a drain; in plain code alone, where it blocks this thread, and
            ends with `trio.Cancelled` if the call is cancelled. In `async` code await
            `until_draining()`.

    Raises:
        ArgumentError: `wait` is no number of seconds from 0 up.
        RuntimeError: It would block the Trio loop.
    """
    drain = drains.get()
    if wait != 0 and check_seconds("wait", wait):
        if trio.lowlevel.in_trio_run():
            text = "draining(wait=...) blocks, and would block the exporter's Trio loop: use"
            raise RuntimeError(f"{text} `with trio.move_on_after(...): await until_draining()`")
        if drain is None:
            time.sleep(wait)
        elif not drain.begun:
            trio.from_thread.run(drain.wait, wait)
    return drain is not None and drain.begun


async def until_draining() -> None:
    """Wait until the exporter drains. For a driver's `async` code while it answers a call.

    A checkpoint. Elsewhere, where nothing drains, it waits until it is cancelled. An `async`
    generator waits by it, instead of `trio.sleep`:

        while not draining():
            yield await self.read()
            with trio.move_on_after(1):
                await until_draining()
    """
    await (drains.get() or Drain()).wait()
