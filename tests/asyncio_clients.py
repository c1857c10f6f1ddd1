"""Client code that is written for asyncio, for tests of the asyncio lane of a blocking client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import blocking

__all__ = ["AsyncioClient", "echo_adapter", "hang_adapter", "log"]

log: list[str] = []


async def where(*words: str) -> str:
    await asyncio.sleep(0)
    return " ".join([*words, "in", threading.current_thread().name])


def where_sync() -> str:
    asyncio.get_running_loop()
    return threading.current_thread().name


async def hang(started: threading.Event) -> None:
    started.set()
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.01)
        log.append("cleaned")


async def fail() -> None:
    await asyncio.sleep(0)
    raise LookupError("nothing here")


async def serve(value: str, *, task_status: Any) -> str:
    await asyncio.sleep(0)
    task_status.started(value)
    await asyncio.sleep(0)
    return f"{value} has ended"


async def never_starts(*, task_status: Any) -> None:
    del task_status
    await asyncio.sleep(0)


@blocking
@asynccontextmanager
async def echo_adapter(*, client: DriverClient, data: bytes) -> AsyncIterator[bytes]:
    async with client.stream_async("connect") as stream:
        await stream.send(data)
        await stream.send_eof()
        received = b""
        async with asyncio.timeout(30):
            try:
                while True:
                    received += await stream.receive()
            except anyio.EndOfStream:
                pass
        yield received
        log.append("left")


@blocking
@asynccontextmanager
async def hang_adapter(*, client: DriverClient) -> AsyncIterator[None]:
    del client
    try:
        await asyncio.sleep(3600)
        yield
    finally:
        await asyncio.sleep(0)
        log.append("cleaned")


class AsyncioClient(DriverClient):
    """A client class whose methods run asyncio code through its portal."""

    def sum_of(self, numbers: list[int]) -> int:
        assert self.portal is not None
        return self.portal.call(self._sum, numbers)

    async def _sum(self, numbers: list[int]) -> int:
        async with asyncio.timeout(30):
            results = await asyncio.gather(*(self.call_async("add", n, 0) for n in numbers))
        return sum(results)

    def counted(self, count: int) -> list[int]:
        async def collect() -> list[int]:
            await asyncio.sleep(0)
            async with self.streamingcall_as_async(int, "count", count) as items:
                return [item async for item in items]

        assert self.portal is not None
        return self.portal.call(collect)

    def first(self) -> int:
        async def take() -> int:
            items = self.streamingcall_async("count", 10**9)
            async for item in items:
                await items.aclose()
                return int(item) + await self.call_as_async(int, "add", 1, 1)
            raise AssertionError

        assert self.portal is not None
        return self.portal.call(take)

    def cancelled(self) -> None:
        async def call() -> None:
            async with asyncio.timeout(0.05):
                await self.call_async("hang")

        assert self.portal is not None
        self.portal.call(call)
