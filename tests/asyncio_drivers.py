"""Drivers whose async code is written for asyncio, for tests of the asyncio lane."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.from_thread

from jumpstarter.driver import Driver, caller, export, exportstream, on_disconnect

__all__ = ["Asyncio", "Echo"]

variable: ContextVar[int] = ContextVar("variable", default=0)


class Echo:
    """An anyio stream that gives back what it was sent."""

    def __init__(self, log: list[str]) -> None:
        self._log = log
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(4)

    async def receive(self) -> bytes:
        piece = await self._pieces.get()
        if piece is None:
            raise anyio.EndOfStream
        return piece

    async def send(self, data: bytes) -> None:
        if data == b"fail":
            raise OSError(5, "the device is gone")
        await self._pieces.put(data)

    async def send_eof(self) -> None:
        self._log.append("eof")
        await self._pieces.put(None)


@dataclass(kw_only=True)
class Asyncio(Driver):
    """A driver of asyncio, with each kind of method."""

    log: list[str] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    kept: list[Any] = field(default_factory=list)

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    async def nop(self) -> None:
        await asyncio.sleep(0)

    @export
    async def add(self, a: int, b: int = 1) -> int:
        await asyncio.sleep(0)
        return a + b

    @export
    async def task(self) -> tuple[str, str]:
        task = asyncio.current_task()
        assert task is not None
        return threading.current_thread().name, str(caller().connection)

    @export
    async def hang(self) -> None:
        self.log.append("begin")
        self.started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0.01)
            self.log.append("end")

    @export
    async def swallow(self) -> str:
        self.started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            while not self.release.is_set():  # noqa: ASYNC110 - the test's thread sets it
                await asyncio.sleep(0.001)
        self.log.append("end")
        return "late"

    @export
    async def fail(self, kind: str) -> None:
        await asyncio.sleep(0)
        match kind:
            case "value":
                raise ValueError("no good")
            case "os":
                raise FileNotFoundError(2, os.strerror(2), "/dev/none")
            case "timeout":
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(3600)
            case "exit":
                raise SystemExit(3)
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.fail("value"))
            case "cancel":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)

    @export
    async def future(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            await loop.create_future()
        finally:
            loop.close()

    @export
    async def leave_behind(self) -> None:
        self.kept.append(asyncio.create_task(self.hang()))
        await asyncio.sleep(0)

    @export
    async def context(self, value: int) -> int:
        before = variable.get()
        variable.set(value)
        await asyncio.sleep(0)
        return before

    @export
    async def count(self, count: int) -> AsyncIterator[int]:
        task = asyncio.current_task()
        self.log.append("begin")
        try:
            for number in range(count):
                yield number
                assert asyncio.current_task() is task
        finally:
            await asyncio.sleep(0)
            self.log.append("cleaned")

    @export
    async def wait_then_fail(self) -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        raise LookupError("no more")

    @export
    async def tick(self) -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
                self.started.set()
                await asyncio.sleep(3600 if number > 2 else 0)
        finally:
            await asyncio.sleep(0.01)
            self.log.append("cleaned")

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Echo]:
        task = asyncio.current_task()
        self.log.append("open")
        try:
            yield Echo(self.log)
        finally:
            assert asyncio.current_task() is task
            await asyncio.sleep(0)
            self.log.append("closed")

    @exportstream
    @asynccontextmanager
    async def refuse(self) -> AsyncIterator[Echo]:
        await asyncio.sleep(0)
        if not self.kept:
            raise PermissionError(13, "not now")
        yield Echo(self.log)

    @export
    def plain(self) -> str:
        async def inside() -> str:
            await asyncio.sleep(0)
            return threading.current_thread().name

        return anyio.from_thread.run(inside)

    @export
    def plain_counted(self) -> int:
        return 1

    @export
    def plain_hang(self) -> None:
        anyio.from_thread.run(self.hang)

    @export
    def plain_count(self, count: int) -> Iterator[str]:
        try:
            for _ in range(count):
                yield self.plain()
        finally:
            self.log.append(self.plain())

    @export
    async def read(self, handle: str, *, limit: int = -1) -> int:
        total = 0
        async with self.resource(handle) as stream:
            async for piece in stream:
                assert asyncio.current_task() is not None
                total += len(piece)
                if 0 <= limit < total:
                    raise ValueError("enough")
        return total

    @export
    async def write(self, handle: str, count: int, *, fails: bool = False) -> None:
        async with self.resource(handle) as stream:
            for _ in range(count):
                await stream.send(b"x" * 1000)
            if fails:
                raise ValueError("stuck")

    @export
    async def read_forever(self, handle: str) -> None:
        async with self.resource(handle) as stream:
            await stream.receive()
            self.started.set()
            try:
                await asyncio.sleep(3600)
            finally:
                self.log.append("end")

    @export
    async def register(self, kind: str) -> None:
        async def in_asyncio() -> None:
            await asyncio.sleep(0)
            self.log.append(f"async hook in {threading.current_thread().name}")

        def in_thread() -> None:
            self.log.append(f"plain hook leads to {self.plain()}")

        on_disconnect(in_asyncio if kind == "async" else in_thread)
        await asyncio.sleep(0)

    def close(self) -> None:
        self.log.append(f"close leads to {self.plain()}")
