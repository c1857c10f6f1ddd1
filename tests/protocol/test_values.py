"""Tests of conversions: from Python types to the wire, and from the wire to a requested type."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import typing
from collections import abc
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal, NewType, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given

from jumpstarter._framing import HEADER_SIZE
from jumpstarter._limits import Limits
from jumpstarter._protocol.annotations import AnnotationKind, classify_annotation, type_name
from jumpstarter._protocol.codec import call_prefix, decode_value, encode_call, encode_value
from jumpstarter._protocol.frames import Kind
from jumpstarter._protocol.values import check_type, convert, explain_encode_error
from jumpstarter.errors import ArgumentError
from values_for_tests import Colour, Level, Model, Place, Point, Reading, Route, Size, typed_values

LIMITS: Final = Limits()


def carried(value: Any) -> Any:
    """Encode a value and decode it without a type."""
    return decode_value(encode_value(value)[HEADER_SIZE:], LIMITS)


def through(value: Any, type_: Any) -> Any:
    """Encode a value and convert it to a type."""
    check_type(type_)
    return convert(carried(value), type_, "it")


# -------------------------------------------------------------------------------- there and back


@given(typed_values())
def test_a_value_arrives_equal_as_the_requested_type(drawn: tuple[Any, Any]) -> None:
    type_, value = drawn
    arrived = through(value, type_)
    assert arrived == value
    assert type(arrived) is type(value)


class Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Count(int):
    pass


class Share(float):
    pass


class Blob(bytes):
    pass


class Odd(enum.Enum):
    HALF = 0.5
    PAIR = (1, 2)


MOMENT: Final = dt.datetime(2026, 1, 2, 3, 4, 5, 6)
EAST: Final = dt.timezone(dt.timedelta(hours=5))


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Path("/dev/ttyUSB0"), "/dev/ttyUSB0"),
        (pathlib.PureWindowsPath("C:\\x"), "C:\\x"),
        (Path("\udcff"), b"\xff"),
        (Name("x"), "x"),
        (Count(5), 5),
        (Share(1.5), 1.5),
        (Blob(b"x"), b"x"),
        (MOMENT, "2026-01-02T03:04:05.000006"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.timedelta(days=-1, microseconds=1), "-PT86399.999999S"),
        (decimal.Decimal("1.50"), "1.50"),
        (Odd.HALF, 0.5),
        (Odd.PAIR, [1, 2]),
        (Place("here", Point(1)), ["here", {"x": 1, "y": 0.0}]),
        (collections.OrderedDict(a=1), {"a": 1}),
        ({UUID(int=1): 1}, {"00000000-0000-0000-0000-000000000001": 1}),
        ({Colour.RED: 1, Level.HIGH: 2}, {"red": 1, 1: 2}),
    ],
    ids=repr,
)
def test_a_value_without_an_annotation_arrives_as_the_nearest_plain_type(
    value: Any, arrives: Any
) -> None:
    assert carried(value) == arrives
    assert type(carried(value)) is type(arrives)


def test_a_model_is_encoded_by_the_names_of_its_fields() -> None:
    model = Model(where=UUID(int=1), path=Path("x"), Colours={Colour.RED})
    assert carried([model]) == [
        {"where": str(UUID(int=1)), "path": "x", "raw": b"", "colours": ["red"]}
    ]
    by_alias = {"where": str(UUID(int=1)), "path": "x", "Colours": ["red"]}
    assert convert(by_alias, Model, "it") == model


def test_nan_survives_a_round_trip() -> None:
    assert math.isnan(through(math.nan, float))
    assert through(decimal.Decimal("NaN"), decimal.Decimal).is_nan()


# The losses that docs/values.md describes.


def test_an_aware_datetime_is_the_same_moment_in_utc() -> None:
    arrived = through(MOMENT.replace(tzinfo=EAST), dt.datetime)
    assert arrived == MOMENT.replace(tzinfo=EAST)
    assert arrived.tzinfo is dt.UTC


def test_a_private_attrs_field_is_not_sent() -> None:
    @attrs.define
    class Half:
        seen: int
        _hidden: int = 0

    assert through(Half(1, hidden=2), Half) == Half(1, hidden=0)


def test_a_dataclass_runs_its_post_init() -> None:
    @dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError(f"{self.number} is odd")

    assert convert({"number": 2}, Even, "it") == Even(2)
    with pytest.raises(ArgumentError, match=r"^does not fit .*Even\]: 3 is odd - at `it\[0\]`$"):
        convert([{"number": 3}], list[Even], "it")


def test_an_attrs_class_runs_its_validators() -> None:
    @attrs.define
    class Positive:
        number: int = attrs.field(validator=attrs.validators.gt(0))

    assert convert({"number": 2}, Positive, "it") == Positive(2)
    with pytest.raises(ArgumentError, match=r"Positive: 'number' must be > 0: 0$"):
        convert({"number": 0}, Positive, "it")


# --------------------------------------------------------------------------- unsendable values


class Secret:
    """A class whose instances cannot be sent."""


class Rude(pydantic.BaseModel):
    x: int = 0

    @pydantic.model_serializer
    def _dump(self) -> dict[str, Any]:
        raise LookupError("not today")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1j, "an object of type complex cannot be encoded"),
        ([1, {"a": 1j}], "an object of type complex cannot be encoded - at `value[1]['a']`"),
        ((1, [2**64]), "outside -2**63 to 2**64-1; send it as a string - at `value[1][0]`"),
        (Point(1, 1j), "an object of type complex cannot be encoded - at `value.y`"),  # type: ignore[arg-type]
        (Size(1j), "an object of type complex cannot be encoded - at `value.width`"),  # type: ignore[arg-type]
        (
            {"reading": Reading(Secret())},  # type: ignore[arg-type]
            f"an object of type {__name__}.Secret cannot be encoded - at `value['reading'].volts`",
        ),
        ({Secret: 1}, "an object of type type cannot be encoded - at `value[key <class '"),
        ([range(3)], "an object of type range cannot be encoded - at `value[0]`"),
        (
            [b"", "\ud800"],
            "a string is not valid Unicode (surrogates not allowed at 0); send bytes",
        ),
        (
            [memoryview(b"abcd")[::2]],
            "memoryview: underlying buffer is not C-contiguous - at `value[0]`",
        ),
        (
            [MOMENT.replace(1, 1, 1, tzinfo=EAST)],
            "type datetime.datetime cannot be encoded: date value",
        ),
        ([Rude()], "not today"),
    ],
    ids=repr,
)
def test_the_error_for_an_unsendable_value_names_its_place(value: Any, reason: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        encode_value(value)
    assert reason in str(caught.value)


def test_an_unsendable_value_deep_in_a_large_value_is_found() -> None:
    value: Any = 1j
    for _ in range(30):
        value = [*range(100), value]
    with pytest.raises(ArgumentError, match=r"complex .*- at `(args)(\[100\]){30}`$"):
        encode_value(value, root="args")


def test_a_value_whose_attributes_raise_is_rejected() -> None:
    class Rough:
        def __repr__(self) -> str:
            raise LookupError

    with pytest.raises(ArgumentError, match=r"Rough cannot be encoded - at `value\[0\]`"):
        encode_value([{Rough(): 1}])


def test_the_error_for_a_recursive_value_says_that_it_contains_itself() -> None:
    value: dict[str, Any] = {}
    value["self"] = [value]
    with pytest.raises(
        ArgumentError,
        match=r"an object of type (list|dict) is nested too deeply, or contains itself",
    ):
        encode_value(value)


def test_the_search_for_the_fault_ends_where_a_value_contains_itself() -> None:
    value: dict[str, Any] = {}
    value["self"] = [value]
    tried = []

    def encode(part: object) -> object:
        tried.append(part)
        return msgspec.msgpack.encode(part)

    with pytest.raises(RecursionError) as caught:
        encode(value)
    error = explain_encode_error(caught.value, value, encode, "value")
    assert "contains itself" in str(error)
    assert len(tried) < 10


@pytest.mark.parametrize("key", [1.5, None, True, b"k", (1, 2), MOMENT.replace(tzinfo=EAST)])
def test_the_receiver_rejects_a_key_that_is_neither_text_nor_a_number(key: Any) -> None:
    with pytest.raises(ArgumentError, match="a map's key must be str or int"):
        carried({key: 1})


# ------------------------------------------------------------------------------- mismatches


@pytest.mark.parametrize(
    ("value", "type_", "reason"),
    [
        ({"x": "a"}, Point, "Expected `int`, got `str` - at `it.x`"),
        ({}, Point, "Object missing required field `x`"),
        ([{"x": 1}, 5], list[Point], "Expected `object`, got `int` - at `it[1]`"),
        ({"name": "n", "points": [{"x": 1, "y": "b"}]}, Route, "- at `it.points[0].y`"),
        ("zz", UUID, "Invalid UUID"),
        ({"zz": 1}, dict[UUID, int], "Invalid UUID - at `key` in `it`"),
        ("blue", Colour, "Invalid enum value 'blue'"),
        ([1, 2], tuple[int, int, int], "Expected `array` of length 3, got 2"),
        ("YWJj", bytes, "Expected `bytes`, got `str`"),
        (["YWJj"], set[bytes], "Expected `bytes`, got `str` - at `it[0]`"),
        (True, int, "Expected `int`, got `bool`"),
        (1.0, int, "Expected `int`, got `float`"),
        (5, Path, "- at"),
        ([5], list[Path], "- at `it[0]`"),
        ("x", typing.Optional[dt.date], "Invalid RFC3339 encoded date"),  # noqa: UP045
        ({"where": "x", "path": "p"}, Model, "where: Input should be a valid UUID"),
        ([{"where": str(UUID(int=1))}], list[Model], "path: Field required - at `it[0]`"),
        (3, Annotated[int, msgspec.Meta(gt=3)], "Expected `int` >= 4"),
    ],
    ids=lambda value: None if isinstance(value, (dict, list)) else str(value)[:40],
)
def test_the_error_for_a_mismatch_names_type_and_path(value: Any, type_: Any, reason: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        convert(value, type_, "it")
    assert str(caught.value).startswith(f"does not fit {type_name(type_)}: ")
    assert reason in str(caught.value) or reason == "- at"
    assert "$" not in str(caught.value)


def test_any_exception_of_a_types_own_code_is_a_mismatch() -> None:
    @dataclass
    class Picky:
        x: int

        def __post_init__(self) -> None:
            raise LookupError("never heard of it")

    with pytest.raises(ArgumentError, match=r"Picky: LookupError\('never heard of it'\)"):
        convert({"x": 1}, Picky, "it")


# ------------------------------------------------------------------------------------ annotations


class Plain:
    """An ordinary class."""


class Options(TypedDict):
    x: UUID


Metres = NewType("Metres", int)
Serial = NewType("Serial", UUID)
T = typing.TypeVar("T")


@dataclass
class Box(typing.Generic[T]):
    content: T


@pytest.mark.parametrize(
    ("annotation", "weight"),
    [
        *(
            (each, AnnotationKind.PLAIN)
            for each in (None, type(None), bool, int, float, str, bytes)
        ),
        *(
            (each, AnnotationKind.PLAIN)
            for each in (list, dict, Any, object, list[int], dict[str, Any])
        ),
        *(
            (each, AnnotationKind.PLAIN)
            for each in (int | None, int | str | list[int], typing.List)  # noqa: UP006
        ),
        *(
            (each, AnnotationKind.PLAIN)
            for each in (Literal["a"], Options, Metres, abc.Sequence[int])
        ),
        *((each, AnnotationKind.PLAIN) for each in (abc.Mapping, Annotated[int, "words"])),
        *(
            (each, AnnotationKind.RICH)
            for each in (Point, Reading, Size, Model, Place, Colour, Level)
        ),
        *(
            (each, AnnotationKind.RICH)
            for each in (UUID, decimal.Decimal, dt.datetime, dt.date, dt.time)
        ),
        *(
            (each, AnnotationKind.RICH)
            for each in (dt.timedelta, Path, pathlib.PurePath, bytearray)
        ),
        *(
            (each, AnnotationKind.RICH)
            for each in (tuple, set, frozenset, tuple[int, ...], set[int])
        ),
        *(
            (each, AnnotationKind.RICH)
            for each in (list[UUID], dict[str, Point], UUID | None, Serial)
        ),
        *((each, AnnotationKind.RICH) for each in (abc.Sequence[Path], abc.Set[int], Box[int])),
        *(
            (each, AnnotationKind.RICH)
            for each in (Annotated[UUID, "words"], Annotated[int, msgspec.Meta()])
        ),
        *(
            (each, AnnotationKind.UNKNOWN)
            for each in (Plain, list[Plain], UUID | Plain, complex, T)
        ),
        *(
            (each, AnnotationKind.UNKNOWN)
            for each in (abc.Iterable[int], abc.Callable[[], int], type[int])
        ),
        *((each, AnnotationKind.UNKNOWN) for each in (collections.deque, "a name", 5, [int], ...)),
    ],
    ids=lambda each: each.name if isinstance(each, AnnotationKind) else type_name(each)[:60],
)
def test_annotations_are_classified(annotation: Any, weight: AnnotationKind) -> None:
    assert classify_annotation(annotation) is weight


def test_a_type_alias_may_be_recursive() -> None:
    class TypeAliasType(SimpleNamespace):  # as a `type` statement makes it, from Python 3.12 on
        __hash__ = object.__hash__  # type: ignore[assignment]

    json = TypeAliasType()
    json.__value__ = list[json] | dict[str, json] | None  # type: ignore[valid-type]
    assert classify_annotation(json) is AnnotationKind.PLAIN
    json.__value__ = list[json] | UUID  # type: ignore[valid-type]
    assert classify_annotation(json) is AnnotationKind.RICH


@dataclass
class Forward:
    x: Nowhere  # type: ignore[name-defined]  # noqa: F821 - the test needs an undefined name


@dataclass
class Initialised:
    x: InitVar[int]


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        (
            Plain,
            r"a value from the wire cannot be converted to test_values.Plain; docs/values.md",
        ),
        (list[complex], r"converted to list\[complex\]"),
        (Path | str, r"no value can be converted to pathlib.*Path \| str: Type unions"),
        (UUID | str, "more than one str-like type"),
        (Point | Route, "more than one dataclass"),
        (Odd, "Enums must contain either all str or all int"),
        (Forward, "Forward: name 'Nowhere' is not defined"),
        (Initialised, "InitVar"),
    ],
    ids=lambda each: None if isinstance(each, str) else type_name(each),
)
def test_an_unsupported_type_is_rejected_before_any_call(type_: Any, reason: str) -> None:
    with pytest.raises(ArgumentError, match=reason):
        check_type(type_)


def test_the_error_for_a_model_with_many_mismatches_is_short() -> None:
    class Many(pydantic.BaseModel):
        numbers: list[int]
        by_name: dict[str, int]

    with pytest.raises(ArgumentError, match="1,000 parts of it are wrong"):
        convert({"numbers": ["x"] * 1000, "by_name": {}}, Many, "it")
    with pytest.raises(ArgumentError, match=r"numbers\.1: ") as info:
        convert({"numbers": [1, "x"], "by_name": {"k" * 10_000: "x"}}, Many, "it")
    assert len(str(info.value)) < 2000


def test_the_keys_of_a_map_are_converted_too() -> None:
    inner = {Path("here"): 1}
    for type_, value in (
        (dict[Path, int], inner),
        (dict[Path, list[dict[Path, int]]], {Path(): [inner]}),
    ):
        arrived = through(value, type_)
        assert arrived == value, "a Path is equal to no str"


# --- keys chosen to collide ---


@dataclasses.dataclass
class Rack:
    name: str
    boards: set[UUID]
    racks: list[Rack] = dataclasses.field(default_factory=list)


def boards(count: int) -> list[str]:
    """Return UUIDs with equal hashes: a thousand cost as much as a million others."""
    return [str(UUID(int=number * (2**61 - 1))) for number in range(count)]


@pytest.mark.parametrize(
    ("type_", "value", "most"),
    [
        (set[UUID], boards, 2048),
        (frozenset[UUID], boards, 2048),
        (dict[UUID, int], lambda count: dict.fromkeys(boards(count), 1), 2048),
        (set[tuple[int, ...]], lambda count: [[n] for n in range(count)], 2048),
        (
            Rack,
            lambda count: {
                "name": "",
                "boards": [],
                "racks": [{"name": "", "boards": boards(count)}],
            },
            2048,
        ),
        (set[int], lambda count: list(range(count)), 131_072),
        (set[int | str], lambda count: list(range(count)), 131_072),
    ],
    ids=["set", "frozenset", "keys", "tuples", "within", "numbers", "either"],
)
def test_keys_that_can_collide_are_bounded(
    type_: Any, value: Callable[[int], Any], most: int
) -> None:
    assert convert(value(most), type_, "rack") is not None
    with pytest.raises(
        ArgumentError, match=f"it has {most + 1} parts, .* {most} at most - in `rack`"
    ):
        convert(value(most + 1), type_, "rack")


@pytest.mark.parametrize(
    "type_", [set[str], dict[str, int], list[UUID], list[int], tuple[UUID, ...]]
)
def test_keys_that_cannot_collide_are_not_bounded(type_: Any) -> None:
    ids = [str(UUID(int=number)) for number in range(200_000)]
    value: Any = {"set": ids, "dict": dict.fromkeys(ids, 1)}.get(type_.__name__, ids)
    if type_ == list[int]:
        value = list(range(200_000))
    assert len(convert(value, type_, "x")) == 200_000


# -------------------------------------------------------------------- advice in error messages


class Speed(enum.Enum):
    SLOW = "slow"
    FAST = "fast"


class Gear(enum.IntEnum):
    FIRST = 1
    SECOND = 2


@dataclass
class Drive:
    speed: Speed
    gears: list[Gear]


Many: Any = enum.Enum("Many", [(f"M{number}", f"m{number}") for number in range(25)])  # type: ignore[misc]

HAS_SPEEDS: Final = f"{__name__}.Speed has 'slow', 'fast'"


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        ("quick", Speed, f"Invalid enum value 'quick'; {HAS_SPEEDS}"),
        ("FAST", Speed, f"'FAST'; {HAS_SPEEDS}, and 'FAST' is the name of 'fast'"),
        ("FIRST", Gear, f"{__name__}.Gear has 1, 2, and 'FIRST' is the name of 1"),
        (["slow", "SLOW"], list[Speed], "at `it[1]`; {HAS}, and 'SLOW' is the name of 'slow'"),
        ({"speed": "x", "gears": []}, Drive, "at `it.speed`; {HAS}"),
        ({"speed": "slow", "gears": [1, "SECOND"]}, Drive, "'SECOND' is the name of 2"),
        ({"SLOW": 1}, dict[Speed, int], "; {HAS}"),
        ("m99", Many, "'m18', 'm19' and 5 more"),
    ],
)
def test_the_error_for_an_unknown_enum_value_lists_the_members(
    value: Any, type_: Any, expected: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        through(value, type_)
    assert str(caught.value).endswith(expected.replace("{HAS}", HAS_SPEEDS))


def test_the_error_for_another_field_does_not_mention_the_enum() -> None:
    with pytest.raises(ArgumentError, match=r"got `str` - at `it\.gears`$"):
        through({"speed": "slow", "gears": "SLOWLY"}, Drive)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {1.5: 2},
            "an object of type float cannot be .* use a str or an int - at `args[0]`",
        ),
        (
            [{"a": {None: 1}}],
            "an object of type NoneType cannot be the key of a dict; .* at `args[0][0]['a']`",
        ),
        (
            Drive(Speed.SLOW, [{(1, 2): 3}]),  # type: ignore[list-item]
            "an object of type tuple cannot be .* at `args[0].gears[0]`",
        ),
    ],
)
def test_an_unsendable_key_is_rejected_before_anything_is_sent(value: Any, expected: str) -> None:
    prefix = call_prefix(1, Kind.UNARY, "move")
    begin, _, end = expected.partition(" .* ")
    with pytest.raises(ArgumentError) as caught:
        encode_call(prefix, (value,))
    assert str(caught.value).startswith(begin)
    assert str(caught.value).endswith(end)
    taken = encode_call(prefix, ({UUID(int=1): [{2: {"a": 1}}]}, 1.5, None))
    assert taken.startswith(prefix)
