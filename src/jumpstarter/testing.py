"""For driver authors' own tests: a driver and its client, joined in memory.

Nothing between the two is left out but the socket: arguments, results and errors cross the wire's
own frames, so what works here works from another machine. For a test of the socket too, use
`jumpstarter.serve`. pytest is needed only by who asks for a fixture.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import trio
import trio.testing

from ._background import open_background
from ._limits import DEFAULT_LIMITS, Limits
from ._messages import Node
from ._portal import start_blocking_portal
from ._serve import ask_for_report
from ._server import tell_hidden
from .client import DriverClient
from .client._channel import Channel
from .client._tree import build_tree
from .driver import Driver
from .driver._exporter import Exporter
from .driver._lanes import Lanes
from .driver._session import Session
from .driver._tree import DeviceTree

__all__ = ["client_fixture", "client_for", "client_for_async"]


@contextmanager
def client_for(driver: Driver, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[DriverClient]:
    """Give the client of a driver, for the length of a `with` block in blocking code.

    `reset()` runs through the tree first. At the end calls are cancelled and joined, and then
    `reset()` and `close()` run through the tree, and are waited for however long they take.

    Args:
        driver: The root of a tree, which has no other client meanwhile.
        limits: Of both sides.

    Yields:
        The client, of the class that the driver names; its children are its attributes.

    Raises:
        ConfigurationError: The tree cannot be served.
    """
    with start_blocking_portal() as portal:
        joined = _join(driver, limits)
        with portal.wrap_async_context_manager(joined) as (channel, nodes):
            client = build_tree(nodes, channel, portal=portal, allow=None)
            try:
                yield client
            finally:
                client.close()


@asynccontextmanager
async def client_for_async(
    driver: Driver, *, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[DriverClient]:
    """Give the client of a driver, for the length of an `async with` block in a Trio task.

    The same for the client's `_async` methods. Driver and client run in the caller's own loop, with
    its clock: under `trio.testing.MockClock` a driver that sleeps for an hour does so at once.
    Plain methods of drivers run in threads, which no clock waits for.

    Args, Yields and Raises: as `client_for`.
    """
    async with _join(driver, limits) as (channel, nodes):
        client = build_tree(nodes, channel, allow=None)
        try:
            yield client
        finally:
            client.close()


@asynccontextmanager
async def _join(driver: Driver, limits: Limits) -> AsyncIterator[tuple[Channel, list[Node]]]:
    lanes = Lanes()
    tree = DeviceTree(driver)
    tell_hidden(tree)
    exporter = Exporter(tree, lanes, limits=limits, send_tracebacks=True)
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
        scope: How long pytest keeps one; each test has its own by default.

    Returns:
        The fixture, whose name is that of the variable it is assigned to.
    """
    import pytest  # noqa: PLC0415 - who has no tests needs no pytest

    @pytest.fixture(scope=scope)
    def client() -> Iterator[DriverClient]:
        with client_for(make()) as client:
            yield client

    return client
