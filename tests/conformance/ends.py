"""Both ends of a connection in one Trio loop, for the conformance tests to inspect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import trio
from driver_conformance import Conformance
from driver_conformance_asyncio import AsyncioConformance

from jumpstarter import Limits
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.session import Session
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._util.background import open_background
from jumpstarter.client import DriverClient
from jumpstarter.client._channel import Channel
from jumpstarter.client._remote import DriverRef

__all__ = ["DRIVERS", "Ends"]

# The same driver in Trio, and in the asyncio lane.
DRIVERS: Final[dict[str, type[Conformance]]] = {
    "trio": Conformance,
    "asyncio": AsyncioConformance,
}


class Ends:
    """A client and a session with a `Conformance` driver, over two connected streams.

    Attributes:
        driver: The driver that answers the calls.
        channel: The client's end.
        session: The exporter's end.
        client: The driver's client, for Trio code.
        lane: Opens the asyncio lane, if the driver's code is asyncio's.
    """

    def __init__(
        self,
        pair: tuple[trio.abc.Stream, trio.abc.Stream],
        limits: Limits,
        driver: type[Conformance] = Conformance,
    ) -> None:
        ours, theirs = pair
        self.driver = driver()
        self._lanes = DriverExecutor()
        exporter = ServerContext(DeviceTree(self.driver), self._lanes, limits=limits)
        self.lane = exporter.lane
        self.session = Session(exporter, theirs, "the client")
        self.channel = Channel(ours, "the exporter", limits=limits)
        self.client = DriverClient(uuid=uuid4(), channel=DriverRef(self.channel, 1, "the driver"))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[DriverClient]:
        """Run both ends for the duration of the block."""
        async with self.lane(), open_background() as nursery:
            nursery.start_soon(self.session.run)
            await self.channel.begin(nursery)
            try:
                yield self.client
            finally:
                await self.channel.aclose()

    @property
    def busy(self) -> dict[str, int]:
        """Count the resources in use on either side, by name."""
        in_use = {
            "slots of the client": self.channel._rules.busy_slots,
            "slots of the exporter": self.session._rules.busy_slots,
            "threads of drivers": self._lanes.limiter.borrowed_tokens,
            "code of the driver": len(self.driver.running),
        }
        return {name: number for name, number in in_use.items() if number}
