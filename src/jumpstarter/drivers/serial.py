"""A serial port as a raw stream: a board's console, for one client at a time.

While a client has the port, other programs are kept out of it: see `_exclusive` for how, and for
what that does not stop.
"""

from __future__ import annotations

import os
import socket
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from errno import EACCES, EAGAIN, EBUSY, ENOTTY
from typing import Any, Final

import trio

from .._util.checks import check_int, check_text
from .._util.fork import close_in_children, close_path_in_children, fork_count
from ..client import DriverClient
from ..driver import Driver, export, exportstream
from ..errors import ConfigurationError, MissingExtra
from ._exclusive import Claim, PortInUse
from ._ports import SLICE, stream_of
from .mixins import StreamMixin

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SerialClient", "SerialPort"]

_HANDOVER: Final = 1.0  # seconds in which the guard of a killed process lets go of what it held
_FORK_TRIES: Final = 3  # to connect to a port of the network while no child is forked
_LOOK: Final = 0.02  # seconds between two looks whether it has


@dataclass(kw_only=True)
class SerialPort(Driver):
    """A serial port, opened for each client that connects and closed behind it.

    What the device says while nobody is connected is lost: open the console, and then switch on.

    The port is held by `flock` and TIOCEXCL while a client has it, and is refused to a client while
    another driver, exporter or program holds it by either. A program that runs as root and takes no
    `flock` is not kept out. Both locks end with the process that has them, `kill -9` included.

    Attributes:
        url: Path of the device, as `/dev/ttyUSB0`, or a URL of pyserial's.
        baudrate: Its speed in bits per second.
    """

    url: str
    baudrate: int = 115200
    _in_use: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_text("url of SerialPort", self.url, "a path or URL, as a str", ConfigurationError)
        bits = "a whole number of bits per second, 1 or more"
        name = "baudrate of SerialPort"
        check_int(name, self.baudrate, 1, accepted=bits, error=ConfigurationError)

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "jumpstarter.drivers.serial.SerialClient"

    @export
    def port(self) -> str:
        """Say which port it is."""
        return self.url

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """Open the port, raw: no echo, no line editing, 8 bits, no parity.

        Raises:
            OSError: Another client, driver or program has the port (EBUSY), or it cannot be opened.
        """
        if self._in_use:
            raise PortInUse(self.url, "another client of this exporter")
        self._in_use = True
        try:
            port = await self._open()
            try:
                async with stream_of(port.serial) as stream:
                    yield stream
            finally:
                with trio.CancelScope(shield=True):  # it waits until all was sent
                    await trio.to_thread.run_sync(port.close)
        finally:
            self._in_use = False

    async def _open(self) -> _Port:
        give_up = trio.current_time() + _HANDOVER
        while True:
            try:
                return await trio.to_thread.run_sync(_Port, self.url, self.baudrate)
            except PortInUse as exc:
                if not exc.passing or trio.current_time() > give_up:
                    raise
            await trio.sleep(_LOOK)


class _Port:
    """An open port of pyserial, and the locks on it. For worker threads.

    Attributes:
        serial: That port.

    Raises:
        PortInUse: Another program has it.
        OSError: It cannot be opened.
        MissingExtra: The extra `serial` is not installed.
    """

    def __init__(self, url: str, baudrate: int) -> None:
        try:
            import serial  # noqa: PLC0415 - needed where there is a port
        except ImportError as exc:
            raise MissingExtra.named("serial", "a serial port", where="on the exporter") from exc
        port = serial.serial_for_url(url, baudrate=baudrate, timeout=SLICE, do_not_open=True)
        self._path = path = str(port.portstr or url)
        self.serial: Any = port
        self._claim: Claim | None = None
        if isinstance(port, serial.Serial):
            port.exclusive = True  # it takes the flock before it changes any setting of the device
        with ExitStack() as undo, _telling(path):
            undo.callback(self.close)
            close_in_children(self)
            with close_path_in_children(os.O_RDWR, path):  # until pyserial knows the descriptor
                _open(port)
            if os.isatty(descriptor := self.fileno()):
                self._claim = Claim(descriptor, path)
            undo.pop_all()

    def fileno(self) -> int:
        """Give the descriptor, or -1 if there is none."""
        descriptor: int | None = getattr(self.serial, "fd", None)  # there before it is open
        if descriptor is not None:
            return descriptor
        try:
            return int(self.serial.fileno())
        except (AttributeError, OSError, TypeError):  # TypeError: it was closed just now
            return -1

    def close(self) -> None:
        """Let others have it. Waits until all was sent."""
        try:
            if self._claim is not None:
                self._claim.release()
        finally:
            if self.serial.is_open:
                with close_path_in_children(os.O_RDWR, self._path):
                    self.serial.close()


def _open(port: Any) -> None:
    """Open a port of pyserial. One with a connection connects again if a child got a copy of it.

    pyserial waits for the connection, so a fork cannot be held up meanwhile.
    """
    tries = _FORK_TRIES
    while True:
        before = fork_count()
        port.open()
        connection = getattr(port, "_socket", None)  # of socket:// and rfc2217://
        if not isinstance(connection, socket.socket):
            return
        close_in_children(connection)
        tries -= 1
        if fork_count() == before or not tries:
            return
        with suppress(OSError):  # ends it for the child's copy too
            connection.shutdown(socket.SHUT_RDWR)
        port.close()


@contextmanager
def _telling(path: str) -> Iterator[None]:
    """Have an error say which port, what is wrong with it, and what to do."""
    try:
        yield
    except PortInUse:
        raise
    except (OSError, termios.error) as exc:
        # pyserial puts what the device's settings failed with into a text.
        cause = exc.__context__ if isinstance(exc.__context__, termios.error) else exc
        number = cause.args[0] if cause.args else None
        if number in {EAGAIN, EBUSY}:  # of flock, and of open() where TIOCEXCL is set
            raise PortInUse.of(path) from exc
        if number == EACCES:
            text = (
                f"{os.strerror(number)}: the exporter's user is not in the group that may open it"
            )
            raise OSError(number, text, path) from exc
        if number == ENOTTY:
            raise OSError(number, "it is not a serial port", path) from exc
        if isinstance(number, int):
            raise OSError(number, os.strerror(number), path) from exc
        if path not in str(exc):
            raise OSError(f"{path}: {exc}") from exc
        raise


class SerialClient(StreamMixin, DriverClient):
    """What a test has of a serial port: `connect()`, `pexpect()` and `portforward()`."""

    def port(self) -> str:
        """Say which port of the exporter it is."""
        return self.call_as(str, "port")
