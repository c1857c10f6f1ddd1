"""Open the places that a console's bytes come from: a port, a socket, a pseudo-terminal, a command.

A source is opened again and again, whenever the device has gone: each time its `open` gives a new
stream, or says why there is none. Reading the end of such a stream means that the device has gone.
"""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from errno import ENOTTY
from logging import Logger
from typing import Final, Protocol

import trio

from .._io.addresses import parse_address
from .._io.forward import keep_alive
from .._util.checks import raise_value_error
from .._util.fork import close_in_children, no_fork
from ..errors import ArgumentError, ConfigurationError
from ._exclusive import PortLock
from ._ports import import_serial, open_serial
from ._spawn import end_program, spawn
from .network import TcpNetwork, UnixNetwork

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CommandSource", "Source", "source_of"]

# Seconds to connect to a TCP console server, including its name. Linux alone would try for two
# minutes, and meanwhile miss a server that has started.
_CONNECT_TIMEOUT: Final = 5.0


class Source(Protocol):
    """A place that a console's bytes come from.

    Attributes:
        name: How messages and clients name it.
        longest_pause: Seconds between two attempts to open it, at most.
    """

    name: str
    longest_pause: float

    def open(self) -> AbstractAsyncContextManager[trio.abc.Stream]:
        """Open it for the length of a block.

        Raises:
            OSError: (on entering) It cannot be opened now.
        """

    def check(self) -> None:
        """Raise MissingExtra if it can never be opened in this installation."""


class _SerialSource:
    longest_pause: float = 0.25  # opening a path that does not exist takes microseconds

    def __init__(self, url: str, baudrate: int) -> None:
        self.name: str = url
        self._baudrate = baudrate

    def check(self) -> None:
        import_serial()

    def open(self) -> AbstractAsyncContextManager[trio.abc.Stream]:
        return open_serial(self.name, self._baudrate, keep_input=True)


class _PtySource:
    longest_pause: float = 0.25

    def __init__(self, path: str) -> None:
        self.name: str = f"pty:{path}"
        self._path = path

    def check(self) -> None: ...

    @asynccontextmanager
    async def open(self) -> AsyncIterator[trio.abc.Stream]:
        # In a thread, since the lock starts a program.
        pty = await trio.to_thread.run_sync(_Pty, self._path)
        async with pty.stream:
            try:
                yield pty.stream
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(pty.lock.release)


class _Pty:
    """An open and locked pseudo-terminal, in raw mode. For worker threads.

    Attributes:
        stream: It owns the descriptor.
        lock: Released before the stream is closed.
    """

    def __init__(self, path: str) -> None:
        with no_fork():
            # O_NONBLOCK: open() must not wait for a carrier.
            self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            close_in_children(self)
        with ExitStack() as undo:
            undo.callback(self._give_up)
            try:
                tty.setraw(self._descriptor, termios.TCSANOW)  # TCSAFLUSH discards the first bytes
            except termios.error as exc:
                raise OSError(ENOTTY, "it is not a pseudo-terminal", path) from exc
            self.lock: PortLock = PortLock(self._descriptor, path)
            undo.pop_all()
            with no_fork():
                self.stream: trio.lowlevel.FdStream = trio.lowlevel.FdStream(self._descriptor)
                self._descriptor = -1
                close_in_children(self.stream)

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed, or the stream has it."""
        return self._descriptor

    def _give_up(self) -> None:
        with no_fork():
            os.close(self._descriptor)
            self._descriptor = -1


class _UnixSource:
    longest_pause: float = 0.25  # a connection that is refused takes microseconds too

    def __init__(self, path: str) -> None:
        self._server = UnixNetwork(path=path)
        self.name: str = self._server.address()

    def check(self) -> None: ...

    def open(self) -> AbstractAsyncContextManager[trio.abc.Stream]:
        return self._server.connect()


class _TcpSource:
    longest_pause: float = 1.0  # each attempt is a packet on the lab's network, or several

    def __init__(self, host: str, port: int) -> None:
        self._server = TcpNetwork(host=host, port=port)
        self.name: str = self._server.address()

    def check(self) -> None: ...

    @asynccontextmanager
    async def open(self) -> AsyncIterator[trio.abc.Stream]:
        connecting = trio.CancelScope(deadline=trio.current_time() + _CONNECT_TIMEOUT)
        with connecting:
            async with self._server.connect() as stream:
                connecting.deadline = float("inf")
                assert isinstance(stream, trio.SocketStream)
                keep_alive(stream)
                yield stream
        if connecting.cancelled_caught:
            raise TimeoutError(f"no connection within {_CONNECT_TIMEOUT:g} s")


class CommandSource:
    """A program whose output is the console. It is started again when it has ended.

    Args:
        words: The program, found in PATH, and its arguments.
        logger: Of the driver.
    """

    longest_pause: float = 5.0  # a program that fails may be slow to start, or ask a server

    def __init__(self, words: Sequence[str], logger: Logger) -> None:
        self.name: str = f"the command {words[0]!r}"
        self._words = list(words)
        self._logger = logger

    def check(self) -> None:
        """Do nothing: a program needs no extra."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[trio.abc.Stream]:
        """Start the program, and end it with its process group when the block is left.

        Raises:
            OSError: (on entering) It cannot be started.
        """
        program = await spawn(self._words, interactive=True)
        try:
            assert program.stdin is not None
            async with program.stderr, program.stdin, program.stdout:
                yield trio.StapledStream(program.stdin, program.stdout)
        finally:
            try:
                await end_program(program, self.name, self._logger)
            finally:
                program.close()


def source_of(text: str, baudrate: int) -> Source:
    """Make the source that a configuration names.

    Args:
        text: `unix:/path`, `tcp://host:port`, `pty:/path`, or else the path or pyserial URL of a
            serial port. A relative path begins at the current directory, as the paths of other
            drivers do: both ends are on this machine.
        baudrate: Of a serial port.

    Raises:
        ConfigurationError: It cannot be used.
    """
    name = "source of RecordedConsole"
    scheme, _, rest = text.partition(":")
    if scheme in {"unix", "pty"} and rest:
        rest = os.path.abspath(rest)  # noqa: PTH100 - it resolves no links
        text = f"{scheme}:{rest}"
    if scheme == "pty":
        if not rest:
            raise_value_error(name, text, "pty: with a path after it", ConfigurationError)
        return _PtySource(rest)
    if scheme not in {"unix", "tcp", "tls"}:
        return _SerialSource(text, baudrate)
    try:
        address = parse_address(text)
    except ArgumentError as exc:
        raise ConfigurationError(f"{name}: {exc}") from exc
    if address.scheme == "tls" or (address.scheme == "tcp" and not address.port):
        accepted = "tcp://host:port, with a port from 1 up and without TLS"
        raise_value_error(name, text, accepted, ConfigurationError)
    if address.scheme == "unix":
        return _UnixSource(address.path)
    return _TcpSource(address.host, address.port)
