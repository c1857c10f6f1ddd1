"""Power switches and supplies: their interface, their client, and one without any hardware.

A driver for a real switch derives from `PowerInterface` and from `Driver`, and exports the methods:

    class Relay(PowerInterface, Driver):
        @export
        def on(self) -> None: ...
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from .._util.checks import check_number, check_seconds
from ..client import DriverClient
from ..driver import Driver, export
from ..errors import ConfigurationError

if TYPE_CHECKING:
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["MockPower", "PowerClient", "PowerInterface", "PowerReading"]

_MAX_WAIT: Final = 7 * 24 * 3600  # seconds without power; time.sleep() refuses very long ones


@dataclass(frozen=True, kw_only=True)
class PowerReading:
    """One measurement of a supply.

    Attributes:
        voltage: In V.
        current: In A.
    """

    voltage: float
    current: float

    @property
    def apparent_power(self) -> float:
        """The product of both, in VA."""
        return self.voltage * self.current


class PowerInterface(ABC):
    """The methods that `PowerClient` calls. Export each; each may be `async`."""

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.power.PowerClient"

    @abstractmethod
    def on(self) -> Any:
        """Switch on. Does nothing if it is on."""

    @abstractmethod
    def off(self) -> Any:
        """Switch off. Does nothing if it is off."""

    @abstractmethod
    def read(self, interval: float) -> Any:
        """Yield a `PowerReading` immediately, and then one every `interval` seconds."""


@dataclass(kw_only=True)
class MockPower(PowerInterface, Driver):
    """A power switch without hardware, for trying out tests. It is off when serving begins.

    Attributes:
        voltage: The voltage that it reports while it is on, in V.
        current: The current that it reports while it is on, in A.
        is_on: True while it is on.
        log: The commands it received, in order: `"on"` or `"off"`.

    Raises:
        ConfigurationError: A field cannot be used.
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

    @export(read_only=True)
    async def read(self, interval: float) -> AsyncGenerator[PowerReading, None]:
        """Yield a reading every `interval` seconds until the client stops."""
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
    """The client of a power switch."""

    def cli(self) -> click.Group:
        """Return the commands of `j` for it: those of its driver, and `cycle`."""
        from ._commands import power_commands  # noqa: PLC0415 - it needs an extra

        return power_commands(self)

    def on(self) -> None:
        """Switch on."""
        self.call("on")

    def off(self) -> None:
        """Switch off."""
        self.call("off")

    def cycle(self, wait: float = 2.0) -> None:
        """Switch off, wait, and switch on.

        Args:
            wait: Seconds without power. Two seconds let the capacitors of a board discharge.

        Raises:
            ArgumentError: `wait` is not a number from 0 to a week; nothing was switched.
        """
        wait = check_number("wait", wait, 0, _MAX_WAIT)
        self.off()
        time.sleep(wait)
        self.on()

    def read(self, interval: float = 1.0) -> Generator[PowerReading, None, None]:
        """Yield a reading immediately, and then one every `interval` seconds.

        Closing the generator ends it on the exporter too.

        Args:
            interval: Seconds between two readings.

        Raises:
            ArgumentError: `interval` is not a number of seconds, 0 or more.
        """
        interval = check_seconds("interval", interval)
        with self.streamingcall_as(PowerReading, "read", interval) as readings:
            yield from readings
