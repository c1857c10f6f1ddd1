"""Drivers for the tests of the command line. An exporter process serves `board`."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import trio
import trio.testing

from drivers_for_tests import Plain
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, FlasherInterface, export, exportstream
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.power import MockPower
from jumpstarter.drivers.storage import FileStorage

__all__ = ["END", "FAIL", "Calc", "Device", "Relay", "Strange", "board", "storages"]

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


class _Paced:
    """A stream that pauses after each piece.

    Args:
        stream: Where the pieces come from.
        seconds: How long.
        begun: A file that is made after the first piece.
    """

    def __init__(self, stream: Any, seconds: float, begun: Path) -> None:
        self._stream = stream
        self._seconds = seconds
        self._begun = begun

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            yield data
            self._begun.touch()
            await trio.sleep(self._seconds)


@dataclass(kw_only=True)
class PacedStorage(FileStorage):
    """A storage that is slow.

    Attributes:
        seconds: How long it takes for a piece of 64 KiB.
    """

    seconds: float

    @asynccontextmanager
    async def resource(  # type: ignore[override]  # what `write` uses of a resource
        self, *args: Any, **options: Any
    ) -> AsyncIterator[Any]:
        """Open a resource whose pieces come slowly."""
        async with super().resource(*args, **options) as stream:
            yield _Paced(stream, self.seconds, Path(self.path).with_name("begun"))


@dataclass(kw_only=True)
class Parts(FlasherInterface, Driver):
    """A flasher whose parts are files.

    Attributes:
        directory: Where they are.
    """

    directory: str

    @export
    async def flash(self, source: Any, target: str | None = None) -> None:
        """Write a part; the one named `broken` fails."""
        if target == "broken":
            raise OSError("the medium has failed")
        async with self.resource(source) as stream:
            data = b"".join([bytes(piece) async for piece in stream])
        await trio.Path(self.directory, f"{target}.part").write_bytes(data)

    @export
    async def dump(self, target: Any, partition: str | None = None) -> None:
        """Do nothing."""


class Mux(Plain):
    """A card that is switched between the host and the device, with the published client's methods.

    Attributes:
        log: The calls, in order.
    """

    log: ClassVar[list[str]] = []

    @classmethod
    def client(cls) -> str:
        return "console_drivers.MuxClient"

    @export
    def did(self, what: str) -> None:
        """Write down a call."""
        if what == "write bad.img":
            raise OSError("the medium has failed")
        self.log.append(what)

    @export
    def done(self) -> list[str]:
        """Return the calls."""
        return self.log


class MuxClient(DriverClient):
    """A client with the methods of a published storage multiplexer's."""

    def host(self) -> None:
        self.call("did", "host")

    def dut(self) -> None:
        self.call("did", "dut")

    def write_local_file(self, filepath: str) -> None:
        self.call("did", f"write {Path(filepath).name}")


def storages() -> Composite:
    """Make a board with storages, in the directory that the environment names."""
    directory = os.environ["STORAGE"]
    card = f"{directory}/card.img"
    return Composite(
        children={
            "card": FileStorage(path=card),
            "stuck": PacedStorage(path=card, seconds=math.inf),
            "slow": PacedStorage(path=card, seconds=0.2),
            "parts": Parts(directory=directory),
            "mux": Mux(),
            "power": MockPower(),
        }
    )


def board() -> Composite:
    """Make a board with a console, power switches, and drivers below others."""
    return Composite(
        children={
            "serial": Device(),
            "power": MockPower(),
            "relay": Relay(),
            "calc": Calc(),
            "nested": Composite(children={"calc": Calc(), "a.b": Calc()}),
            "bench": Composite(children={"serial": Device(), "relay": Relay()}),
        }
    )
