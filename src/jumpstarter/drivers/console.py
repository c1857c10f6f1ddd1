"""A console that is recorded as long as the exporter serves, for many watchers and one writer.

The driver reads its port from `reset()` to `close()` into a ring buffer, and into a file if asked,
whether a client is connected or not. So no client can come too late for the boot log, and a test
and a person may watch the same console. See docs/howto/recorded-console.md.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from .._util.checks import check_int, check_path, check_text, raise_type_error
from ..driver import Driver, export, exportstream
from ..errors import ConfigurationError
from ._console_client import ConsoleClient
from ._console_log import ConsoleLog
from ._exclusive import describe_caller
from ._record import (
    ConsoleEvent,
    ConsoleMark,
    ConsoleMatch,
    ConsoleOutput,
    ConsoleStatus,
    Cursor,
)
from ._recorder import Recorder, Watcher
from ._sources import CommandSource, source_of

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ConsoleClient",
    "ConsoleEvent",
    "ConsoleMark",
    "ConsoleMatch",
    "ConsoleOutput",
    "ConsoleStatus",
    "RecordedConsole",
]

_BUFFER_SIZE: Final = 4 * 1024 * 1024
_LOG_SIZE: Final = 16 * 1024 * 1024


@dataclass(kw_only=True)
class RecordedConsole(Driver):
    """A console that is read all the time: nothing that the device says is lost to its clients.

    The port is opened when serving begins, and opened again whenever it has gone: a device that is
    switched off, an adapter that is unplugged, an emulator that has ended are waited for.

    Attributes:
        source: Where the console's bytes come from: `/dev/ttyUSB0` or a pyserial URL (extra
            `serial`), `unix:/path`, `tcp://host:port`, or `pty:/path`, a pseudo-terminal such as
            QEMU makes.
        command: In place of `source`, a program and its arguments, as `["ssh", "-tt", "board"]`,
            whose output is the console. It is started again when it ends.
        baudrate: Of a serial port, in bits per second.
        buffer_size: How many of the last bytes are kept for clients. 4 MiB by default: six minutes
            of a serial port at 115,200 bits per second that never pauses, or twenty Linux boots;
            and 33 boards take no more than 132 MiB. Memory is used as the buffer fills.
        log_path: A file that gets everything, with the time of each line; "" for none. Only the
            exporter's user may read it.
        log_size: The size at which a new file begins, and the old one is moved to `.1`, in bytes;
            0 leaves that to another program, such as logrotate. 16 MiB by default.
        log_keep: How many older files are kept. 4 by default, so that a board in an endless loop
            of panics takes at most 80 MiB.

    Raises:
        ConfigurationError: A field cannot be used.
    """

    source: str = ""
    command: Sequence[str] = ()
    baudrate: int = 115200
    buffer_size: int = _BUFFER_SIZE
    log_path: str = ""
    log_size: int = _LOG_SIZE
    log_keep: int = 4
    _recorder: Recorder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        of, error = "of RecordedConsole", ConfigurationError
        if isinstance(self.source, os.PathLike):
            self.source = check_path(f"source {of}", self.source, error)
        accepted = "a path or an address, as a str or a pathlib.Path"
        check_text(f"source {of}", self.source, accepted, error)
        check_int(f"baudrate {of}", self.baudrate, 1, error=error)
        check_int(f"buffer_size {of}", self.buffer_size, 1, error=error)
        check_int(f"log_size {of}", self.log_size, 0, error=error)
        check_int(f"log_keep {of}", self.log_keep, 0, error=error)
        log = None
        if self.log_path:
            self.log_path = check_path(f"log_path {of}", self.log_path, error)
            log = ConsoleLog(self.log_path, self.log_size, self.log_keep, self.logger)
        if bool(self.source) == bool(self.command):
            raise ConfigurationError(f"source {of} or command, one of the two, must be given")
        if self.command:
            words: object = self.command
            if isinstance(words, str | bytes) or not all(isinstance(w, str) for w in self.command):
                raise_type_error(f"command {of}", words, "a list of texts", error)
        made = (
            CommandSource(self.command, self.logger)
            if self.command
            else source_of(self.source, self.baudrate)
        )
        self._recorder = Recorder(made, self.buffer_size, log, self.logger)

    @classmethod
    def _jmp_check_installed(cls, config: Mapping[str, object]) -> None:
        """Raise MissingExtra if the source needs an extra. For `config check`."""
        source = config.get("source")
        if isinstance(source, str) and source:
            source_of(source, 1).check()

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.console.ConsoleClient"

    def reset(self) -> None:
        """Begin to record. Blocks until the port is open, or could not be opened, at most 1 s.

        Raises:
            MissingExtra: A serial port needs the extra `serial`.
        """
        trio.from_thread.run(self._recorder.start)

    def close(self) -> None:
        """End the recording, and write the rest of the file. Blocks, for the file at most 5 s."""
        if self._recorder.is_running:
            trio.from_thread.run(self._recorder.stop)

    def latest(self, size: int) -> bytes:
        """Return the last bytes of the record, at most `size`. In the loop; not for clients."""
        record = self._recorder.record
        end = record.end
        return record.read(max(record.start, end - size), end)

    @export(read_only=True)
    async def status(self) -> ConsoleStatus:
        """Return what the console does just now."""
        return self.state

    @property
    def state(self) -> ConsoleStatus:
        """The state of the console now. In the loop; not for clients."""
        recorder, record = self._recorder, self._recorder.record
        return ConsoleStatus(
            source=recorder.source,
            present=not recorder.reason,
            reason=recorder.reason,
            since=recorder.since,
            start=record.start,
            end=record.end,
            watchers=recorder.watchers,
            writer=recorder.writer.holder,
            log=self.log_path,
            log_lost=0 if recorder.log is None else recorder.log.lost,
        )

    @export(read_only=True)
    async def mark(self) -> ConsoleMark:
        """Return the present end of the record, to read from there later."""
        return self._recorder.mark()

    @export(strict=True, read_only=True)
    async def watch(
        self, since: ConsoleMark | int | None = None, last: int | None = None, follow: bool = True
    ) -> AsyncIterator[ConsoleOutput]:
        """Yield what the device says from now on, or from an earlier position.

        Args:
            since: A mark, or an offset, at which to begin: 0 for all that is kept. Without it and
                `last`, nothing of the record is yielded, but what comes.
            last: In its place, how many of the last bytes to begin with.
            follow: False ends at the present end.

        Raises:
            ValueError: There is no such position.
        """
        until = None if follow else self._recorder.record.end
        watcher = Watcher(self._recorder, self._cursor(since, last))
        self._recorder.watchers += 1
        try:
            while (piece := await watcher.next(until)) is not None:
                yield piece
        finally:
            self._recorder.watchers -= 1

    @export(strict=True)
    async def write(self, data: bytes, wait: bool = False) -> None:
        """Send bytes to the device, if no other client writes.

        Args:
            data: The bytes.
            wait: Wait for the device, and for a client that writes, rather than fail.

        Raises:
            OSError: Another client writes (EBUSY), the device is not there (ENXIO), or it has gone
                meanwhile (EIO).
        """
        key = object()
        await self._recorder.writer.take(key, describe_caller(), wait=wait)
        try:
            await self._recorder.send(data, wait=wait)
        finally:
            self._recorder.writer.leave(key)

    @exportstream
    @asynccontextmanager
    async def connect(
        self,
        since: ConsoleMark | int | None = None,
        last: int | None = None,
        wait: bool = False,
        marker: bool = True,
    ) -> AsyncIterator[trio.abc.Stream]:
        """Open the console as a raw stream: it is watched, and may be written to.

        The first byte that is sent makes this client the writer, until the stream is closed. So any
        number of clients may have the console open.

        Args:
            since: A mark, or an offset, at which to begin; by default at the present end.
            last: In its place, how many of the last bytes to begin with.
            wait: When something is sent, wait for the device, and for a client that writes, rather
                than fail.
            marker: Put a line in the place of bytes that this client has missed.

        Raises:
            ValueError: There is no such position.
            OSError: (when something is sent) Another client writes (EBUSY), the device is not there
                (ENXIO), or it has gone meanwhile (EIO).
        """
        stream = _ConsoleStream(self._recorder, self._cursor(since, last), wait=wait, marker=marker)
        async with stream:
            yield stream

    def _cursor(self, since: ConsoleMark | int | None, last: int | None) -> Cursor:
        """Find the position that a client asks for."""
        recorder, record = self._recorder, self._recorder.record
        if last is not None:
            if since is not None or last < 0:
                raise ValueError("give a mark or a number of bytes from 0 up, and only one of them")
            return Cursor(record, max(record.start, record.end - last))
        if since is None:
            return Cursor(record, record.end, record.event_count)
        if isinstance(since, int):
            offset, events = since, 0
        else:
            offset, events = since.offset, since.events
            if since.record != recorder.id:
                text = "the mark is of another record: of another console, or the exporter was"
                raise ValueError(f"{text} started again since; make a new mark")
        if not 0 <= offset <= record.end:
            raise ValueError(f"offset {offset} is not in the record, which ends at {record.end}")
        return Cursor(record, offset, events)


class _ConsoleStream(trio.abc.Stream):
    """A raw stream of a console, for one client."""

    def __init__(self, recorder: Recorder, cursor: Cursor, *, wait: bool, marker: bool) -> None:
        self._recorder = recorder
        self._watcher = Watcher(recorder, cursor)
        self._wait = wait
        self._marker = marker
        self._who = describe_caller()
        self._rest = b""
        recorder.watchers += 1

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what comes next. Never the end: a device that has gone is waited for."""
        while not self._rest:
            piece = await self._watcher.next()
            assert piece is not None  # without an end, it waits
            if piece.missed and self._marker:
                self._rest = b"\r\n[jumpstarter: %d bytes missed]\r\n" % piece.missed
            self._rest += piece.data
        data, self._rest = (
            self._rest[:max_bytes],
            b"" if max_bytes is None else self._rest[max_bytes:],
        )
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes to the device, as the only writer."""
        await self._recorder.writer.take(self, self._who, wait=self._wait)
        await self._recorder.send(bytes(data), wait=self._wait)

    async def wait_send_all_might_not_block(self) -> None:
        """Return immediately: whether the device takes bytes is known only when sending."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Let another client write."""
        self._recorder.writer.leave(self)
        self._recorder.watchers -= 1
        await trio.lowlevel.checkpoint()
