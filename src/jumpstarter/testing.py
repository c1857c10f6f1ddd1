"""For driver authors' own tests: a driver and its client, joined in memory.

Nothing between the two is left out but the socket: arguments, results and errors cross the wire's
own frames, so what works here works from another machine. For a test of the socket too, use
`jumpstarter.serve`. pytest is needed only by who asks for a fixture.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
)
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

import trio
import trio.testing

from ._api.connecting import ask_for_report
from ._api.serving import check_access, warn_shadowed_names
from ._exporter.context import ServerContext
from ._exporter.executor import DriverExecutor
from ._exporter.session import Session
from ._exporter.tree import DeviceTree
from ._io.portal import in_trio_thread, start_blocking_portal
from ._limits import DEFAULT_LIMITS, Limits
from ._protocol.frames import Node
from ._util.background import open_background
from ._util.checks import check_callable, raise_value_error
from ._util.event_loop import check_trio_loop
from ._util.tracebacks import hidden_contextmanager
from .client import DriverClient
from .client._channel import Channel
from .client._tree import Wanted
from .driver import Driver
from .errors import ArgumentTypeError

_C = TypeVar("_C", bound=DriverClient)
_Joined: TypeAlias = tuple[Channel, list[Node]]

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
    """Give the client of a driver, for the length of a `with` block in blocking code.

    `reset()` runs through the tree first. At the end calls are cancelled and joined, and then
    `reset()` and `close()` run through the tree, and are waited for however long they take.

    Args:
        driver: The root of a tree, which is not served elsewhere meanwhile.
        client: The class of its client, which is checked, and a type checker knows.
        limits: Of both sides.

    Returns:
        A context manager of the client, of the class that the driver names; its children are its
        attributes.

    Raises:
        ConfigurationError: (on entering) The tree cannot be served.
        ClientImportError: (on entering) The client is not of the class `client`.
        ArgumentError: Another argument cannot be used.
    """
    return _client_for(_join(driver, limits), Wanted(client, None))


@hidden_contextmanager
def _client_for(joined: AbstractAsyncContextManager[_Joined], wanted: Wanted[_C]) -> Iterator[_C]:
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
    """Give the client of a driver, for the length of an `async with` block in a Trio task.

    The same for the client's `_async` methods. Driver and client run in the caller's own loop, with
    its clock: under `trio.testing.MockClock` a driver that sleeps for an hour does so at once.
    Plain methods of drivers run in threads, which no clock waits for.

    Args, Returns and Raises: as `client_for`.
    """
    return _client_for_async(_join(driver, limits), Wanted(client, None))


@asynccontextmanager
async def _client_for_async(
    joined: AbstractAsyncContextManager[_Joined], wanted: Wanted[_C]
) -> AsyncIterator[_C]:
    instead = "use client_for(), and call the blocking methods by `await asyncio.to_thread(...)`"
    check_trio_loop("client_for_async()", instead)
    async with joined as (channel, nodes):
        root = wanted.build(nodes, channel)
        try:
            yield root
        finally:
            root.close()


def _join(driver: Driver, limits: Limits) -> AbstractAsyncContextManager[_Joined]:
    check_access(limits, None, None)
    return _joined(driver, limits)


@asynccontextmanager
async def _joined(driver: Driver, limits: Limits) -> AsyncIterator[_Joined]:
    executor = DriverExecutor()
    tree = DeviceTree(driver)
    warn_shadowed_names(tree)
    exporter = ServerContext(tree, executor, limits=limits, send_tracebacks=True)
    with tree.claimed("in a block of jumpstarter.testing"):
        ours, theirs = trio.testing.memory_stream_pair()
        try:
            await tree.reset()
            async with open_background() as nursery:
                nursery.start_soon(Session(exporter, theirs, "the test").run)
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
    """Make a pytest fixture that gives the client of a driver.

    In a test module or a `conftest.py`:

        power = client_fixture(PowerDriver)

        def test_on(power):
            power.on()
            assert power.read() == 1

    Args:
        make: Gives a new driver: its class, or a function without arguments.
        client: The class of its client, which is checked.
        scope: How long pytest keeps one; each test has its own by default.

    Returns:
        The fixture, whose name is that of the variable it is assigned to.

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
    Wanted(client, None)  # a mistake in an argument is told where the argument is
    import pytest  # noqa: PLC0415 - who has no tests needs no pytest

    @pytest.fixture(scope=scope)
    def fixture() -> Iterator[DriverClient]:
        with client_for(make(), client=client) as root:
            yield root

    return fixture
