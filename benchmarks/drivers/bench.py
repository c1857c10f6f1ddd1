"""The drivers that both cores run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar, Final

from anyio import EndOfStream, Event
from anyio.abc import ObjectStream

from jumpstarter.driver import Driver, export, exportstream

__all__ = ["STREAM", "AsyncioBench", "Bench"]

_PIECE: Final = bytes(64 * 1024)
STREAM: Final = 512 * len(_PIECE)  # bytes of a stream: 32 MiB


class Source(ObjectStream[bytes]):
    """A device that says a number of pieces."""

    def __init__(self) -> None:
        self._left = STREAM // len(_PIECE)

    async def receive(self) -> bytes:
        if not self._left:
            raise EndOfStream
        self._left -= 1
        return _PIECE

    async def send(self, item: bytes) -> None:
        pass

    async def send_eof(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Sink(Source):
    """A device that takes a number of bytes, and then answers."""

    def __init__(self) -> None:
        super().__init__()
        self._missing = STREAM
        self._complete = Event()
        self._answered = False

    async def send(self, item: bytes) -> None:
        self._missing -= len(item)
        if self._missing <= 0:
            self._complete.set()

    async def receive(self) -> bytes:
        await self._complete.wait()
        if self._answered:
            raise EndOfStream
        self._answered = True
        return b"done"


class Bench(Driver):
    """The driver of all workloads but opendal's. Its module decides for no lane."""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    async def nothing(self) -> None:
        pass

    @export
    def nothing_plain(self) -> None:
        pass

    @export
    async def items(self, count: int) -> AsyncGenerator[int, None]:
        for number in range(int(count)):
            yield number

    @exportstream
    @asynccontextmanager
    async def download(self) -> AsyncIterator[ObjectStream[bytes]]:
        yield Source()

    @exportstream
    @asynccontextmanager
    async def upload(self) -> AsyncIterator[ObjectStream[bytes]]:
        yield Sink()


class AsyncioBench(Bench):
    """The same driver in the asyncio lane."""

    async_library: ClassVar[str] = "asyncio"
