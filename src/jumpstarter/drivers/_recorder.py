"""Read a console from its source into a record, without a pause, in the exporter's Trio loop.

A driver has no nursery that lives as long as it serves, so a `Recorder` runs in a system task of
the exporter's loop. `start` begins it, for `reset()`, and `stop` ends it and waits for its end, for
`close()`. All of its state belongs to that loop: no thread touches it, and nothing needs a lock.

    state     next
    STOPPED   ABSENT, by `start`
    ABSENT    PRESENT, when the source could be opened; until then it is tried again and again.
              STOPPED, by `stop`
    PRESENT   ABSENT, when the source has ended or failed. STOPPED, by `stop`

Files and sockets appear without an event that the standard library could wait for (inotify is not
part of it, and reports neither that a server listens nor that it accepts again). So a source that
is absent is tried in intervals that grow to its `longest_pause`.

The reader appends to the record and wakes the watchers, and never waits for them.
"""

from __future__ import annotations

import logging
import termios
from datetime import UTC, datetime
from errno import EBUSY, EIO, ENXIO
from typing import Final
from uuid import uuid4

import trio

from .._util.wakeup import LazyEvent, LazyParkingLot
from ..errors import MissingExtra
from ._console_log import ConsoleLog
from ._exclusive import PortInUse
from ._record import ConsoleMark, ConsoleOutput, Cursor, Record
from ._sources import Source

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DeviceAbsent", "Recorder", "Watcher", "WriterBusy", "WriterSeat"]

_SHORTEST_PAUSE: Final = 0.02  # seconds before the first attempt to open a source again
# Seconds that a source must stay open before the next pause is short again: a console server that
# is in use may accept, say so and close, each time.
_STABLE: Final = 1.0
# Seconds that `start` waits for the first attempt to open the source. A lab's network answers in
# milliseconds, and an exporter with many consoles starts them one after the other.
_FIRST_ATTEMPT: Final = 1.0
# Seconds until a port that another program uses is tried again: finding out which one takes long.
_BUSY_PAUSE: Final = 1.0
_READ_SIZE: Final = 65_536  # bytes of one read, and of one piece for a watcher
_EXPECTED: Final = (
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    termios.error,
    MissingExtra,
)
_STOPPED: Final = "it is not being recorded"
_FLUSH: Final = 5.0  # seconds for the last write of the log file: half of those for `close()`


class DeviceAbsent(OSError):
    """The device cannot be written to, since it is not there.

    Args:
        source: The name of the source.
        why: Since when, and why.
    """

    def __init__(self, source: str, why: str) -> None:
        super().__init__(ENXIO, why, source)


class WriterBusy(OSError):
    """Another client writes to the console.

    Args:
        source: The name of the source.
        holder: The client.
    """

    def __init__(self, source: str, holder: str) -> None:
        text = f"another client writes to this console ({holder}); wait for it with wait=True, or "
        super().__init__(EBUSY, f"{text}end that client's stream", source)


class WriterSeat:
    """Lets one writer use the console at a time. In the loop.

    Attributes:
        holder: The client that has it, or "".
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._key: object | None = None
        self._waiting = LazyParkingLot()
        self.holder: str = ""

    async def take(self, key: object, who: str, *, wait: bool) -> None:
        """Take the seat, unless this writer has it. A checkpoint only if it waits.

        Args:
            key: Identifies the writer.
            who: Describes it to others.
            wait: Wait until the writer that has it leaves, rather than fail.

        Raises:
            WriterBusy: Another writer has it.
        """
        while self._key is not None and self._key is not key:
            if not wait:
                raise WriterBusy(self._source, self.holder)
            await self._waiting.park()
        self._key, self.holder = key, who

    def leave(self, key: object) -> None:
        """Leave the seat, if this writer has it."""
        if self._key is key:
            self._key, self.holder = None, ""
            self._waiting.unpark_all()


class Recorder:
    """Keeps the record of one console.

    Args:
        source: Where the console's bytes come from.
        capacity: How many of them are kept.
        log: The file that gets them too, if there is one.
        logger: Of the driver.

    Attributes:
        id: Identifies the record; another exporter, or the next, has another one.
        source: The source's name.
        record: The record.
        writer: The client that may write.
        log: The file.
        watchers: How many clients watch.
        reason: Why the device is absent; "" while it is present.
        since: When it came or went, in UTC.
    """

    def __init__(
        self, source: Source, capacity: int, log: ConsoleLog | None, logger: logging.Logger
    ) -> None:
        self.id: str = str(uuid4())
        self.source: str = source.name
        self.record: Record = Record(capacity)
        self.writer: WriterSeat = WriterSeat(source.name)
        self.log: ConsoleLog | None = log
        self.watchers: int = 0
        self.reason: str = _STOPPED
        self.since: datetime = _now()
        self._opener = source
        self._logger = logger
        self._stream: trio.abc.Stream | None = None
        self._changed = LazyParkingLot()  # waits for output, and for events
        self._scope: trio.CancelScope | None = None  # of the reader, while it runs
        self._tried = LazyEvent()
        self._ended = LazyEvent()

    # ------------------------------------------------------------------- begin and end

    @property
    def is_running(self) -> bool:
        """True from `start` to the end of the recording. In any thread."""
        return self._scope is not None

    async def start(self) -> None:
        """Begin to record, unless it does so already. In the exporter's loop.

        A checkpoint. Waits for the first attempt to open the source, for at most 1 s, so that what
        the device says as soon as it is switched on is recorded.

        Raises:
            MissingExtra: The source needs an extra that is not installed.
        """
        self._opener.check()
        if self._scope is None:
            self._scope, self._tried, self._ended = trio.CancelScope(), LazyEvent(), LazyEvent()
            trio.lowlevel.spawn_system_task(self._run, self._scope, name=f"console {self.source}")
        with trio.move_on_after(_FIRST_ATTEMPT):
            await self._tried.wait()

    async def stop(self) -> None:
        """End the recording and wait for its end, for the file's too. A checkpoint."""
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()

    async def _run(self, scope: trio.CancelScope) -> None:
        """Record until the scope is cancelled. As a system task, it must not raise an exception."""
        try:
            async with trio.open_nursery() as nursery:
                if self.log is not None:
                    nursery.start_soon(self.log.run)
                try:
                    with scope:
                        await self._read_on()
                finally:
                    if self.log is not None:
                        self._note("the recording ends")
                        self.log.end()
                        nursery.cancel_scope.deadline = trio.current_time() + _FLUSH
            if nursery.cancel_scope.cancelled_caught:
                text = "the end of the log file is missing: the disk did not take it within %g s"
                self._logger.error(text, _FLUSH)
        except Exception:
            self._logger.exception("the recording of %s has failed", self.source)
        finally:
            self.reason, self._scope = _STOPPED, None
            self._tried.set()
            self._ended.set()
            self._changed.unpark_all()

    # -------------------------------------------------------------------------- reading

    async def _read_on(self) -> None:
        """Open the source and read it, again and again."""
        pause = _SHORTEST_PAUSE
        while True:
            began, why = trio.current_time(), ""
            try:
                async with self._opener.open() as stream:
                    began = trio.current_time()
                    self._came(stream)
                    why = await self._read(stream)
            except Exception as exc:  # noqa: BLE001 - what it was, and that it goes on, is logged
                why = self._explain_failure(exc)
                if isinstance(exc, PortInUse):
                    pause = _BUSY_PAUSE
            finally:
                self._went(why or _STOPPED)
            if trio.current_time() - began > _STABLE:
                pause = _SHORTEST_PAUSE
            await trio.sleep(pause)
            pause = min(2 * pause, self._opener.longest_pause)

    def _explain_failure(self, exc: Exception) -> str:
        why = _explain(exc)
        if why != self.reason and not isinstance(exc, _EXPECTED):
            self._logger.error("%s: unexpected %s", self.source, type(exc).__name__, exc_info=exc)
        return why

    async def _read(self, stream: trio.abc.Stream) -> str:
        """Read until the end of the stream, and return why it has ended."""
        while data := await stream.receive_some(_READ_SIZE):
            self.record.append(bytes(data))
            if self.log is not None:
                self.log.output(_now(), bytes(data))
            self._changed.unpark_all()
        return "the other end has closed it"

    def _came(self, stream: trio.abc.Stream) -> None:
        self._stream, self.reason, self.since = stream, "", _now()
        self.record.add_event(self.since, present=True)
        self._note(f"{self.source} is there")
        self._logger.info("%s is there", self.source)
        self._tried.set()
        self._changed.unpark_all()

    def _went(self, why: str) -> None:
        text = ""
        if self._stream is not None:
            self._stream, self.since = None, _now()
            self.record.add_event(self.since, present=False, reason=why)
            text = "has gone"
        elif why != self.reason:  # else it was logged before
            text = "is not there"
        self.reason = why
        if text and why != _STOPPED:
            self._note(f"{self.source} {text}: {why}")
            self._logger.info("%s %s, and is waited for: %s", self.source, text, why)
        self._tried.set()
        self._changed.unpark_all()

    def _note(self, text: str) -> None:
        if self.log is not None:
            self.log.note(_now(), text)

    # ------------------------------------------------------------------------- watching

    def mark(self) -> ConsoleMark:
        """Return the present end of the record."""
        record = self.record
        return ConsoleMark(
            record=self.id, offset=record.end, events=record.event_count, time=_now()
        )

    async def wait(self) -> None:
        """Wait until there may be something new. A checkpoint."""
        await self._changed.park()

    async def send(self, data: bytes, *, wait: bool) -> None:
        """Send bytes to the device. A checkpoint. The caller has the writer's seat.

        Args:
            data: The bytes.
            wait: Wait until the device is there, rather than fail.

        Raises:
            DeviceAbsent: It is not there.
            OSError: It has gone while the bytes were sent, some of which it may have received.
        """
        while (stream := self._stream) is None:
            if not wait or self._scope is None:
                text = f"the device is not there since {self.since:%Y-%m-%d %H:%M:%S} UTC"
                advice = "switch it on, or wait for it with wait=True"
                raise DeviceAbsent(self.source, f"{text} ({self.reason}); {advice}")
            await self._changed.park()
        try:
            await stream.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            text = f"the device has gone while {len(data)} bytes were sent, and may have some"
            raise OSError(EIO, f"{text}: {_explain(exc)}", self.source) from exc


class Watcher:
    """Reads a record from a position on, for one client.

    Args:
        recorder: Of the record.
        cursor: The position.
    """

    def __init__(self, recorder: Recorder, cursor: Cursor) -> None:
        self._recorder = recorder
        self._cursor = cursor

    async def next(self, until: int | None = None) -> ConsoleOutput | None:
        """Return the next piece. A checkpoint if it waits.

        Args:
            until: The offset at which the reader ends; None for a reader that waits for more.

        Returns:
            The piece; None if the reader has come to its end.
        """
        while True:
            size = _READ_SIZE if until is None else max(0, until - self._cursor.offset)
            piece = self._cursor.take(min(size, _READ_SIZE))
            if piece is not None or until is not None:
                return piece
            await self._recorder.wait()


def _now() -> datetime:
    return datetime.now(UTC)


def _explain(exc: BaseException) -> str:
    """Return why a stream has failed: Trio has the system's error as the cause of its own."""
    is_trios = isinstance(exc, trio.BrokenResourceError | trio.ClosedResourceError)
    cause = (exc.__cause__ or exc) if is_trios else exc
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
