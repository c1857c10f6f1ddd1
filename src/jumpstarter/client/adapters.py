"""What makes other things of a driver's raw stream: a local port, a socket, a pexpect session.

Each is a blocking context manager that takes the client as `client=`; those of client classes,
`portforward` and `pexpect`, are the same. `blocking` makes one of an adapter of your own.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import AsyncIterator, Callable
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
from ._raw_streams import RemoteStream
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
_LINGER: Final = 10.0  # seconds for what a session has typed to reach the driver, at its end


def blocking(
    adapter: Callable[_P, AbstractAsyncContextManager[_T]],
) -> Callable[_P, AbstractContextManager[_T, bool]]:
    """Make a blocking context manager of an async one.

    Args:
        adapter: An `asynccontextmanager` with a keyword argument `client`, in whose loop it runs.

    Returns:
        A function with the same arguments.

    Raises:
        ArgumentError: It is no function; or, from that function, `client` is no client.
    """
    check_callable("adapter", adapter, "an asynccontextmanager")

    @functools.wraps(adapter)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> AbstractContextManager[_T, bool]:
        client = kwargs.get("client")
        if not isinstance(client, DriverClient):
            raise_type_error("client=", client, "the client of the driver")
        name = getattr(adapter, "__name__", "it")
        portal = portal_for(client, f"blocking {name}", name)
        manager = adapter(*args, **kwargs)
        return portal.wrap_async_context_manager(limited(manager, f"the use of {name}"))

    return wrapper


@asynccontextmanager
async def _patient(client: DriverClient, method: str) -> AsyncIterator[RemoteStream]:
    """Open a stream that, closed, leaves a slow device time for what a program has left."""
    async with client.stream_async(method) as stream:
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
    """Carry the connections to a local TCP port to a driver's raw stream, each to one of its own.

    Args:
        client: Of that driver.
        method: Name of the `exportstream` method.
        local_host: Where to listen; by default nobody but this machine can connect.
        local_port: By default, any that is free.
        quiet_limit: Seconds without a byte either way until a connection is ended whose program has
            ended its half, where nobody can tell whether the program is still there: it is on
            another machine, or this one is not Linux. 30 by default: an answer has begun by then,
            and the device is soon free for the next program. math.inf for no limit.

    Yields:
        The address and the port. All connections are ended when the block is left.

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
    """The same from a Unix socket, for its owner alone.

    Args:
        client: Of the driver.
        method: Name of the `exportstream` method.
        path: Where; by default in a private directory.
        quiet_limit: As for `tcp_portforward`.

    Yields:
        The path.

    Raises:
        OSError: The socket cannot be made there.
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
    *, client: DriverClient, method: str = "connect", **options: Any
) -> AsyncIterator[fdspawn[Any]]:
    r"""Open a driver's raw stream as a pexpect session, which is for blocking code.

    Args:
        client: Of the driver.
        method: Name of the `exportstream` method.
        options: Of `pexpect.fdpexpect.fdspawn`: `timeout` in seconds, 30 by default; `encoding`;
            `logfile`.

    Yields:
        An `fdspawn`: `expect`, `sendline`, `before`, and `pexpect.EOF` when the driver has ended
        its half. It ends a line with "\n"; consoles that want "\r" take `session.linesep = "\r"`.
        What was sent has reached the driver when the block is left, and the session is closed.
        `send` and its kin send everything, and wait for as long as the driver takes nothing.

    Raises:
        MissingExtra: The extra `pexpect` is not installed.
        DriverError: The driver could not open the stream, or has failed with it, or has not taken
            what was typed within 10 s of the end.
        ArgumentError: An option cannot be used.
    """
    if options.get("timeout") is not None and options["timeout"] != -1:  # pexpect's own default
        check_seconds("timeout", options["timeout"])
    if options.get("encoding") is not None:
        check_text("encoding", options["encoding"], "the name of an encoding, or None")
    try:
        import pexpect.fdpexpect  # noqa: F401, PLC0415 - who expects nothing needs it not
    except ImportError as exc:
        raise MissingExtra.named("pexpect", "a pexpect session") from exc
    from ._expect import Session, SessionBroken  # noqa: PLC0415 - as above

    async with client.stream_async(method) as stream:
        with no_fork():
            ours, theirs = socket.socketpair()
            close_in_children(ours, theirs)
        theirs.setblocking(True)  # whatever socket.setdefaulttimeout() was told
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as near:
            options.setdefault("use_poll", True)  # with more than 1,024 files open, select is lost
            with theirs:
                session = Session(theirs.fileno(), **options)
                close_in_children(session)
                theirs.detach()
            try:
                async with _joined(near, stream):
                    yield session
                    close_without_fork(session)
            except SessionBroken:
                stream.check()  # raises what the driver has failed with, which says more
                raise
            finally:
                close_without_fork(session)


@asynccontextmanager
async def _joined(near: trio.SocketStream, stream: RemoteStream) -> AsyncIterator[None]:
    """Forward in the background; at a good end let what was typed go out first."""
    typed = trio.Event()

    async def hear() -> None:
        with _until_broken():
            async for data in stream:
                await near.send_all(data)
        with _until_broken():
            await near.send_eof()

    async def type_() -> None:
        with _until_broken():
            async for data in near:
                await stream.send_all(data)
        # A `send` that waits fails now: nothing reads its bytes any more.
        with suppress(OSError):  # closed already
            near.socket.shutdown(socket.SHUT_RD)
        typed.set()

    async with open_background() as nursery:
        nursery.start_soon(hear)
        nursery.start_soon(type_)
        yield
        with trio.move_on_after(_LINGER):
            await typed.wait()
        if not typed.is_set():
            text = "not all that was typed was taken by the driver"
            raise DriverTimeoutError(f"{text} within {_LINGER:g} s of the session's end")


def _until_broken() -> AbstractContextManager[None]:
    """Leave it to the driver's stream to say why it broke, when it is closed."""
    return suppress(trio.BrokenResourceError, trio.ClosedResourceError)


TcpPortforwardAdapter: Final = blocking(tcp_portforward)
UnixPortforwardAdapter: Final = blocking(unix_portforward)
PexpectAdapter: Final = blocking(pexpect_session)
