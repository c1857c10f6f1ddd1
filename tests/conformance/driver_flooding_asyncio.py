"""The `Flooding` driver with its async code written for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import driver_flooding
from driver_flooding import PIECE, PIECES, resident

from jumpstarter.driver import export, exportstream

__all__ = ["Flooding"]


class _Stuck:
    """A device that sends nothing and reads nothing."""

    async def receive(self) -> bytes:
        await asyncio.sleep(3600)
        return b""

    async def send(self, data: bytes) -> None:
        del data
        await asyncio.sleep(3600)

    async def send_eof(self) -> None: ...


class _Gushing(_Stuck):
    """A device that sends a gibibyte as fast as its reader takes it."""

    def __init__(self, driver: Flooding) -> None:
        self._driver = driver

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        self._driver.offered += 1
        return bytes(PIECE)


class Flooding(driver_flooding.Flooding):
    """A driver that counts the pieces it has sent."""

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
    async def gush(self) -> AsyncIterator[Any]:
        yield _Gushing(self)

    @exportstream
    @asynccontextmanager
    async def stuck(self) -> AsyncIterator[Any]:
        yield _Stuck()
