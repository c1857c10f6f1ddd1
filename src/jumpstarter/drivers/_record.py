"""Keep the last bytes of a console, with offsets that never change: the rules, without I/O.

A `Record` keeps the last bytes. Each has an absolute offset, counted from the first byte that was
ever recorded, so that a mark stays valid while the buffer moves on. Any number of `Cursor` objects
read it, each at its own pace. A cursor that falls behind further than the buffer reaches skips what
was overwritten, and reports the number of bytes that it has missed.

Between the bytes there are events: the device came, or it has gone. A cursor yields them in their
places. A `Search` finds text in what a cursor yields, however that was cut into pieces.

Nothing here waits, or reads a clock or a file: callers pass the time.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ._output import Tail

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ConsoleEvent",
    "ConsoleMark",
    "ConsoleMatch",
    "ConsoleOutput",
    "ConsoleStatus",
    "Cursor",
    "Record",
    "Search",
]

# Events that are kept. A port that comes and goes every second fills them in 17 minutes, and takes
# no more than 0.3 MB.
_MAX_EVENTS: Final = 1024
# Bytes before a match that are searched and returned. A match of a regular expression cannot be
# longer: much more than an expression for a console spans, and searched in about 0.1 ms.
_SEARCH_WINDOW: Final = 65_536


@dataclass(frozen=True, kw_only=True)
class ConsoleEvent:
    """A moment at which the device came or went.

    Attributes:
        offset: How many bytes were recorded before.
        time: When it happened, by the exporter's clock, in UTC.
        present: True if the device can be read from now on, False if it has gone.
        reason: Why it has gone; empty if it has come.
    """

    offset: int
    time: datetime
    present: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ConsoleMark:
    """A position in a record, from which it can be read later.

    Attributes:
        record: Which record it belongs to: a new one begins when the exporter starts.
        offset: How many bytes were recorded before.
        events: How many events were recorded before.
        time: When the mark was made, by the exporter's clock, in UTC.
    """

    record: str
    offset: int
    events: int
    time: datetime


@dataclass(frozen=True, kw_only=True)
class ConsoleOutput:
    """The next piece of a record: some bytes, or an event.

    Attributes:
        offset: Of the first byte.
        data: The bytes; empty for an event.
        missed: How many bytes are missing directly before these, since they were overwritten before
            the reader took them. Usually 0.
        event: What happened to the device, if this is an event.
    """

    offset: int
    data: bytes = b""
    missed: int = 0
    event: ConsoleEvent | None = None

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + len(self.data)


@dataclass(frozen=True, kw_only=True)
class ConsoleStatus:
    """The state of a recorded console now.

    Attributes:
        source: Where its bytes come from.
        present: True while that can be read.
        reason: Why it cannot be read.
        since: When it came or went, by the exporter's clock, in UTC.
        start: The offset of the oldest byte that is kept.
        end: How many bytes were recorded.
        watchers: How many clients watch.
        writer: The client that writes, or "".
        log: The path of the file, on the exporter; "" for none.
        log_lost: How many bytes could not be written to it.
    """

    source: str
    present: bool
    reason: str
    since: datetime
    start: int
    end: int
    watchers: int
    writer: str
    log: str
    log_lost: int


class Record:
    """The last bytes of a console, and the last events.

    Args:
        capacity: How many bytes are kept, 1 or more. Memory is used as it fills.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity: Final = capacity
        self._tail = Tail(capacity)
        self._events: deque[ConsoleEvent] = deque(maxlen=_MAX_EVENTS)
        self._event_count = 0

    @property
    def start(self) -> int:
        """The offset of the oldest byte that is kept."""
        return max(0, self._tail.end - self.capacity)

    @property
    def end(self) -> int:
        """The offset that the next byte will have: how many bytes were recorded."""
        return self._tail.end

    @property
    def event_count(self) -> int:
        """How many events were recorded."""
        return self._event_count

    def append(self, data: bytes) -> None:
        """Record bytes. They overwrite the oldest ones once the buffer is full."""
        self._tail.append(data)

    def add_event(self, time: datetime, *, present: bool, reason: str = "") -> None:
        """Record that the device has come or gone."""
        self._events.append(
            ConsoleEvent(offset=self.end, time=time, present=present, reason=reason)
        )
        self._event_count += 1

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes of a range that is kept."""
        assert self.start <= start <= end <= self.end
        return self._tail.since(start, end - start)[0]

    def event(self, number: int) -> ConsoleEvent | None:
        """Return an event by its number, or the oldest that is kept; None if it is yet to come."""
        if number >= self._event_count:
            return None
        return self._events[max(0, number - self._event_count + len(self._events))]

    def events_before(self, offset: int) -> int:
        """Return the number of the first event at an offset or behind it."""
        number = self._event_count
        for event in reversed(self._events):
            if event.offset < offset:
                break
            number -= 1
        return number


class Cursor:
    """One reader's position in a record.

    Args:
        record: The record.
        offset: Of the first byte to read, from 0 to the record's end. It may be overwritten
            already, which counts as missed.
        events: How many events to skip at least; those before `offset` are skipped anyway.

    Attributes:
        missed: How many bytes it has missed in all.
    """

    def __init__(self, record: Record, offset: int, events: int = 0) -> None:
        assert 0 <= offset <= record.end
        self._record = record
        self._offset = offset
        self._events = max(events, record.events_before(offset))
        self.missed: int = 0

    @property
    def offset(self) -> int:
        """The offset of the next byte to read."""
        return self._offset

    def take(self, size: int) -> ConsoleOutput | None:
        """Return the next piece and move behind it; None if there is nothing new.

        Args:
            size: The largest number of bytes to return. With 0, it returns an event that comes
                next, and the number of bytes that it has missed.
        """
        record = self._record
        missed = max(0, record.start - self._offset)
        self._offset += missed
        self.missed += missed
        event = record.event(self._events)
        if event is not None and event.offset <= self._offset:
            # Count from the end: events that are not kept any more are skipped.
            self._events = max(self._events, record.event_count - _MAX_EVENTS) + 1
            return ConsoleOutput(offset=self._offset, missed=missed, event=event)
        end = min(self._offset + size, record.end if event is None else event.offset)
        if end == self._offset and not missed:
            return None
        piece = ConsoleOutput(
            offset=self._offset, data=record.read(self._offset, end), missed=missed
        )
        self._offset = end
        return piece


@dataclass(frozen=True, kw_only=True)
class ConsoleMatch:
    """The place at which a text was found.

    Attributes:
        start: The offset of its first byte.
        end: The offset behind its last byte. Pass the match as `since=` to go on from there.
        before: What came before it, since the search began: at most 64 KiB, and nothing from before
            the device last came or went.
        data: The text itself.
        groups: Of a regular expression, as `re.Match.groups()` gives them.
    """

    start: int
    end: int
    before: bytes
    data: bytes
    groups: tuple[bytes | None, ...] = ()


class Search:
    """Finds the first occurrence of a text in pieces of a record.

    Bytes that do not follow each other never match together: where some were missed, and where the
    device has come or gone, the search starts again.

    Args:
        pattern: Bytes, which are found literally, or a regular expression.

    Attributes:
        missed: How many bytes could not be searched.
    """

    def __init__(self, pattern: bytes | re.Pattern[bytes]) -> None:
        self._is_literal = isinstance(pattern, bytes)
        self._pattern = re.compile(re.escape(pattern)) if isinstance(pattern, bytes) else pattern
        self._overlap = len(pattern) - 1 if isinstance(pattern, bytes) else 0
        self._window = max(_SEARCH_WINDOW, 2 * self._overlap)
        self._text = bytearray()
        self._offset = 0  # of the first byte of the text
        self._searched = 0  # bytes of the text in which a literal does not begin
        self.missed: int = 0

    @property
    def tail(self) -> bytes:
        """The last bytes that were searched, for an error message."""
        return bytes(self._text[-200:])

    def feed(self, piece: ConsoleOutput) -> ConsoleMatch | None:
        """Search the next piece. Returns the match, and is not used again after that."""
        self.missed += piece.missed
        if piece.missed or piece.event is not None or not self._text:
            self._text.clear()
            self._searched = 0
            self._offset = piece.offset
        self._text += piece.data
        found = self._pattern.search(self._text, self._searched)
        if found is not None:
            return self._match(found)
        if self._is_literal:
            self._searched = max(0, len(self._text) - self._overlap)
        self._forget()
        return None

    def _match(self, found: re.Match[bytes]) -> ConsoleMatch:
        # A search in a bytearray gives copies of the groups, but of this type.
        return ConsoleMatch(
            start=self._offset + found.start(),
            end=self._offset + found.end(),
            before=bytes(self._text[max(0, found.start() - _SEARCH_WINDOW) : found.start()]),
            data=bytes(found[0]),
            groups=tuple(None if group is None else bytes(group) for group in found.groups()),
        )

    def _forget(self) -> None:
        """Drop the oldest text, once it is twice as much as needed: rarely, since that copies."""
        if len(self._text) > 2 * self._window:
            gone = len(self._text) - self._window
            del self._text[:gone]
            self._offset += gone
            self._searched = max(0, self._searched - gone)
