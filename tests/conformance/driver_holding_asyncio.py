"""The `Holding` driver with its async code written for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import driver_holding

from jumpstarter.driver import export, exportstream

__all__ = ["Holding"]


class _Silent:
    """A stream that sends nothing and takes everything."""

    async def receive(self) -> bytes:
        await asyncio.sleep(3600)
        return b""

    async def send(self, data: bytes) -> None:
        del data

    async def send_eof(self) -> None: ...


class Holding(driver_holding.Holding):
    """A driver that blocks each caller in an asyncio task; its cleanup awaits."""

    @export
    async def echo(self, value: object = None) -> object:
        return value

    @export
    async def hold(self) -> None:
        with self._told("hold"):
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.01)

    @export
    async def hold_items(self) -> AsyncGenerator[int, None]:
        with self._told("hold_items"):
            try:
                yield 1
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.01)

    @exportstream
    @asynccontextmanager
    async def hold_stream(self) -> AsyncIterator[Any]:
        with self._told("hold_stream"):
            try:
                yield _Silent()
            finally:
                await asyncio.sleep(0.01)
