"""A driver that logs when its callers' code begins and ends, for test_lost_peers.py."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager

import trio
import trio.testing

from jumpstarter.driver import Driver, caller, export, exportstream, on_disconnect


class Holding(Driver):
    """A driver that blocks each caller forever, in a task or in a thread."""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @contextmanager
    def _told(self, what: str) -> Generator[None, None, None]:
        self.logger.info("%s begins", what)
        try:
            yield
        finally:
            self.logger.info("%s has ended", what)

    @export
    async def echo(self, value: object = None) -> object:
        return value

    @export
    async def on(self) -> None:
        """Switch on a device that must be off after its user has gone."""
        on_disconnect(self._off)
        self.logger.info("it is on")

    def _off(self) -> None:
        self.logger.info("it is off, since %s has gone", caller().claimed.name)

    @export
    async def hold(self) -> None:
        with self._told("hold"):
            await trio.sleep_forever()

    @export
    def hold_thread(self) -> None:
        with self._told("hold_thread"):
            while True:
                trio.from_thread.check_cancelled()
                time.sleep(0.01)

    @export
    async def hold_items(self) -> AsyncGenerator[int, None]:
        with self._told("hold_items"):
            yield 1
            await trio.sleep_forever()

    @exportstream
    @asynccontextmanager
    async def hold_stream(self) -> AsyncIterator[trio.abc.Stream]:
        with self._told("hold_stream"):
            ours, theirs = trio.testing.memory_stream_pair()
            async with ours:
                yield theirs
