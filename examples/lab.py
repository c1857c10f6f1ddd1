"""A bench with several devices: a composite driver, its children, and a slow operation.

In this directory,

    python -m jumpstarter serve lab:bench --address unix:$PWD/bench

serves it to clients that connect with `allow=["lab.*", "serial_console.*", "example.*"]`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import trio

from example import ExampleDriver
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export
from serial_console import SimulatedConsole


@dataclass(kw_only=True)
class Bench(Driver):
    """A board that can be flashed. Its children are the other devices of the bench.

    Attributes:
        bytes_per_second: How fast the board takes an image.
    """

    bytes_per_second: int = 100_000
    _state: str = field(init=False, default="empty")

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "lab.BenchClient"

    @export
    async def flash(self, image: bytes) -> str:
        """Write an image to the board, and return its SHA-256."""
        self._state = "being written"
        try:
            await trio.sleep(len(image) / self.bytes_per_second)
        except trio.Cancelled:
            self._state = "erased"  # half an image must not boot
            raise
        self._state = "flashed"
        return hashlib.sha256(image).hexdigest()

    @export
    def state(self) -> str:
        """Return what is on the board."""
        return self._state


class BenchClient(DriverClient):
    """The client of the bench: its methods, and `console` and `example` below it."""

    def flash(self, image: bytes) -> str:
        """Write an image to the board, and return its SHA-256."""
        digest: str = self.call("flash", image)
        return digest

    def state(self) -> str:
        """Return what is on the board."""
        state: str = self.call("state")
        return state


def bench() -> Bench:
    """Make a bench, as an exporter's configuration does."""
    return Bench(
        labels={"place": "simulated"},
        children={"console": SimulatedConsole(), "example": ExampleDriver()},
    )
