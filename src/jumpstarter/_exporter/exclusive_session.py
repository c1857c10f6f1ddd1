"""Sessions of an exporter in exclusive use: which calls they refuse, and how they are ended.

They are classes of their own, so that the sessions of other exporters pay nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from .._io.connection import Connection
from .._protocol import events as ev
from .._protocol.codec import truncate
from .._protocol.frames import CallHead, ErrorBody, Hello
from .._protocol.server import ServerProtocol
from .._util.background import open_background
from ..driver._caller import Caller
from ..driver._export import Exported
from ..errors import Code
from .call_log import WatchedSession, is_watched
from .context import ServerContext
from .dispatch import Dispatcher
from .error_reporter import reject
from .exclusive_subtrees import Subtrees
from .exclusive_use import Claim
from .incoming_call import IncomingCall
from .led_connection import LedConnection
from .routes import ExecutionMode
from .session import Session, SessionState

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["open_exclusive_session"]

_LAST_WORDS: Final = 1.0  # seconds for cancelled calls to end, and for the client to read why
_MAX_TEXT: Final = 500  # characters of the reason, which names clients


class _WatchedConnection(LedConnection):
    """A connection that says when it has ended, before its calls have."""

    def end(self, reason: Exception) -> None:
        """See `Connection`."""
        is_first = self.ended is None
        super().end(reason)
        if is_first and isinstance(self._owner, _ExclusiveSession):
            # This connection may be locked here, and the end of a session locks others of it.
            self._owner.may_call = False
            self.ownership.later(self._owner.on_end)


class _GuardedDispatcher(Dispatcher):
    """A dispatcher that refuses the methods which a client may not call.

    Attributes:
        may_call: Whether it holds something.
        targets: The targets whose methods it may call.
        use: Explains why not the others.
        ended: Why its session was ended; empty if it was not.
    """

    __slots__ = ("ended", "may_call", "targets", "use")

    def __init__(
        self,
        exporter: ServerContext,
        connection: Connection,
        rules: ServerProtocol,
        use: Subtrees,
    ) -> None:
        super().__init__(exporter, connection, rules)
        self.use = use
        self.may_call = False
        self.ended = ""
        self.targets = use.reach(None)

    def execution_mode(self, event: ev.CallReceived) -> ExecutionMode:
        """See `Dispatcher`. A refusal needs no thread, and the holder may use all of them."""
        if not self.may_call:
            return ExecutionMode.OWN_TASK
        return super().execution_mode(event)

    def _find(self, head: CallHead) -> tuple[Exported, Callable[..., Any]]:
        found = super()._find(head)
        if head.target not in self.targets and not found[0].read_only:
            if self.ended:  # since this call has arrived
                reject(Code.REFUSED, self.ended)
            self.use.refuse(head.target)
        return found


class _ExclusiveSession(Session):
    """A session of an exporter in exclusive use. It is a `Visitor`.

    Attributes:
        claim: Its claim, or the one that it has joined.
    """

    def __init__(self, use: Subtrees, exporter: ServerContext, *args: Any, **kwargs: Any) -> None:
        super().__init__(exporter, *args, **kwargs)
        self._use = use
        self._guard = _GuardedDispatcher(exporter, self._connection, self._rules, use)
        self._dispatcher = self._guard
        self._dismissal = ""  # why it was dismissed
        self._nursery: trio.Nursery | None = None
        self.claim: Claim | None = None

    _connection_class = _WatchedConnection
    _is_exclusive = True

    async def run(self) -> None:
        """See `Session`."""
        try:
            async with open_background() as self._nursery:
                await super().run()
        finally:
            self._use.leave(self._context)

    def on_hello(self, hello: Hello) -> None:
        """See `Session`."""
        super().on_hello(hello)
        if self._state is SessionState.ADMITTED:
            self._use.arrive(self._context, self)

    def on_end(self) -> None:
        """Note that the connection has ended; its calls end now. Without the lock."""
        self._use.lost(self)

    # ------------------------------------------------------------------------ for exclusive use

    @property
    def caller(self) -> Caller:
        """See `Visitor`."""
        assert self._context.caller is not None
        return self._context.caller

    @property
    def may_call(self) -> bool:
        """See `Visitor`."""
        return self._guard.may_call

    @may_call.setter
    def may_call(self, value: bool) -> None:
        self._guard.may_call = value
        self._guard.targets = self._use.reach(self)

    def running_calls(self) -> list[str]:
        """See `Visitor`."""
        # `list` copies a set in one step, with the interpreter's lock or the set's own: threads
        # change it meanwhile, and the thread of another connection, which asks, takes no lock here.
        return [self.title(call) for call in list(self.running) if call.head.target]

    def run_beside(self, function: Callable[[Claim], Awaitable[None]], claim: Claim) -> None:
        """See `Visitor`."""
        assert self._nursery is not None
        self._nursery.start_soon(function, claim)

    def dismiss(self, text: str) -> None:
        """See `Visitor`."""
        with self._connection.lock:  # a thread may be about to take the next call, or to end one
            self._guard.ended = self._guard.ended or truncate(text, _MAX_TEXT)
            self.may_call = False
            if self._dismissal or self._connection.ended is not None or self._nursery is None:
                return
            self._dismissal = text = truncate(text, _MAX_TEXT)
            self._rules.refusal = text
            if not self._rules.going_away:  # otherwise it drains, and the client knows
                self._rules.goaway(Code.OK, int(_LAST_WORDS * 1000), text)
                self._connection.writer.flush()
            for call in self.running:
                call.cancel(text)
        self._nursery.start_soon(self._disconnect, text)

    async def _disconnect(self, text: str) -> None:
        with trio.move_on_after(_LAST_WORDS):
            await self._answered()
            await self._connection.writer.flush_goaway()
        self._connection.end(ConnectionError(text))

    def _cancellation_error(self, call: IncomingCall) -> tuple[int, ErrorBody]:
        if self._dismissal:
            return Code.CANCELLED, ErrorBody("", self._dismissal)
        return super()._cancellation_error(call)


class _WatchedExclusiveSession(_ExclusiveSession, WatchedSession):
    """The same, and its calls are watched."""


def open_exclusive_session(
    use: Subtrees, exporter: ServerContext, *args: Any, **kwargs: Any
) -> Session:
    """Make a session that takes part in exclusive use; see `open_session`."""
    kind = _WatchedExclusiveSession if is_watched(exporter) else _ExclusiveSession
    return kind(use, exporter, *args, **kwargs)
