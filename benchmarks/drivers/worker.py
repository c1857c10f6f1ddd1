"""Run each workload once on the core of this environment, and print a JSON object of rates.

The first argument is the lane: trio or asyncio. The published core ignores it. The second one is
how many seconds a workload takes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

from anyio import EndOfStream, Event
from anyio.abc import ObjectStream
from jumpstarter_driver_opendal.driver import Opendal

from jumpstarter.common.utils import serve
from jumpstarter.driver import Driver, export, exportstream

PIECE: Final = bytes(64 * 1024)
STREAM: Final = 512  # pieces of a stream: 32 MiB
ITEMS: Final = 1000  # items of a generator
FILE: Final = 64 << 20  # bytes of a transfer through opendal


class Source(ObjectStream[bytes]):
    """A device that says a number of pieces."""

    def __init__(self) -> None:
        self._left = STREAM

    async def receive(self) -> bytes:
        if not self._left:
            raise EndOfStream
        self._left -= 1
        return PIECE

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
        self._missing = STREAM * len(PIECE)
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
    """The driver of all workloads but opendal's."""

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


def rate(seconds: float, work: Callable[[], float]) -> float:
    """Repeat work for some time, and return how much of it was done per second."""
    work()  # warms up
    done, started = 0.0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        done += work()
    return done / passed


def download(client: Any) -> float:
    read = 0
    with client.stream("download") as stream:
        while read < STREAM * len(PIECE):
            read += len(stream.receive())
    return read / 1e6


def upload(client: Any) -> float:
    with client.stream("upload") as stream:
        for _ in range(STREAM):
            stream.send(PIECE)
        assert stream.receive() == b"done"
    return STREAM * len(PIECE) / 1e6


def calls(client: Any, method: str) -> float:
    for _ in range(50):
        client.call(method)
    return 50


def items(client: Any) -> float:
    return sum(1 for _ in client.streamingcall("items", ITEMS))


def of_bench(driver: Driver, seconds: float) -> dict[str, float]:
    with serve(driver) as client:
        return {
            "async calls/s": rate(seconds, lambda: calls(client, "nothing")),
            "plain calls/s": rate(seconds, lambda: calls(client, "nothing_plain")),
            "generator items/s": rate(seconds, lambda: items(client)),
            "stream to the client, MB/s": rate(seconds, lambda: download(client)),
            "stream to the driver, MB/s": rate(seconds, lambda: upload(client)),
        }


def of_opendal(directory: Path, seconds: float) -> dict[str, float]:
    (directory / "image").write_bytes(bytes(FILE))

    def exists(client: Any) -> float:
        for _ in range(20):
            client.exists("image")
        return 20

    def write(client: Any) -> float:
        client.write_from_path("copy", directory / "image")
        return FILE / 1e6

    def read(client: Any) -> float:
        client.read_into_path("image", directory / "back")
        return FILE / 1e6

    with serve(Opendal(scheme="fs", kwargs={"root": str(directory)})) as client:
        return {
            "opendal exists, calls/s": rate(seconds, lambda: exists(client)),
            "opendal write, MB/s": rate(seconds, lambda: write(client)),
            "opendal read, MB/s": rate(seconds, lambda: read(client)),
        }


def main() -> None:
    lane, seconds = sys.argv[1], float(sys.argv[2])
    figures = of_bench(AsyncioBench() if lane == "asyncio" else Bench(), seconds)
    if lane == "asyncio":  # opendal needs asyncio on either core
        with tempfile.TemporaryDirectory() as name:
            figures |= of_opendal(Path(name), seconds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
