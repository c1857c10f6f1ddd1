"""Answers one connection's calls from a device tree: a task with its own cancel scope for each.

Every call gets exactly one terminal frame, and only after the driver's code for it has ended. A
call ends for one of four reasons: the driver returned or raised, its deadline passed, the client
cancelled it, or the session is over; what the driver raises, whatever it is, stays within its call.
When the connection ends, the calls are cancelled and waited for before `run` returns.

This file knows no client code and no addresses.
"""

from __future__ import annotations

import hmac
import inspect
import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NoReturn

import trio

from .. import _events as ev
from .._background import open_background
from .._connection import Connection
from .._faults import describe, without_traceback
from .._limits import DEFAULT_LIMITS, Limits
from .._messages import (
    NIL,
    ROOM,
    CallHead,
    ErrorBody,
    Hello,
    Kind,
    Node,
    cut,
    decode_value,
    encode_error,
    encode_value,
)
from .._nesting import Nesting, nesting
from .._roles import ServerProtocol
from .._signal import Signal
from .._streams import SlotStream
from .._transport import transport_for
from .._version import __version__
from ..errors import (
    ArgumentError,
    Code,
)
from ._ahead import Ahead
from ._bridge import Bridge, device_stream
from ._export import export, exports_of
from ._lanes import Lanes
from ._tree import DeviceTree, Target

__all__ = ["Exporter", "Session"]

_logger = logging.getLogger("jumpstarter.exporter")

AGENT: Final = f"jumpstarter/{__version__}"
_TRIO_CODES: Final[dict[type[BaseException], Code]] = {
    trio.TooSlowError: Code.TIMED_OUT,
    trio.BrokenResourceError: Code.UNAVAILABLE,
    trio.ClosedResourceError: Code.UNAVAILABLE,
}
_HOW_TO_CALL: Final = {
    Kind.UNARY: "a method; call it with call() or call_async()",
    Kind.GENERATOR: "a generator; use streamingcall() or streamingcall_async()",
    Kind.STREAM: "a raw stream; open it with stream(), open_stream() or stream_async()",
}
_SIGN_OF_LIFE: Final = 1.0  # seconds for a client to answer a PING when a deadline has passed
_ITEMS_PER_TURN: Final = 32  # items that a generator may send before other tasks have their turn


class _Service:
    """Target 0: the exporter itself."""

    def __init__(self, tree: DeviceTree) -> None:
        self._tree = tree

    @export
    async def report(self) -> list[Node]:
        return self._tree.nodes


class Exporter:
    """What all sessions of one exporter share.

    Args:
        tree: The drivers.
        lanes: Where their code runs.
        limits: What a client may ask for.
        token: A secret which clients must show in their HELLO; empty lets everybody in.
        send_tracebacks: Put the driver's traceback in errors. Off by default: it shows paths and
            source lines to whoever may call.
    """

    def __init__(
        self,
        tree: DeviceTree,
        lanes: Lanes,
        *,
        limits: Limits = DEFAULT_LIMITS,
        token: str = "",
        send_tracebacks: bool = False,
    ) -> None:
        service = Target(_Service(tree), exports_of(_Service), "the exporter's own service")
        self.targets = [service, *tree.targets]
        self.lanes = lanes
        self.limits = limits
        self.token = token
        self.send_tracebacks = send_tracebacks


class _Call:
    """One call being answered: the endpoint of its slot."""

    __slots__ = ("bridge", "changed", "head", "late", "scope", "slot", "stream")

    def __init__(self, slot: int, head: CallHead, connection: Connection) -> None:
        self.slot = slot
        self.head = head
        self.scope = trio.CancelScope()
        self.changed = Signal()
        self.stream = SlotStream(connection, slot) if head.kind is Kind.STREAM else None
        self.bridge = None if self.stream is None else Bridge(self.stream)
        self.late = False  # its deadline has passed
        if head.timeout_ms and head.kind is Kind.UNARY:
            self.scope.deadline = trio.current_time() + head.timeout_ms / 1000

    def received(self, event: ev.SlotEvent) -> None:
        match event:
            case ev.DataReceived():
                assert self.stream is not None
                self.stream.put(event)
            case ev.CreditReceived():
                self.drained()
            case ev.CancelReceived(code=Code.CLOSE) if self.bridge is not None:
                self.bridge.client_closed()
            case _:
                self.scope.cancel(reason="the client cancelled the call")

    def drained(self) -> None:
        self.changed.set()
        if self.stream is not None:
            self.stream.wake_sender()

    def lost(self, reason: Exception) -> None:
        self.scope.cancel(reason=f"connection lost: {reason}")
        self.changed.set()
        if self.stream is not None:
            self.stream.finish(reason)


class Session:
    """One connection's calls, from HELLO to the last of them."""

    def __init__(self, exporter: Exporter, stream: trio.abc.Stream, name: str) -> None:
        self._exporter = exporter
        self._rules = ServerProtocol(exporter.limits)
        self._connection = Connection(transport_for(stream), self._rules, self, name)
        self._calls: trio.Nursery | None = None
        self._running: set[_Call] = set()
        self._all_answered = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Answer calls until the connection ends. Raises nothing but Cancelled.

        When it returns, all driver code of this session has ended.
        """
        async with trio.open_nursery() as calls:
            self._calls = calls
            await self._connection.run()

    async def drain(self, grace: float, text: str) -> None:
        """Take no more calls, let those that run finish, and end the connection.

        A checkpoint. Cancelling it goes on with the next step at once.

        Args:
            grace: Seconds for calls to end and answers to leave; what still runs then is cancelled.
            text: Told to the client.
        """
        if self._rules.peer is None or self._rules.failure is not None:
            self._connection.end(ConnectionError(text))
            return
        self._rules.goaway(Code.OK, int(min(grace, 4e6) * 1000), text)
        self._connection.flush()
        try:
            with trio.move_on_after(grace):
                await self._connection.acked.wait()
                await self._answered()
                await self._connection.written()
        finally:
            for call in self._running:
                call.scope.cancel(reason="the exporter is shutting down")
            with trio.CancelScope(shield=True):
                await self._answered()
                await self._connection.say_last_words()
            self._connection.end(ConnectionError("the exporter has shut down"))

    async def _answered(self) -> None:
        while self._running and self._connection.ended is None:
            await self._all_answered.park()

    # ----------------------------------------------------------------- for the connection

    def greeted(self, hello: Hello) -> None:
        """Admit a client, or not."""
        expected = self._exporter.token
        if expected and not hmac.compare_digest(hello.token.encode(), expected.encode()):
            _logger.warning("%s was not admitted: no valid token", self._connection.name)
            self._rules.refuse(Code.UNAUTHENTICATED, "not admitted")
        else:
            self._rules.admit(Hello.of(self._exporter.limits, agent=AGENT))

    def called(self, event: ev.CallReceived) -> None:
        """Begin to answer a call."""
        assert self._calls is not None
        call = _Call(event.slot, event.head, self._connection)
        self._connection.endpoints[event.slot] = call
        self._running.add(call)
        self._calls.start_soon(self._answer, call, event.body)

    def freed(self) -> None:
        """The connection has ended: nothing is left to wait for."""
        self._all_answered.unpark_all()

    # ------------------------------------------------------------------------- one call

    async def _answer(self, call: _Call, body: bytes) -> None:
        nesting.set(Nesting.NESTED if call.head.nested else Nesting.CALLED)
        result: bytearray | None = None
        error: tuple[int, ErrorBody] | None = None
        try:
            with call.scope:
                result = await self._perform(call, body)
        except BaseException as exc:  # noqa: BLE001 - SystemExit too stays within its call
            failure = _without_cancelled(exc)
            if failure is not None:
                error = self._describe(call, failure)
        if result is None and error is None:
            error = self._cut_short(call)
        self._finish(call, result, error)
        # A Cancelled goes on if it is of the session's making, and not if it is of the driver's.
        await trio.lowlevel.checkpoint_if_cancelled()

    def _finish(
        self, call: _Call, result: bytearray | None, error: tuple[int, ErrorBody] | None
    ) -> None:
        self._running.discard(call)
        if self._connection.ended is None:
            del self._connection.endpoints[call.slot]
            if call.stream is not None:
                call.stream.finish(None)
            if error is None:
                assert result is not None
                self._rules.result(call.slot, result)
            else:
                if call.scope.cancel_called:
                    self._rules.abandon(call.slot)
                self._rules.error(call.slot, encode_error(*error))
            self._connection.flush()
        if self._all_answered:
            self._all_answered.unpark_all()

    def _cut_short(self, call: _Call) -> tuple[int, ErrorBody]:
        if call.late or trio.current_time() >= call.scope.deadline:
            seconds = call.head.timeout_ms / 1000
            text = f"its deadline passed, {seconds:g} s after the exporter had received it"
            return Code.DEADLINE_EXCEEDED, ErrorBody("", text)
        return Code.CANCELLED, ErrorBody("", "the call was cancelled")

    def _describe(self, call: _Call, exc: BaseException) -> tuple[int, ErrorBody]:
        if isinstance(exc, _Refusal):
            return exc.code, ErrorBody("", str(exc))
        level = logging.INFO if isinstance(exc, Exception) else logging.ERROR
        traceback = self._exporter.send_tracebacks or _logger.isEnabledFor(level)
        code, error = describe(exc, traceback=traceback, codes=_TRIO_CODES)
        # As it was described, since to format it again would run the driver's own code again.
        what = cut(error.traceback or error.message, 10_000)
        _logger.log(level, "%s raised %s: %s", self._title(call.head), error.type, what)
        if not self._exporter.send_tracebacks:
            error = without_traceback(error)
        return code, error

    def _title(self, head: CallHead) -> str:
        targets = self._exporter.targets
        title = targets[head.target].title if head.target < len(targets) else "no driver"
        return f"{cut(head.method, 100)!r} of {title}"

    async def _perform(self, call: _Call, body: bytes) -> bytearray:
        head = call.head
        method = self._find(head)
        args, kwargs = self._arguments(head, body)
        await trio.lowlevel.checkpoint_if_cancelled()  # a CANCEL came with the CALL: do not begin
        try:
            return await self._run(call, method, args, kwargs)
        except TypeError:
            _check_fit(method, args, kwargs)
            raise

    async def _run(
        self, call: _Call, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> bytearray:
        head = call.head
        match head.kind:
            case Kind.UNARY:
                value = await self._exporter.lanes.call(method, args, kwargs)
                return self._encode(value, "result")
            case Kind.GENERATOR:
                answer = self._generate
            case Kind.STREAM:
                answer = self._stream
        if not head.timeout_ms:
            return await answer(call, method, args, kwargs)
        async with open_background() as nursery:
            nursery.start_soon(self._watch_deadline, call)
            return await answer(call, method, args, kwargs)

    def _find(self, head: CallHead) -> Callable[..., Any]:
        targets = self._exporter.targets
        if head.target >= len(targets):
            text = f"there is no driver at address {head.target}; the tree has {len(targets) - 1}"
            _refuse(Code.UNIMPLEMENTED, text)
        target = targets[head.target]
        exported = target.exports.get(head.method)
        if exported is None:
            names = ", ".join(target.exports) or "nothing"
            text = f"{target.title} exports no such method; it exports: {names}"
            _refuse(Code.UNIMPLEMENTED, text)
        if exported.kind is not head.kind:
            _refuse(Code.UNIMPLEMENTED, f"it is {_HOW_TO_CALL[exported.kind]}")
        return exported.bind(target.instance)

    def _arguments(self, head: CallHead, body: bytes) -> tuple[list[Any], dict[str, Any]]:
        try:
            args = decode_value(body, self._exporter.limits)
        except ArgumentError as exc:
            _refuse(Code.INVALID_ARGUMENT, f"its arguments cannot be read: {exc}")
        kwargs = args.pop() if isinstance(args, list) and args and head.keywords else {}
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            _refuse(Code.INVALID_ARGUMENT, "its arguments are no array")
        return args, kwargs

    def _encode(self, value: object, what: str) -> bytearray:
        try:
            buffer = encode_value(value)
            self._rules.check_size(buffer)
        except ArgumentError as exc:
            _refuse(Code.INTERNAL, f"its {what} cannot be sent: {exc}")
        return buffer

    async def _watch_deadline(self, call: _Call) -> None:
        """End a generator or stream whose client has fallen silent by the time of its deadline.

        Unlike a method, it may outlive the scope in which it was opened, so its deadline is final
        only if the client is not there to say otherwise: a living one would have sent CANCEL
        itself.
        """
        await trio.sleep(call.head.timeout_ms / 1000)
        asked = trio.current_time()
        self._rules.ping(b"deadline")
        self._connection.flush()
        await trio.sleep(_SIGN_OF_LIFE)
        if self._connection.last_read < asked:
            call.late = True
            call.scope.cancel(reason="deadline passed, and the client is silent")

    # ---------------------------------------------------------------------- generators

    async def _generate(
        self, call: _Call, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> bytearray:
        sent = 0

        async def send(item: object) -> None:
            nonlocal sent
            await self._send_item(call, self._encode(item, "item"))
            sent += 1
            if sent % _ITEMS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()

        def room() -> int:
            return 0 if self._connection.ended is not None else self._rules.sendable(call.slot)

        def pack(item: object) -> tuple[bytearray, int]:
            buffer = self._encode(item, "item")
            return buffer, self._rules.cost(buffer)

        def put(buffers: deque[bytearray]) -> None:
            if self._connection.ended is not None:
                buffers.clear()
            while buffers:
                self._rules.item(call.slot, buffers.popleft())
            self._connection.flush_soon()

        ahead = Ahead(room, pack, put)
        value = await self._exporter.lanes.iterate(method, args, kwargs, send, ahead)
        return self._encode(value, "return value")

    async def _send_item(self, call: _Call, buffer: bytearray) -> None:
        while not self._rules.sendable(call.slot):
            await self._change(call)
        self._rules.item(call.slot, buffer)
        self._connection.flush_soon()
        while self._rules.outbox.has_lane(call.slot):
            await self._change(call)

    async def _change(self, call: _Call) -> None:
        """Wait for credit, or for what was sent to leave: never past the end of the connection.

        The generator may have shielded itself from the cancellation that comes with that.
        """
        await call.changed.wait()
        if self._connection.ended is not None:
            raise trio.BrokenResourceError("the client is gone")

    # ------------------------------------------------------------------------- streams

    async def _stream(
        self, call: _Call, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> bytearray:
        assert call.bridge is not None
        manager = method(*args, **kwargs)
        if not isinstance(manager, AbstractAsyncContextManager):
            if inspect.iscoroutine(manager):
                manager.close()
            text = "an exportstream method is an asynccontextmanager"
            _refuse(Code.INTERNAL, f"{text}; this one gave {manager!r:.100}")
        async with manager as stream:
            device = device_stream(stream)
            self._rules.accept(call.slot, encode_value(None))
            self._connection.flush()
            await call.bridge.run(device)
        return bytearray(ROOM + NIL)


class _Refusal(Exception):
    """The session itself answers a call with an error."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def _refuse(code: Code, text: str) -> NoReturn:
    raise _Refusal(code, text)


def _check_fit(method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> None:
    """Tell arguments that do not fit the method from a TypeError of the driver's own."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as exc:
        _refuse(Code.INVALID_ARGUMENT, f"its arguments do not fit: {exc}; it takes {signature}")


def _without_cancelled(exc: BaseException) -> BaseException | None:
    """Give what a driver has raised beside a cancellation, which is nobody's failure."""
    if isinstance(exc, trio.Cancelled):
        return None
    if isinstance(exc, BaseExceptionGroup):
        try:
            return exc.split(trio.Cancelled)[1]
        except BaseException:  # noqa: BLE001 - a group of the driver's own making, or too deep a one
            return exc
    return exc
