"""Joins both sides: a driver tree behind an address, and a tree of clients from one.

The blocking forms run the async ones in a portal of their own. Whatever happens inside a `with`
block of this file, at its end the calls have been cancelled and joined, the drivers are reset and
closed, and the sockets are gone, in this order.
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
)
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeAlias

import trio

from ._accept import accept_forever
from ._background import open_background
from ._limits import DEFAULT_LIMITS, Limits
from ._messages import Kind, Node, decode_nodes
from ._portal import in_trio_thread, start_blocking_portal
from ._sockets import (
    ListenerSet,
    open_listeners,
    open_stream,
    parse_address,
    peer_uid,
    private_socket_path,
)
from ._text import quoted
from ._transport import close_at_once
from .client import DriverClient
from .client._channel import Channel, Request
from .client._methods import FORMS, names_of
from .client._tree import DEFAULT_ALLOW, build_tree, check_allow
from .driver import Driver
from .driver._exporter import Exporter
from .driver._lanes import DEFAULT_THREADS, Lanes
from .driver._session import Session
from .driver._tree import DeviceTree
from .errors import ArgumentError, ConfigurationError, DriverError, HandshakeError

__all__ = ["Server", "connect", "connect_async", "serve", "serve_async"]

_logger = logging.getLogger("jumpstarter.exporter")

_Opened: TypeAlias = tuple[Channel, list[Node]]

_MORE_GRACE: Final = 0.5  # seconds
# What may end a session from within: who cancels, or asks for the program's end, means all of it.
_LEAVES: Final = (trio.Cancelled, KeyboardInterrupt)
END_GRACE: Final = 10.0  # seconds for one driver's last `reset`, or `close`; hardware is slow


class Server:
    """A driver tree being served. Made by `serve_async`.

    Attributes:
        address: Where clients connect, with the real port.
    """

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
                subject = partial(_subject_of, stream)
                session = Session(self._exporter, stream, name, welcome=welcome, subject=subject)
                await self._run_session(session)
        except BaseException as exc:  # noqa: BLE001 - one client's trouble never reaches the others
            self._contain(exc)
        finally:
            await close_at_once(stream)

    def _is_welcome(self, stream: trio.abc.Stream) -> bool:
        """Tell if a peer's user may connect, where the system says who it is."""
        uid = peer_uid(stream)
        return uid is None or uid in self._users

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
            grace: Seconds after which the calls that still run are cancelled.
        """
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
        return f"client of uid {peer_uid(inner)}"
    try:
        host, port, *_ = inner.socket.getpeername()
    except OSError:  # it has hung up before it was accepted
        return "a client that has gone"
    return f"client {host}:{port}"


def _subject_of(stream: trio.abc.Stream) -> str:
    """Give the name in a client's certificate, once hands were shaken; empty if there is none."""
    if not isinstance(stream, trio.SSLStream):
        return ""
    certificate: Any = stream.getpeercert() or {}
    return ", ".join(
        f"{kind}={value}" for names in certificate.get("subject", ()) for kind, value in names
    )


@asynccontextmanager
async def serve_async(
    driver: Driver,
    address: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    threads: int = DEFAULT_THREADS,
    token: str = "",
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
    send_tracebacks: bool = False,
    users: Collection[int] | None = None,
) -> AsyncIterator[Server]:
    """Serve a driver tree at an address, for the length of an `async with` block.

    `reset()` runs through the tree first. At the end of the block no client is admitted any more,
    all calls are cancelled and joined, and then `reset()` and `close()` run through the tree,
    parents before children; what one of them raises is logged, and the others have their turn.

    Args:
        driver: The root of the tree.
        address: `unix:/path`, `tcp://host:port` (port 0 takes a free one) or `tls://host:port`.
        limits: What a client may ask for.
        threads: Worker threads at once for plain methods, of all clients together.
        token: A secret that clients must show; empty admits whoever reaches the address.
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
        ConfigurationError: The tree or the address cannot be served.
        ArgumentError: The address cannot be understood.
    """
    if users is not None and not (address.startswith("unix:") and sys.platform == "linux"):
        text = f"{address}: which users may connect can be told of a unix: address, on Linux, only"
        raise ConfigurationError(f"{text}; elsewhere ask for a token, or for certificates")
    lanes = Lanes(threads)
    tree = DeviceTree(driver)
    tell_hidden(tree)
    exporter = Exporter(tree, lanes, limits=limits, token=token, send_tracebacks=send_tracebacks)
    listeners = await open_listeners(
        parse_address(address),
        ssl_context=ssl_context,
        insecure=insecure,
        mode=0o600 if users is None else 0o666,
    )
    if listeners.exposed and not token and not _asks_for_certificates(ssl_context):
        text = "whoever reaches %s may use the drivers: ask for a token, or for certificates"
        _logger.warning(text, listeners.address)
    try:
        await tree.reset()
        server = Server(exporter, listeners, users or ())
        async with open_background() as nursery:
            await nursery.start(server.run)
            yield server
    finally:
        with trio.CancelScope(shield=True):
            await listeners.aclose()
        await tree.end(END_GRACE)


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


def _check_access(token: object, context: object) -> None:
    if not isinstance(token, str):
        text = f"token= must be a str, not {type(token).__name__}: decode bytes, and strip a line"
        raise ArgumentError(text)
    if context is not None and not isinstance(context, ssl.SSLContext):
        text = f"ssl_context= must be an ssl.SSLContext, not {type(context).__name__}"
        raise ArgumentError(f"{text}: ssl.create_default_context() makes one")


@asynccontextmanager
async def _open_channel(
    address: str, limits: Limits, token: str, ssl_context: ssl.SSLContext | None
) -> AsyncIterator[_Opened]:
    """Connect, say HELLO, and ask for the report, all within `hello_timeout`."""
    _check_access(token, ssl_context)
    channel: Channel | None = None
    async with open_background() as nursery:
        with trio.move_on_after(limits.hello_timeout) as patience:
            stream = await open_stream(parse_address(address), ssl_context=ssl_context)
            channel = Channel(stream, address, limits=limits, token=token)
            await _greet(channel, nursery)
            nodes = await ask_for_report(channel)
        if patience.cancelled_caught or channel is None:
            seconds = limits.hello_timeout
            raise HandshakeError(
                f"{address} did not answer within {seconds:g} s; is a jumpstarter exporter there?"
            )
        try:
            yield channel, nodes
        finally:
            await channel.aclose()


async def _greet(channel: Channel, nursery: trio.Nursery) -> None:
    """Exchange HELLOs, and say more of an end that TLS says nothing of.

    A client has done its part of the handshake before the server looks at its certificate.
    """
    try:
        await channel.begin(nursery)
    except HandshakeError as exc:
        scheme = channel.name.partition(":")[0]
        if scheme == "unix" or channel.connection.goaway is not None:
            raise
        text = "does it listen with tls://?"
        if scheme == "tls":
            text = (
                "if it asks clients for certificates, load one that it trusts into the "
                "ssl_context, with load_cert_chain()"
            )
        raise HandshakeError(f"{exc}; {text}") from exc


async def ask_for_report(channel: Channel) -> list[Node]:
    """Ask an exporter for its device tree.

    Raises:
        HandshakeError: It gave none, or what came is no report.
    """
    request = Request(0, Kind.UNARY, "report", who=f"the exporter at {channel.name}")
    try:
        return await channel.call_as(request, lambda body: decode_nodes(body, channel.limits))
    except (ArgumentError, DriverError) as exc:
        text = f"{channel.name} gave no device tree: {quoted(str(exc))}"
        raise HandshakeError(text) from exc


@asynccontextmanager
async def connect_async(
    address: str,
    *,
    allow: Sequence[str] = DEFAULT_ALLOW,
    limits: Limits = DEFAULT_LIMITS,
    token: str = "",
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[DriverClient]:
    """Connect to an exporter from Trio code, for the length of an `async with` block.

    At its end what is still under way is cancelled, and its end on the exporter awaited for at most
    `limits.cancel_grace` seconds. Use the clients' `_async` methods, in this Trio loop.

    Args:
        address: `unix:/path`, `tcp://host:port` or `tls://host:port`.
        allow: Patterns of client class paths that the exporter may have us import: its report names
            classes, and importing runs code. This library's own are always allowed; by default the
            packages `jumpstarter_driver_*` are too, and `["mylab.*"]` allows yours instead.
        limits: What we accept of the exporter.
        token: The secret that the exporter asks for, if it does.
        ssl_context: For `tls`; by default the system's authorities are trusted.

    Yields:
        The client of the root driver.

    Raises:
        HandshakeError: Nobody is there, or it is no exporter, or it refused us. A ConnectionError.
        ArgumentError: The address cannot be understood.
    """
    allowed = check_allow(allow)
    async with _open_channel(address, limits, token, ssl_context) as (channel, nodes):
        client = build_tree(nodes, channel, allow=allowed)
        try:
            yield client
        finally:
            client.close()


def connect(
    address: str,
    *,
    allow: Sequence[str] = DEFAULT_ALLOW,
    limits: Limits = DEFAULT_LIMITS,
    token: str = "",
    ssl_context: ssl.SSLContext | None = None,
) -> AbstractContextManager[DriverClient, None]:
    """Connect to an exporter from blocking code, for the length of a `with` block.

    The blocking form of `connect_async`, with the same arguments and errors. The connection lives
    in a thread of its own; the clients may be used from any thread that runs no Trio loop.

    Returns:
        A context manager of the client of the root driver.
    """
    opened = _open_channel(address, limits, token, ssl_context)
    return _BlockingClient(lambda _: opened, check_allow(allow), limits)


def serve(driver: Driver) -> AbstractContextManager[DriverClient, None]:
    """Serve a driver tree to this program itself, for the length of a `with` block.

    Over a Unix socket in a private directory, through the whole of the protocol: what works here
    works with `serve_async` and `connect` in two processes. All client classes may be imported,
    since the driver is the caller's own. See `serve_async` for what happens to the drivers at the
    end.

    Args:
        driver: The root of the tree.

    Returns:
        A context manager of the client of the root driver; its children are its attributes.

    Raises:
        ConfigurationError: The tree cannot be served.
    """

    def open_it(stack: ExitStack) -> AbstractAsyncContextManager[_Opened]:
        return _serve_locally(driver, f"unix:{stack.enter_context(private_socket_path())}")

    return _BlockingClient(open_it, allow=None)


@asynccontextmanager
async def _serve_locally(driver: Driver, address: str) -> AsyncIterator[_Opened]:
    async with (
        serve_async(driver, address, send_tracebacks=True),
        _open_channel(address, DEFAULT_LIMITS, "", None) as opened,
    ):
        yield opened


class _BlockingClient(AbstractContextManager[DriverClient, None]):
    """The `with` block of `connect` and `serve`.

    A class and not a generator, which the garbage collector would leave as well, in whatever
    thread, and wait there for the drivers' end. One that is dropped without being left stays open
    until the interpreter exits.
    """

    def __init__(
        self,
        open_it: Callable[[ExitStack], AbstractAsyncContextManager[_Opened]],
        allow: Sequence[str] | None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._open = open_it
        self._allow = allow
        self._grace = limits.cancel_grace

    def __enter__(self) -> DriverClient:
        if in_trio_thread():
            text = "serve() and connect() block, and a Trio loop runs in this thread"
            raise RuntimeError(f"{text}: use `async with connect_async(...)`, or serve_async(...)")
        with ExitStack() as stack:
            opening = self._open(stack)
            # After Ctrl-C, a cancelled call waits for its grace, and the portal a little longer.
            portal = stack.enter_context(start_blocking_portal(grace=self._grace + _MORE_GRACE))
            channel, nodes = stack.enter_context(portal.wrap_async_context_manager(opening))
            # In this thread, not the portal's: it may be importing what a client class is in.
            client = build_tree(nodes, channel, portal=portal, allow=self._allow)
            stack.callback(client.close)
            self._left = stack.pop_all()
        return client

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.__exit__(exc_type, exc, traceback)
