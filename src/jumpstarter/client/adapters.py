"""Adapters of a driver's raw stream: a local TCP port, a Unix socket, a pexpect session.

Each is a blocking context manager that takes the client as `client=`. The methods `portforward` and
`pexpect` of client classes use them. `blocking` turns an async adapter of your own into one.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import trio

from .._io.forward import QUIET_LIMIT, STALL, forward_to, listen_tcp, listen_unix
from .._util.async_library import said_by
from .._util.background import open_background
from .._util.checks import (
    check_callable,
    check_int,
    check_path,
    check_seconds,
    check_text,
    raise_type_error,
    raise_value_error,
)
from .._util.fork import close_in_children, close_without_fork, no_fork
from .._util.writes import name_os_errors
from ..errors import DriverTimeoutError, MissingExtra
from ._base import DriverClient
from ._raw_streams import RemoteStream, unwatched
from ._runner import limited, portal_for

if TYPE_CHECKING:
    from pexpect.fdpexpect import fdspawn

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "PexpectAdapter",
    "TcpPortforwardAdapter",
    "UnixPortforwardAdapter",
    "blocking",
    "pexpect_session",
    "tcp_portforward",
    "unix_portforward",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_HOST: Final = "a str, the name or address of an interface of this machine"
_LINGER: Final = 10.0  # seconds at a session's end, for what was sent to reach the driver


def blocking(
    adapter: Callable[_P, AbstractAsyncContextManager[_T]],
) -> Callable[_P, AbstractContextManager[_T, bool]]:
    """Turn an async adapter into a blocking one.

    Args:
        adapter: An `asynccontextmanager` with a keyword argument `client`. It runs in the loop of
            that client.

    Returns:
        A function with the same arguments.

    Raises:
        ArgumentError: `adapter` is not a function; or, from the returned function, `client` is not
            a client.
    """
    check_callable("adapter", adapter, "an asynccontextmanager")

    @functools.wraps(adapter)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> AbstractContextManager[_T, bool]:
        client = kwargs.get("client")
        if not isinstance(client, DriverClient):
            raise_type_error("client=", client, "the client of the driver")
        name = getattr(adapter, "__name__", "it")
        portal = portal_for(client, f"blocking {name}", name)
        # Before the time limit is put around it, which is code of this library.
        manager = portal.adapt_manager(adapter(*args, **kwargs), said_by(type(client)))
        return portal.wrap_async_context_manager(limited(manager, f"the use of {name}"))

    return wrapper


@asynccontextmanager
async def _patient(client: DriverClient, method: str) -> AsyncIterator[RemoteStream]:
    """Open a stream which, when closed, gives a slow device time to accept what was sent.

    It is not watched: a program's connection is not a console.
    """
    async with AsyncExitStack() as block:
        with unwatched():
            stream = await block.enter_async_context(client.stream_async(method))
        stream.linger_for(STALL)
        yield stream


@asynccontextmanager
async def tcp_portforward(
    *,
    client: DriverClient,
    method: str = "connect",
    local_host: str = "127.0.0.1",
    local_port: int = 0,
    quiet_limit: float = QUIET_LIMIT,
) -> AsyncIterator[tuple[str, int]]:
    """Forward connections to a local TCP port, each to its own raw stream of the driver.

    Args:
        client: The driver's client.
        method: Name of the `exportstream` method.
        local_host: The address to listen on; by default, only this machine can connect.
        local_port: The port; by default, any free one.
        quiet_limit: Seconds without a byte in either direction after which a half-closed connection
            is ended. It only applies where this process cannot see whether the program still
            exists: it is on another machine, or this one is not Linux. 30 by default: an answer has
            begun by then, and the device is soon free for the next program. math.inf for no limit.

    Yields:
        The address and the port. Leaving the block ends all connections.

    Raises:
        OSError: The port cannot be listened on.
        ArgumentError: An argument cannot be used.
    """
    check_text("method", method)
    if not check_text("local_host", local_host, _HOST):
        raise_value_error("local_host", local_host, _HOST)
    check_int("local_port", local_port, 0, 65535)
    handler = forward_to(lambda: _patient(client, method), quiet_limit=quiet_limit)
    listening = listen_tcp(handler, local_host=local_host, local_port=local_port)
    async with AsyncExitStack() as block:
        with name_os_errors(f"{local_host}:{local_port}"):
            address = await block.enter_async_context(listening)
        yield address


@asynccontextmanager
async def unix_portforward(
    *,
    client: DriverClient,
    method: str = "connect",
    path: str = "",
    quiet_limit: float = QUIET_LIMIT,
) -> AsyncIterator[str]:
    """Forward connections to a local Unix socket, each to its own raw stream of the driver.

    Only the owner of the socket may connect.

    Args:
        client: The driver's client.
        method: Name of the `exportstream` method.
        path: Path of the socket; by default in a private directory.
        quiet_limit: As for `tcp_portforward`.

    Yields:
        The path. Leaving the block ends all connections.

    Raises:
        OSError: The socket cannot be created there.
        ArgumentError: An argument cannot be used.
    """
    check_text("method", method)
    path = check_path("path", path) if path != "" else ""
    handler = forward_to(lambda: _patient(client, method), quiet_limit=quiet_limit)
    async with AsyncExitStack() as block:
        with name_os_errors(path or "a private directory"):
            where = await block.enter_async_context(listen_unix(handler, path=path))
        yield where


@asynccontextmanager
async def pexpect_session(
    *,
    client: DriverClient,
    method: str = "connect",
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[fdspawn[Any]]:
    r"""Open a driver's raw stream as a pexpect session. For blocking code.

    Args:
        client: The driver's client.
        method: Name of the `exportstream` method.
        arguments: Its keyword arguments.
        options: Of `pexpect.fdpexpect.fdspawn`: `timeout` in seconds, 30 by default; `encoding`;
            `logfile`.

    Yields:
        An `fdspawn`: `expect`, `sendline`, `before`. `expect` raises `pexpect.EOF` when the driver
        has ended its half; the text says why if the driver has failed or the connection is gone,
        and then `send` raises BrokenPipeError. A line ends with "\n"; for a console that wants "\r"
        set `session.linesep = "\r"`. `send`, `sendline`, `write` and `writelines` send everything,
        and block while the driver reads nothing. When the block has been left, everything that was
        sent has reached the driver, and the session is closed.

    Raises:
        MissingExtra: The extra `pexpect` is not installed.
        DriverError: The driver could not open the stream, or has failed with it, or has not taken
            everything that was sent within 10 s of the end.
        ArgumentError: An option cannot be used.
    """
    if options.get("timeout") is not None and options["timeout"] != -1:  # pexpect's own default
        check_seconds("timeout", options["timeout"])
    if options.get("encoding") is not None:
        check_text("encoding", options["encoding"], "the name of an encoding, or None")
    try:
        import pexpect.fdpexpect  # noqa: F401, PLC0415 - only for those who use it
    except ImportError as exc:
        raise MissingExtra.named("pexpect", "a pexpect session") from exc
    from ._expect import Session, SessionBroken  # noqa: PLC0415 - as above

    async with client.stream_async(method, **(arguments or {})) as stream:
        with no_fork():
            ours, theirs = socket.socketpair()
            close_in_children(ours, theirs)
        theirs.setblocking(True)  # socket.setdefaulttimeout() may have changed that
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as near:
            options.setdefault("use_poll", True)  # select() fails for descriptors above 1,023
            with theirs:
                session = Session(theirs.fileno(), lambda: stream.failure, **options)
                close_in_children(session)
                theirs.detach()
            try:
                async with _joined(near, stream):
                    yield session
                    close_without_fork(session)
            except SessionBroken:
                stream.check()  # raises the driver's failure, which says more
                raise
            finally:
                close_without_fork(session)


@asynccontextmanager
async def _joined(near: trio.SocketStream, stream: RemoteStream) -> AsyncIterator[None]:
    """Forward in both directions while the block is open.

    At its end, if it raised nothing, let what was typed reach the driver first.
    """
    typed = trio.Event()

    def refuse_typing() -> None:
        """Make `send` fail, even one that is waiting: nothing reads its bytes any more."""
        with suppress(OSError):  # closed already
            near.socket.shutdown(socket.SHUT_RD)

    async def hear() -> None:
        with _until_broken():
            async for data in stream:
                await near.send_all(data)
        # This order: a session that has seen EOF after a failure must not send successfully.
        if stream.failure is not None:
            refuse_typing()
        with _until_broken():
            await near.send_eof()
        await stream.wait_ended()  # until then, the driver may have ended only its half
        refuse_typing()

    async def type_() -> None:
        with _until_broken():
            async for data in near:
                await stream.send_all(data)
        refuse_typing()
        typed.set()

    async with open_background() as nursery:
        nursery.start_soon(hear)
        nursery.start_soon(type_)
        yield
        with trio.move_on_after(_LINGER):
            await typed.wait()
        if not typed.is_set():
            text = "the driver has not taken everything that was sent"
            raise DriverTimeoutError(f"{text} within {_LINGER:g} s of the session's end")


def _until_broken() -> AbstractContextManager[None]:
    """Ignore that a stream is broken or closed: closing the driver's stream raises the reason."""
    return suppress(trio.BrokenResourceError, trio.ClosedResourceError)


TcpPortforwardAdapter: Final = blocking(tcp_portforward)
UnixPortforwardAdapter: Final = blocking(unix_portforward)
PexpectAdapter: Final = blocking(pexpect_session)
