"""Leases of one client each, in the order in which the clients came, with a reset before each.

`LeaseQueue` runs the leases of `lease` one after another. A lease that waits is removed when its
client has left. `ResettingRunner` resets the drivers before each lease but the first, for which
they were reset when serving began. If a reset fails, the client is refused, and the next one's
lease begins with a reset again: no client gets devices that another one has left in any state.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from .lease import SHUTTING_DOWN, Lease, LeaseRunner, Leases
from .tree import failed_reset

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LeaseQueue", "ResettingRunner"]

_logger: Final = logging.getLogger("jumpstarter.exporter")


class LeaseQueue(Leases):
    """Leases of one client each. See `Leases`.

    Attributes:
        on_change: Called when a lease leaves the queue, and when one is over.
    """

    def __init__(self, runner: LeaseRunner, host: str) -> None:
        super().__init__(runner, host)
        self._queue: deque[Lease] = deque()
        self.on_change: Callable[[Lease], None] = lambda _lease: None

    def arrive(self, client: str) -> Lease:
        """Put a client into the queue. Call `depart` when it has left."""
        lease = Lease(client)
        lease.users = 1
        if self._closing:
            lease.decide(SHUTTING_DOWN)
        else:
            self._queue.append(lease)
            self._wake.set()
        return lease

    def depart(self, lease: Lease) -> None:
        """Note that a lease's client has left, and remove the lease from the queue if it waits.

        Otherwise the queue would keep all clients in memory that give up during a long session.
        """
        lease.depart()
        if lease in self._queue:
            self._queue.remove(lease)

    def _upcoming(self) -> Lease | None:
        return self._queue[0] if self._queue else None

    async def _run(self, lease: Lease) -> None:
        self._queue.remove(lease)
        self.on_change(lease)
        try:
            await super()._run(lease)
        finally:
            self.on_change(lease)

    def stop_beginning(self) -> None:
        """Refuse the clients that wait, and begin no more leases: the exporter shuts down."""
        super().stop_beginning()
        while self._queue:
            self._queue.popleft().decide(SHUTTING_DOWN)


class ResettingRunner:
    """Resets the drivers before each lease but the first. It is the runner of a `LeaseQueue`.

    Args:
        inner: What runs after the reset and at the end of a lease, or None.
        reset: Resets all drivers.
    """

    def __init__(self, inner: LeaseRunner | None, reset: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._reset = reset
        self._is_clean = True

    async def begin(self, host: str, client: str) -> str:
        """Reset the drivers unless they are as serving has begun; see `LeaseRunner`."""
        if not self._is_clean:
            try:
                await self._reset()
            except (trio.Cancelled, KeyboardInterrupt):
                raise
            except BaseException as exc:  # the exporter goes on, as after a failed call
                where = failed_reset(exc).partition(" failed,")[0] or "a reset"
                _logger.exception("%s failed, so %s is not let in", where, client)
                again = "connect again to have it tried again, or look at the exporter's log"
                return f"{where} failed: {type(exc).__name__}: {exc}; {again}"
        self._is_clean = False
        return "" if self._inner is None else await self._inner.begin(host, client)

    async def end(self, host: str, client: str) -> None:
        """See `LeaseRunner`."""
        if self._inner is not None:
            await self._inner.end(host, client)
