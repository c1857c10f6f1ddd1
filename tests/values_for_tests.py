"""Types of every kind that crosses the wire, each with values: what tests of conversions draw from.

Left out are values that are not equal to themselves (NaN) or lose something by design, as
docs/values.md says: the zone of an aware datetime arrives as UTC, an offset in whole minutes, and a
model has no path that is not UTF-8.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, Optional
from uuid import UUID

import attrs
import msgspec
import pydantic
from hypothesis import strategies as st

__all__ = [
    "Colour",
    "Level",
    "Model",
    "Place",
    "Point",
    "Reading",
    "Route",
    "Size",
    "typed_values",
]


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 0
    HIGH = 1


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclass
class Route:
    name: str
    points: list[Point]
    by: dict[Colour, tuple[UUID, ...]] = field(default_factory=dict)


class Reading(msgspec.Struct):
    volts: decimal.Decimal
    at: dt.datetime | None = None


class On(msgspec.Struct, tag=True):
    volts: decimal.Decimal


class Off(msgspec.Struct, tag=True):
    pass


class Tagged(msgspec.Struct, tag=True, array_like=True):
    raw: bytes
    names: set[str]


@attrs.define(frozen=True)
class Size:
    width: int
    height: int = 1


class Place(NamedTuple):
    name: str
    point: Point


class Model(pydantic.BaseModel):
    where: UUID
    path: Path
    raw: bytes = b""
    colours: set[Colour] = pydantic.Field(default_factory=set, alias="Colours")


integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False)
zones = st.integers(-23 * 60, 23 * 60).map(
    lambda minutes: dt.timezone(dt.timedelta(0, minutes * 60))
)
points = st.builds(Point, integers, floats)
naive = st.datetimes()
aware = st.datetimes(
    dt.datetime(1, 1, 3),
    dt.datetime(9999, 12, 29),
    timezones=zones,
)
paths = st.binary().map(
    lambda name: Path(name.replace(b"\0", b"").decode(errors="surrogateescape"))
)
decimals = st.decimals(allow_nan=False)
colours = st.sampled_from(Colour)

# What can also be in a set, or a key of a map.
HASHABLE: Final[list[tuple[Any, st.SearchStrategy[Any]]]] = [
    (int, integers),
    (str, st.text()),
    (UUID, st.uuids()),
    (decimal.Decimal, decimals),
    (dt.date, st.dates()),
    (dt.timedelta, st.timedeltas()),
    (Colour, colours),
    (Level, st.sampled_from(Level)),
    (Path, st.text().map(Path)),
]
OTHERS: Final[list[tuple[Any, st.SearchStrategy[Any]]]] = [
    (None, st.none()),
    (bool, st.booleans()),
    (float, floats),
    (bytes, st.binary()),
    (bytearray, st.binary().map(bytearray)),
    (memoryview, st.binary().map(memoryview)),
    (dt.datetime, naive | aware),
    (dt.time, st.times() | st.times(timezones=zones)),
    (Path, paths),
    (PurePosixPath, paths.map(PurePosixPath)),
    (Point, points),
    (
        Route,
        st.builds(
            Route, st.text(), st.lists(points), st.dictionaries(colours, st.tuples(st.uuids()))
        ),
    ),
    (Reading, st.builds(Reading, decimals, st.none() | naive | aware)),
    (Tagged, st.builds(Tagged, st.binary(), st.sets(st.text()))),
    (Size, st.builds(Size, integers, integers)),
    (Place, st.builds(Place, st.text(), points)),
    (
        Model,
        st.builds(
            Model,
            where=st.uuids(),
            path=st.text().map(Path),
            raw=st.binary(),
            Colours=st.sets(colours),
        ),
    ),
    (On | Off, st.builds(On, decimals) | st.builds(Off)),
    (Any, st.none() | integers | st.text()),
]

Typed = tuple[Any, st.SearchStrategy[Any]]


# As values, since what is made of them here is known only when it is drawn.
LIST: Final[Any] = list
DICT: Final[Any] = dict
TUPLE: Final[Any] = tuple
SET: Final[Any] = set
FROZENSET: Final[Any] = frozenset
OPTIONAL: Final[Any] = Optional


def _larger(smaller: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Make types of types."""
    hashable = st.sampled_from(HASHABLE)
    one: list[Callable[[Typed], Typed]] = [
        lambda of: (LIST[of[0]], st.lists(of[1], max_size=5)),
        lambda of: (TUPLE[of[0], ...], st.lists(of[1], max_size=5).map(tuple)),
        lambda of: (OPTIONAL[of[0]], st.none() | of[1]),
    ]
    return st.one_of(
        *(smaller.map(make) for make in one),
        st.tuples(smaller, smaller).map(
            lambda of: (TUPLE[of[0][0], of[1][0]], st.tuples(of[0][1], of[1][1]))
        ),
        st.tuples(hashable, smaller).map(
            lambda of: (DICT[of[0][0], of[1][0]], st.dictionaries(of[0][1], of[1][1], max_size=5))
        ),
        hashable.map(lambda of: (SET[of[0]], st.sets(of[1], max_size=5))),
        hashable.map(lambda of: (FROZENSET[of[0]], st.frozensets(of[1], max_size=5))),
    )


types = st.recursive(st.sampled_from(HASHABLE + OTHERS), _larger, max_leaves=4)


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[Any, Any]:
    """Draw a type, and a value of it."""
    type_, values = draw(types)
    return type_, draw(values)
