"""Events are frozen and complete, and do not keep the garbage collector from freeing cycles."""

from __future__ import annotations

import gc
import typing
import weakref

import msgspec
import pytest

from jumpstarter._protocol import events as ev
from jumpstarter._protocol.frames import CallHead, Goaway, Hello, Kind
from jumpstarter._protocol.receive_buffer import Body
from wire import ready_server

EVENTS: list[type[msgspec.Struct]] = list(typing.get_args(ev.Event))
# Types of values that cannot refer back to an event.
ATOMS = {int, bool, bytes, str, Hello, CallHead, Goaway, Body}  # Body: bytes, or pieces of bytes


def test_everything_public_is_an_event_and_every_event_is_public() -> None:
    names = {event.__name__ for event in EVENTS}
    assert {*names, "Event", "SlotEvent"} == set(ev.__all__)


def test_every_stream_event_has_a_slot() -> None:
    has_slot = {event for event in EVENTS if "slot" in event.__struct_fields__}
    assert has_slot == {*typing.get_args(ev.SlotEvent), ev.CallReceived}


def test_an_event_cannot_be_changed() -> None:
    event = ev.CallReceived(1, CallHead(0, 1, Kind.UNARY, False, False, "on"), b"\x90")
    with pytest.raises(AttributeError):
        event.slot = 2  # type: ignore[misc]
    assert all(event.__struct_config__.frozen for event in EVENTS)


def test_only_events_with_atomic_fields_are_untracked_by_the_garbage_collector() -> None:
    for event in EVENTS:
        if not event.__struct_config__.gc:
            assert set(typing.get_type_hints(event).values()) <= ATOMS, event


def test_a_connection_that_failed_is_collected() -> None:
    rules = ready_server()
    [event] = rules.receive(b"\xff" * 8)
    assert isinstance(event, ev.ConnectionFailed)
    gone = weakref.ref(rules)
    del rules, event
    gc.collect()
    assert gone() is None
