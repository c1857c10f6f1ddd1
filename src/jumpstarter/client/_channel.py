"""The calling side of one connection, for Trio code.

Each call, generator and raw stream has an `OutgoingCall` as the handler of its slot. It ends in one
of three ways: answered, refused (it certainly never started) or unknown (it was sent, and the
connection ended). Cancelling one tells the exporter, and waits, shielded, until the exporter says
that the driver's code has ended, for at most `cancel_grace` seconds. Nothing is ever sent twice.

A task of the loop that runs the connection makes a call with `call`. A thread makes it itself with
`leading.begin`, whatever else is open, and the loop adopts it (`go_on`, `cancel`) if the thread
may wait no longer. Each verb of the rules is used with the connection's lock, in one section with
the check that it may be used.

This module knows neither clients nor the device tree: targets are numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, Protocol

import trio

from .._io.connection import Connection
from .._io.handlers import StreamHandler
from .._io.transport import transport_for
from .._limits import DEFAULT_LIMITS, Limits
from .._protocol import events as ev
from .._protocol.client import ClientProtocol
from .._protocol.frames import Hello
from .._protocol.receive_buffer import Body
from .._util.wakeup import LazyEvent
from .._version import __version__
from ..errors import Code, HandshakeError
from ._call_sender import CallSender
from ._outgoing_call import OutgoingCall, Request

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Channel", "StreamWatcher"]

AGENT: Final = f"jumpstarter/{__version__}"


class StreamWatcher(Protocol):
    """Is shown the bytes of a raw stream, in the loop of the connection. It must not wait.

    It may be shown them soon after the code that received or sent them has gone on.
    """

    def received(self, data: bytes) -> None:
        """Take bytes that the driver has sent."""
        ...

    def sent(self, data: bytes) -> None:
        """Take bytes that this side has sent."""
        ...


class Channel(CallSender):
    """One connection to an exporter, as its client.

    Only for the Trio loop that runs it, except the methods documented for threads.
    Any number of tasks may call concurrently; those beyond the exporter's `max_calls` wait for a
    slot, in order.

    Attributes:
        limits: What this side accepts of the exporter.
        name: How errors and logs name the exporter.
        connection: The connection, for the streams on it.
        token: The token of the Trio loop that runs the connection.
        reopen: Opens another connection to the exporter, for the length of a block; None if this
            one was made of a stream.
        watch: Returns a watcher, or None, for a raw stream that is about to be opened; or None.
        session: The key of the session at an exporter in exclusive use, if there is one.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        name: str,
        *,
        limits: Limits = DEFAULT_LIMITS,
        token: str = "",
        own_name: str = "",
    ) -> None:
        hello = Hello.of(limits, agent=AGENT, token=token, name=own_name)
        rules = ClientProtocol(limits, hello)
        super().__init__(name, rules, Connection(transport_for(stream), rules, self, name))
        self._greeted = LazyEvent()
        self.reopen: Callable[[], AbstractAsyncContextManager[Channel]] | None = None
        self.watch: Callable[[Request], StreamWatcher | None] | None = None
        self.session: str | None = None

    # -------------------------------------------------------------------------------- life

    async def begin(self, nursery: trio.Nursery) -> None:
        """Run the connection in a nursery; return once both HELLOs were exchanged.

        A checkpoint. The task that runs the connection raises nothing.

        Raises:
            HandshakeError: The peer is not a jumpstarter exporter, refused us, or disconnected.
        """
        nursery.start_soon(self.connection.run)
        with self.connection.lock:
            self.connection.writer.flush()
        await self._greeted.wait()
        failure = self.connection.ended
        if isinstance(failure, HandshakeError):
            raise failure
        if failure is not None:
            raise HandshakeError(str(failure)) from failure

    async def aclose(self) -> None:
        """Cancel the calls under way, wait for their end within the grace, and disconnect.

        A checkpoint that is not cancelled. Later calls are refused.
        """
        with self.connection.lock:
            self._closing = True  # no thread starts a call after this
            handlers = list(self.connection.handlers.values())
        with trio.CancelScope(shield=True):
            if handlers:
                await self._cancel_all(handlers)
            self.connection.end(ConnectionError("the client was closed"))
            await self.connection.finished.wait()

    async def _cancel_all(self, handlers: list[StreamHandler]) -> None:
        async with trio.open_nursery() as nursery:
            for handler in handlers:
                if isinstance(handler, OutgoingCall):
                    nursery.start_soon(_cancel, handler)

    @property
    def ended(self) -> Exception | None:
        """Why the connection has ended; None while it has not."""
        return self.connection.ended

    @property
    def closed(self) -> bool:
        """True once this side has closed it, and sends nothing more."""
        return self._closing

    # ----------------------------------------------------------------- for the connection

    def on_hello(self, hello: Hello) -> None:
        """Let `begin` return: both HELLOs were exchanged."""
        del hello
        self.connection.ownership.defer(self._greeted.set)

    def on_call(self, event: ev.CallReceived) -> None:
        """Fail: the protocol's rules refuse a CALL from a server before it gets here."""
        raise AssertionError(event)

    def on_slot_free(self) -> None:
        """Wake the task that waits longest for a slot; all of them if the connection has ended."""
        if self.connection.slot_waiters:
            self._slots.freed()
        if self._rules.going_away or self.connection.ended is not None:
            self.connection.ownership.defer(self._greeted.set)

    # ------------------------------------------------------------------------------ calls

    async def go_on(self, call: OutgoingCall, decode: Callable[[Body], Any] | None) -> Any:
        """Wait for a call that a thread has made, and return its result."""
        call.adopt()
        return await self.finish(call, decode)

    async def cancel(self, call: OutgoingCall, exc: BaseException) -> None:
        """Cancel a call that a thread has made. See `OutgoingCall.cancel`."""
        call.adopt()
        await call.cancel(exc)

    # ------------------------------------------------------------------ for calls under way

    @trio.lowlevel.enable_ki_protection
    def ask_to_end(self, call: OutgoingCall, code: Code) -> bool:
        """Send CANCEL. Return False if no answer will come: it was not sent yet, or has ended.

        Ctrl-C is raised at the task's next checkpoint: between two steps here, it would leave the
        call in a slot that the rules have given away, or its CANCEL unsent.
        """
        with self.connection.lock:
            if self.connection.ended is not None or call.done:
                return False
            asked = self._rules.cancel(call.slot, code)
            if not asked:
                # The rules have removed the unsent CALL, so the slot is free now. The handler goes
                # first: the task that gets the slot next registers its own.
                del self.connection.handlers[call.slot]
                call.taken_back()
                self.on_slot_free()
            self.connection.writer.flush()
        return asked

    @trio.lowlevel.enable_ki_protection
    def consumed(self, call: OutgoingCall, cost: int) -> None:
        """Give credit back for items that were taken, if the call goes on."""
        with self.connection.lock:
            if not call.done:
                self.give_credit(call, cost)
                self.connection.writer.flush()

    def give_credit(self, call: OutgoingCall, cost: int) -> bool:
        """Queue credit for items that were taken, if it is due. With the lock."""
        return self._rules.consume(call.slot, cost)

    def ask_to_end_soon(self, call: OutgoingCall) -> None:
        """Schedule a CANCEL without waiting. In any thread; for finalizers."""

        def ask() -> None:
            if not call.done:
                self.ask_to_end(call, Code.CANCELLED)

        with suppress(trio.RunFinishedError):  # the loop is gone, and the connection with it
            self.token.run_sync_soon(ask)


async def _cancel(call: OutgoingCall) -> None:
    """Cancel a call, in a task of its own: Trio cannot look into a coroutine that was compiled."""
    await call.cancel()
