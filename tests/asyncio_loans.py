"""A driver and an adapter of asyncio that use loans for both directions, for tests.

This module does not import trio, so that its code runs in asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import ObjectStream

from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import blocking
from jumpstarter.driver import Driver, export

__all__ = ["AsyncioCard", "AsyncioMemory", "LoanAdapter"]


@dataclass(kw_only=True)
class AsyncioCard(Driver):
    """Uses a loan in each direction."""

    content: bytes = b""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    async def flash(self, source: Any) -> None:
        await asyncio.sleep(0)
        async with self.resource(source) as stream:
            self.content = b"".join([bytes(chunk) async for chunk in stream])

    @export
    async def dump(self, target: Any, fails: bool = False) -> None:
        await asyncio.sleep(0)
        async with self.resource(target, timeout=60) as stream:
            for start in range(0, len(self.content), 100_000):
                await stream.send(self.content[start : start + 100_000])
            if fails:
                raise OSError("the card has gone")


class AsyncioMemory(ObjectStream[bytes]):
    """A stream of asyncio that gives bytes and keeps what it gets; it fails at `b"fail"`."""

    def __init__(self, data: bytes = b"", piece: int = 50_000) -> None:
        self.pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
        self.got = b""
        self.has_end = False
        self.closed = False

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        if not self.pieces:
            raise anyio.EndOfStream
        piece = self.pieces.pop(0)
        if piece == b"fail":
            raise anyio.BrokenResourceError("the file has gone")
        return piece

    async def send(self, item: bytes) -> None:
        await asyncio.sleep(0)
        self.got += item

    async def send_eof(self) -> None:
        await asyncio.sleep(0)
        self.has_end = True

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed = True


@blocking
@asynccontextmanager
async def LoanAdapter(  # noqa: N802 - adapters have names of classes
    *, client: DriverClient, stream: AsyncioMemory, encoding: str | None = None
) -> AsyncIterator[Any]:
    """Lend a stream from asyncio code."""
    await asyncio.sleep(0)
    async with client.resource_async(stream, content_encoding=encoding) as handle:
        yield handle
