"""Objects that belong to one process reject copying and pickling with advice."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from drivers_for_tests import Echo
from helpers import timed
from jumpstarter import serve, serve_async
from jumpstarter._io.portal import start_blocking_portal
from jumpstarter.testing import client_for_async

WAYS: list[Callable[[Any], object]] = [copy.copy, copy.deepcopy, pickle.dumps]


@dataclass(kw_only=True)
class Numbered(Echo):
    number: int = 0


@dataclass(kw_only=True)
class Portable(Numbered):
    """A driver that defines how it is copied."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _portable, (self.number,)


def _portable(number: int) -> Portable:
    return Portable(number=number)


def refuses(thing: object, instead: str) -> None:
    """Check that every way of copying fails."""
    name = type(thing).__name__
    for way in WAYS:
        for each in (thing, {"in": [thing]}) if way is not copy.copy else (thing,):
            text = (
                rf"\({name}\) belongs to its process, and cannot be copied or pickled: .*{instead}"
            )
            with pytest.raises(TypeError, match=text):
                way(each)


def test_a_client_and_its_objects_cannot_be_copied() -> None:
    with serve(Echo()) as client:
        refuses(client, r"connect again there, with connect\(\)")
        with client.stream() as stream:
            refuses(stream, "open another one there")
        with client.streamingcall("count", 3) as items:
            refuses(items, "pass the items on")
            assert list(items) == [0, 1, 2]
        assert client.call("echo", 1) == 1


@timed()
async def test_async_objects_cannot_be_copied(tmp_path: Path) -> None:
    async with client_for_async(Echo()) as client:
        refuses(client, r"connect again there, with connect\(\)")
        async with client.stream_async() as stream:
            refuses(stream, "open another one there")
        async with client.streamingcall_async("count", 3) as items:
            refuses(items, "pass the items on")
    async with serve_async(Echo(), f"unix:{tmp_path}/socket") as server:
        refuses(server, "pass its `address` on")


def test_a_portal_cannot_be_copied() -> None:
    with start_blocking_portal() as portal:
        refuses(portal, r"start another one there, by start_blocking_portal\(\)")
        assert portal.call(trio.current_time) > 0


def test_a_driver_cannot_be_copied() -> None:
    driver = Numbered(number=7)
    refuses(driver, "make another one there, of the same class")
    assert replace(driver, number=8).number == 8


def test_a_driver_may_define_its_own_copying() -> None:
    driver = Portable(number=7)
    for made in (copy.copy(driver), copy.deepcopy(driver), pickle.loads(pickle.dumps(driver))):  # noqa: S301 - our own
        assert isinstance(made, Portable)
        assert made.number == 7
