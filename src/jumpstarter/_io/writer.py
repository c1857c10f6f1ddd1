"""The writing half of a connection.

All code queues whole frames in the rules and calls `flush`, in one locked section. `flush` writes
them immediately if that is possible without waiting. Only the writer's task waits for the
transport. So no cancellation of a call can leave half a frame on the wire.

| state   | writes to the transport     | next state                                       |
|---------|-----------------------------|--------------------------------------------------|
| IDLE    | each caller of `flush`      | WRITING: `flush_soon`; BROKEN: a write failed    |
| WRITING | the writer's task           | IDLE: all is written; BROKEN: a write failed     |
| BROKEN  | none                        | none: the reader finds the end of the connection |

The state is the writing role: it is changed with the connection's lock only. `flush_soon` enters
WRITING before the task runs, and before the task exists if the connection does not run yet: `start`
looks for that. A thread whose frames the socket does not take leaves the rest to the task in the
same way; then all others only queue their frames. The task takes each batch and writes it with the
lock, since a thread may read: over TLS, reading changes what is to be written. It waits without.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

import trio

from .._protocol.base import BaseProtocol
from .._util.wakeup import LazyParkingLot, Wakeup
from ..errors import Code, RemoteProtocolError
from .handlers import StreamHandler
from .ownership import Ownership
from .transport import Buffer, Transport

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Writer", "WriterState"]

GOODBYE_TIME: Final = 1.0  # seconds for a final GOAWAY to leave, or for the reader to find one
_TURN: Final = 4  # batches, after which other tasks have their turn, and threads the lock
_DIRECT: Final = 1  # busy slots up to which a frame is written by the task that queued it


class WriterState(enum.Enum):
    """See the table in the module's docstring."""

    IDLE = enum.auto()
    WRITING = enum.auto()
    BROKEN = enum.auto()


# Constants: to look a member up in its enum takes as long as a small system call.
_IDLE: Final = WriterState.IDLE
_WRITING: Final = WriterState.WRITING
_BROKEN: Final = WriterState.BROKEN


class _Host(Protocol):
    """The connection, as far as its writer needs it."""

    name: str
    ended: Exception | None
    handlers: dict[int, StreamHandler]
    ownership: Ownership

    def log_end(self, reason: Exception) -> None:
        """Log why the connection ends."""

    def end(self, reason: Exception) -> None:
        """End the connection."""

    def end_within(self, seconds: float) -> None:
        """End the connection after this time, if it has not ended by then."""


class Writer:
    """Writes the frames that the rules of one connection have queued.

    Attributes:
        state: See the table in the module's docstring.
        rest: Buffers that were taken from the queue, and are not written yet.
        failure: Why nothing can be written any more, in the state BROKEN.
    """

    __slots__ = (
        "_connection",
        "_drained",
        "_guard",
        "_max_pending",
        "_max_unsent",
        "_mostly_writable",
        "_nursery",
        "_ownership",
        "_rules",
        "_transport",
        "_wakeup",
        "_writable",
        "failure",
        "rest",
        "state",
    )

    def __init__(self, connection: _Host, transport: Transport, rules: BaseProtocol) -> None:
        self._connection = connection
        self._ownership = connection.ownership
        self._transport = transport
        self._rules = rules
        self._max_unsent, self._max_pending = rules.limits.max_unsent, rules.limits.max_pending
        self.state: WriterState = _IDLE
        self.rest: list[Buffer] = []
        self.failure: Exception | None = None
        self._wakeup = Wakeup()
        self._drained = LazyParkingLot()  # tasks that wait for an empty queue
        self._writable = LazyParkingLot()  # tasks that wait for space in it
        self._mostly_writable = LazyParkingLot()
        self._nursery: trio.Nursery | None = None  # where the task can be started
        self._guard: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]

    @property
    def is_idle(self) -> bool:
        """True if the writer's task is not writing, and nothing has failed."""
        return self.state is _IDLE

    # -------------------------------------------------------------------------------- life

    def start(
        self,
        nursery: trio.Nursery,
        guard: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    ) -> None:
        """Make it possible to start the writer's task, and start it if frames wait already.

        Args:
            nursery: Where the task runs, when it is needed.
            guard: Runs the task's function, and handles its exceptions.
        """
        self._nursery, self._guard = nursery, guard
        if self.failure is not None:
            self._connection.end_within(GOODBYE_TIME)
        elif self.state is not _IDLE:
            self._start_task()

    def detach(self) -> None:
        """Start no task any more: its nursery takes none once its last other task has ended."""
        self._nursery = None

    def close(self) -> None:
        """Wake all tasks that wait. Called when the connection has ended."""
        self._drained.unpark_all()
        self._writable.unpark_all()
        self._mostly_writable.unpark_all()

    def fail(self, exc: Exception) -> None:
        """Write nothing more. The reader ends the connection: the peer may have sent a reason.

        With the lock.
        """
        self.state = _BROKEN
        self.failure = ConnectionError(f"the connection to {self._connection.name} broke: {exc}")
        self._ownership.defer(self._after_failure)

    def _after_failure(self) -> None:
        self._connection.end_within(GOODBYE_TIME)
        self._drained.unpark_all()

    # ----------------------------------------------------------------------------- writing

    def flush(self) -> None:
        """Send the queued frames. Synchronous, so no cancellation can cut a frame in two.

        With the lock, in a task. With few calls in flight the frames are written immediately, which
        saves a task switch. With many, the task writes them together, which saves system calls.
        """
        if self._rules.busy_slots <= _DIRECT:
            self.flush_now()
        elif self._rules.send_queue and self.state is _IDLE:
            self.flush_soon()

    def flush_now(self) -> None:
        """Write the queued frames immediately, however many calls are in flight.

        With the lock; for a thread, or a task that has queued everything it has. Does nothing while
        the writer's task is writing, which takes these frames too.
        """
        queue = self._rules.send_queue
        if self.state is not _IDLE or not queue:
            return
        buffers = self._next_buffers()
        try:
            self.rest = self._transport.try_write(buffers)
        except OSError as exc:
            self.fail(exc)
            return
        if self.rest or queue:
            self.flush_soon()

    def flush_soon(self) -> None:
        """Let the writer's task send the queued frames, and those that are queued until it runs.

        With the lock.
        """
        if self.state is not _IDLE:  # the task takes them, or a frame was lost: none may follow
            return
        self.state = _WRITING
        if self._ownership.holder:
            self._ownership.defer(self._start_task)
        else:
            self._start_task()

    def _start_task(self) -> None:
        nursery, self._nursery = self._nursery, None
        if nursery is None:
            self._wakeup.set()
        else:  # the first time: most connections need no task, since each frame leaves immediately
            # It must not inherit the context of the call that happens to be the first to need it.
            context = nursery.parent_task.context.copy()
            context.run(nursery.start_soon, self._guard, self._run)

    async def _run(self) -> None:
        stall = self._rules.limits.write_stall
        while True:
            with self._ownership.lock:
                if self.state is not _BROKEN:
                    self._write_batches()
                if self.state is _BROKEN:
                    return
                buffers, self.rest = self.rest, []
                is_idle = self.state is _IDLE
            self._wake_producers()  # after a discard, too, which makes space and tells none
            if is_idle:
                self._drained.unpark_all()
                await self._wakeup.wait()
                continue
            if not buffers:
                await trio.lowlevel.checkpoint()
                continue
            try:
                await self._transport.write(buffers, stall, self._ownership.lock)
            except trio.TooSlowError:
                text = f"{self._connection.name} took nothing for {stall:g} s"
                stalled = RemoteProtocolError(text, Code.WRITE_STALL)
                self._connection.log_end(stalled)
                self._connection.end(stalled)
                return
            except trio.BrokenResourceError as exc:
                with self._ownership.lock:
                    self.fail(exc)
                return

    def _write_batches(self) -> None:
        """Write batches in the task, as long as the transport takes them whole.

        With the lock. Leaves the `rest` of one that it did not take. If there is nothing more to
        write, gives the writing role up.
        """
        queue = self._rules.send_queue
        for _ in range(_TURN):
            if not self.rest:
                if not queue:
                    self.state = _IDLE
                    return
                self.rest = self._next_buffers()
            try:
                self.rest = self._transport.try_write(self.rest)
            except OSError as exc:
                self.fail(exc)
                return
            if self.rest:
                return

    def _next_buffers(self) -> list[Buffer]:
        is_full = self.is_full()
        batch = self._rules.next_batch()
        if is_full or batch.drained:
            self._tell_producers(batch.drained, was_full=is_full)
        return batch.buffers

    def _tell_producers(self, drained: Iterable[int], *, was_full: bool) -> None:
        """Tell those that wait that frames have left the queue."""
        for slot in drained:
            handler = self._connection.handlers.get(slot)
            if handler is not None:
                handler.drained()
        if was_full:  # else no task waits, nor is about to: it has looked with the queue this full
            self._ownership.defer(self._wake_producers)

    def _wake_producers(self) -> None:
        if self._writable and not self.write_paused:
            self._writable.unpark()
        if self._mostly_writable and self._rules.send_queue.queued_bytes < self._max_pending:
            self._mostly_writable.unpark()

    # ----------------------------------------------------------------------------- waiting

    @property
    def write_paused(self) -> bool:
        """True if so many bytes are queued that a producer should await `wait_writable`.

        Counts frames that have not begun to leave. With a peer that reads, it is True only briefly.
        """
        return self._rules.send_queue.unstarted_bytes >= self._max_unsent

    def is_full(self) -> bool:
        """Return True if `wait_writable` or `wait_mostly_writable` would wait."""
        queue = self._rules.send_queue
        return queue.unstarted_bytes >= self._max_unsent or queue.queued_bytes >= self._max_pending

    async def wait_writable(self) -> None:
        """Wait while `write_paused`, or until the connection has ended.

        A checkpoint if it has to wait; cancelling it loses nothing.
        """
        while self.write_paused and self._connection.ended is None:
            await self._writable.park()
        self._writable.unpark()  # one task is woken at a time, and this one may queue little
        if self._connection.ended is not None:  # let a caller's loop be told of the end
            await trio.lowlevel.checkpoint()

    async def wait_mostly_writable(self) -> None:
        """Wait until the queue takes another large message, or the connection has ended.

        Unlike `wait_writable`, it also counts frames that have begun to leave. A checkpoint if it
        has to wait; cancelling it loses nothing.
        """
        queue = self._rules.send_queue
        while queue.queued_bytes >= self._max_pending and self._connection.ended is None:
            await self._mostly_writable.park()
        self._mostly_writable.unpark()
        if self._connection.ended is not None:
            await trio.lowlevel.checkpoint()

    async def written(self) -> None:
        """Wait until all queued frames have left, or none can. A checkpoint if some have not."""
        with self._ownership.lock:
            self.flush()
        while self.state is _WRITING and self._connection.ended is None:
            await self._drained.park()

    async def flush_goaway(self) -> None:
        """Wait up to a second for queued frames to be written. A checkpoint if any are queued.

        Cancelling it loses the frames that are left.
        """
        with trio.move_on_after(GOODBYE_TIME):
            await self.written()
