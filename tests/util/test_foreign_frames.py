"""Test the reading of frames that another thread runs.

Two tests count collections and dropped values, which are what makes reading unsafe: how often the
interpreter then crashes is a matter of chance.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any

import pytest
import trio

from helpers import PATIENCE
from jumpstarter._util.foreign_frames import (
    call_uncollected,
    frame_of,
    locals_of,
    stack_of_thread,
)


@contextmanager
def waiting_thread() -> Iterator[threading.Thread]:
    """Run a thread that waits in `inner`, called by `outer`, until the block ends."""
    ready, over = threading.Event(), threading.Event()

    def inner() -> None:
        ready.set()
        assert over.wait(PATIENCE)

    def outer() -> None:
        inner()

    thread = threading.Thread(target=outer)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield thread
    finally:
        over.set()
        thread.join(PATIENCE)


def test_the_stack_of_a_thread_begins_with_the_innermost_frame() -> None:
    with waiting_thread() as thread:
        assert thread.ident is not None
        names = [frame.f_code.co_name for frame in stack_of_thread(thread.ident)]
    assert names.index("inner") + 1 == names.index("outer")
    assert names[-1] == "_bootstrap"


def test_a_thread_that_has_ended_has_no_frames() -> None:
    with waiting_thread() as thread:
        pass
    assert thread.ident is not None
    assert stack_of_thread(thread.ident) == []


def test_a_coroutine_and_a_generator_have_a_frame_until_they_end() -> None:
    async def coroutine() -> None:
        await trio.lowlevel.checkpoint()

    def generator() -> Generator[None]:
        yield

    work: Any = coroutine()
    items: Any = generator()
    assert frame_of(work) is work.cr_frame
    assert frame_of(items) is items.gi_frame
    work.close()
    items.close()
    assert frame_of(work) is frame_of(items) is frame_of(object()) is None


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Have nearly every new container start a garbage collection."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@pytest.mark.usefixtures("eager_collector")
def test_no_collection_begins_during_the_call() -> None:
    events: list[str] = []
    many: Iterator[object] = map(list, repeat((), 1000))
    steps: Iterator[object] = chain(
        map(events.append, ["begin"]), many, map(events.append, ["end"])
    )

    def note(phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            events.append("collection")

    gc.callbacks.append(note)
    try:
        made: list[object] = call_uncollected(partial(list, steps))
    finally:
        gc.callbacks.remove(note)
    assert len(made) == 1002
    assert events[events.index("begin") + 1] == "end"
    assert gc.isenabled()


def test_the_collector_stays_off_if_it_was_off() -> None:
    gc.disable()
    try:
        assert call_uncollected(gc.isenabled) is False
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_error_in_the_call_leaves_the_collector_on() -> None:
    number: Any = 1
    with pytest.raises(TypeError, match="not iterable"):
        call_uncollected(partial(iter, number))
    assert gc.isenabled()


def test_reading_variables_again_drops_no_value_before_all_are_read() -> None:
    """A finalizer of a dropped value could let the frame's own thread run meanwhile."""
    seen: list[object] = []

    class Value:
        def __del__(self) -> None:
            if reading:
                seen.append(variables["last"])

    def generator() -> Generator[None]:
        first: Value | None = Value()
        last = "old"
        yield
        first, last = None, "new"
        yield
        del first, last

    reading = False
    items = generator()
    next(items)
    frame = frame_of(items)
    assert frame is not None
    variables = locals_of(frame)
    assert variables["last"] == "old"
    next(items)
    reading = True
    assert locals_of(frame)["last"] == "new"
    reading = False
    assert seen in (["new"], [])  # since Python 3.13, a frame does not remember old values
