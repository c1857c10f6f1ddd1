"""Show the exporter's log through this process's own loggers.

The client calls `log` of the exporter's own service, a generator of batches of records. A task
passes each batch to the loggers in a worker thread: a handler may write to a slow terminal, and the
client's loop has other calls to serve. While it does, it takes no further batch, so the exporter
soon has no credit left, and drops and counts what its queue cannot hold.

The stream has a connection of its own if one can be made, so that it takes no slot and no time of
the connection that the calls use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, NamedTuple, TypeAlias

import trio

from .._io.portal import BlockingPortal
from .._protocol.frames import Kind
from .._util.background import open_background
from .._util.log_records import STANDARD_FIELDS
from .._util.text import indent_text
from .._util.tracebacks import hidden_contextmanager
from ..errors import (
    DriverError,
    DriverMethodNotImplemented,
    HandshakeError,
    JumpstarterException,
)
from ._channel import Channel
from ._generators import RemoteGenerator
from ._outgoing_call import Request
from ._remote import DriverRef
from ._runner import limited, portal_for

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LogRow", "LogStreams", "another_channel", "log_rows"]

_SYSTEM: Final = "exporter:system"
_LOGGERS: Final = {"driver": "exporter:driver"}
_REST: Final = 2.0  # seconds at the end of a block, in which records from before it still arrive
_MAX_TEXT: Final = 10_000  # characters of a record
_ROWS_PER_TURN: Final = 16  # records that the thread passes on before others have a turn at the GIL
_PLACE: Final = "(exporter)"  # where the code is that has logged
_PLAIN: Final = (str, int, float, type(None))

_logger: Final = logging.getLogger("jumpstarter.client")


class LogStreams:
    """The part of a `DriverClient` that shows the exporter's log."""

    channel: DriverRef
    portal: BlockingPortal | None

    @asynccontextmanager
    async def log_stream_async(self) -> AsyncIterator[None]:
        """Pass the exporter's log on to this process's loggers, for the length of a block.

        Records of drivers (their loggers are `driver.*`) go to the logger `exporter:driver`, all
        others of the exporter's process to `exporter:system`. They keep their level and their extra
        fields, and get two more: `exporter_logger` and `exporter_created`, the logger's name and
        the time on the exporter. Handlers run in a worker thread.

        If this side does not keep up, the exporter drops records, and a warning says how many. If
        the exporter or the connection ends, a warning says so, and the block goes on. At the end of
        the block, records from before still arrive, for at most 2 seconds.

        Raises:
            DriverMethodNotImplemented: (on entering) The exporter is too old to send its log.
            DriverError: (on entering) It refuses, or the connection is lost.
            RuntimeError: (on entering) The client belongs to another Trio loop, or none runs here.
        """
        channel = self.channel.channel
        channel.check_loop(type(self).__name__, "log_stream_async")
        async with another_channel(channel) as own, _relaying(own, _log):
            yield

    @hidden_contextmanager
    def log_stream(self) -> Iterator[None]:
        """Pass the exporter's log on to this process's loggers, for the length of a block.

        The blocking form of `log_stream_async`.

        Raises:
            DriverMethodNotImplemented: (on entering) The exporter is too old to send its log.
            DriverError: (on entering) It refuses, or the connection is lost.
            DriverTimeoutError: (on entering) The surrounding `timeout` ran out.
            RuntimeError: (on entering) The client is for Trio code, or this thread runs a Trio
                loop.
        """
        portal = portal_for(self, f"{type(self).__name__}.log_stream", "log_stream_async")
        manager = limited(self.log_stream_async(), "the start or end of the log stream")
        with portal.wrap_async_context_manager(manager):
            yield


class LogRow(NamedTuple):
    """A record of the exporter's log.

    Attributes:
        created: The time on the exporter, in seconds since 1970.
        level: Its level.
        source: `"driver"`, or anything else for the rest of the exporter's process.
        logger: The logger's name.
        text: The message. Characters that are not printable are escaped.
        extra: Fields of any kind.
    """

    created: float
    level: int
    source: str
    logger: str
    text: str
    extra: dict[Any, Any]


# Takes, in a worker thread: the exporter's name, how many records are missing before the rest, and
# the rows, which `_row` checks.
_Deliver: TypeAlias = Callable[[str, int, list[Any]], None]


@asynccontextmanager
async def log_rows(channel: Channel, take: Callable[[LogRow], None]) -> AsyncIterator[None]:
    """Pass the exporter's log to a function instead of loggers, for the length of a block.

    Otherwise as `log_stream_async`.

    Args:
        channel: A connection to the exporter, best one of `another_channel`.
        take: Called with each record, in a worker thread, one at a time.
    """

    def deliver(exporter: str, lost: int, rows: list[Any]) -> None:
        if lost:
            text = f"{lost} records of the log of {exporter} are missing here"
            take(LogRow(time.time(), logging.WARNING, "", _SYSTEM, text, {}))
        for row in rows:
            take(_row(row))

    async with _relaying(channel, deliver):
        yield


@asynccontextmanager
async def _relaying(channel: Channel, deliver: _Deliver) -> AsyncIterator[None]:
    relay = _Relay(channel, deliver)
    async with relay.items, open_background() as nursery:
        await relay.begin()
        nursery.start_soon(relay.run)
        try:
            yield
        finally:
            await relay.finish()


@asynccontextmanager
async def another_channel(channel: Channel) -> AsyncIterator[Channel]:
    """Open another connection to the exporter; yield the given one if that fails."""
    async with AsyncExitStack() as stack:
        other = channel
        if channel.reopen is not None:
            with suppress(HandshakeError):  # the exporter has as many clients as it takes
                other = await stack.enter_async_context(channel.reopen())
        yield other


class _Relay:
    """Receives the records of one stream, and delivers them."""

    def __init__(self, channel: Channel, deliver: _Deliver) -> None:
        self._channel = channel
        self._deliver = deliver
        self._number = 0
        self._ended = trio.Event()
        # Other users of Trio's threads must not hold up the log.
        self._limiter = trio.CapacityLimiter(1)
        self.items: RemoteGenerator[Any] = RemoteGenerator(
            channel, self._request(Kind.GENERATOR, "log")
        )

    def _request(self, kind: Kind, method: str, *args: Any) -> Request:
        return Request(0, kind, method, args, driver=self._channel.name)

    async def begin(self) -> None:
        """Wait until the exporter has begun to collect records."""
        try:
            self._number = _checked(await anext(self.items), int)
        except DriverMethodNotImplemented as exc:
            text = f"{self._channel.name} cannot send its log: its version of the library is too "
            text += "old; update it, or read the log on that machine"
            raise DriverMethodNotImplemented(text) from exc

    async def run(self) -> None:
        """Pass the records on until the stream ends."""
        try:
            async for item in self.items:
                lost, rows = map(_checked, _checked(item, list)[:2], (int, list))
                await trio.to_thread.run_sync(
                    self._deliver, self._channel.name, lost, rows, limiter=self._limiter
                )
        except Exception as exc:  # noqa: BLE001 - a handler's too; the block must not end with it
            if not self._channel.closed:
                _logger.warning("the log stream of %s has ended: %s", self._channel.name, exc)
        finally:
            self._ended.set()

    async def finish(self) -> None:
        """End the stream, after the records from before."""
        if self._ended.is_set():
            return
        with trio.move_on_after(_REST), suppress(JumpstarterException):
            await self._channel.call(self._request(Kind.UNARY, "log_end", self._number))
            await self._ended.wait()


def _log(exporter: str, lost: int, rows: list[Any]) -> None:
    """Pass records to the loggers. In a worker thread."""
    if lost:
        text = "%d records of the log of %s are missing here: this side did not keep up"
        extra = {"exporter_lost": lost}
        logging.getLogger(_SYSTEM).warning(text, lost, exporter, extra=extra)
    for count, row in enumerate(rows, 1):
        if count % _ROWS_PER_TURN == 0:
            time.sleep(0)
        _, level, source = _checked(row, list)[:3]
        logger = logging.getLogger(_LOGGERS.get(_checked(source, str), _SYSTEM))
        if logger.isEnabledFor(_checked(level, int)):
            record = _row(row)
            fields = dict(_fields(record.extra))
            fields["exporter_logger"] = record.logger
            fields["exporter_created"] = record.created
            logger.handle(
                logger.makeRecord(
                    logger.name, level, _PLACE, 0, record.text, (), None, extra=fields
                )
            )


def _row(row: Any) -> LogRow:
    """Check a record that has arrived, and make its texts printable."""
    created, level, source, name, text, extra = _checked(row, list)[:6]
    return LogRow(
        _checked(created, float),
        _checked(level, int),
        _checked(source, str),
        indent_text(_checked(name, str), _MAX_TEXT),
        indent_text(_checked(text, str), _MAX_TEXT),
        _checked(extra, dict),
    )


def _fields(extra: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the extra fields that cannot break a record: the exporter is not trusted."""
    for name, value in extra.items():
        known = name in STANDARD_FIELDS or hasattr(logging.LogRecord, name)
        if name.isidentifier() and not known and isinstance(value, _PLAIN):
            yield name, indent_text(value, _MAX_TEXT) if isinstance(value, str) else value


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise DriverError(f"it has sent a {type(value).__name__} where a {kind.__name__} belongs")
    return value
