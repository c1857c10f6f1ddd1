"""Make the calls of tasks, and send those of threads: assign a slot to each.

Tasks may wait for a slot, and threads do not. This module is compiled: every call passes through
it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from .._io.connection import Connection
from .._io.current_lane import Lane
from .._io.leading_tasks import lead_in_task
from .._io.ownership import SharedWakeup
from .._limits import Limits
from .._protocol.client import ClientProtocol
from .._protocol.codec import decode_value
from .._protocol.receive_buffer import Body
from .._util import trio_private
from .._util.text import sanitize_text
from ..errors import ArgumentError, CallRefused, Code, DriverInvalidArgument, DriverTimeoutError
from ._loop import lane_of_loop
from ._outgoing_call import OutgoingCall, Request
from ._slot_queue import SlotQueue

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallSender", "seconds_left"]

_LONE_CALLS: Final = 4  # calls of tasks, one after the other, for which a watch is made
_MAX_TIMEOUT_MS: Final = 2**32 - 1
_MAX_SPARE: Final = 64  # wake-ups that are kept for the next calls
_INFINITE: Final = math.inf


class CallSender:
    """The part of a `Channel` that sends its calls.

    Attributes:
        name: How errors and logs name the exporter.
        limits: What this side accepts of the exporter.
        token: The token of the Trio loop that runs the connection.
        connection: The connection, for the streams on it.
    """

    def __init__(self, name: str, rules: ClientProtocol, connection: Connection) -> None:
        self.name: str = name
        self.limits: Limits = rules.limits
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.connection: Connection = connection
        self._lone_calls = 0
        self._rules = rules
        self._slots = SlotQueue(rules, connection)
        self._spare: list[SharedWakeup] = []  # of calls that have ended
        self._closing = False  # set with the lock; nothing is sent after that

    # ------------------------------------------------------------------- for tasks of the loop

    def check_loop(self, client: str, method: str) -> Lane | None:
        """Raise an error unless the current thread runs the Trio loop of this connection.

        Args:
            client: Name of the client's class.
            method: Name of the method that was called.

        Returns:
            The asyncio lane that runs the calling code, if it belongs to that loop; otherwise None.

        Raises:
            RuntimeError: No Trio loop runs here, or another one does.
        """
        return lane_of_loop(self.token, client, method)

    def call(self, request: Request) -> Awaitable[Any]:
        """Make a call and return its decoded result.

        A checkpoint. If it is cancelled before the call was sent, nothing is sent. If it is
        cancelled later, it waits until the driver's code has ended, for at most `cancel_grace`
        seconds.

        Raises:
            DriverError: The call failed; see its subclasses.
        """
        return self.finish(OutgoingCall(self, request), None)

    def call_as(self, request: Request, decode: Callable[[Body], Any] | None) -> Awaitable[Any]:
        """Make a call and return its result, decoded by `decode`, which may raise ArgumentError.

        Without `decode`, and otherwise, as `call`.
        """
        return self.finish(OutgoingCall(self, request), decode)

    async def finish(self, call: OutgoingCall, decode: Callable[[Body], Any] | None) -> Any:
        """Make a call, unless a thread has sent it, wait for its answer, and return the result.

        It waits in this coroutine, since Trio resumes each of those that a task is in.
        """
        if not call.slot:
            if self.connection.handlers or not await self._lead(call):
                later = self._begin(call)
                if later is not None:
                    await later
            elif call.done and not call.has_failed:
                return call.result(decode)
        try:
            waiting = self._wait_on(call)
            if waiting is None:
                # A thread has read the answer since the call was sent, or the task led and got an
                # error. `_begin` and `_lead` have looked for a cancellation before they sent it.
                await trio.lowlevel.cancel_shielded_checkpoint()
            while waiting is not None:
                await waiting
                waiting = self._wait_on(call)
            if call.error is not None and isinstance(call.failure, DriverTimeoutError):
                await self._let_deadline_pass(call.failure)
        except BaseException as exc:
            await call.cancel(exc)
            raise
        return call.result(decode)

    def _wait_on(self, call: OutgoingCall) -> Awaitable[None] | None:
        """Begin to wait for the end of a call; return what to await. None if it has ended."""
        waiter = call.wakeup()
        if waiter is not None:
            return waiter.wait()
        waiter = call.give_back()
        # A letter that is late all the same would wake the next call that has it. That call looks
        # whether it has ended, and waits again.
        if waiter is not None and waiter.is_idle() and len(self._spare) < _MAX_SPARE:
            self._spare.append(waiter)
        return None

    async def _lead(self, call: OutgoingCall) -> bool:
        """Make the only call from the task that waits for it. See `lead_in_task`."""
        if self.connection.ownership.watch is None:
            self._lone_calls += 1
            if self._lone_calls == _LONE_CALLS:
                self.connection.ownership.watch_socket()
            return False
        seconds = seconds_left()
        if seconds == -_INFINITE:
            await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return await lead_in_task(self.connection, call, self.start, seconds)
        except BaseException as exc:
            await call.cancel(exc)
            raise

    async def _let_deadline_pass(self, failure: DriverTimeoutError) -> None:
        """Wait for our own deadline, after the exporter has reached it slightly earlier.

        So the caller gets the exception of its own cancel scope, no matter which side was faster.
        """
        if failure.code is Code.DEADLINE_EXCEEDED:
            await trio.sleep_until(min(trio.current_effective_deadline(), trio.current_time() + 1))

    def ask_to_end(self, call: OutgoingCall, code: Code) -> bool:
        """Send CANCEL. Return False if no answer will come: it was not sent yet, or has ended."""
        raise NotImplementedError

    # ---------------------------------------------------------------------- in any thread

    def decode(self, body: Body) -> Any:
        """Decode a value that the exporter has sent. In any thread."""
        return decode_value(body, self.limits)

    def start(self, call: OutgoingCall, seconds: float) -> bool:
        """Register a call, and queue its frame, if no task waits for a slot. With the lock.

        Returns:
            False if the loop must look at it: the caller would have to wait, or to learn why not.

        Raises:
            DriverError: It was not queued, and nothing has changed.
        """
        rules = self._rules
        # Tasks that wait for a slot are first; a thread does not wait for one here.
        if (
            self.connection.slot_waiters
            or self._closing
            or rules.going_away
            or not rules.free_slots
        ):
            return False
        self._queue(call, seconds)
        return True

    async def open(self, call: OutgoingCall) -> None:
        """Send a call, once it has a slot. A checkpoint if it must wait for one.

        Raises:
            DriverError: It was not sent, and nothing has changed.
        """
        later = self._begin(call)
        if later is not None:
            await later

    def _begin(self, call: OutgoingCall) -> Awaitable[None] | None:
        """Send a call if that is possible now. Otherwise return what sends it.

        So the usual call has no coroutine for that.
        """
        seconds = seconds_left()
        if seconds != -_INFINITE and self._open_now(call, seconds, registers=False):
            return None
        return self._open_later(call, seconds)

    def _open_now(self, call: OutgoingCall, seconds: float, registers: bool) -> bool:
        """Send a call if a slot is free. Otherwise it can announce that its task waits for one.

        Raises:
            DriverError: It was not sent, and nothing has changed.
        """
        ownership = self.connection.ownership
        with ownership.lock:
            self._check_open(call.request)
            # Only tasks that wait are promised a slot: this saves a call of Python code.
            is_free = self._rules.free_slots and not self.connection.slot_waiters
            if is_free or self._slots.has_free_slot:
                # Here, where the lock is held.
                call.borrow(self._spare.pop() if self._spare else SharedWakeup(ownership))
                self._queue(call, seconds)
                self.connection.writer.flush()
                return True
            self._check_size(call.request)
            if registers:
                self._slots.register(call.request)
        return False

    async def _open_later(self, call: OutgoingCall, seconds: float) -> None:
        """Send a call that `_begin` has not sent: it has no slot yet, or is cancelled.

        Ctrl-C is raised at a checkpoint: between two steps here, a slot would be lost for good.
        """
        if seconds == -_INFINITE:
            await trio.lowlevel.checkpoint_if_cancelled()
        if self._open_now(call, seconds, registers=True):
            return
        await self._slots.wait()
        seconds = seconds_left()
        with self.connection.lock:
            self._slots.redeem()
            self._check_open(call.request)
            self._queue(call, seconds)
            self.connection.writer.flush()

    def _queue(self, call: OutgoingCall, seconds: float) -> None:
        """Assign a slot to a call, and queue its frame. With the lock.

        Raises:
            DriverError: It was not queued, and nothing has changed.
        """
        request = call.request
        if seconds != _INFINITE:
            request.set_timeout(math.ceil(min(max(1, seconds * 1000), _MAX_TIMEOUT_MS)))
        try:
            call.opened(self._rules.call(request.kind, request.buffer))
        except ArgumentError as exc:
            raise DriverInvalidArgument(str(exc), context=request.context) from exc
        self.connection.handlers[call.slot] = call

    def _check_open(self, request: Request) -> None:
        connection = self.connection
        if (
            self._closing
            or self._rules.going_away
            or connection.ended is not None
            or connection.ownership.at_end  # the read task has yet to learn of it
        ):
            raise CallRefused(f"not sent: {self._why_not()}", context=request.context)

    def _check_size(self, request: Request) -> None:
        try:
            self._rules.check_size(request.buffer)
        except ArgumentError as exc:
            raise DriverInvalidArgument(str(exc), context=request.context) from exc

    def _why_not(self) -> str:
        if self._closing:
            return "the client was closed"
        if self.connection.ended is not None:
            return str(self.connection.ended)
        if self.connection.ownership.at_end and not self._rules.going_away:
            return f"{self.name} closed the connection"
        goaway = self.connection.goaway
        why = "" if goaway is None else f" ({sanitize_text(goaway.goaway.text)})"
        return f"{self.name} takes no more calls{why}"


# Not as a decorator, which Cython does not take there.
trio.lowlevel.enable_ki_protection(CallSender._open_later)  # noqa: SLF001 - of this module


def seconds_left() -> float:
    """Return the time until the deadline of the task's scopes.

    Returns:
        -inf if it is cancelled, or Ctrl-C was pressed: the next checkpoint raises an exception.
    """
    deadline = trio_private.effective_deadline()
    return deadline if math.isinf(deadline) else deadline - trio.current_time()
