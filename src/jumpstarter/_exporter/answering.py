"""Answer calls as far as that needs no waiting: the synchronous half of a session.

It registers each call, finds its method, decodes the arguments, encodes the result and queues the
terminal frame, for the code that answers calls in tasks and threads. A call of an `async` method
whose code never waits is answered completely in here, without a frame of Python code beside the
driver's own. All of it is compiled. The half that waits is in `session` and `dispatch`, whose
classes have these as bases. It must be Python code: Trio and the log look into it.

`begin_calls` calls the methods, and runs each coroutine until it returns or waits. If it waits,
`Session.answer` waits for it, in the task that has read the call. Generators and raw streams,
large arguments, calls that are refused, and all calls of a client that does not read, are answered
by `Session.answer` alone, in the same task.
"""

from __future__ import annotations

import inspect
import math
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, NoReturn

import trio

from .._io.connection import Connection
from .._protocol import events as ev
from .._protocol.codec import decode_value, encode_error, encode_message
from .._protocol.frames import CallHead, ErrorBody, Kind
from .._protocol.large_message import Message
from .._protocol.receive_buffer import Body
from .._protocol.server import ServerProtocol
from .._stepping import advance, enter_copied_context, leave_context
from .._util.trio_private import is_cancelled
from .._util.wakeup import LazyParkingLot
from ..driver._base import Driver
from ..driver._export import Exported
from ..driver._mistakes import why_unsendable
from ..errors import ArgumentError, Code
from .context import ServerContext
from .eager import EagerConnection, resume
from .error_reporter import reject
from .executor import DriverExecutor
from .incoming_call import IncomingCall, check_scopes
from .routes import ExecutionMode

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LARGE", "BaseDispatcher", "BaseSession"]

LARGE: Final = 64 * 1024  # bytes of arguments that may take a millisecond to decode
_FEW: Final = 1024  # values that are not counted, so that a call with few arguments always runs
_TINY: Final = _FEW // 16  # bytes that cannot hold so many values
_HOW_TO_CALL: Final = {
    Kind.UNARY: "a method; call it with call() or call_async()",
    Kind.GENERATOR: "a generator; use streamingcall() or streamingcall_async()",
    Kind.STREAM: "a raw stream; open it with stream(), open_stream() or stream_async()",
}


# Constants: to look a member up in its enum takes as long as a small system call.
_EAGER: Final = ExecutionMode.EAGER
_THREAD: Final = ExecutionMode.THREAD
_OWN_TASK: Final = ExecutionMode.OWN_TASK
# Types of results that are not awaitable: to look for `__await__` makes an AttributeError.
_PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes, list, dict, tuple))
_INFINITE: Final = math.inf


class _Values:
    """Limit the values in one client's decoded arguments to those of two largest messages.

    Decoded values take many times the bytes of their message. Only many in one call are counted.
    """

    __slots__ = ("_count", "_lock", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._lock = threading.Lock()  # threads decode arguments, too

    def admit(self, call: IncomingCall, count: int) -> None:
        """Count the values of a call, or refuse it."""
        if count <= _FEW:
            return
        with self._lock:
            if is_admitted := self._count + count <= self._most:
                call.values = count
                self._count += count
        if not is_admitted:
            text = f"it was discarded: over {self._most} values in the arguments of calls under way"
            reject(Code.RESOURCE_EXHAUSTED, text)

    def forget(self, call: IncomingCall) -> None:
        """Count the values of a call no longer."""
        with self._lock:
            self._count -= call.values


class BaseDispatcher:
    """The base class of `Dispatcher`, which documents the arguments and attributes."""

    __slots__ = (
        "_connection",
        "_exporter",
        "_routes",
        "_rules",
        "_values",
        "executor",
    )

    def __init__(
        self, exporter: ServerContext, connection: Connection, rules: ServerProtocol
    ) -> None:
        self._exporter = exporter
        self._connection = connection
        self._rules = rules
        self._routes = exporter.routes
        self._values = _Values(2 * exporter.limits.max_items)
        self.executor: DriverExecutor = exporter.executor.for_client(connection.writer)

    def execution_mode(self, event: ev.CallReceived) -> ExecutionMode:
        """Choose which task or thread begins a call. In any thread."""
        route = self._routes.find(event.head)
        if route is None:
            return _EAGER
        if route.mode is _THREAD and len(event.body) > LARGE:
            return _OWN_TASK
        return route.mode

    def is_direct(self, call: IncomingCall) -> bool:
        """Return True if `begin` can answer a call, unless it is refused."""
        route = self._routes.find(call.head)
        if route is None or not route.is_direct or call.body_size > LARGE:
            return False
        return not self._connection.writer.is_full()

    def forget(self, call: IncomingCall) -> None:
        """Stop counting the values in the arguments of a call that has ended."""
        if call.values:
            self._values.forget(call)

    def run_sync(self, call: IncomingCall) -> object:
        """Answer a call of a plain method. In a thread.

        Returns:
            The encoded result, or an awaitable for `finished`.
        """
        exported, method = self._find(call.head)
        args, kwargs = self._arguments(call, exported, call.take_body())
        context = enter_copied_context()
        try:
            value = method(*args, **kwargs) if kwargs else method(*args)
        finally:
            leave_context(context)
        return value if _is_awaitable(value) else self._encode(value, "result")

    def _find(self, head: CallHead) -> tuple[Exported, Callable[..., Any]]:
        """Return the exported method that a call reaches, and the same bound to its driver.

        Raises:
            CallRejected: There is no such method, or it is of another kind.
        """
        route = self._routes.find(head)
        if route is None:
            self._reject_unknown(head)
        elif route.exported.kind is not head.kind:
            reject(Code.UNIMPLEMENTED, f"it is {_HOW_TO_CALL[route.exported.kind]}")
        return route.exported, route.method or route.bind()

    def _reject_unknown(self, head: CallHead) -> NoReturn:
        targets = self._exporter.targets
        if head.target < len(targets):
            target = targets[head.target]
            names = ", ".join(target.exports) or "nothing"
            text = f"{target.title} exports no such method; it exports: {names}"
        elif self._exporter.starting:
            reject(Code.REFUSED, "the exporter is starting: its drivers are being reset")
        else:
            text = f"there is no driver at address {head.target}; the tree has {len(targets) - 1}"
        reject(Code.UNIMPLEMENTED, text)

    def _arguments(
        self, call: IncomingCall, exported: Exported, body: Body
    ) -> tuple[list[Any], dict[str, Any]]:
        admit = None if len(body) < _TINY else partial(self._values.admit, call)
        try:
            args = decode_value(body, self._rules.limits, admit)
        except ArgumentError as exc:
            reject(Code.INVALID_ARGUMENT, f"its arguments cannot be read: {exc}")
        kwargs = args.pop() if isinstance(args, list) and args and call.head.keywords else {}
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            reject(Code.INVALID_ARGUMENT, "its arguments are not an array")
        if exported.converter is not None:
            try:
                exported.converter(args, kwargs)
            except ArgumentError as exc:
                reject(Code.INVALID_ARGUMENT, f"its {exc}")
        call.arguments = arguments = (args, kwargs)
        return arguments

    def _encode(self, value: object, what: str) -> Message:
        try:
            buffer = encode_message(value, "item" if what == "item" else "result")
            self._rules.check_size(buffer)
        except ArgumentError as exc:
            why = why_unsendable(value, Driver)
            reject(Code.INTERNAL, f"its {what} cannot be sent: {why or exc}")
        return buffer

    def begin(self, call: IncomingCall) -> tuple[bool, Any]:
        """Call the method, which is `async`, and run its coroutine until it waits or returns.

        Returns:
            False and the encoded result, or True and a coroutine that returns it later.
        """
        exported, method = self._find(call.head)
        args, kwargs = self._arguments(call, exported, call.take_body())
        work = method(*args, **kwargs) if kwargs else method(*args)
        waits, value = advance(work)
        if waits:
            call.forget_arguments(exported)
            return True, self.finish_later(resume(work, value))
        return False, self._encode(value, "result")

    def finish_later(self, work: Awaitable[Any]) -> Coroutine[Any, Any, Message]:
        """Wait for a method that has begun, and return its encoded result."""
        raise NotImplementedError


class BaseSession:
    """The base class of `Session`, which documents its attributes.

    Attributes:
        begun: The call whose code `begin_calls` runs, for the watchdog.
    """

    def __init__(self, exporter: ServerContext) -> None:
        self._exporter = exporter
        self._rules = ServerProtocol(exporter.limits)
        self._connection: EagerConnection[IncomingCall]
        self._dispatcher: BaseDispatcher
        self.running: set[IncomingCall] = set()
        self._clock = trio.lowlevel.current_clock()
        self._all_answered = LazyParkingLot()
        self._is_awaited = False  # the end of all calls
        self.begun: IncomingCall | None = None

    def on_call(self, event: ev.CallReceived) -> None:
        """Begin to answer a call."""
        mode = self._dispatcher.execution_mode(event)
        call = self._call(event)
        if mode is _OWN_TASK:
            self._connection.begin(call, apart=True)
        else:
            call.in_thread = mode is _THREAD
            self._connection.arrived.append(call)

    def take(self, event: ev.CallReceived) -> IncomingCall | None:
        """Register a call that a thread has read, if the thread may answer it. In the thread."""
        is_for_thread = self._dispatcher.execution_mode(event) is _THREAD
        return self._call(event) if is_for_thread else None

    def _call(self, event: ev.CallReceived) -> IncomingCall:
        call = IncomingCall(event, self._connection, self._clock)
        self._connection.handlers[event.slot] = call
        self.running.add(call)
        return call

    # ------------------------------------------------------------------------- one call

    def begin_calls(
        self, calls: list[IncomingCall], scope: trio.CancelScope, task: trio.lowlevel.Task
    ) -> Awaitable[None] | None:
        """See `Answerer`."""
        connection = self._connection
        rest: Awaitable[None] | None = None
        while calls:
            self.begun = call = calls.pop(0)
            if call.cancelled:
                connection.begin(call, apart=True)
            elif call.in_thread:
                connection.begin_in_thread(call)
            else:
                call.enter(scope, task)
                rest = self._answer_now(call, task)
                if rest is None and not call.leave(task):
                    rest = _nothing()
                if rest is not None:
                    break
        self.begun = None
        if rest is None:
            with connection.ownership.lock:
                connection.writer.flush_now()
        return rest

    def _answer_now(self, call: IncomingCall, task: trio.lowlevel.Task) -> Awaitable[None] | None:
        """Begin a call in a context of its own. Return what is left of it, None if nothing is."""
        context = enter_copied_context()
        try:
            rest = self._begin(call, task)
        finally:
            leave_context(context)
        if rest is not None:
            task.context = context
        return rest

    def _begin(self, call: IncomingCall, task: trio.lowlevel.Task) -> Awaitable[None] | None:
        if is_cancelled(task) or not self._dispatcher.is_direct(call):
            work = self.answer(call)
            waits, value = advance(work)
            return resume(work, value) if waits else None
        result: Message | None = None
        error: tuple[int, ErrorBody] | None = None
        try:
            waits, value = self._dispatcher.begin(call)
            if waits:
                return self.answer(call, value)
            result = value
            check_scopes(call.status, task)
        except BaseException as exc:  # noqa: BLE001 - SystemExit too stays within its call
            error = self._report(exc, call)
        self._finish(call, result, error)
        return None

    def answer(
        self,
        call: IncomingCall,
        rest: Coroutine[Any, Any, Message] | None = None,
        apart: bool = False,
    ) -> Coroutine[Any, Any, None]:
        """Answer a call, and queue its terminal frame. Raises nothing.

        Args:
            call: The call.
            rest: Returns the encoded result, if the call has begun.
            apart: True in a task of the call's own, which enters a scope for it.
        """
        raise NotImplementedError

    def _report(self, exc: BaseException, call: IncomingCall) -> tuple[int, ErrorBody] | None:
        """Report an exception of a call. Return the error for its client, None if cancelled."""
        raise NotImplementedError

    def _cancellation_error(self, call: IncomingCall) -> tuple[int, ErrorBody]:
        """Return the error for the client of a cancelled call."""
        raise NotImplementedError

    def run_sync(self, call: IncomingCall) -> object:
        """Answer a call of a plain method. In a thread."""
        return self._dispatcher.run_sync(call)

    def answered(self, call: IncomingCall, result: Message) -> None:
        """Queue the result of a call that a thread has answered. In that thread."""
        self._forget(call)
        del self._connection.handlers[call.slot]
        self._rules.result(call.slot, result)
        if self._is_awaited:
            self._connection.ownership.defer(self._all_answered.unpark_all)

    def may_answer(self, call: IncomingCall) -> bool:
        """Return True if a thread may send its answer. In any thread; final only with the lock."""
        is_early = call.deadline == _INFINITE or self._clock.current_time() < call.deadline
        return is_early and not call.cancelled

    def _forget(self, call: IncomingCall) -> None:
        self.running.discard(call)
        self._dispatcher.forget(call)

    def _finish(
        self, call: IncomingCall, result: Message | None, error: tuple[int, ErrorBody] | None
    ) -> None:
        """Queue the terminal frame of a call; without result and error, it was cancelled."""
        if result is None or error is not None:
            error = error or self._cancellation_error(call)
        connection = self._connection
        with connection.ownership.lock:
            self._forget(call)
            if connection.ended is None:
                del connection.handlers[call.slot]
                if call.stream is not None:
                    call.stream.finish(None)
                if error is None and result is not None:
                    self._rules.result(call.slot, result)
                elif error is not None:
                    if call.cancelled or self._clock.current_time() >= call.deadline:
                        self._rules.abandon(call.slot)
                    self._rules.error(call.slot, encode_error(*error))
        if self._is_awaited:
            self._all_answered.unpark_all()


async def _nothing() -> None:
    """Answer a call that was answered."""


def _is_awaitable(value: object) -> bool:
    """Return True if a result must be awaited, as `inspect.isawaitable`; faster if not."""
    if type(value) in _PLAIN:
        return False
    may_be = hasattr(type(value), "__await__") or isinstance(value, types.GeneratorType)
    return may_be and inspect.isawaitable(value)
