"""Accept connections and serve one driver tree to them."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from typing import Any, ClassVar, Final

import trio

from .._io.accept import accept_forever
from .._io.sockets import ListenerSet, peer_credentials
from .._io.tls import TlsStream
from .._io.transport import close_immediately
from .._protocol.frames import Kind
from .._util.background import open_background
from .._util.checks import check_seconds
from .._util.no_copies import ReduceEx, no_copies
from ..driver._caller import Caller, VerifiedIdentity
from ..driver._drain import DRAIN_GRACE
from .call_log import WatchedSession, open_session
from .context import ServerContext
from .exclusive_session import open_exclusive_session
from .exclusive_subtrees import Subtrees
from .lease import Leases
from .leased_session import open_leased_session
from .overdue import OverdueCalls
from .session import Session, caller_of
from .view import CallView, DriverView, SessionView, View

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Server"]

_logger = logging.getLogger("jumpstarter.exporter")

# Exceptions that end the whole server if they leave a session.
_LEAVES: Final = (trio.Cancelled, KeyboardInterrupt)


class Server:
    """A driver tree that is being served. `serve_async` makes it.

    Attributes:
        address: The address for clients, with the real port.
    """

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a server", "pass its `address` on, and connect() to that"
    )

    def __init__(
        self,
        exporter: ServerContext,
        listeners: ListenerSet,
        users: Collection[int] = (),
        leases: Sequence[Leases] = (),
        exclusive: Subtrees | None = None,
    ) -> None:
        self.address: str = str(listeners.address)
        self._exporter = exporter
        self._listeners = listeners
        self._users = {0, os.geteuid(), *users}
        self._sessions: set[Session] = set()
        self._overdue = OverdueCalls(self._sessions)
        self._draining = False
        self._leases = leases
        self._exclusive = exclusive
        self._open = open_session
        if exclusive is not None:
            self._open = partial(open_exclusive_session, exclusive)
        elif leases:
            self._open = partial(open_leased_session, leases[0])

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept clients until it is cancelled or drained. A checkpoint."""
        async with open_background() as background:
            background.start_soon(self._overdue.run)
            try:
                await self._accept(task_status)
            finally:
                self._overdue.stop()

    async def _accept(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as sessions, trio.open_nursery() as accepting:
            self._accepting = accepting.cancel_scope
            task_status.started()
            for listener in self._listeners.listeners:
                accepting.start_soon(accept_forever, listener, self._serve_client, sessions)

    async def _serve_client(self, stream: trio.abc.Stream) -> None:
        try:
            if not self._draining:
                name, welcome = _name_of_peer(stream), self._is_welcome(stream)
                session = self._open(self._exporter, stream, name, welcome=welcome, verify=_verify)
                self._sessions.add(session)
                try:
                    await session.run()
                finally:
                    self._sessions.discard(session)
        except BaseException as exc:  # noqa: BLE001 - one client's failure must not reach the others
            self._contain(exc)
        finally:
            await close_immediately(stream)

    def _is_welcome(self, stream: trio.abc.Stream) -> bool:
        """Return True if a peer's user may connect, or if the system does not report the user."""
        credentials = peer_credentials(stream)
        return credentials is None or credentials.uid in self._users

    def _contain(self, exc: BaseException) -> None:
        """Log an exception of a session, and raise only what ends the whole server."""
        leaving: BaseException | None = exc if isinstance(exc, _LEAVES) else None
        fault: BaseException | None = None if leaving else exc
        if isinstance(exc, BaseExceptionGroup):
            leaving, fault = exc.split(_LEAVES)
        if fault is not None:
            text = "internal error in a session; the exporter goes on"
            self._exporter.event_log.log(_logger, logging.ERROR, text, exc=fault)
        if leaving is not None:
            raise leaving

    async def drain(self, grace: float) -> None:
        """Accept no more clients and calls, let running calls finish, and disconnect all clients.

        It returns after the functions that drivers have registered with `on_disconnect` have run.

        A checkpoint. If it is cancelled, it cancels the calls immediately, and those functions
        after one second. It still waits until all of them have ended.

        Args:
            grace: Seconds after which calls that still run are cancelled; `math.inf` waits for them
                without a limit.

        Raises:
            ArgumentError: `grace` is not a number of seconds >= 0.
        """
        grace = check_seconds("grace", grace)
        self._draining = True
        self._accepting.cancel()
        for leases in self._leases:
            leases.stop_beginning()
        # First, so that new connections are refused, and another exporter can listen.
        with trio.CancelScope(shield=True):
            await self._listeners.aclose()
        self._log_drain(grace)
        async with trio.open_nursery() as nursery:
            for session in self._sessions:
                nursery.start_soon(session.drain, grace, "the exporter is shutting down")
        for leases in self._leases:
            await leases.finish()

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        """Hold the lease for the length of an `async with` block, as a client that is there does.

        Args:
            name: The holder's name in the log.

        Raises:
            CallRefused: (on entering) The lease could not begin.
        """
        return self._leases[0].hold(name) if self._leases else nullcontext()

    def view(self) -> View:
        """Return what goes on in this server. Not a checkpoint."""
        exporter = self._exporter
        return View(
            address=self.address,
            draining=self._draining,
            drivers=[DriverView(*each) for each in exporter.drivers],
            sessions=[
                self._view_of(each, caller)
                for each in self._sessions
                if (caller := caller_of(each)) is not None
            ],
            claims=[] if self._exclusive is None else self._exclusive.who(),
        )

    def _view_of(self, session: Session, caller: Caller) -> SessionView:
        age_of = session.age_of if isinstance(session, WatchedSession) else lambda _: None
        running = [
            CallView(path, call.head.method, age_of(call))
            for call in list(session.running)  # a thread may add one
            if (path := self._exporter.path_of(call.head.target)) is not None
        ]
        return SessionView(caller, running)

    def _log_drain(self, grace: float) -> None:
        """Log what a drain waits for, and for how long."""
        calls = [call for session in self._sessions for call in list(session.running)]
        if not calls:
            return
        clients = sum(1 for session in self._sessions if session.running)
        text = "draining: %d calls of %d clients have %g s to finish"
        _logger.info(text, len(calls), clients, grace)
        if any(call.head.kind is not Kind.UNARY for call in calls):
            text = "generators, and raw streams into which no client sends, end after %g s, or as"
            _logger.info("%s their driver's drain= says", text % DRAIN_GRACE)


def _name_of_peer(stream: trio.abc.Stream) -> str:
    inner = getattr(stream, "transport_stream", stream)
    if not isinstance(inner, trio.SocketStream):
        return "a client"
    if inner.socket.family == trio.socket.AF_UNIX:
        credentials = peer_credentials(inner)
        return "a client" if credentials is None else f"client of uid {credentials.uid}"
    try:
        host, port, *_ = inner.socket.getpeername()
    except OSError:  # it disconnected before it was accepted
        return "a client that has gone"
    return f"client {host}:{port}"


def _verify(stream: trio.abc.Stream) -> VerifiedIdentity:
    """Return what the system and TLS report of a client. Call it after HELLO, and so after TLS."""
    inner = getattr(stream, "transport_stream", stream)
    credentials = peer_credentials(inner)
    if credentials is not None:
        return VerifiedIdentity(uid=credentials.uid, gid=credentials.gid, pid=credentials.pid)
    host, port = "", 0
    if isinstance(inner, trio.SocketStream) and inner.socket.family != trio.socket.AF_UNIX:
        with suppress(OSError):  # it has disconnected
            host, port, *_ = inner.socket.getpeername()
    certificate: Any = stream.getpeercert() if isinstance(stream, TlsStream) else None
    subject = (certificate or {}).get("subject", ())
    pairs = tuple((kind, value) for names in subject for kind, value in names)
    return VerifiedIdentity(host=host, port=port, subject=pairs)
