"""A driver that offers a gibibyte, and a device that reads nothing, for test_backpressure.py."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from jumpstarter.driver import Driver, export, exportstream

PIECE = 64 * 1024
PIECES = 16 * 1024  # a gibibyte in all


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Stuck(trio.abc.HalfCloseableStream):
    """A device that sends nothing and reads nothing."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        del max_bytes
        await trio.sleep_forever()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        del data
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Gushing(Stuck):
    """A device that sends a gibibyte as fast as its reader takes it."""

    def __init__(self, driver: Flooding) -> None:
        self._driver = driver

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        if self._driver.offered == PIECES:
            return b""
        self._driver.offered += 1
        await trio.lowlevel.checkpoint()
        return bytes(PIECE)


class Flooding(Driver):
    """A driver that counts the pieces it has sent."""

    offered = 0  # pieces that the driver has handed over

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    async def echo(self, value: object = None) -> object:
        return value

    @export
    async def resident(self) -> int:
        return resident()

    @export
    async def count(self) -> int:
        return self.offered

    @export
    async def items(self) -> AsyncGenerator[bytes, None]:
        for _ in range(PIECES):
            self.offered += 1
            yield bytes(PIECE)

    @exportstream
    @asynccontextmanager
    async def gush(self) -> AsyncIterator[trio.abc.Stream]:
        yield Gushing(self)

    @exportstream
    @asynccontextmanager
    async def stuck(self) -> AsyncIterator[trio.abc.Stream]:
        yield Stuck()
