"""Answer one call: decode its arguments, run the driver's code, and encode its result.

All of it happens in the task or thread that answers the call, so that a fault in arguments or
result fails this call and no other. A generator's items and a raw stream's bytes are sent from
here. The session reports how a call ended; the executor decides where code runs.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final

import trio

from .._protocol.codec import encode_value
from .._protocol.frames import HEADER_SPACE, NIL, CallHead, ErrorBody, Kind
from .._protocol.large_message import LargeMessage, Message
from .._util.background import open_background
from .._util.text import sanitize_text
from ..driver._loan import Loan
from ..errors import Code
from .answering import LARGE, BaseDispatcher
from .error_reporter import ErrorReporter, blame_arguments, reject
from .incoming_call import IncomingCall
from .item_batcher import ItemBatcher
from .stream_forwarder import StreamForwarder, device_stream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Dispatcher"]

_AHEAD: Final = 64 * 1024  # bytes that a plain generator makes before it checks the credit again
_ITEMS_PER_TURN: Final = 32  # items that a generator may send before other tasks have their turn


class Dispatcher(BaseDispatcher):
    """Answer the calls of one connection.

    Args:
        exporter: The exporter whose drivers are called.
        connection: The connection.
        rules: The connection's protocol state.

    Attributes:
        executor: Runs the drivers' code.
    """

    __slots__ = ()

    def title(self, head: CallHead) -> str:
        """Name the method that a call asks for, for the log."""
        targets = self._exporter.targets
        title = targets[head.target].title if head.target < len(targets) else "no driver"
        return f"{sanitize_text(head.method, 100)} of {title}"

    def report(
        self, reporter: ErrorReporter, exc: BaseException, call: IncomingCall
    ) -> tuple[int, ErrorBody] | None:
        """Report an exception of a call, with what code in the wrong event loop needs to know."""
        title, route = self.title(call.head), self._routes.find(call.head)
        if route is None:  # so none of the driver's code has run
            return reporter.report(exc, title)
        if isinstance(exc, TypeError) and call.arguments is not None:
            exc = blame_arguments(exc, route.method or route.bind(), *call.arguments)

        def advice() -> str:
            return self._exporter.libraries.advice(route.target, route.exported, title)

        return reporter.report(exc, title, advice)

    def drain_of(self, head: CallHead) -> float | None:
        """Return the seconds that a call may continue in a drain; None if its client decides."""
        route = self._routes.find(head)
        if route is None or route.exported.kind is Kind.UNARY:
            return math.inf
        return route.exported.drain

    # ------------------------------------------------------------------------- methods

    async def run_async(self, call: IncomingCall) -> Awaitable[Message]:
        """Prepare to run the driver's code for a call in this task.

        Returns:
            Runs it, and returns the encoded result. Separate, since a generator or stream may be
            idle for hours, and the frame of this function takes memory.

        Raises:
            CallRejected: There is no such method, or the arguments cannot be used.
        """
        exported, method = self._find(call.head)
        if self._connection.writer.write_paused:  # not while the client does not read
            await self._connection.writer.wait_writable()
        body = call.take_body()
        if len(body) > LARGE:  # decoding blocks the loop: one at a time, with pauses
            async with self._exporter.dispatch_lock:
                args, kwargs = self._arguments(call, exported, body)
        else:
            args, kwargs = self._arguments(call, exported, body)
        del body
        await trio.lowlevel.checkpoint_if_cancelled()  # a CANCEL came with the CALL: do not begin
        if exported.kind is not Kind.UNARY:
            answer = self._generate if exported.kind is Kind.GENERATOR else self._stream
            if call.head.timeout_ms:
                return self._until_deadline(call, partial(answer, call, method, args, kwargs))
            return answer(call, method, args, kwargs)
        work = self.executor.call(method, args, kwargs)
        if exported.is_async:  # otherwise a thread will call it
            call.forget_arguments(exported)
        return self.finish_later(work)

    async def finished(self, answer: Any) -> Message:
        """Await the answer of `run_sync`, if a decorator has hidden that the method is `async`."""
        return (
            answer
            if isinstance(answer, bytearray | LargeMessage)
            else await self.finish_later(answer)
        )

    async def finish_later(self, work: Awaitable[Any]) -> Message:
        """Await a result, and encode it when the connection can take it; until then keep it."""
        value = await work
        if self._connection.writer.write_paused:
            await self._connection.writer.wait_writable()
        buffer = self._encode(value, "result")
        if len(buffer) > self._exporter.limits.max_frame:
            await self._connection.writer.wait_mostly_writable()
        return buffer

    # ---------------------------------------------------------------------- generators

    async def _generate(
        self,
        call: IncomingCall,
        method: Callable[..., Any],
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> Message:
        sent = 0

        async def send(item: object) -> None:
            nonlocal sent
            await self._send_item(call, self._encode(item, "item"))
            sent += 1
            if sent % _ITEMS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()

        def capacity() -> int:
            with self._connection.lock:
                if self._connection.ended is not None or self._connection.writer.write_paused:
                    return 0
                return min(_AHEAD, self._rules.sendable(call.slot))

        def pack(item: object) -> tuple[Message, int]:
            buffer = self._encode(item, "item")
            return buffer, self._rules.item_cost(buffer)

        def put(buffers: deque[Message]) -> None:
            with self._connection.lock:
                if self._connection.ended is not None:
                    buffers.clear()
                while buffers:
                    self._rules.item(call.slot, buffers.popleft())
                self._connection.writer.flush_soon()

        batcher = ItemBatcher(capacity, pack, put)
        value = await self.executor.iterate(method, args, kwargs, send, batcher)
        return self._encode(value, "return value")

    async def _send_item(self, call: IncomingCall, buffer: Message) -> None:
        connection, rules = self._connection, self._rules
        while not rules.sendable(call.slot):
            await self._change(call)
        if connection.writer.write_paused:
            await connection.writer.wait_writable()
            self._check_client()
        with connection.lock:
            rules.item(call.slot, buffer)
            connection.writer.flush_soon()
        while self._rules.send_queue.has_slot_queue(call.slot):
            await self._change(call)

    async def _change(self, call: IncomingCall) -> None:
        """Wait for credit, or until sent data has left, or for the end of the connection.

        The check is needed because the generator may have shielded itself from the cancellation
        that comes with the end.
        """
        await call.changed.wait()
        self._check_client()

    def _check_client(self) -> None:
        if self._connection.ended is not None:
            raise trio.BrokenResourceError("the client is gone")

    async def _until_deadline(
        self, call: IncomingCall, answer: Callable[[], Awaitable[Message]]
    ) -> Message:
        async with open_background() as nursery:
            nursery.start_soon(self._watch_deadline, call)
            work = answer()
            del answer  # with the arguments: a stream may be open for hours
            return await work

    async def _watch_deadline(self, call: IncomingCall) -> None:
        """End a generator or stream at its deadline, if its client no longer answers.

        A client that still answers would send CANCEL itself, or leaves the generator open on
        purpose: unlike a method, a generator may outlive the scope in which it was opened.
        """
        await trio.sleep(call.head.timeout_ms / 1000)
        if not await self._connection.keepalive.is_alive():
            call.late = True
            with self._connection.lock:
                call.cancel("deadline passed, and the client is silent")

    # ------------------------------------------------------------------------- streams

    # Not `async`: the arguments need not stay as long as the stream.
    def _stream(
        self,
        call: IncomingCall,
        method: Callable[..., Any],
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> Awaitable[Message]:
        manager = method(*args, **kwargs)
        if not isinstance(manager, AbstractAsyncContextManager):
            if inspect.iscoroutine(manager):
                manager.close()
            text = "an exportstream method is an asynccontextmanager"
            reject(Code.INTERNAL, f"{text}; this one gave {manager!r:.100}")
        return self._run_stream(call, manager)

    async def _run_stream(
        self, call: IncomingCall, manager: AbstractAsyncContextManager[Any]
    ) -> Message:
        assert isinstance(call.forwarder, StreamForwarder)
        async with manager as stream:
            if isinstance(stream, Loan):
                await self._lend(call, stream)
            else:
                device = device_stream(stream)
                self._accept(call, None)
                call.arguments = None  # they fit, and the stream may be open for hours
                await call.forwarder.run(device)
        return bytearray(HEADER_SPACE + NIL)

    async def _lend(self, call: IncomingCall, loan: Loan) -> None:
        """Lend the client's stream to a driver, until the client takes it back."""
        assert call.stream is not None
        loan.stream = call.stream
        with self._connection.lock:
            if isinstance(call.forwarder, StreamForwarder) and call.forwarder.closed:
                loan.client_closed()
            call.forwarder = loan
        self._accept(call, str(loan.handle))
        await loan.run()

    def _accept(self, call: IncomingCall, metadata: object) -> None:
        body = encode_value(metadata)
        with self._connection.lock:
            self._rules.accept(call.slot, body)
            self._connection.writer.flush()
