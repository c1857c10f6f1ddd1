"""Run code before the first client of an exporter can call a driver, and after the last has left.

The time between is a *lease*. It begins with the arrival of a client while there is no lease, and
ends with the departure of the last one; all clients in between share it. Code of this process can
hold it too, such as a command that runs a shell.

    state      meaning                                         left by
    WAITING    clients have come, and the last lease ends      that has ended: BEGINNING
    BEGINNING  `begin` runs, and calls wait for it             it has succeeded: HELD. It has failed
                                                               or was cancelled: REFUSED
    HELD       clients may call drivers                        the last client has left: ENDING
    ENDING     `end` runs; new clients wait for the next one   it has ended: OVER
    REFUSED    calls get the reason; new clients wait for      final
               the next lease
    OVER       -                                               final

The task in `Leases.run` moves each lease. It knows neither connections nor processes.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import trio

from ..errors import CallRefused

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SHUTTING_DOWN", "Lease", "LeaseRunner", "LeaseState", "Leases"]

_logger: Final = logging.getLogger("jumpstarter.exporter")
SHUTTING_DOWN: Final = "the exporter is shutting down"


def _nothing() -> None: ...


class LeaseRunner(Protocol):
    """Runs code at the beginning and at the end of a lease. Both may be cancelled."""

    async def begin(self, host: str, client: str) -> str:
        """Prepare the devices.

        Args:
            host: The path of a socket of this exporter, at which calls do not wait for the lease.
            client: The client that came first.

        Returns:
            Why the lease cannot begin, for its clients; empty if it begins.
        """

    async def end(self, host: str, client: str) -> None:
        """Leave the devices as the next client expects them. The arguments are those of `begin`."""


class LeaseState(enum.Enum):
    """How far a lease is; see the module's docstring."""

    WAITING = enum.auto()
    BEGINNING = enum.auto()
    HELD = enum.auto()
    ENDING = enum.auto()
    REFUSED = enum.auto()
    OVER = enum.auto()


class Lease:
    """The use of an exporter by the clients that are there at the same time.

    Args:
        client: The client that came first.

    Attributes:
        client: That client.
        state: How far it is.
        refusal: Why it could not begin.
        users: How many clients are there.
        on_decided: Called when it has begun or cannot begin.
    """

    def __init__(self, client: str) -> None:
        self.client: str = client
        self.state: LeaseState = LeaseState.WAITING
        self.refusal: str = ""
        self.users: int = 0
        self.on_decided: Callable[[], None] = _nothing
        self._decided = trio.Event()
        self._left = trio.Event()

    @property
    def is_held(self) -> bool:
        """True while clients may call drivers."""
        return self.state is LeaseState.HELD

    async def decided(self) -> str:
        """Wait until the lease has begun or cannot begin. A checkpoint.

        Returns:
            Why it cannot begin, or an empty text.
        """
        await self._decided.wait()
        return self.refusal

    def decide(self, refusal: str) -> None:
        """Let clients call drivers, or refuse all their calls."""
        self.refusal = refusal
        self.state = LeaseState.REFUSED if refusal else LeaseState.HELD
        self._decided.set()
        self.on_decided()

    def depart(self) -> None:
        """Note that one client has left, after its last call has ended."""
        self.users -= 1
        self._left.set()

    async def until_left(self) -> None:
        """Wait until no client is there. A checkpoint, unless there is none already."""
        while self.users:
            await self._left.wait()
            self._left = trio.Event()


class Leases:
    """The leases of one exporter, one after another.

    Args:
        runner: What runs at the beginning and the end of each.
        host: The path of the socket for it.
    """

    def __init__(self, runner: LeaseRunner, host: str) -> None:
        self._runner = runner
        self._host = host
        self._next: Lease | None = None  # what an arriving client joins
        self._wake = trio.Event()
        self._idle = trio.Event()  # set when `run` has ended
        self._closing = False
        self._hurried = False
        self._beginning: trio.CancelScope | None = None
        self._running: trio.CancelScope | None = None

    def arrive(self, client: str) -> Lease:
        """Note that a client has come. It must call `depart` of the lease when it has left."""
        if self._next is None:
            self._next = Lease(client)
            self._wake.set()
        self._next.users += 1
        if self._closing:
            self._next.decide(SHUTTING_DOWN)
        return self._next

    @asynccontextmanager
    async def hold(self, client: str) -> AsyncIterator[None]:
        """Hold a lease for the length of the block.

        Raises:
            CallRefused: (on entering) The lease could not begin.
        """
        lease = self.arrive(client)
        try:
            if refusal := await lease.decided():
                raise CallRefused(refusal)
            yield
        finally:
            lease.depart()

    async def run(self) -> None:
        """Begin and end leases, until `finish`. Run it in one task."""
        try:
            while not self._closing:
                lease = self._upcoming()
                if lease is None:
                    await self._wake.wait()
                    self._wake = trio.Event()
                else:
                    await self._run(lease)
        finally:
            self._idle.set()

    def _upcoming(self) -> Lease | None:
        """Return the lease to begin next; None if no client has come."""
        return self._next

    async def _run(self, lease: Lease) -> None:
        lease.state = LeaseState.BEGINNING
        refusal = ""
        with trio.CancelScope() as self._beginning:
            refusal = await self._guarded(self._runner.begin, lease) or ""
        if self._beginning.cancelled_caught:
            refusal = SHUTTING_DOWN
        self._beginning = None
        lease.decide(refusal)
        if not refusal:
            await lease.until_left()
            lease.state = LeaseState.ENDING
        self._next = None  # without a checkpoint since the last client has left
        if not refusal:
            await self._guarded(self._runner.end, lease)
            lease.state = LeaseState.OVER

    async def _guarded(
        self, run: Callable[[str, str], Awaitable[str | None]], lease: Lease
    ) -> str | None:
        """Run one function of the runner. Raises nothing but Cancelled."""
        result: str | None = None
        with trio.CancelScope() as self._running:
            if self._hurried:
                self._running.cancel()
            try:
                result = await run(self._host, lease.client)
            except Exception as exc:
                _logger.exception("internal error at the beginning or the end of a session")
                result = f"{type(exc).__name__}: {exc}"
        if self._running.cancelled_caught:
            result = SHUTTING_DOWN
        self._running = None
        return result

    def stop_beginning(self) -> None:
        """Begin no more leases, and cancel one that begins: the exporter shuts down."""
        self._closing = True
        self._wake.set()
        if self._beginning is not None:
            self._beginning.cancel()

    async def finish(self) -> None:
        """Wait until the last lease has ended. Call it when all clients have left.

        A checkpoint. If it is cancelled, it cancels what runs at the end of the lease, and waits
        for that.
        """
        self.stop_beginning()
        try:
            await self._idle.wait()
        finally:
            if not self._idle.is_set():
                self._hurried = True
                if self._running is not None:
                    self._running.cancel()
                with trio.CancelScope(shield=True):
                    await self._idle.wait()
