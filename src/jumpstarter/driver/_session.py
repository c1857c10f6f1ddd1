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
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final

import trio

from .. import _events as ev
from .._background import open_background
from .._connection import Connection
from .._journal import Journal
from .._messages import (
    NIL,
    ROOM,
    CallHead,
    ErrorBody,
    Hello,
    Kind,
    decode_value,
    encode_error,
    encode_value,
)
from .._nesting import Nesting, nesting
from .._roles import ServerProtocol
from .._signal import Waiters
from .._text import named, quoted
from .._transport import transport_for
from .._version import __version__
from ..errors import ArgumentError, Code, HandshakeError
from ._ahead import Ahead
from ._bridge import Bridge, device_stream
from ._call import Call
from ._export import Exported
from ._exporter import Exporter
from ._failures import Failures, check_fit, refuse
from ._resources import Loan, calling

__all__ = ["Session"]

_logger = logging.getLogger("jumpstarter.exporter")

AGENT: Final = f"jumpstarter/{__version__}"
_HOW_TO_CALL: Final = {
    Kind.UNARY: "a method; call it with call() or call_async()",
    Kind.GENERATOR: "a generator; use streamingcall() or streamingcall_async()",
    Kind.STREAM: "a raw stream; open it with stream(), open_stream() or stream_async()",
}
_CALL_TASK: Final = f"{__name__}.Session._answer"  # as Trio would put it together for each call
_LARGE: Final = 64 * 1024  # bytes of arguments that may take a millisecond to decode
_FEW: Final = 1024  # values in a call's arguments that count for nothing: one may save the device
_TO_END: Final = 1.0  # seconds for a cancelled call to end before the log says that it has not
_AHEAD: Final = 64 * 1024  # bytes that a plain generator makes before it looks if they may leave
_ITEMS_PER_TURN: Final = 32  # items that a generator may send before other tasks have their turn


class Session:
    """One connection's calls, from HELLO to the last of them.

    Args:
        exporter: Whose drivers are called.
        stream: To the client.
        name: What the client is called in the log.
        welcome: False for a client who will not be admitted, whatever it shows.
        subject: Gives the name in the certificate that the client has shown, or nothing.
    """

    def __init__(
        self,
        exporter: Exporter,
        stream: trio.abc.Stream,
        name: str,
        *,
        welcome: bool = True,
        subject: Callable[[], str] = str,
    ) -> None:
        self._exporter = exporter
        self._welcome = welcome
        self._subject = subject
        self._admitted = False
        journal = Journal(beyond=exporter.failures)
        self._failures = Failures(journal, send_tracebacks=exporter.send_tracebacks)
        self._values = 0  # in the arguments of calls under way, of large ones
        self._rules = ServerProtocol(exporter.limits)
        self._connection = Connection(
            transport_for(stream),
            self._rules,
            self,
            name,
            journal=exporter.journal,
            turnstile=exporter.turnstile,
        )
        self._lanes = exporter.lanes.for_client(self._connection)
        self._calls: trio.Nursery | None = None
        self._running: set[Call] = set()
        self._all_answered = Waiters()

    async def run(self) -> None:
        """Answer calls until the connection ends. Raises nothing but Cancelled.

        When it returns, all driver code of this session has ended.
        """
        self._exporter.door.arrive(self)
        try:
            async with trio.open_nursery() as calls:
                self._calls = calls
                await self._connection.run()
        finally:
            self._exporter.door.leave(self)
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        exporter, ended = self._exporter, self._connection.ended
        if self._admitted:
            text, name = "%s has left: %s", self._connection.name
            exporter.visits.log(_logger, logging.INFO, text, name, ended)
        elif self._rules.failure is None:  # else it was told already
            exporter.journal.log(_logger, logging.INFO, "no session came about: %s", ended)
        self._failures.journal.close(_logger, self._connection.name)

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
                with trio.move_on_after(_TO_END):
                    await self._answered()
                for call in self._running:
                    text = "%s goes on; the exporter ends when it has returned, or by SIGKILL"
                    _logger.warning(text, self._title(call.head))
                await self._answered()
                await self._connection.say_last_words()
            self._connection.end(ConnectionError("the exporter has shut down"))

    async def _answered(self) -> None:
        while self._running and self._connection.ended is None:
            await self._all_answered.park()

    # ----------------------------------------------------------------- for the connection

    def greeted(self, hello: Hello) -> None:
        """Admit a client, or not."""
        if self._connection.ended is not None:  # it gave way, or hung up, as this was read
            return
        exporter = self._exporter
        expected = exporter.token
        code, told = Code.UNAUTHENTICATED, "not admitted"  # and nothing of the why
        if not self._welcome:
            why = "its user may not; --allow-user, or users=, lets it"
        elif expected and not hmac.compare_digest(hello.token.encode(), expected.encode()):
            why = "no valid token"
        elif not exporter.door.admit(self):
            code = Code.RESOURCE_EXHAUSTED
            told = why = f"{exporter.limits.max_connections} clients are connected already"
        else:
            self._rules.admit(Hello.of(exporter.limits, agent=AGENT))
            self._admitted = True
            text, name = "%s has connected: %s", self._connection.name
            exporter.visits.log(_logger, logging.INFO, text, name, self._credentials(hello))
            return
        text, name = "%s was not admitted: %s", self._connection.name
        exporter.refusals.log(_logger, logging.WARNING, text, name, why)
        exporter.door.refuse(self)
        self._rules.refuse(code, told)

    def _credentials(self, hello: Hello) -> str:
        subject = self._subject()
        return named(hello.agent or "?") + (f", certificate {quoted(subject)}" if subject else "")

    def give_way(self) -> None:
        """Hang up before anything was said: the next connection needs the place."""
        text = f"{self._connection.name} had not said HELLO, and gave way to others"
        self._connection.end(HandshakeError(text))

    def called(self, event: ev.CallReceived) -> None:
        """Begin to answer a call."""
        assert self._calls is not None
        call = Call(event, self._connection)
        self._connection.endpoints[event.slot] = call
        self._running.add(call)
        self._calls.start_soon(self._answer, call, name=_CALL_TASK)

    def freed(self) -> None:
        """The connection has ended: nothing is left to wait for."""
        self._all_answered.unpark_all()

    # ------------------------------------------------------------------------- one call

    async def _answer(self, call: Call) -> None:
        nesting.set(Nesting.NESTED if call.head.nested else Nesting.CALLED)
        calling.set(self)
        result: bytearray | None = None
        error: tuple[int, ErrorBody] | None = None
        try:
            with call.scope:
                result = await self._perform(call)
        except BaseException as exc:  # noqa: BLE001 - SystemExit too stays within its call
            # No name here may keep it: its traceback has this frame, and with it the arguments.
            error = self._failures.of(exc, self._title(call.head))
        if result is None and error is None:
            error = self._cut_short(call)
        self._finish(call, result, error)
        # A Cancelled goes on if it is of the session's making, and not if it is of the driver's.
        await trio.lowlevel.checkpoint_if_cancelled()

    def _finish(
        self, call: Call, result: bytearray | None, error: tuple[int, ErrorBody] | None
    ) -> None:
        self._running.discard(call)
        self._values -= call.values
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

    def _cut_short(self, call: Call) -> tuple[int, ErrorBody]:
        if call.late or trio.current_time() >= call.scope.deadline:
            seconds = call.head.timeout_ms / 1000
            text = f"its deadline passed, {seconds:g} s after the exporter had received it"
            return Code.DEADLINE_EXCEEDED, ErrorBody("", text)
        return Code.CANCELLED, ErrorBody("", "the call was cancelled")

    def _title(self, head: CallHead) -> str:
        targets = self._exporter.targets
        title = targets[head.target].title if head.target < len(targets) else "no driver"
        return f"{quoted(head.method, 100)} of {title}"

    async def _perform(self, call: Call) -> bytearray:
        head = call.head
        exported, method = self._find(head)
        if self._connection.full:  # do not begin what the client would not take the answer of
            await self._connection.room()
        body = call.take_body()
        if len(body) > _LARGE:  # decoding holds the loop: one at a time, and others in between
            async with self._exporter.turnstile:
                args, kwargs = self._arguments(call, exported, body)
        else:
            args, kwargs = self._arguments(call, exported, body)
        del body
        await trio.lowlevel.checkpoint_if_cancelled()  # a CANCEL came with the CALL: do not begin
        try:
            return await self._run(call, method, args, kwargs)
        except TypeError:
            check_fit(method, args, kwargs)
            raise

    def _run(
        self, call: Call, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Awaitable[bytearray]:
        """Begin to run it: no coroutine of its own, as each costs while a stream is at rest."""
        match call.head.kind:
            case Kind.UNARY:
                return self._call(method, args, kwargs)
            case Kind.GENERATOR:
                answer = self._generate(call, method, args, kwargs)
            case Kind.STREAM:
                answer = self._stream(call, method, args, kwargs)
        return self._watch(call, answer) if call.head.timeout_ms else answer

    async def _call(
        self, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> bytearray:
        value = await self._lanes.call(method, args, kwargs)
        return await self._encode_in_turn(value)

    async def _watch(self, call: Call, answer: Coroutine[Any, Any, bytearray]) -> bytearray:
        async with open_background() as nursery:
            nursery.start_soon(self._watch_deadline, call)
            return await answer

    def _find(self, head: CallHead) -> tuple[Exported, Callable[..., Any]]:
        targets = self._exporter.targets
        if head.target >= len(targets):
            text = f"there is no driver at address {head.target}; the tree has {len(targets) - 1}"
            refuse(Code.UNIMPLEMENTED, text)
        target = targets[head.target]
        exported = target.exports.get(head.method)
        if exported is None:
            names = ", ".join(target.exports) or "nothing"
            text = f"{target.title} exports no such method; it exports: {names}"
            refuse(Code.UNIMPLEMENTED, text)
        if exported.kind is not head.kind:
            refuse(Code.UNIMPLEMENTED, f"it is {_HOW_TO_CALL[exported.kind]}")
        return exported, exported.bind(target.instance)

    def _arguments(
        self, call: Call, exported: Exported, body: bytes
    ) -> tuple[list[Any], dict[str, Any]]:
        try:
            args = decode_value(body, self._exporter.limits, partial(self._admit_values, call))
        except ArgumentError as exc:
            refuse(Code.INVALID_ARGUMENT, f"its arguments cannot be read: {exc}")
        kwargs = args.pop() if isinstance(args, list) and args and call.head.keywords else {}
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            refuse(Code.INVALID_ARGUMENT, "its arguments are no array")
        if exported.fit is not None:
            try:
                exported.fit(args, kwargs)
            except ArgumentError as exc:
                refuse(Code.INVALID_ARGUMENT, f"its {exc}")
        return args, kwargs

    def _admit_values(self, call: Call, count: int) -> None:
        """Let no client hold more than two of the largest messages decoded, or many small ones."""
        most = 2 * self._exporter.limits.max_items
        if count > _FEW:
            if self._values + count > most:
                text = f"it was discarded: over {most} values in the arguments of calls under way"
                refuse(Code.RESOURCE_EXHAUSTED, text)
            call.values = count
            self._values += count

    async def _encode_in_turn(self, value: object) -> bytearray:
        """Encode a result once there is room for it: until then only the driver's value is held."""
        if self._connection.full:
            await self._connection.room()
        buffer = self._encode(value, "result")
        if len(buffer) > self._exporter.limits.max_frame:
            await self._connection.large_room()
        return buffer

    def _encode(self, value: object, what: str) -> bytearray:
        try:
            buffer = encode_value(value)
            self._rules.check_size(buffer)
        except ArgumentError as exc:
            refuse(Code.INTERNAL, f"its {what} cannot be sent: {exc}")
        return buffer

    async def _watch_deadline(self, call: Call) -> None:
        """End a generator or stream whose client has fallen silent by the time of its deadline.

        Unlike a method, it may outlive the scope in which it was opened, so its deadline is final
        only if the client is not there to say otherwise: a living one would have sent CANCEL
        itself.
        """
        await trio.sleep(call.head.timeout_ms / 1000)
        if not await self._connection.is_alive():
            call.late = True
            call.scope.cancel(reason="deadline passed, and the client is silent")

    # ---------------------------------------------------------------------- generators

    async def _generate(
        self, call: Call, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> bytearray:
        sent = 0

        async def send(item: object) -> None:
            nonlocal sent
            await self._send_item(call, self._encode(item, "item"))
            sent += 1
            if sent % _ITEMS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()

        def room() -> int:
            if self._connection.ended is not None or self._connection.full:
                return 0
            return min(_AHEAD, self._rules.sendable(call.slot))

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
        value = await self._lanes.iterate(method, args, kwargs, send, ahead)
        return self._encode(value, "return value")

    async def _send_item(self, call: Call, buffer: bytearray) -> None:
        while not self._rules.sendable(call.slot):
            await self._change(call)
        if self._connection.full:
            await self._connection.room()
            self._check_client()
        self._rules.item(call.slot, buffer)
        self._connection.flush_soon()
        while self._rules.outbox.has_lane(call.slot):
            await self._change(call)

    async def _change(self, call: Call) -> None:
        """Wait for credit, or for what was sent to leave: never past the end of the connection.

        The generator may have shielded itself from the cancellation that comes with that.
        """
        await call.changed.wait()
        self._check_client()

    def _check_client(self) -> None:
        if self._connection.ended is not None:
            raise trio.BrokenResourceError("the client is gone")

    # ------------------------------------------------------------------------- streams

    async def _stream(
        self, call: Call, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> bytearray:
        assert isinstance(call.bridge, Bridge)
        manager = method(*args, **kwargs)
        if not isinstance(manager, AbstractAsyncContextManager):
            if inspect.iscoroutine(manager):
                manager.close()
            text = "an exportstream method is an asynccontextmanager"
            refuse(Code.INTERNAL, f"{text}; this one gave {manager!r:.100}")
        async with manager as stream:
            if isinstance(stream, Loan):
                await self._lend(call, stream)
            else:
                device = device_stream(stream)
                self._accept(call, None)
                await call.bridge.run(device)
        return bytearray(ROOM + NIL)

    async def _lend(self, call: Call, loan: Loan) -> None:
        """Let a driver have the client's stream itself, until the client takes it back."""
        assert call.stream is not None
        loan.stream = call.stream
        if isinstance(call.bridge, Bridge) and call.bridge.closed:
            loan.client_closed()
        call.bridge = loan
        self._accept(call, str(loan.handle))
        await loan.run()

    def _accept(self, call: Call, metadata: object) -> None:
        self._rules.accept(call.slot, encode_value(metadata))
        self._connection.flush()
