"""Drivers for the tests of the command line. An exporter process serves `board`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from drivers_for_tests import Plain
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.power import MockPower

__all__ = ["END", "FAIL", "Calc", "Device", "Relay", "Strange", "board"]

END = b"\x04"  # the device ends its half of the stream when it is sent this
FAIL = b"\x18"  # its driver raises an OSError
_CHUNK = b"0123456789abcdef" * 1024


@dataclass(kw_only=True)
class Device(Plain):
    """A device whose console echoes.

    Attributes:
        received: All bytes that it was sent.
        flooded: The number of bytes that `flood` has sent.
    """

    received: bytearray = field(init=False, repr=False, default_factory=bytearray)
    flooded: int = field(init=False, default=0)
    _changed: trio.lowlevel.ParkingLot = field(
        init=False, repr=False, default_factory=trio.lowlevel.ParkingLot
    )

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """Echo all bytes, and end when the client's half has ended."""
        ours, theirs = trio.testing.memory_stream_pair()

        async def echo() -> None:
            async for data in ours:
                self.received += data
                self._changed.unpark_all()
                await ours.send_all(data)
                if FAIL in data:
                    raise OSError("the board\nis on fire")
                if END in data:
                    break
            await ours.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            yield theirs
            nursery.cancel_scope.cancel()

    @exportstream
    @asynccontextmanager
    async def forever(self) -> AsyncIterator[trio.abc.Stream]:
        """Accept everything, say nothing, and never end."""
        ours, theirs = trio.testing.memory_stream_pair()

        async def listen() -> None:
            async for data in ours:
                self.received += data
                self._changed.unpark_all()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            yield theirs
            nursery.cancel_scope.cancel()

    @exportstream
    @asynccontextmanager
    async def deaf(self) -> AsyncIterator[trio.abc.Stream]:
        """Accept nothing, and say hello."""
        ours, theirs = trio.testing.lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, b"hello")
            yield theirs
            nursery.cancel_scope.cancel()

    @exportstream
    @asynccontextmanager
    async def flood(self, size: int = 256 * 1024 * 1024) -> AsyncIterator[trio.abc.Stream]:
        """Send a lot, and then end."""
        ours, theirs = trio.testing.lockstep_stream_pair()

        async def send() -> None:
            while self.flooded < size:
                await ours.send_all(_CHUNK)
                self.flooded += len(_CHUNK)
            await ours.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            yield theirs
            nursery.cancel_scope.cancel()

    @export
    async def until_received(self, data: bytes) -> bytes:
        """Wait until the console was sent these bytes, and return everything that it was sent."""
        while data not in self.received:
            await self._changed.park()
        return bytes(self.received)

    @export
    async def flooded_bytes(self) -> int:
        """Return the number of bytes that `flood` has sent."""
        return self.flooded


@dataclass(kw_only=True)
class Relay(Plain):
    """A power switch whose client has no `cycle`."""

    log: list[str] = field(init=False, repr=False, default_factory=list)

    @export
    def on(self) -> None:
        self.log.append("on")

    @export
    def off(self) -> None:
        self.log.append("off")

    @export
    def switched(self) -> list[str]:
        """Return the commands that it received."""
        return self.log


class Calc(Plain):
    """Has methods with all kinds of parameters."""

    @export
    def add(self, a: int, b: int = 2) -> int:
        """Add two numbers."""
        return a + b

    @export
    def join(self, text: str, *more: str, sep: str = " ") -> str:
        """Join texts."""
        return sep.join([text, *more])

    @export
    def options(self, **options: Any) -> dict[str, Any]:
        """Return the keyword arguments."""
        return options

    @export
    def give(self, value: Any = None) -> Any:
        """Return the argument."""
        return value

    @export
    async def count(self, stop: int | None = None) -> AsyncGenerator[int, None]:
        """Count, and wait at the end without a `stop`."""
        number = 0
        while stop is None or number < stop:
            yield number
            number += 1
            if stop is None and number == 3:
                await trio.sleep_forever()

    @export
    def fail(self) -> None:
        """Raise an exception with a long text."""
        raise ValueError("the board\nis on fire")


class Strange(Driver):
    """A driver whose client class is missing."""

    @classmethod
    def client(cls) -> str:
        return "no_such_package.Client"

    @export
    def ping(self) -> str:
        return "pong"


def board() -> Composite:
    """Make a board with a console, power switches, and drivers below others."""
    return Composite(
        children={
            "serial": Device(),
            "power": MockPower(),
            "relay": Relay(),
            "calc": Calc(),
            "nested": Composite(children={"calc": Calc(), "a.b": Calc()}),
        }
    )
