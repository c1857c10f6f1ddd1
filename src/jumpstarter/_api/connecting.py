"""Connect to an exporter, and build the tree of its clients.

`connect` runs the async form in a portal's thread. At the end of either block, calls are cancelled
and joined, and then the connection is closed, whatever happened inside the block.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, TypedDict, TypeVar, Unpack, overload

import trio

from .._io.addresses import parse_address
from .._io.sockets import open_stream
from .._io.watchdog import watched
from .._limits import DEFAULT_LIMITS, Limits
from .._protocol.codec import decode_nodes
from .._protocol.frames import Kind, Node
from .._util.background import open_background
from .._util.checks import (
    check_flag,
    check_secret,
    check_text,
    raise_value_error,
    refuse_timeout,
)
from .._util.event_loop import check_trio_loop
from .._util.text import sanitize_text
from .._util.tracebacks import strip_tracebacks
from .._util.wording import worded
from ..client import DriverClient
from ..client._channel import Channel
from ..client._claim import Terms, join, wait_for_turn, warn
from ..client._name import check_name, own_name
from ..client._outgoing_call import Request
from ..client._tree import DEFAULT_ALLOW, Wanted, check_allow
from ..errors import ArgumentError, DriverError, DriverTimeoutError, HandshakeError
from .access import check_access
from .contexts import AsyncContext, BlockingContext, Opened

_C = TypeVar("_C", bound=DriverClient)

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ask_for_report", "build_async", "connect", "connect_async", "open_channel"]


_DEFAULT_TERMS: Final = Terms()
_ACCEPTED_CLAIM: Final = "True, False, or the path of a driver"


@asynccontextmanager
async def open_channel(
    address: str,
    limits: Limits = DEFAULT_LIMITS,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    name: str | None = None,
    *,
    terms: Terms = _DEFAULT_TERMS,
) -> AsyncIterator[Opened]:
    """Open a connection, request the exporter's report of its device tree, and wait for a turn.

    The HELLO exchange must finish within `hello_timeout`, and the report must arrive within
    `start_timeout`. Waiting for a turn at an exporter in exclusive use has no limit.
    """
    async with _connected(address, limits, token, ssl_context, name) as channel:
        nodes = await _wait_for_report(channel)
        left = await wait_for_turn(channel, terms)
        if channel.session is not None:
            own = own_name() if name is None else name
            connecting = partial(_connected, address, limits, token, ssl_context, own)
            channel.reopen = partial(_joined, connecting, channel.session)
        if left is None:
            yield channel, nodes
            return
        async with open_background() as nursery:
            nursery.start_soon(warn, channel, left)
            yield channel, nodes


@asynccontextmanager
async def _joined(
    connecting: Callable[[], AbstractAsyncContextManager[Channel]], session: str
) -> AsyncIterator[Channel]:
    """Open a further connection of a session."""
    async with connecting() as channel:
        try:
            await join(channel, session)
        except DriverError as exc:
            raise HandshakeError(f"{channel.name}: {sanitize_text(str(exc))}") from exc
        yield channel


@asynccontextmanager
async def _connected(
    address: str,
    limits: Limits,
    token: str | None,
    ssl_context: ssl.SSLContext | None,
    name: str | None,
) -> AsyncIterator[Channel]:
    """Open a connection, and close it at the end of the block."""
    secret = check_access(limits, token, ssl_context)
    own = own_name() if name is None else name
    channel: Channel | None = None
    async with open_background() as nursery:
        with trio.move_on_after(limits.hello_timeout) as scope:
            stream = await open_stream(parse_address(address), ssl_context=ssl_context)
            # From here on the channel owns the stream, and closes it if the handshake fails.
            channel = Channel(stream, address, limits=limits, token=secret, own_name=own)
            await _greet(channel, nursery)
        if scope.cancelled_caught or channel is None:
            seconds = limits.hello_timeout
            raise HandshakeError(
                f"{address} did not answer within {seconds:g} s; is a jumpstarter exporter there?"
            )
        channel.reopen = partial(_connected, address, limits, token, ssl_context, own)
        try:
            yield channel
        finally:
            await channel.aclose()


async def _greet(channel: Channel, nursery: trio.Nursery) -> None:
    """Exchange HELLOs. If the connection ends for a reason that TLS does not report, explain it.

    With TLS 1.3, a client has finished its handshake before the server checks its certificate. So
    if the server refuses the certificate, the client sees the connection end, and an alert at most.
    """
    try:
        await channel.begin(nursery)
    except HandshakeError as exc:
        scheme = channel.name.partition(":")[0]
        if scheme == "unix" or channel.connection.goaway is not None:
            raise
        text = "does it listen with tls://?"
        if scheme == "tls":
            advice = worded("load one that it trusts into the ssl_context, with load_cert_chain()")
            text = f"if it asks clients for certificates, {advice}"
        raise HandshakeError(f"{exc}; {text}") from strip_tracebacks(exc)


async def _wait_for_report(channel: Channel) -> list[Node]:
    seconds = channel.limits.start_timeout
    with trio.move_on_after(seconds):
        try:
            return await ask_for_report(channel)
        except HandshakeError as exc:
            if not isinstance(
                exc.__cause__, DriverTimeoutError
            ):  # the exporter's own clock ran out first
                raise
    text = f"the exporter at {channel.name} is still starting, or hangs: it answers, but did not"
    longer = worded(", or with a longer limits=Limits(start_timeout=...)")
    raise HandshakeError(
        f"{text} give its device tree within {seconds:g} s. It does once all of its drivers have "
        f"been reset: its log says which takes long. Connect again later{longer}"
    )


async def ask_for_report(channel: Channel) -> list[Node]:
    """Ask an exporter for its device tree. A checkpoint.

    Raises:
        HandshakeError: The exporter refused, or its report cannot be read.
    """
    request = Request(0, Kind.UNARY, "report", driver=f"the exporter at {channel.name}")
    try:
        nodes: list[Node] = await channel.call_as(
            request, lambda body: decode_nodes(body, channel.limits)
        )
    except (ArgumentError, DriverError) as exc:
        text = f"{channel.name} gave no device tree: {sanitize_text(str(exc))}"
        raise HandshakeError(text) from strip_tracebacks(exc)
    return nodes


def _check_terms(claim: object, wait: object, session: object) -> Terms:
    if session is not None:
        check_secret("session", session, "the key of a session, or None")
    is_given = session if isinstance(session, str) else None
    path = None if isinstance(claim, bool) else check_text("claim", claim, _ACCEPTED_CLAIM)
    if path == "":
        raise_value_error("claim", claim, _ACCEPTED_CLAIM)
    is_claimed = path is not None or check_flag("claim", claim)
    is_waiting = check_flag("wait", wait)
    return Terms(claim=is_claimed, path=path, wait=is_waiting, session=is_given)


class _Options(TypedDict, total=False):
    """The keyword arguments of `connect` and `connect_async` except `client`, for type checkers."""

    allow: Sequence[str]
    limits: Limits
    token: str | None
    ssl_context: ssl.SSLContext | None
    name: str | None
    claim: bool | str
    wait: bool
    session: str | None


@overload
def connect_async(
    address: str, *, client: None = None, **options: Unpack[_Options]
) -> AbstractAsyncContextManager[DriverClient, None]: ...
@overload
def connect_async(
    address: str, *, client: type[_C], **options: Unpack[_Options]
) -> AbstractAsyncContextManager[_C, None]: ...
@refuse_timeout("connect_async()", "use `with trio.fail_after(seconds):` around it")
def connect_async(
    address: str,
    *,
    allow: Sequence[str] = DEFAULT_ALLOW,
    client: type[Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    name: str | None = None,
    claim: bool | str = True,
    wait: bool = True,
    session: str | None = None,
) -> AbstractAsyncContextManager[Any, Any]:
    """Connect to an exporter from Trio code, for the length of an `async with` block.

        async with connect_async("unix:/run/exporter/socket") as client:
            await client.power.call_async("on")

    Use the clients' `_async` methods, in the same Trio loop. Entering and leaving are checkpoints.
    Leaving cancels the calls that still run, and waits up to `limits.cancel_grace` seconds for the
    exporter to report that they have ended. A cancellation while entering closes the connection.

    Args:
        address: `unix:/path`, `tcp://host:port` or `tls://host:port`.
        allow: Patterns of client class paths that may be imported. The exporter's report names
            classes, and importing one runs its code. This library's own classes are always allowed.
            By default, the packages `jumpstarter_driver_*` are too; `["mylab.*"]` allows yours
            instead.
        client: The expected class of the root driver's client, for type checkers. It is checked
            when the block is entered. The class itself may be imported; this allows none of the
            classes of its children.
        limits: What this side accepts of the exporter. The defaults suit a lab; see `Limits` for
            the reasons.
        token: The secret that the exporter asks for, if any.
        ssl_context: TLS settings for `tls://`. By default, the system's certificate authorities are
            trusted.
        name: The name of this client in the exporter's log and for its drivers, at most 255
            characters. By default user, host and program, like `"alice@bench3: pytest"`; an empty
            string sends none. It is not verified.
        claim: False connects to an exporter in exclusive use without claiming it. Only methods that
            are marked `read_only` can be called then. A text is the path of a driver: claim the
            subtree that has it, if subtrees of the exporter are used independently.
        wait: False raises an exception if another client holds such an exporter. By default this
            client waits for its turn, without a limit, and warnings in the log say for whom.
        session: The key of a session that another connection has begun: take part in it instead of
            claiming. "jumpstarter shell" passes it to its program in `JMP_SESSION`.

    Returns:
        An async context manager that yields the client of the root driver; the clients of its
        children are its attributes.

    Raises:
        HandshakeError: (on entering) The connection failed, the peer is not an exporter, or it
            refused this client. Or this client gets no turn at an exporter in exclusive use. A
            ConnectionError.
        ClientImportError: (on entering) The client is not of the class `client`, or cannot be
            imported.
        ArgumentError: The address or another argument cannot be used.
        RuntimeError: (on entering) No Trio loop runs in this thread.
    """
    # An error should point at this call, not at the `with` that enters the block.
    parse_address(address)
    check_access(limits, token, ssl_context)
    check_name(name)
    terms = _check_terms(claim, wait, session)
    wanted = Wanted(client, check_allow(allow))
    opened = open_channel(address, limits, token, ssl_context, name, terms=terms)
    managed = build_async(opened, wanted, "connect_async()", blocking="connect()")
    return AsyncContext(managed, "async with connect_async(...) as client:")


@asynccontextmanager
async def build_async(
    opened: AbstractAsyncContextManager[Opened], wanted: Wanted[_C], verb: str, *, blocking: str
) -> AsyncGenerator[_C, None]:
    """Open a connection in this Trio loop, and build its client, for the length of the block.

    Args:
        opened: Makes the connection.
        wanted: Builds the tree of clients.
        verb: The public function, for the error of another kind of loop.
        blocking: Its blocking counterpart, which that error recommends.

    Raises:
        RuntimeError: No Trio loop runs in this thread.
        ClientImportError: The client is not of the expected class, or cannot be imported.
        Exception: Raised by `opened`.
    """
    instead = f"use {blocking}, and call the blocking methods by `await asyncio.to_thread(...)`"
    check_trio_loop(verb, instead)
    async with opened as (channel, nodes):
        root = wanted.build(nodes, channel)
        try:
            yield root
        finally:
            root.close()


@overload
def connect(
    address: str, *, client: None = None, **options: Unpack[_Options]
) -> AbstractContextManager[DriverClient, None]: ...
@overload
def connect(
    address: str, *, client: type[_C], **options: Unpack[_Options]
) -> AbstractContextManager[_C, None]: ...
@refuse_timeout(
    "connect()",
    "limits=Limits(hello_timeout=..., start_timeout=...) limits how long connecting may take, and "
    "a `with client.timeout(seconds):` block the calls",
)
def connect(
    address: str,
    *,
    allow: Sequence[str] = DEFAULT_ALLOW,
    client: type[Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    name: str | None = None,
    claim: bool | str = True,
    wait: bool = True,
    session: str | None = None,
) -> AbstractContextManager[Any, None]:
    """Connect to an exporter from blocking code, for the length of a `with` block.

        with connect("unix:/run/exporter/socket") as client:
            client.power.on()

    The connection lives in a thread of its own, and the clients may be used from any thread that
    runs no Trio loop. Entering and leaving block. Leaving cancels the calls that still run, and
    waits up to `limits.cancel_grace` seconds for the exporter to report that they have ended.
    Ctrl-C while entering closes the connection.

    Args:
        address: `unix:/path`, `tcp://host:port` or `tls://host:port`.
        allow: Patterns of client class paths that may be imported. The exporter's report names
            classes, and importing one runs its code. This library's own classes are always allowed.
            By default, the packages `jumpstarter_driver_*` are too; `["mylab.*"]` allows yours
            instead.
        client: The expected class of the root driver's client, for type checkers. It is checked
            when the block is entered. The class itself may be imported; this allows none of the
            classes of its children.
        limits: What this side accepts of the exporter. The defaults suit a lab; see `Limits` for
            the reasons.
        token: The secret that the exporter asks for, if any.
        ssl_context: TLS settings for `tls://`. By default, the system's certificate authorities are
            trusted.
        name: The name of this client in the exporter's log and for its drivers, at most 255
            characters. By default user, host and program, like `"alice@bench3: pytest"`; an empty
            string sends none. It is not verified.
        claim: False connects to an exporter in exclusive use without claiming it. Only methods that
            are marked `read_only` can be called then. A text is the path of a driver: claim the
            subtree that has it, if subtrees of the exporter are used independently.
        wait: False raises an exception if another client holds such an exporter. By default this
            client waits for its turn, without a limit, and warnings in the log say for whom.
        session: The key of a session that another connection has begun: take part in it instead of
            claiming. "jumpstarter shell" passes it to its program in `JMP_SESSION`.

    Returns:
        A context manager that yields the client of the root driver; the clients of its children are
        its attributes.

    Raises:
        HandshakeError: (on entering) The connection failed, the peer is not an exporter, or it
            refused this client. Or this client gets no turn at an exporter in exclusive use. A
            ConnectionError.
        ClientImportError: (on entering) The client is not of the class `client`, or cannot be
            imported.
        ArgumentError: The address or another argument cannot be used.
        RuntimeError: (on entering) A Trio loop runs in this thread.
    """
    parse_address(address)  # as in connect_async
    check_access(limits, token, ssl_context)
    check_name(name)
    terms = _check_terms(claim, wait, session)
    wanted = Wanted(client, check_allow(allow))
    opened = _watching(open_channel(address, limits, token, ssl_context, name, terms=terms), limits)
    statement = "with connect(...) as client:"
    return BlockingContext(lambda _: opened, wanted, limits, statement)


@asynccontextmanager
async def _watching(
    opening: AbstractAsyncContextManager[Opened], limits: Limits
) -> AsyncIterator[Opened]:
    """Log code that blocks the portal's loop: only this library's own code should run there."""
    with watched(limits.loop_hold):
        async with opening as opened:
            yield opened
