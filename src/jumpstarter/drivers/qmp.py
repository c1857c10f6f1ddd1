"""Control a QEMU virtual machine through its QMP socket: a reset, a power button, a screenshot.

Start QEMU with `-qmp unix:/path,server=on,wait=off`. The socket exists only while QEMU runs. Only
the commands below can be sent: QMP has others that read and write files and start programs on the
exporter.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from .._io.sockets import open_unix_stream
from .._util.checks import check_path, check_seconds
from .._util.fork import close_without_fork
from .._util.text import sanitize_text
from ..client import DriverClient
from ..driver import Driver, export
from ..errors import ConfigurationError

if TYPE_CHECKING:
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Qmp", "QmpClient"]

_MAX_LINE: Final = 1024 * 1024  # bytes; an answer to one of these commands has a hundred


@dataclass(kw_only=True)
class Qmp(Driver):
    """The QMP socket of QEMU. Each call connects to it, for the length of the call.

    QEMU serves one connection at a time, so calls wait for each other, and for other programs.

    Attributes:
        path: The path of the socket.
        timeout: Seconds that QEMU may take to greet, and to answer. 30 by default: it greets
            immediately unless another program is connected, and takes a second for a screenshot.

    Raises:
        ConfigurationError: A field cannot be used.
    """

    path: str
    timeout: float = 30.0
    _lock: trio.Lock = field(init=False, repr=False, default_factory=trio.Lock)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self.path = check_path("path of Qmp", self.path, ConfigurationError)
        check_seconds("timeout of Qmp", self.timeout, error=ConfigurationError)

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.qmp.QmpClient"

    @export
    async def query_status(self) -> str:
        """Return the state of the machine, such as `"running"`, `"paused"` or `"shutdown"`.

        Raises:
            OSError: QEMU does not run, or has refused the command.
        """
        status = (await self._execute("query-status"))["status"]
        assert isinstance(status, str)
        return status

    @export
    async def system_reset(self) -> None:
        """Reset the machine, as its reset button does."""
        await self._execute("system_reset")

    @export
    async def system_powerdown(self) -> None:
        """Press the power button, which asks the guest to switch itself off. Returns before."""
        await self._execute("system_powerdown")

    @export
    async def pause(self) -> None:
        """Stop the machine's processors."""
        await self._execute("stop")

    @export
    async def resume(self) -> None:
        """Let the machine's processors go on."""
        await self._execute("cont")

    @export
    async def screendump(self) -> bytes:
        """Return a picture of the machine's screen, as PNG. QEMU 7.1 and later can.

        Raises:
            OSError: It has no screen, or QEMU cannot write the picture.
        """
        with tempfile.TemporaryDirectory(prefix="jumpstarter-qmp-") as directory:
            picture = Path(directory) / "screen.png"
            await self._execute("screendump", filename=str(picture), format="png")
            return await trio.to_thread.run_sync(picture.read_bytes)

    async def _execute(self, command: str, **arguments: str) -> dict[str, Any]:
        """Send a command, and return what QEMU returns."""
        async with self._lock:
            try:
                with trio.fail_after(self.timeout):
                    async with self._connected() as lines:
                        await lines.ask("qmp_capabilities")
                        return await lines.ask(command, **arguments)
            except trio.TooSlowError:
                text = f"QEMU did not answer {command!r} within {self.timeout:g} s; perhaps another"
                raise OSError(
                    errno.EBUSY, f"{text} program is connected to its socket", self.path
                ) from None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Lines]:
        try:
            stream = await open_unix_stream(self.path)
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            text = f"{os.strerror(exc.errno or 0)} (QEMU does not run, or has no -qmp socket there)"
            raise OSError(exc.errno, text, self.path) from None
        try:
            lines = _Lines(stream, self.path)
            if "QMP" not in await lines.receive():
                raise OSError(errno.EPROTO, "it does not speak QMP", self.path)
            yield lines
        finally:
            close_without_fork(stream.socket)


class _Lines:
    """The lines of JSON that QMP consists of.

    Args:
        stream: The connection.
        path: The path of the socket, for messages.
    """

    def __init__(self, stream: trio.abc.Stream, path: str) -> None:
        self._stream = stream
        self._path = path
        self._received = bytearray()

    async def ask(self, command: str, **arguments: str) -> dict[str, Any]:
        """Send a command, and return the answer. Events that arrive in between are dropped.

        Raises:
            OSError: QEMU has refused it, or the answer makes no sense.
        """
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        with suppress(trio.BrokenResourceError):  # the next line says so too
            await self._stream.send_all(json.dumps(message).encode() + b"\n")
        while True:
            match await self.receive():
                case {"return": dict(answer)}:
                    return answer
                case {"error": {"desc": str(text)}}:
                    text = f"QEMU has refused {command!r}: {sanitize_text(text)}"
                    raise OSError(errno.EIO, text, self._path)
                case {"event": _}:
                    pass
                case _:
                    text = f"QEMU gave no answer to {command!r}, but something else"
                    raise OSError(errno.EPROTO, text, self._path)

    async def receive(self) -> dict[str, Any]:
        """Return the next line.

        Raises:
            OSError: The connection has ended, or it is not a line of JSON.
        """
        while b"\n" not in self._received:
            if len(self._received) > _MAX_LINE:
                raise OSError(errno.EPROTO, "it sends a line without an end", self._path)
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise OSError(errno.EIO, "QEMU has ended the connection", self._path)
            self._received += data
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict):
                return value
        raise OSError(errno.EPROTO, "it does not speak QMP", self._path)


class QmpClient(DriverClient):
    """The client of QEMU's QMP socket."""

    def cli(self) -> click.Group:
        """Return the commands of `j` for it: those of its driver, and `screendump` to a file."""
        from ._commands import qmp_commands  # noqa: PLC0415 - it needs an extra

        return qmp_commands(self)

    def query_status(self) -> str:
        """Return the state of the machine, such as `"running"`, `"paused"` or `"shutdown"`.

        Raises:
            DriverOSError: QEMU does not run, or has refused the command.
        """
        return self.call_as(str, "query_status")

    def system_reset(self) -> None:
        """Reset the machine, as its reset button does."""
        self.call("system_reset")

    def system_powerdown(self) -> None:
        """Press the power button, which asks the guest to switch itself off. Returns before."""
        self.call("system_powerdown")

    def pause(self) -> None:
        """Stop the machine's processors."""
        self.call("pause")

    def resume(self) -> None:
        """Let the machine's processors go on."""
        self.call("resume")

    def screendump(self, path: str | os.PathLike[str]) -> None:
        """Write a picture of the machine's screen to a local file, as PNG.

        Args:
            path: The path of the file, which is replaced.

        Raises:
            DriverOSError: It has no screen, or QEMU cannot write the picture.
        """
        path = check_path("path", path)
        Path(path).write_bytes(self.call_as(bytes, "screendump"))
