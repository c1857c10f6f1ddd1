"""A tree of clients from an address, and both sides joined in one program.

The blocking forms run the async ones in a portal of their own. Whatever happens inside a `with`
block of this file, at its end the calls have been cancelled and joined, the drivers are reset and
closed, and the sockets are gone, in this order.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
)
from types import TracebackType
from typing import Any, Final, TypeAlias, TypedDict, TypeVar, Unpack, overload

import trio

from .._io.addresses import parse_address
from .._io.portal import in_trio_thread, start_blocking_portal
from .._io.sockets import open_stream, private_socket_path
from .._io.watchdog import watched
from .._limits import DEFAULT_LIMITS, Limits
from .._protocol.codec import decode_nodes
from .._protocol.frames import Kind, Node
from .._util.background import open_background
from .._util.checks import refuse_timeout
from .._util.event_loop import check_trio_loop
from .._util.text import sanitize_text
from .._util.tracebacks import strip_tracebacks, trim_traceback
from ..client import DriverClient
from ..client._channel import Channel
from ..client._name import check_name, own_name
from ..client._outgoing_call import Request
from ..client._tree import DEFAULT_ALLOW, Wanted, check_allow
from ..driver import Driver
from ..errors import ArgumentError, DriverError, DriverTimeoutError, HandshakeError
from .serving import check_access, serve_async

_C = TypeVar("_C", bound=DriverClient)

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ask_for_report", "connect", "connect_async", "serve"]

_Opened: TypeAlias = tuple[Channel, list[Node]]

_MORE_GRACE: Final = 0.5  # seconds


@asynccontextmanager
async def _open_channel(
    address: str,
    limits: Limits = DEFAULT_LIMITS,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    name: str | None = None,
) -> AsyncIterator[_Opened]:
    """Connect and say HELLO, within `hello_timeout`; get the report, within `start_timeout`."""
    secret = check_access(limits, token, ssl_context)
    own = own_name() if name is None else name
    channel: Channel | None = None
    async with open_background() as nursery:
        with trio.move_on_after(limits.hello_timeout) as patience:
            stream = await open_stream(parse_address(address), ssl_context=ssl_context)
            channel = Channel(stream, address, limits=limits, token=secret, own_name=own)
            await _greet(channel, nursery)
        if patience.cancelled_caught or channel is None:
            seconds = limits.hello_timeout
            raise HandshakeError(
                f"{address} did not answer within {seconds:g} s; is a jumpstarter exporter there?"
            )
        try:
            yield channel, await _wait_for_report(channel)
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
        raise HandshakeError(f"{exc}; {text}") from strip_tracebacks(exc)


async def _wait_for_report(channel: Channel) -> list[Node]:
    seconds = channel.limits.start_timeout
    with trio.move_on_after(seconds):
        try:
            return await ask_for_report(channel)
        except HandshakeError as exc:
            if not isinstance(exc.__cause__, DriverTimeoutError):  # the exporter saw it first
                raise
    text = f"the exporter at {channel.name} is still starting, or hangs: it answers, but did not"
    raise HandshakeError(
        f"{text} give its device tree within {seconds:g} s. It does once all of its drivers have "
        "been reset: its log says which takes long. Connect again later, or with a longer "
        "limits=Limits(start_timeout=...)"
    )


async def ask_for_report(channel: Channel) -> list[Node]:
    """Ask an exporter for its device tree.

    Raises:
        HandshakeError: It gave none, or what came is no report.
    """
    request = Request(0, Kind.UNARY, "report", driver=f"the exporter at {channel.name}")
    try:
        return await channel.call_as(request, lambda body: decode_nodes(body, channel.limits))
    except (ArgumentError, DriverError) as exc:
        text = f"{channel.name} gave no device tree: {sanitize_text(str(exc))}"
        raise HandshakeError(text) from strip_tracebacks(exc)


class _Options(TypedDict, total=False):
    """What `connect` and `connect_async` take beside `client`, for type checkers."""

    allow: Sequence[str]
    limits: Limits
    token: str | None
    ssl_context: ssl.SSLContext | None
    name: str | None


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
) -> AbstractAsyncContextManager[Any, Any]:
    """Connect to an exporter from Trio code, for the length of an `async with` block.

    At its end what is still under way is cancelled, and its end on the exporter awaited for at most
    `limits.cancel_grace` seconds. Use the clients' `_async` methods, in this Trio loop.

    Args:
        address: `unix:/path`, `tcp://host:port` or `tls://host:port`.
        allow: Patterns of client class paths that the exporter may have us import: its report names
            classes, and importing runs code. This library's own are always allowed; by default the
            packages `jumpstarter_driver_*` are too, and `["mylab.*"]` allows yours instead.
        client: The class of the root driver's client. It is checked, and a type checker knows it;
            it is allowed to be imported, its children's classes are not by that.
        limits: What we accept of the exporter.
        token: The secret that the exporter asks for, if it does.
        ssl_context: For `tls`; by default the system's authorities are trusted.
        name: What this client calls itself, in the exporter's log and to its drivers: by default
            user, host and program, as `"alice@bench3: pytest"`; empty for nothing. Nobody checks
            it. At most 255 characters.

    Returns:
        An async context manager of the client of the root driver.

    Raises:
        HandshakeError: (on entering) Nobody is there, or it is no exporter, or it refused us. A
            ConnectionError.
        ArgumentError: The address cannot be understood, or another argument cannot be used.
        ClientImportError: (on entering) The root's client is not of the class `client`, or cannot
            be had.
    """
    parse_address(address)  # a mistake in an argument is told where the argument is
    check_access(limits, token, ssl_context)
    check_name(name)
    wanted = Wanted(client, check_allow(allow))
    return _build(_open_channel(address, limits, token, ssl_context, name), wanted)


@asynccontextmanager
async def _build(
    opened: AbstractAsyncContextManager[_Opened], wanted: Wanted[_C]
) -> AsyncGenerator[_C, None]:
    instead = "use connect(), and call the blocking methods by `await asyncio.to_thread(...)`"
    check_trio_loop("connect_async()", instead)
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
) -> AbstractContextManager[Any, None]:
    """Connect to an exporter from blocking code, for the length of a `with` block.

    The blocking form of `connect_async`, with the same arguments and errors. The connection lives
    in a thread of its own; the clients may be used from any thread that runs no Trio loop.

    Returns:
        A context manager of the client of the root driver.
    """
    parse_address(address)  # a mistake in an argument is told where the argument is
    check_access(limits, token, ssl_context)
    check_name(name)
    wanted = Wanted(client, check_allow(allow))
    opened = _watching(_open_channel(address, limits, token, ssl_context, name), limits)
    return _BlockingClient(lambda _: opened, wanted, limits)


@asynccontextmanager
async def _watching(
    opening: AbstractAsyncContextManager[_Opened], limits: Limits
) -> AsyncIterator[_Opened]:
    """Log what holds the portal's loop: only this library's code should run there for long."""
    with watched(limits.loop_hold):
        async with opening as opened:
            yield opened


@overload
def serve(
    driver: Driver, *, client: None = None, limits: Limits = DEFAULT_LIMITS
) -> AbstractContextManager[DriverClient, None]: ...
@overload
def serve(
    driver: Driver, *, client: type[_C], limits: Limits = DEFAULT_LIMITS
) -> AbstractContextManager[_C, None]: ...
def serve(
    driver: Driver, *, client: type[Any] | None = None, limits: Limits = DEFAULT_LIMITS
) -> AbstractContextManager[Any, None]:
    """Serve a driver tree to this program itself, for the length of a `with` block.

    Over a Unix socket in a private directory, through the whole of the protocol: what works here
    works with `serve_async` and `connect` in two processes. All client classes may be imported,
    since the driver is the caller's own. See `serve_async` for what happens to the drivers at the
    end.

    Args:
        driver: The root of the tree.
        client: The class of the root driver's client, which is checked, and a type checker knows.
        limits: What each side accepts of the other, as for `serve_async` and `connect`.

    Returns:
        A context manager of the client of the root driver; its children are its attributes.

    Raises:
        ConfigurationError: (on entering) The tree cannot be served.
        ClientImportError: (on entering) The client is not of the class `client`.
    """
    check_access(limits, None, None)

    def open_it(stack: ExitStack) -> AbstractAsyncContextManager[_Opened]:
        address = f"unix:{stack.enter_context(private_socket_path())}"
        return _serve_locally(driver, address, limits)

    return _BlockingClient(open_it, Wanted(client, None), limits)


@asynccontextmanager
async def _serve_locally(driver: Driver, address: str, limits: Limits) -> AsyncIterator[_Opened]:
    async with (
        serve_async(driver, address, limits=limits, send_tracebacks=True),
        _open_channel(address, limits) as opened,
    ):
        yield opened


class _BlockingClient(AbstractContextManager[_C, None]):
    """The `with` block of `connect` and `serve`.

    A class and not a generator, which the garbage collector would leave as well, in whatever
    thread, and wait there for the drivers' end. One that is dropped without being left stays open
    until the interpreter exits.
    """

    def __init__(
        self,
        open_it: Callable[[ExitStack], AbstractAsyncContextManager[_Opened]],
        wanted: Wanted[_C],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._open = open_it
        self._wanted = wanted
        self._grace = limits.cancel_grace

    def __enter__(self) -> _C:
        if in_trio_thread():
            text = "serve() and connect() block, and a Trio loop runs in this thread"
            raise RuntimeError(f"{text}: use `async with connect_async(...)`, or serve_async(...)")
        try:
            return self._enter()
        except BaseException as exc:
            trim_traceback(exc)
            raise

    def _enter(self) -> _C:
        with ExitStack() as stack:
            opening = self._open(stack)
            # After Ctrl-C, a cancelled call waits for its grace, and the portal a little longer.
            portal = stack.enter_context(start_blocking_portal(grace=self._grace + _MORE_GRACE))
            channel, nodes = stack.enter_context(portal.wrap_async_context_manager(opening))
            # In this thread, not the portal's: it may be importing what a client class is in.
            client = self._wanted.build(nodes, channel, portal)
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
