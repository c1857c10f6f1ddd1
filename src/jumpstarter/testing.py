"""Test a driver and its client, connected in memory.

Only the socket is left out: arguments, results and errors cross the wire in real frames, so code
that works here also works from another machine. To test the socket too, use `jumpstarter.serve`.
Only `client_fixture` needs pytest.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
)
from typing import Any, Final, Literal, TypeVar, overload

import trio
import trio.testing

from ._api.access import check_access
from ._api.connecting import ask_for_report, build_async
from ._api.contexts import AsyncContext, Opened, SyncContext
from ._api.serving import warn_shadowed_names
from ._exporter.context import ServerContext
from ._exporter.executor import DriverExecutor
from ._exporter.session import Session
from ._exporter.tree import DeviceTree
from ._io.portal import in_trio_thread, start_blocking_portal
from ._limits import DEFAULT_LIMITS, Limits
from ._util.background import open_background
from ._util.checks import check_callable, raise_value_error
from ._util.tracebacks import hidden_contextmanager
from .client import DriverClient
from .client._channel import Channel
from .client._tree import Wanted
from .driver import Driver
from .errors import ArgumentTypeError

_C = TypeVar("_C", bound=DriverClient)

_SCOPES: Final = ("function", "class", "module", "package", "session")

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["client_fixture", "client_for", "client_for_async"]


@overload
def client_for(
    driver: Driver, *, client: None = None, limits: Limits = ...
) -> AbstractContextManager[DriverClient, None]: ...
@overload
def client_for(
    driver: Driver, *, client: type[_C], limits: Limits = ...
) -> AbstractContextManager[_C, None]: ...
def client_for(
    driver: Driver, *, client: type[Any] | None = None, limits: Limits = DEFAULT_LIMITS
) -> AbstractContextManager[Any, Any]:
    """Connect a driver and its client in memory, for a `with` block in blocking code.

        with client_for(Power()) as client:
            client.on()

    Entering runs `reset()` through the tree. If one raises an exception, that leaves this function,
    after `close()`. Leaving cancels the calls that still run and waits for them, and then runs
    `close()` through the tree, however long that takes. Both block. The client may be used from
    any thread that runs no Trio loop.

    Args:
        driver: The root of a tree. It cannot be served elsewhere meanwhile.
        client: The expected class of its client, for type checkers. It is checked when the block is
            entered.
        limits: The limits of both sides.

    Returns:
        A context manager that yields the client, of the class that the driver names; the clients of
        its children are its attributes.

    Raises:
        ConfigurationError: (on entering) The tree cannot be served, or a driver of it is served
            already.
        ClientImportError: (on entering) The client is not of the class `client`, or cannot be
            imported.
        ArgumentError: Another argument cannot be used.
    """
    managed = _client_for(_join(driver, limits), Wanted(client, None))
    return SyncContext(managed, "with client_for(...) as client:")


@hidden_contextmanager
def _client_for(joined: AbstractAsyncContextManager[Opened], wanted: Wanted[_C]) -> Iterator[_C]:
    if in_trio_thread():
        text = "client_for() and client_fixture() block, and a Trio loop runs in this thread"
        raise RuntimeError(f"{text}: use `async with client_for_async(...)`")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(joined) as (channel, nodes),
    ):
        root = wanted.build(nodes, channel, portal)
        try:
            yield root
        finally:
            root.close()


@overload
def client_for_async(
    driver: Driver, *, client: None = None, limits: Limits = ...
) -> AbstractAsyncContextManager[DriverClient, None]: ...
@overload
def client_for_async(
    driver: Driver, *, client: type[_C], limits: Limits = ...
) -> AbstractAsyncContextManager[_C, None]: ...
def client_for_async(
    driver: Driver, *, client: type[Any] | None = None, limits: Limits = DEFAULT_LIMITS
) -> AbstractAsyncContextManager[Any, Any]:
    """Connect a driver and its client in memory, for an `async with` block in a Trio task.

        async with client_for_async(Power()) as client:
            await client.call_async("on")

    Use the client's `_async` methods. Driver and client run in the caller's Trio loop, with its
    clock: under `trio.testing.MockClock`, a driver that sleeps for an hour takes no time. Plain
    methods of drivers run in threads, for which a MockClock does not wait. Entering and leaving are
    checkpoints; they run `reset()` and `close()` as `client_for` does, and leaving cannot be
    cancelled.

    Args:
        driver: The root of a tree. It cannot be served elsewhere meanwhile.
        client: The expected class of its client, for type checkers. It is checked when the block is
            entered.
        limits: The limits of both sides.

    Returns:
        An async context manager that yields the client, of the class that the driver names; the
        clients of its children are its attributes.

    Raises:
        ConfigurationError: (on entering) The tree cannot be served, or a driver of it is served
            already.
        ClientImportError: (on entering) The client is not of the class `client`, or cannot be
            imported.
        ArgumentError: Another argument cannot be used.
        RuntimeError: (on entering) No Trio loop runs in this thread.
    """
    joined, wanted = _join(driver, limits), Wanted(client, None)
    managed = build_async(joined, wanted, "client_for_async()", blocking="client_for()")
    return AsyncContext(managed, "async with client_for_async(...) as client:")


def _join(driver: Driver, limits: Limits) -> AbstractAsyncContextManager[Opened]:
    check_access(limits, None, None)
    return _join_in_memory(driver, limits)


@asynccontextmanager
async def _join_in_memory(driver: Driver, limits: Limits) -> AsyncIterator[Opened]:
    executor = DriverExecutor()
    tree = DeviceTree(driver)
    warn_shadowed_names(tree)
    context = ServerContext(tree, executor, limits=limits, send_tracebacks=True)
    with tree.claimed("in a block of jumpstarter.testing"):
        ours, theirs = trio.testing.memory_stream_pair()
        try:
            await tree.reset()
            async with open_background() as nursery:
                nursery.start_soon(Session(context, theirs, "the test").run)
                channel = Channel(ours, "the driver under test", limits=limits)
                await channel.begin(nursery)
                nodes = await ask_for_report(channel)
                try:
                    yield channel, nodes
                finally:
                    await channel.aclose()
        finally:
            await tree.end(math.inf)


def client_fixture(
    make: Callable[[], Driver],
    *,
    client: type[DriverClient] | None = None,
    scope: Literal["function", "class", "module", "package", "session"] = "function",
) -> Any:
    """Make a pytest fixture that yields the client of a driver.

    In a test module or a `conftest.py`:

        power = client_fixture(PowerDriver)

        def test_on(power):
            power.on()
            assert power.read() == 1

    Args:
        make: Returns a new driver: its class, or a function without arguments.
        client: The expected class of its client, which is checked.
        scope: The fixture's scope; by default each test has its own driver.

    Returns:
        The fixture. Its name is that of the variable to which it is assigned.

    Raises:
        ArgumentError: `make` or another argument cannot be used.
    """
    maker: object = make
    if isinstance(maker, Driver):
        text = f"make must give a new driver for each test: pass the class {type(maker).__name__}"
        raise ArgumentTypeError(f"{text}, or a function, not an instance")
    check_callable("make", make, "a driver's class, or a function that makes a driver")
    if scope not in _SCOPES:
        raise_value_error("scope", scope, f"one of {', '.join(_SCOPES)}")
    Wanted(client, None)  # only for its checks: an error should point at this call
    import pytest  # noqa: PLC0415 - only this function needs it

    @pytest.fixture(scope=scope)
    def fixture() -> Iterator[DriverClient]:
        with client_for(make(), client=client) as root:
            yield root

    return fixture
