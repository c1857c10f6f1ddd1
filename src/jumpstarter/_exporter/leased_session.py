"""Sessions of an exporter that runs code before its first client can call a driver.

They are classes of their own, so that the sessions of other exporters pay nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from .._io.connection import Connection
from .._protocol import events as ev
from .._protocol.frames import Hello
from .._protocol.large_message import Message
from .._protocol.server import ServerProtocol
from ..errors import Code
from .call_log import WatchedSession, is_watched
from .context import ServerContext
from .dispatch import Dispatcher
from .error_reporter import reject
from .incoming_call import IncomingCall
from .lease import Lease, Leases
from .routes import ExecutionMode
from .session import Session, SessionState

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["open_leased_session"]


class _LeasedDispatcher(Dispatcher):
    """A dispatcher whose calls wait until the lease of their connection has begun.

    Attributes:
        lease: The lease, unless it is held.
    """

    __slots__ = ("lease",)

    def __init__(
        self, exporter: ServerContext, connection: Connection, rules: ServerProtocol
    ) -> None:
        super().__init__(exporter, connection, rules)
        self.lease: Lease | None = None

    def execution_mode(self, event: ev.CallReceived) -> ExecutionMode:
        if self.lease is not None:
            return ExecutionMode.OWN_TASK  # since it waits
        return super().execution_mode(event)

    async def run_async(self, call: IncomingCall) -> Awaitable[Message]:
        if (lease := self.lease) is not None:
            if refusal := await lease.decided():
                reject(Code.REFUSED, refusal)
            self.lease = None
        return await super().run_async(call)


class _LeasedSession(Session):
    """A session that takes part in a lease from its client's admission to its own end."""

    def __init__(self, leases: Leases, exporter: ServerContext, *args: Any, **kwargs: Any) -> None:
        super().__init__(exporter, *args, **kwargs)
        self._leases = leases
        self._lease: Lease | None = None
        self._waiting = _LeasedDispatcher(exporter, self._connection, self._rules)
        self._dispatcher = self._waiting

    def on_hello(self, hello: Hello) -> None:
        """See `Session`."""
        super().on_hello(hello)
        if self._state is SessionState.ADMITTED:
            lease = self._leases.arrive(str(self._context.caller))
            self._lease = lease
            self._waiting.lease = None if lease.is_held else lease

    async def run(self) -> None:
        """See `Session`."""
        try:
            await super().run()
        finally:
            if self._lease is not None:
                self._lease.depart()


class _WatchedLeasedSession(_LeasedSession, WatchedSession):
    """The same, and its calls are watched."""


def open_leased_session(
    leases: Leases, exporter: ServerContext, *args: Any, **kwargs: Any
) -> Session:
    """Make a session that takes part in leases; see `open_session`."""
    kind = _WatchedLeasedSession if is_watched(exporter) else _LeasedSession
    return kind(leases, exporter, *args, **kwargs)
