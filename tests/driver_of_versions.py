"""A driver that the build of today and the one of the version before can serve. Not a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.mixins import ResourceMixin


class BoardClient(ResourceMixin, DriverClient):
    """Lends."""


class Board(Driver):
    """Answers, and fails at the system."""

    @classmethod
    def client(cls) -> str:
        return "driver_of_versions.BoardClient"

    @export
    def echo(self, value: Any = None) -> Any:
        return value

    @export
    async def echo_async(self, value: Any = None) -> Any:
        return value

    @export
    def count(self, stop: int) -> Iterator[int]:
        yield from range(stop)

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()

        async def echo() -> None:
            async for data in ours:
                await ours.send_all(data)
            await ours.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            yield theirs

    @export
    def size(self, handle: str) -> int:
        with self.resource(handle) as file:
            return len(file.read())

    @export
    def missing(self) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/dev/ttyUSB0")

    @export
    def caused(self) -> None:
        try:
            self.missing()
        except OSError as exc:
            raise ValueError("no console") from exc

    @export
    def group(self) -> None:
        raise ExceptionGroup("both", [ConnectionResetError(104, "reset"), KeyError("rail")])
