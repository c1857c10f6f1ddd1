"""Tests of the record of a console: a model that keeps everything, and searches in pieces."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from jumpstarter.drivers._record import (
    _MAX_EVENTS,
    _SEARCH_WINDOW,
    ConsoleMatch,
    ConsoleOutput,
    Cursor,
    Record,
    Search,
)

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Reader:
    """A cursor, and what it should return next."""

    cursor: Cursor
    offset: int
    event: int
    missed: int = 0


class RecordModel(RuleBasedStateMachine):
    """Compares a record with one that forgets nothing."""

    @initialize(capacity=st.integers(1, 40))
    def begin(self, capacity: int) -> None:
        self.record = Record(capacity)
        self.capacity = capacity
        self.said = b""
        self.events: list[int] = []  # their offsets
        self.readers: list[Reader] = []

    @rule(data=st.binary(min_size=1, max_size=100))
    def device_says(self, data: bytes) -> None:
        self.record.append(data)
        self.said += data

    @rule(present=st.booleans())
    def device_comes_or_goes(self, present: bool) -> None:
        time = BEGINNING + timedelta(seconds=len(self.events))
        self.record.add_event(time, present=present, reason=str(len(self.events)))
        self.events.append(len(self.said))

    @rule(back=st.integers(0, 200))
    def reader_begins(self, back: int) -> None:
        offset = max(0, len(self.said) - back)
        event = sum(1 for each in self.events if each < offset)
        self.readers.append(Reader(Cursor(self.record, offset), offset, event))

    @rule()
    def reader_begins_at_a_mark(self) -> None:
        cursor = Cursor(self.record, self.record.end, self.record.event_count)
        self.readers.append(Reader(cursor, len(self.said), len(self.events)))

    @rule(number=st.integers(0, 5), size=st.integers(0, 60))
    def reader_takes(self, number: int, size: int) -> None:
        if number >= len(self.readers):
            return
        reader = self.readers[number]
        kept = max(0, len(self.said) - self.capacity)
        missed = max(0, kept - reader.offset)
        start = reader.offset + missed
        piece = reader.cursor.take(size)
        if reader.event < len(self.events) and self.events[reader.event] <= start:
            assert piece is not None
            assert piece.event is not None
            assert piece.event.reason == str(reader.event)
            assert piece.event.offset == self.events[reader.event]
            reader.event += 1
            expected = b""
        else:
            end = min(start + size, *self.events[reader.event :], len(self.said))
            expected = self.said[start:end]
            if not expected and not missed:
                assert piece is None
                return
            assert piece is not None
            assert piece.event is None
        assert (piece.offset, piece.missed, piece.data) == (start, missed, expected)
        assert piece.end == reader.cursor.offset
        reader.offset = piece.end
        reader.missed += missed
        assert reader.cursor.missed == reader.missed

    @invariant()
    def the_last_bytes_are_kept(self) -> None:
        if hasattr(self, "record"):
            assert self.record.end == len(self.said)
            assert self.record.start == max(0, len(self.said) - self.capacity)
            kept = self.record.read(self.record.start, self.record.end)
            assert kept == self.said[self.record.start :]


def test_a_record_is_what_was_said_without_what_was_overwritten() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call, unused-ignore] # earlier versions
        RecordModel, settings=settings(max_examples=200, stateful_step_count=60, deadline=None)
    )


def test_the_oldest_events_are_forgotten_and_the_others_keep_their_order() -> None:
    record = Record(10)
    late = Cursor(record, 0)
    for number in range(_MAX_EVENTS + 5):
        record.add_event(BEGINNING, present=True, reason=str(number))
    numbers = []
    while (piece := late.take(10)) is not None:
        assert piece.event is not None
        numbers.append(int(piece.event.reason))
    assert numbers == list(range(5, _MAX_EVENTS + 5))


# ---------------------------------------------------------------------------- searches


def pieces_of(text: bytes, cuts: list[int], offset: int = 0) -> list[ConsoleOutput]:
    """Cut a text into pieces."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [
        ConsoleOutput(offset=offset + start, data=text[start:end])
        for start, end in pairwise(places)
    ]


def found_in(search: Search, pieces: list[ConsoleOutput]) -> ConsoleMatch | None:
    return next((match for piece in pieces if (match := search.feed(piece)) is not None), None)


@settings(deadline=None)
@given(
    text=st.text("ab", max_size=60).map(str.encode),
    pattern=st.text("ab", min_size=1, max_size=6).map(str.encode),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_a_text_is_found_however_it_was_cut(text: bytes, pattern: bytes, cuts: list[int]) -> None:
    match = found_in(Search(pattern), pieces_of(text, cuts, offset=1000))
    at = text.find(pattern)
    if at < 0:
        assert match is None
    else:
        assert match is not None
        assert (match.start, match.end) == (1000 + at, 1000 + at + len(pattern))
        assert match.before == text[:at]
        assert match.data == pattern


def test_a_literal_text_is_not_a_regular_expression() -> None:
    match = Search(b"[a.c]$ ").feed(ConsoleOutput(offset=0, data=b"abc [a.c]$ "))
    assert match is not None
    assert match.start == 4


def test_a_regular_expression_is_found_across_pieces_and_gives_its_groups() -> None:
    search = Search(re.compile(rb"version (\d+)(-rc)?\n"))
    match = found_in(search, pieces_of(b"U-Boot version 2026\n", [9, 17]))
    assert match is not None
    assert match.groups == (b"2026", None)
    assert match.before == b"U-Boot "


@pytest.mark.parametrize("missed", [3, 0])
def test_bytes_that_do_not_follow_each_other_do_not_match(missed: int) -> None:
    search = Search(b"login:")
    assert search.feed(ConsoleOutput(offset=0, data=b"log")) is None
    if missed:
        assert search.feed(ConsoleOutput(offset=6, data=b"in:", missed=3)) is None
        assert search.missed == 3
    else:
        record = Record(10)
        record.add_event(BEGINNING, present=False)
        event = Cursor(record, 0).take(1)
        assert event is not None
        assert search.feed(event) is None
        assert search.feed(ConsoleOutput(offset=3, data=b"in:")) is None
    match = search.feed(ConsoleOutput(offset=20, data=b" login:"))
    assert match is not None


def test_a_search_keeps_a_bounded_part_of_a_long_record() -> None:
    search = Search(b"the end")
    piece = bytes(50_000)
    for number in range(20):
        assert search.feed(ConsoleOutput(offset=number * len(piece), data=piece)) is None
        assert len(search._text) <= 2 * _SEARCH_WINDOW + len(piece)
    match = search.feed(ConsoleOutput(offset=20 * len(piece), data=b"the end"))
    assert match is not None
    assert match.start == 20 * len(piece)
    assert match.before == bytes(_SEARCH_WINDOW)
