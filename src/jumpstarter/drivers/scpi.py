"""Switch a laboratory power supply that speaks SCPI over TCP, and read its voltage and current.

Most such supplies listen on port 5025. The driver sends the commands of SCPI-1999 that they have in
common: OUTP, MEAS:VOLT?, MEAS:CURR?, INST:NSEL, SYST:ERR? and `*IDN?`. It sets no voltage and no
limits: those belong to the board, and stay as they were set at the supply.
"""

from __future__ import annotations

import errno
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from .._io.sockets import open_tcp_stream
from .._util.checks import check_int, check_seconds
from .._util.text import sanitize_text
from ..driver import Driver, export
from ..errors import ConfigurationError
from ._servers import check_tcp_server, open_server, tcp_address
from .power import PowerClient, PowerInterface, PowerReading

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ScpiPower", "ScpiPowerClient"]

_MAX_LINE: Final = 4096  # bytes; an answer to one of these commands has fewer than a hundred
# Errors of earlier programs that the supply's queue may have; SCPI-1999 asks for two or more.
_MAX_ERRORS: Final = 50


@dataclass(kw_only=True)
class ScpiPower(PowerInterface, Driver):
    """One output of a power supply. Each call connects to the supply, for the length of the call.

    Many supplies serve one connection at a time, so the calls of a driver wait for each other.
    Serving it, and the end of serving, leave the output as it is. A command that is cancelled while
    the supply handles it may have been carried out.

    Attributes:
        host: The supply's host name or IP address, as the exporter resolves it.
        port: The TCP port of its SCPI server. 5025 by default, which most supplies use.
        channel: The number of the output, from 1, for supplies that have several. None, the
            default, selects no output.
        timeout: Seconds that a whole exchange may take, with the connection. 10 by default: a
            supply answers within a tenth of a second, and measures within one.

    Raises:
        ConfigurationError: A field cannot be used.
    """

    host: str
    port: int = 5025
    channel: int | None = None
    timeout: float = 10.0
    _lock: trio.Lock = field(init=False, repr=False, default_factory=trio.Lock)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_tcp_server("ScpiPower", self.host, self.port)
        if self.channel is not None:
            check_int("channel of ScpiPower", self.channel, 1, error=ConfigurationError)
        check_seconds("timeout of ScpiPower", self.timeout, error=ConfigurationError)

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.scpi.ScpiPowerClient"

    @export
    async def on(self) -> None:
        """Switch the output on, with the voltage and the limits that are set at the supply.

        Raises:
            OSError: The supply cannot be reached, or has refused the command.
        """
        async with self._exchange() as supply:
            await supply.command("OUTP ON")

    @export
    async def off(self) -> None:
        """Switch the output off.

        Raises:
            OSError: The supply cannot be reached, or has refused the command.
        """
        async with self._exchange() as supply:
            await supply.command("OUTP OFF")

    @export(read_only=True)
    async def read(self, interval: float) -> AsyncGenerator[PowerReading, None]:
        """Yield a measurement every `interval` seconds until the client stops.

        Raises:
            OSError: The supply cannot be reached, or has refused the command.
        """
        while True:
            async with self._exchange() as supply:
                voltage = await supply.number("MEAS:VOLT?")
                current = await supply.number("MEAS:CURR?")
            yield PowerReading(voltage=voltage, current=current)
            await trio.sleep(interval)

    @export(read_only=True)
    async def identify(self) -> str:
        """Return the supply's maker, model, serial number and firmware, as it states them.

        Raises:
            OSError: The supply cannot be reached.
        """
        async with self._exchange(select=False) as supply:
            return await supply.ask("*IDN?")

    @property
    def _address(self) -> str:
        return tcp_address(self.host, self.port)

    @asynccontextmanager
    async def _exchange(self, *, select: bool = True) -> AsyncIterator[_Supply]:
        """Connect, and select the output."""
        async with self._lock:
            try:
                with trio.fail_after(self.timeout):
                    async with self._connected() as supply:
                        if select and self.channel is not None:
                            await supply.command(f"INST:NSEL {self.channel}")
                        yield supply
            except trio.TooSlowError:
                text = f"the supply did not answer within {self.timeout:g} s; perhaps another"
                text = f"{text} program is connected to it"
                raise OSError(errno.ETIMEDOUT, text, self._address) from None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Supply]:
        place = (self.host, self.port)
        async with open_server(self._address, open_tcp_stream, *place) as stream:
            supply = _Supply(stream, self._address)
            await supply.forget_errors()
            yield supply


class _Supply:
    """The conversation with a supply: a line for each command, and one for each answer.

    Args:
        stream: The connection.
        address: The supply's address, for messages.
    """

    def __init__(self, stream: trio.abc.Stream, address: str) -> None:
        self._stream = stream
        self._address = address
        self._received = bytearray()

    async def forget_errors(self) -> None:
        """Empty the queue of errors, which may have those of other programs.

        Raises:
            OSError: There is no end of errors.
        """
        for _ in range(_MAX_ERRORS):
            if await self._error() is None:
                return
        raise OSError(errno.EPROTO, "the supply reports errors without an end", self._address)

    async def command(self, line: str) -> None:
        """Send a command, and wait until the supply has accepted it.

        Raises:
            OSError: It has refused it.
        """
        await self._send(line)
        await self._check(line)

    async def number(self, line: str) -> float:
        """Send a query, and return the number that is the answer.

        Raises:
            OSError: The answer is another one.
        """
        answer = await self.ask(line)
        try:
            number = float(answer)
        except ValueError:
            number = math.nan
        if not abs(number) < 9.9e37:  # SCPI writes infinity as 9.9E37 and NaN as 9.91E37
            text = f"the supply answered {line!r} by {sanitize_text(answer)}, not by a number"
            raise OSError(errno.EPROTO, text, self._address)
        return number

    async def ask(self, line: str) -> str:
        """Send a query, and return the answer.

        Raises:
            OSError: The connection has ended, or the answer is not a line of text.
        """
        await self._send(line)
        while not 0 <= (end := self._received.find(b"\n")) <= _MAX_LINE:
            if len(self._received) > _MAX_LINE:
                raise OSError(errno.EPROTO, "the supply sends a line without end", self._address)
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            if not data:
                text = f"the supply has ended the connection instead of answering {line!r}"
                raise OSError(errno.EIO, text, self._address)
            self._received += data
        answer = self._received[:end].decode("ascii", "replace").strip()
        del self._received[: end + 1]
        return answer

    async def _send(self, line: str) -> None:
        try:
            await self._stream.send_all(line.encode("ascii") + b"\n")
        except trio.BrokenResourceError:
            text = f"the supply has ended the connection before {line!r}"
            raise OSError(errno.EIO, text, self._address) from None

    async def _check(self, line: str) -> None:
        error = await self._error()
        if error is not None:
            text = f"the supply has refused {line!r}: {sanitize_text(error)}"
            raise OSError(errno.EIO, text, self._address)

    async def _error(self) -> str | None:
        """Take the first error from the supply's queue."""
        answer = await self.ask("SYST:ERR?")
        number, _, _ = answer.partition(",")
        return None if number.strip() in {"0", "+0", "-0"} else answer


class ScpiPowerClient(PowerClient):
    """The client of a supply: a power switch that can be identified."""

    def identify(self) -> str:
        """Return the supply's maker, model, serial number and firmware, as it states them.

        Raises:
            DriverOSError: The supply cannot be reached.
        """
        return self.call_as(str, "identify")
