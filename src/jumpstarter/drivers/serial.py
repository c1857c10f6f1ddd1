"""A serial port as a raw stream, such as a board's console, for one client at a time.

While a client has the port, other programs are kept out of it. `_exclusive` says how, and which
programs this does not stop.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from .._util.checks import check_int, check_path, check_text
from ..client import DriverClient
from ..driver import Driver, export, exportstream
from ..errors import ConfigurationError
from ._exclusive import PortInUse, describe_caller
from ._ports import import_serial, open_serial
from .mixins import StreamMixin

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SerialClient", "SerialPort"]


@dataclass(kw_only=True)
class SerialPort(Driver):
    """A serial port, opened for each client that connects and closed afterwards.

    What the device sends while no client is connected is lost. So open the console first, and then
    switch the board on.

    While a client has the port, `flock` and TIOCEXCL lock it, and a client is refused while another
    driver, exporter or program holds either lock. Neither stops a program that runs as root and
    takes no `flock`. Both locks end with the process that has them, even by `kill -9`.

    Attributes:
        url: The path of the device, like `/dev/ttyUSB0` (a `pathlib.Path` is accepted), or a
            pyserial URL.
        baudrate: The speed in bits per second.

    Raises:
        ConfigurationError: A field cannot be used.
    """

    url: str
    baudrate: int = 115200
    _holder: str = field(init=False, repr=False, default="")  # the client that has the port

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        url: object = self.url
        if isinstance(url, os.PathLike):
            self.url = check_path("url of SerialPort", url, ConfigurationError)
        else:
            accepted = "a path or a URL, as a str or a pathlib.Path"
            check_text("url of SerialPort", url, accepted, ConfigurationError)
        bits = "a whole number of bits per second, 1 or more"
        name = "baudrate of SerialPort"
        check_int(name, self.baudrate, 1, accepted=bits, error=ConfigurationError)

    @classmethod
    def _jmp_check_installed(cls, _config: Mapping[str, object]) -> None:
        """Raise MissingExtra if pyserial is missing. For `config check`, which makes no driver."""
        import_serial()

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.serial.SerialClient"

    @export
    def port(self) -> str:
        """Return the path or URL of the port."""
        return self.url

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """Open the port in raw mode: no echo, no line editing, 8 data bits, no parity.

        Raises:
            OSError: Another client, driver or program has the port (EBUSY), or it cannot be opened.
        """
        if self._holder:
            raise PortInUse(self.url, f"another client of this exporter ({self._holder})")
        self._holder = describe_caller()
        try:
            async with open_serial(self.url, self.baudrate) as stream:
                yield stream
        finally:
            self._holder = ""


class SerialClient(StreamMixin, DriverClient):
    """The client of a serial port: `connect()`, `pexpect()` and `portforward()`."""

    def port(self) -> str:
        """Return the path or URL of the port on the exporter."""
        return self.call_as(str, "port")
