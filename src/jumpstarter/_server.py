"""A driver tree behind an address: who connects, what is refused, and the orderly end.

Whatever happens inside the `async with` block of this file, at its end the calls have been
cancelled and joined, the drivers are reset and closed, and the sockets are gone, in this order.
"""

from __future__ import annotations

import logging
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import trio

from ._accept import accept_forever
from ._background import open_background
from ._checks import a_flag, a_kind, a_secret, a_whole_number, refuse_type, seconds
from ._copies import no_copies
from ._limits import DEFAULT_LIMITS, Limits
from ._messages import Kind
from ._sockets import Address, ListenerSet, open_listeners, parse_address, peer_credentials
from ._transport import close_at_once
from ._watchdog import watched
from .client import DriverClient
from .client._methods import FORMS, names_of
from .driver import Driver
from .driver._caller import Verified
from .driver._diary import open_session
from .driver._exporter import Exporter
from .driver._holders import holder_of
from .driver._lanes import DEFAULT_THREADS, Lanes
from .driver._session import Session
from .driver._tree import DeviceTree
from .errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Server", "check_access", "serve_async", "tell_hidden"]

_logger = logging.getLogger("jumpstarter.exporter")

# What may end a session from within: who cancels, or asks for the program's end, means all of it.
_LEAVES: Final = (trio.Cancelled, KeyboardInterrupt)
END_GRACE: Final = 10.0  # seconds for one driver's last `reset`, or `close`; hardware is slow


class Server:
    """A driver tree being served. Made by `serve_async`.

    Attributes:
        address: Where clients connect, with the real port.
    """

    __reduce_ex__ = no_copies("a server", "pass its `address` on, and connect() to that")

    def __init__(
        self, exporter: Exporter, listeners: ListenerSet, users: Collection[int] = ()
    ) -> None:
        self.address = str(listeners.address)
        self._exporter = exporter
        self._listeners = listeners
        self._users = {0, os.geteuid(), *users}
        self._sessions: set[Session] = set()
        self._draining = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept clients until cancelled, or drained."""
        async with trio.open_nursery() as sessions, trio.open_nursery() as accepting:
            self._accepting = accepting.cancel_scope
            task_status.started()
            for listener in self._listeners.listeners:
                accepting.start_soon(accept_forever, listener, self._serve_client, sessions)

    async def _serve_client(self, stream: trio.abc.Stream) -> None:
        try:
            if not self._draining:
                name, welcome = _name_of_peer(stream), self._is_welcome(stream)
                verify = partial(_verify, stream)
                session = open_session(self._exporter, stream, name, welcome=welcome, verify=verify)
                await self._run_session(session)
        except BaseException as exc:  # noqa: BLE001 - one client's trouble never reaches the others
            self._contain(exc)
        finally:
            await close_at_once(stream)

    def _is_welcome(self, stream: trio.abc.Stream) -> bool:
        """Tell if a peer's user may connect, where the system says who it is."""
        credentials = peer_credentials(stream)
        return credentials is None or credentials.uid in self._users

    def _contain(self, exc: BaseException) -> None:
        """Log what a session has raised, and raise again only what is not the session's."""
        leaving: BaseException | None = exc if isinstance(exc, _LEAVES) else None
        fault: BaseException | None = None if leaving else exc
        if isinstance(exc, BaseExceptionGroup):
            leaving, fault = exc.split(_LEAVES)
        if fault is not None:
            text = "internal error in a session; the exporter goes on"
            self._exporter.journal.log(_logger, logging.ERROR, text, exc=fault)
        if leaving is not None:
            raise leaving

    async def _run_session(self, session: Session) -> None:
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    async def drain(self, grace: float) -> None:
        """Accept no more clients and calls, let what runs finish, and disconnect everybody.

        A checkpoint. Cancelling it ends the calls at once.

        Args:
            grace: Seconds after which the calls that still run are cancelled; `math.inf` waits for
            them without end.

        Raises:
            ArgumentError: `grace` is no number of seconds.
        """
        grace = seconds("grace", grace)
        self._draining = True
        self._accepting.cancel()
        with trio.CancelScope(shield=True):  # so that others are refused at once, or may listen
            await self._listeners.aclose()
        async with trio.open_nursery() as nursery:
            for session in self._sessions:
                nursery.start_soon(session.drain, grace, "the exporter is shutting down")


def _name_of_peer(stream: trio.abc.Stream) -> str:
    inner = getattr(stream, "transport_stream", stream)
    if not isinstance(inner, trio.SocketStream):
        return "a client"
    if inner.socket.family == trio.socket.AF_UNIX:
        credentials = peer_credentials(inner)
        return "a client" if credentials is None else f"client of uid {credentials.uid}"
    try:
        host, port, *_ = inner.socket.getpeername()
    except OSError:  # it has hung up before it was accepted
        return "a client that has gone"
    return f"client {host}:{port}"


def _verify(stream: trio.abc.Stream) -> Verified:
    """Give what the system and TLS say of a client, once it has said HELLO."""
    inner = getattr(stream, "transport_stream", stream)
    credentials = peer_credentials(inner)
    if credentials is not None:
        return Verified(uid=credentials.uid, gid=credentials.gid, pid=credentials.pid)
    host, port = "", 0
    if isinstance(inner, trio.SocketStream) and inner.socket.family != trio.socket.AF_UNIX:
        with suppress(OSError):  # it has hung up
            host, port, *_ = inner.socket.getpeername()
    certificate: Any = stream.getpeercert() if isinstance(stream, trio.SSLStream) else None
    subject = (certificate or {}).get("subject", ())
    pairs = tuple((kind, value) for names in subject for kind, value in names)
    return Verified(host=host, port=port, subject=pairs)


@asynccontextmanager
async def serve_async(
    driver: Driver,
    address: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    threads: int = DEFAULT_THREADS,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
    send_tracebacks: bool = False,
    users: Collection[int] | None = None,
) -> AsyncIterator[Server]:
    """Serve a driver tree at an address, for the length of an `async with` block.

    `reset()` runs through the tree first; clients that connect meanwhile wait for that. A driver is
    served once at a time, and may be served again afterwards. At the end of the block no client is
    admitted any more, all calls are cancelled and joined, and then `reset()` and `close()` run
    through the tree, parents before children; what one of them raises is logged, and the others
    have their turn.

    Args:
        driver: The root of the tree.
        address: `unix:/path`, `tcp://host:port` (port 0 takes a free one) or `tls://host:port`.
        limits: What a client may ask for.
        threads: Worker threads at once for plain methods, of all clients together.
        token: A secret that clients must show; None admits whoever reaches the address.
            A warning is logged where that is anybody on the network.
        ssl_context: For `tls`: the server's, with its certificate.
        insecure: Let `tcp` listen beyond loopback, in cleartext.
        send_tracebacks: Put drivers' tracebacks in errors; they show paths and source lines.
        users: Uids that may connect to a Unix socket, beside root and the one this process runs as,
            which are the only ones by default. Its mode is 0666 then, and what the system (Linux)
            says of each peer decides. Do not name that of `nobody`: within a user namespace all
            users have it who are unknown there.

    Yields:
        The server, with its real address.

    Raises:
        ConfigurationError: The tree or the address cannot be served, or a driver of the tree is
            served already.
        ArgumentError: The address cannot be understood, or another argument cannot be used.
    """
    where = parse_address(address)
    secret = check_access(limits, token, ssl_context)
    allowed = _check_users(users, where)
    a_flag("insecure", insecure)
    a_flag("send_tracebacks", send_tracebacks)
    lanes = Lanes(a_whole_number("threads", threads, 1))
    tree = DeviceTree(driver)
    tell_hidden(tree)
    exporter = Exporter(
        tree, lanes, limits=limits, token=secret, send_tracebacks=send_tracebacks, starting=True
    )
    with tree.held(f"at {where}"), watched(limits.loop_hold, holder_of):
        mode = 0o600 if allowed is None else 0o666
        listeners = await open_listeners(
            where, ssl_context=ssl_context, insecure=insecure, mode=mode
        )
        try:
            is_asked = bool(secret) or _asks_for_certificates(ssl_context)
            _warn(listeners, is_asked=is_asked)
            server = Server(exporter, listeners, allowed or ())
            async with open_background() as nursery:
                await nursery.start(server.run)  # who connects meanwhile waits for the drivers
                await tree.reset_for_clients()
                exporter.open()
                yield server
        finally:
            with trio.CancelScope(shield=True):
                await listeners.aclose()
            await tree.end(END_GRACE)


def _warn(listeners: ListenerSet, *, is_asked: bool) -> None:
    """Log what may not be meant.

    Args:
        listeners: Where clients connect.
        is_asked: They are asked for a secret, or for certificates.
    """
    if listeners.exposed and not is_asked:
        text = "whoever reaches %s may use the drivers: ask for a token, or for certificates"
        _logger.warning(text, listeners.address)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        text = (
            "SIGCHLD is ignored in this process, so programs that drivers run seem to exit with 0"
        )
        _logger.warning("%s: call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before", text)


def check_access(limits: object, token: object, context: object) -> str:
    """Check the arguments that both sides take, and give the secret; an empty one is none."""
    a_kind("limits", limits, Limits, "a jumpstarter.Limits")
    if context is not None:
        accepted = "an ssl.SSLContext, as ssl.create_default_context() makes one, or None"
        a_kind("ssl_context", context, ssl.SSLContext, accepted)
    return a_secret("token", token, "a str (decode bytes, and strip a line), or None")


def _check_users(users: object, address: Address) -> frozenset[int] | None:
    if users is None:
        return None
    accepted = "a collection of uids, or None"
    if isinstance(users, str | bytes) or not isinstance(users, Collection):
        refuse_type("users", users, accepted)
    allowed = frozenset(a_whole_number("each of users", uid, 0) for uid in users)
    if address.scheme != "unix" or sys.platform != "linux":
        text = f"{address}: which users may connect can be told of a unix: address, on Linux, only"
        raise ConfigurationError(f"{text}; elsewhere ask for a token, or for certificates")
    return allowed


def tell_hidden(tree: DeviceTree) -> None:
    """Log which names in a tree are no attributes of a client, which has them itself."""
    for target, node in zip(tree.targets, tree.nodes, strict=True):
        if node.name in names_of(DriverClient):
            text = "%s is reached by `children[%r]`: clients have an attribute of this name"
            _logger.warning(text, target.title, node.name)
        for name in sorted(names_of(DriverClient).intersection(node.methods)):
            if not name.startswith("_"):  # those are reached by name alone in any case
                text = "%s exports %r, to be reached by `%s(%r)`: clients have one of this name"
                form = FORMS[Kind(node.methods[name])]
                _logger.warning(text, target.title, name, form, name)


def _asks_for_certificates(context: ssl.SSLContext | None) -> bool:
    return context is not None and context.verify_mode is ssl.CERT_REQUIRED
