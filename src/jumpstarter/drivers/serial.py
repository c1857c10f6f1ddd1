"""A serial port as a raw stream, such as a board's console, for one client at a time.

While a client has the port, other programs are kept out of it. `_exclusive` says how, and which
programs this does not stop.
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

from .._util.checks import check_int, check_path, check_text
from .._util.fork import FORK_TRIES, close_in_children, close_path_in_children, fork_count
from ..client import DriverClient
from ..driver import Driver, export, exportstream
from ..errors import ConfigurationError, MissingExtra
from ._exclusive import PortInUse, PortLock, describe_caller
from ._ports import READ_TIMEOUT, stream_of
from .mixins import StreamMixin

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SerialClient", "SerialPort"]

_HANDOVER: Final = 1.0  # seconds that the guard of a killed process has to release its port
_HANDOVER_POLL: Final = 0.02  # seconds between two checks whether it has


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
            port = await self._open()
            try:
                async with stream_of(port.serial) as stream:
                    yield stream
            finally:
                with trio.CancelScope(shield=True):  # close() waits until all data has been sent
                    await trio.to_thread.run_sync(port.close)
        finally:
            self._holder = ""

    async def _open(self) -> _Port:
        give_up = trio.current_time() + _HANDOVER
        while True:
            try:
                return await trio.to_thread.run_sync(_Port, self.url, self.baudrate)
            except PortInUse as exc:
                if not exc.transient or trio.current_time() > give_up:
                    raise
            await trio.sleep(_HANDOVER_POLL)


class _Port:
    """An open pyserial port and the locks on it. For worker threads.

    Attributes:
        serial: The pyserial port.

    Raises:
        PortInUse: Another program has the port.
        OSError: The port cannot be opened.
        MissingExtra: The extra `serial` is not installed.
    """

    def __init__(self, url: str, baudrate: int) -> None:
        try:
            import serial  # noqa: PLC0415 - an optional dependency
        except ImportError as exc:
            raise MissingExtra.named("serial", "a serial port", where="on the exporter") from exc
        port = serial.serial_for_url(url, baudrate=baudrate, timeout=READ_TIMEOUT, do_not_open=True)
        self._path = path = str(port.portstr or url)
        self.serial: Any = port
        self._lock: PortLock | None = None
        if isinstance(port, serial.Serial):
            port.exclusive = (
                True  # pyserial takes the flock before it changes the device's settings
            )
        with ExitStack() as undo, _explaining_errors(path):
            undo.callback(self.close)
            # Before open(): a child forked while it opens must not keep the port either. By the
            # path too, until pyserial has stored the descriptor.
            close_in_children(self)
            with close_path_in_children(os.O_RDWR, path):
                _open(port)
            if os.isatty(descriptor := self.fileno()):
                self._lock = PortLock(descriptor, path)
            undo.pop_all()

    def fileno(self) -> int:
        """Return the port's descriptor, or -1 if it has none."""
        descriptor: int | None = getattr(self.serial, "fd", None)  # set while open() still runs
        if descriptor is not None:
            return descriptor
        try:
            return int(self.serial.fileno())
        except (AttributeError, OSError, TypeError):  # TypeError: it was closed just now
            return -1

    def close(self) -> None:
        """Release the locks and close the port. Blocks until all data has been sent."""
        try:
            if self._lock is not None:
                self._lock.release()
        finally:
            if self.serial.is_open:
                with close_path_in_children(os.O_RDWR, self._path):
                    self.serial.close()


def _open(port: Any) -> None:
    """Open a pyserial port. A network port connects again if a forked child got a copy of it.

    pyserial waits for the connection, so forks cannot be held up meanwhile.
    """
    tries = FORK_TRIES
    while True:
        before = fork_count()
        port.open()
        # Private: socket:// and rfc2217:// give their connection by no other name.
        connection = getattr(port, "_socket", None)
        if not isinstance(connection, socket.socket):
            return
        close_in_children(connection)
        tries -= 1
        if fork_count() == before or not tries:
            return
        with suppress(OSError):  # shutdown() ends the connection for the child's copy too
            connection.shutdown(socket.SHUT_RDWR)
        port.close()


@contextmanager
def _explaining_errors(path: str) -> Iterator[None]:
    """Make an error name the port, what is wrong with it, and what to do."""
    try:
        yield
    except PortInUse:
        raise
    except (OSError, termios.error) as exc:
        # If the device refuses its settings, pyserial keeps only the text of termios.error.
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
    """The client of a serial port: `connect()`, `pexpect()` and `portforward()`."""

    def port(self) -> str:
        """Return the path or URL of the port on the exporter."""
        return self.call_as(str, "port")
