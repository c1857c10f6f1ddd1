"""A driver that writes a ledger of what happens to it, for tests of exclusive use.

The exporter imports this module. The ledger is the file that the variable LEDGER names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from drivers_for_tests import Plain
from jumpstarter.driver import caller, export, on_disconnect
from jumpstarter.drivers.composite import Composite

__all__ = ["Board", "Ledger", "bench", "ledger_of"]


def ledger_of(path: Path) -> list[str]:
    """Return the lines of a ledger."""
    return path.read_text().splitlines() if path.exists() else []


@dataclass(kw_only=True)
class Ledger(Plain):
    """Writes a line when something happens."""

    def _write(self, text: str) -> None:
        with Path(os.environ["LEDGER"]).open("a") as file:
            file.write(f"{text}\n")

    def reset(self) -> None:
        self._write("reset")

    @export
    def note(self, text: str) -> None:
        self._write(text)

    @export
    def block(self, text: str) -> None:
        """Block a thread until the call is cancelled, and take a while to clean up."""
        on_disconnect(lambda: self._write(f"{text} is gone"))
        self._write(f"{text} begins")
        try:
            while True:
                trio.from_thread.check_cancelled()
                time.sleep(0.01)
        finally:
            time.sleep(0.05)
            self._write(f"{text} ends")

    @export
    def use(self, seconds: float) -> None:
        """Use the board for a while, as a plain method that cannot be cancelled."""
        number = caller().connection
        self._write(f"begin {number}")
        try:
            time.sleep(seconds)
        finally:
            self._write(f"end {number}")

    @export
    async def use_async(self, seconds: float) -> None:
        """Use the board for a while, and take a while to clean up when that is cancelled."""
        number = caller().connection
        self._write(f"begin {number}")
        try:
            await trio.sleep(seconds)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.002)
            self._write(f"end {number}")

    @export(read_only=True)
    def lines(self) -> Iterator[str]:
        yield from ledger_of(Path(os.environ["LEDGER"]))


@dataclass(kw_only=True)
class Board(Ledger):
    """A board of a bench. Each line has its path.

    Attributes:
        path: The path of this driver.
    """

    path: str

    def _write(self, text: str) -> None:
        super()._write(f"{self.path} {text}")

    @export
    def use_slowly(self, seconds: float) -> Generator[int, None, None]:
        """Use the board for a while, as a generator that is closed at a `yield`."""
        number = caller().connection
        self._write(f"begin {number}")
        try:
            for item in range(3):
                time.sleep(seconds / 3)
                yield item
        finally:
            time.sleep(0.002)
            self._write(f"end {number}")


def bench() -> Composite:
    """Make two boards of two drivers each."""
    boards = {}
    for name in ("left", "right"):
        boards[name] = Board(path=name)
        boards[name].children["part"] = Board(path=f"{name}.part")
    return Composite(children={**boards})
