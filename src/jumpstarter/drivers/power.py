"""Power: what every switch or supply offers, its client, and one without any hardware.

A driver for a real one derives from `PowerInterface` and from `Driver`, and exports the methods:

    class Relay(PowerInterface, Driver):
        @export
        def on(self) -> None: ...
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from .._util.checks import check_number, check_seconds
from ..client import DriverClient
from ..driver import Driver, export
from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["MockPower", "PowerClient", "PowerInterface", "PowerReading"]

_LONGEST_WAIT: Final = 7 * 24 * 3600  # seconds without power: the sleep of a thread has an end


@dataclass(frozen=True, kw_only=True)
class PowerReading:
    """What a supply measures.

    Attributes:
        voltage: In V.
        current: In A.
    """

    voltage: float
    current: float

    @property
    def apparent_power(self) -> float:
        """Both multiplied, in VA."""
        return self.voltage * self.current


class PowerInterface(ABC):
    """What `PowerClient` expects of a driver. Each method may be `async` too, and is exported."""

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "jumpstarter.drivers.power.PowerClient"

    @abstractmethod
    def on(self) -> Any:
        """Switch on. Again, it changes nothing."""

    @abstractmethod
    def off(self) -> Any:
        """Switch off. Again, it changes nothing."""

    @abstractmethod
    def read(self, interval: float) -> Any:
        """Yield a `PowerReading` every so many seconds, the first one at once."""


@dataclass(kw_only=True)
class MockPower(PowerInterface, Driver):
    """A switch without any hardware, for tests of tests. It is off once a session has ended.

    Attributes:
        voltage: What it gives, in V.
        current: What is drawn while it is on, in A.
        is_on: Whether it is.
        log: What it was told, in order: `"on"` or `"off"`.
    """

    voltage: float = 12.0
    current: float = 0.5
    is_on: bool = field(init=False, default=False)
    log: list[str] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_number("voltage of MockPower", self.voltage, error=ConfigurationError)
        check_number("current of MockPower", self.current, error=ConfigurationError)

    @export
    async def on(self) -> None:
        """Switch on."""
        self.is_on = True
        self.log.append("on")

    @export
    async def off(self) -> None:
        """Switch off."""
        self.is_on = False
        self.log.append("off")

    @export
    async def read(self, interval: float) -> AsyncGenerator[PowerReading, None]:
        """Yield what it would measure, until nobody listens."""
        while True:
            on = self.is_on
            yield PowerReading(
                voltage=self.voltage if on else 0.0, current=self.current if on else 0.0
            )
            await trio.sleep(interval)

    def reset(self) -> None:
        """Switch off."""
        self.is_on = False
        super().reset()


class PowerClient(DriverClient):
    """What a test has of a power switch."""

    def on(self) -> None:
        """Switch on."""
        self.call("on")

    def off(self) -> None:
        """Switch off."""
        self.call("off")

    def cycle(self, wait: float = 2.0) -> None:
        """Switch off, wait, and switch on.

        Args:
            wait: Seconds without power. 2: time for the capacitors of a board to drain.

        Raises:
            ArgumentError: `wait` is no such number; nothing was switched.
        """
        wait = check_number("wait", wait, 0, _LONGEST_WAIT)
        self.off()
        time.sleep(wait)
        self.on()

    def read(self, interval: float = 1.0) -> Generator[PowerReading, None, None]:
        """Give a reading every so many seconds, the first one at once, as long as it is asked."""
        interval = check_seconds("interval", interval)
        with self.streamingcall_as(PowerReading, "read", interval) as readings:
            yield from readings
