"""A driver that writes down what happens to it, for the tests of exclusive use."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import trio

from drivers_for_tests import Plain
from jumpstarter.driver import export

__all__ = ["Noting"]


@dataclass(kw_only=True)
class Noting(Plain):
    """Writes down its resets, what it is told, and the end of a call.

    Attributes:
        ledger: Where it writes.
        running: Set when a call runs that does not end by itself.
    """

    ledger: list[str] = field(default_factory=list, repr=False)
    running: threading.Event = field(default_factory=threading.Event, repr=False)

    def reset(self) -> None:
        self.ledger.append("reset")

    @export
    def note(self, text: str) -> None:
        self.ledger.append(text)

    @export
    async def sleep(self, text: str) -> None:
        self.running.set()
        try:
            await trio.sleep_forever()
        finally:
            self.ledger.append(text)
