"""Serve a driver tree and connect to it in one program.

At the end of the block, calls are cancelled and joined, the drivers are closed, and the socket is
removed, in this order, whatever happened inside it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
)
from typing import Any, TypeVar, overload

from .._io.sockets import private_socket_path
from .._limits import DEFAULT_LIMITS, Limits
from ..client import DriverClient
from ..client._tree import Wanted
from ..driver import Driver
from .access import check_access
from .connecting import open_channel
from .contexts import BlockingContext, Opened
from .serving import check_async_library, serve_async

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["serve"]

_C = TypeVar("_C", bound=DriverClient)


@overload
def serve(
    driver: Driver,
    *,
    client: None = None,
    limits: Limits = DEFAULT_LIMITS,
    async_library: str | None = None,
) -> AbstractContextManager[DriverClient, None]: ...
@overload
def serve(
    driver: Driver,
    *,
    client: type[_C],
    limits: Limits = DEFAULT_LIMITS,
    async_library: str | None = None,
) -> AbstractContextManager[_C, None]: ...
def serve(
    driver: Driver,
    *,
    client: type[Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    async_library: str | None = None,
) -> AbstractContextManager[Any, None]:
    """Serve a driver tree to this program itself, until a `with` block ends.

        with serve(Power()) as client:
            client.on()

    The calls pass through a Unix socket in a private directory and the whole protocol, so code that
    works here also works with `serve_async` and `connect` in two processes. All client classes may
    be imported, since the driver is the caller's own.

    Entering runs `reset()` through the tree; an exception that one raises leaves this function.
    Leaving cancels the calls that still run, waits for them, and then runs `close()` through the
    tree; see `serve_async`. Both block, and are refused in a thread that runs a Trio loop. The
    connection lives in a thread of its own, and the client may be used from any thread that runs no
    Trio loop.

    Args:
        driver: The root of the tree.
        client: The expected class of the root driver's client, for type checkers. It is checked
            when the block is entered.
        limits: The limits of both sides. The defaults suit a lab; see `Limits` for the reasons.
        async_library: Which library the async code of drivers is written for, as for `serve_async`.

    Returns:
        A context manager that yields the client of the root driver; the clients of its children are
        its attributes.

    Raises:
        ConfigurationError: (on entering) The tree cannot be served, or a driver of it is served
            already.
        Exception: (on entering) A driver's `reset()` has raised it; a note on it names the driver.
        ClientImportError: (on entering) The client is not of the class `client`, or cannot be
            imported.
        ArgumentError: An argument cannot be used.
        RuntimeError: (on entering) A Trio loop runs in this thread.
    """
    check_access(limits, None, None)
    library = check_async_library(async_library)

    def open_it(stack: ExitStack) -> AbstractAsyncContextManager[Opened]:
        address = f"unix:{stack.enter_context(private_socket_path())}"
        return _serve_and_connect(driver, address, limits, library)

    statement = "with serve(...) as client:"
    return BlockingContext(open_it, Wanted(client, None), limits, statement)


@asynccontextmanager
async def _serve_and_connect(
    driver: Driver, address: str, limits: Limits, library: str | None
) -> AsyncIterator[Opened]:
    serving = serve_async(
        driver, address, limits=limits, send_tracebacks=True, async_library=library
    )
    async with (
        serving,
        open_channel(address, limits) as opened,
    ):
        yield opened
