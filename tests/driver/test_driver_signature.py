"""Tests of converting arguments by a method's annotations, and of its signature as text."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast
from uuid import UUID

import msgspec
import pytest

from drivers_for_tests import Plain
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.driver._export import exports_of
from jumpstarter.driver._signature import ArgumentConverter, doc_of, signature_of, text_of
from jumpstarter.errors import ArgumentError, ConfigurationError
from values_for_tests import Colour, Level, Point

if TYPE_CHECKING:
    from decimal import Decimal  # as many drivers import names only for annotations

F = TypeVar("F", bound=Callable[..., Any])
ID = UUID(int=1)


class Relay:
    """An ordinary class."""


class Turntable(Plain):
    """Has a parameter of each kind, rich and plain."""

    class Way(enum.Enum):
        """An enumeration whose name only the class itself defines."""

        LEFT = "left"
        RIGHT = "right"

    @export
    def plain(self, a, b: int, *c: str, d: dict[str, int] | None = None, **e: Any) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Take what comes."""

    @export
    def rich(
        self, a: Point, /, b: int, c: UUID | None = None, *more: Path, way: Way, **rest: Level
    ) -> Point:
        """Take what fits."""
        raise NotImplementedError

    @export
    def unresolved(self, price: Decimal, at: Point) -> None: ...

    @export
    def unfit(self, where: Path | str, whatever: Relay, both: UUID | Relay) -> None: ...

    @export
    @staticmethod
    def static(a: Point) -> None: ...

    @export
    @classmethod
    def on_class(cls, a: Point) -> None: ...

    @export
    def items(self, colours: set[Colour]) -> Generator[Colour, None, None]:
        yield from colours

    @exportstream
    def stream(self, a: Point) -> None: ...


def build_converter(name: str, cls: type[Driver] = Turntable) -> ArgumentConverter | None:
    return exports_of(cls)[name].converter


def fitted(name: str, *args: Any, cls: type[Driver] = Turntable, **kwargs: Any) -> Any:
    """Return the arguments as a method would receive them."""
    fit = build_converter(name, cls)
    assert fit is not None
    positional = list(args)
    fit(positional, kwargs)
    return (*positional, kwargs) if kwargs else tuple(positional)


# ------------------------------------------------------------------------------- rich annotations


def test_where_nothing_is_asked_for_there_is_nothing_to_do() -> None:
    assert build_converter("plain") is None
    assert build_converter("unfit") is None


def test_arguments_of_every_kind_arrive_as_their_types() -> None:
    arrived = fitted(
        "rich", {"x": 1}, "not an int", str(ID), "/dev", "/tty", way="left", other=1, c=None
    )
    assert arrived == (
        Point(1),
        "not an int",
        ID,
        Path("/dev"),
        Path("/tty"),
        {"way": Turntable.Way.LEFT, "other": Level.HIGH, "c": None},
    )
    assert type(arrived[-1]["other"]) is Level


def test_by_keyword_as_by_position() -> None:
    assert fitted("rich", c=str(ID)) == ({"c": ID},)


def test_too_few_arguments_are_the_methods_own_business() -> None:
    assert fitted("rich") == ()
    assert fitted("static", {"x": 1}, "one too many") == (Point(1), "one too many")


@pytest.mark.parametrize("name", ["static", "on_class", "stream"])
def test_every_kind_of_method_has_its_parameters_counted(name: str) -> None:
    assert fitted(name, {"x": 1}) == (Point(1),)


def test_of_a_generator_too() -> None:
    assert fitted("items", ["red"]) == ({Colour.RED},)


def test_an_annotation_that_cannot_be_resolved_asks_for_nothing_and_spoils_no_other() -> None:
    assert fitted("unresolved", "1.50", {"x": 1}) == ("1.50", Point(1))


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        (({"x": "a"},), {}, "argument 'a' does not fit .*Point: .* - at `a.x`$"),
        (({"x": 1}, 2, "zz"), {}, "argument 'c' does not fit uuid.UUID . None: Invalid UUID$"),
        (({"x": 1}, 2, None, "/", 5), {}, r"argument 'more\[1\]' does not fit pathlib.*Path"),
        (
            (),
            {"way": "up"},
            "argument 'way' does not fit .*Way: Invalid enum value 'up'; .*Way has ",
        ),
        (
            (),
            {"level": 7},
            "argument 'level' does not fit .*Level: Invalid enum value 7; .*Level has 0, 1$",
        ),
    ],
)
def test_an_argument_that_does_not_fit_names_its_parameter(
    args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    with pytest.raises(ArgumentError, match=says):
        fitted("rich", *args, **kwargs)


def wrapped(function: F) -> F:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return cast("F", wrapper)


def validated(function: F) -> F:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    wrapper.raw_function = function  # type: ignore[attr-defined]
    return cast("F", wrapper)


@pytest.mark.parametrize("decorate", [wrapped, validated])
def test_a_decorated_method_asks_for_what_it_did_without(decorate: Callable[[Any], Any]) -> None:
    class Decorated(Plain):
        @export
        @decorate
        def move(self, to: Point, by: int = 1) -> None:
            """Go there."""

    assert fitted("move", {"x": 1}, cls=Decorated) == (Point(1),)
    exported = exports_of(Decorated)["move"]
    assert exported.signature == "(to: Point, by: int = 1) -> None"
    assert exported.doc == "Go there."


def test_of_a_partial_method_nothing_is_known() -> None:
    class Presets(Plain):
        def set_level(self, level: Level) -> Level:
            return level

        high = export(functools.partialmethod(set_level, Level.HIGH))  # type: ignore[call-overload]

    exported = exports_of(Presets)["high"]
    assert (exported.converter, exported.signature, exported.doc) == (None, "", "")


def test_a_default_of_none_is_an_argument_too() -> None:
    class Legacy(Plain):
        @export
        def wait(self, until: UUID = None, where: Path = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

        @export(strict=True)
        def check(self, a: int = None, b: Any = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    assert fitted("wait", None, str(ID), cls=Legacy)[0] is None
    assert fitted("wait", str(ID), None, cls=Legacy) == (ID, None)
    assert fitted("check", None, 1j, cls=Legacy) == (None, 1j)
    with pytest.raises(ArgumentError, match=r"'a' does not fit .*int.*: Expected `int . null`"):
        fitted("check", "1", cls=Legacy)


def test_a_constraint_is_a_rich_annotation() -> None:
    class Supply(Plain):
        @export
        def volts(self, value: Annotated[float, msgspec.Meta(le=24)]) -> None: ...

    assert fitted("volts", 12, cls=Supply) == (12.0,)
    with pytest.raises(ArgumentError, match=r"argument 'value' .*Expected `float` <= 24"):
        fitted("volts", 230, cls=Supply)


# ------------------------------------------------------------------------------------- strict


class Strict(Plain):
    @export(strict=True)
    def plain(
        self, a: int, *b: str, c: bytes = b"", d: Any = None, e: object = 0, **f: float
    ) -> None: ...

    @export(strict=False)
    def lenient(self, a: int) -> None: ...

    @export(strict=True)
    def items(self, a: int) -> Generator[int, None, None]:
        yield a


def test_strict_checks_plain_annotations() -> None:
    assert fitted("plain", 1, "b", c=b"c", d=1j, e=..., f=1, cls=Strict)[2]["f"] == 1.0
    for args, kwargs in (
        (("1",), {}),
        ((True,), {}),
        ((1, 2), {}),
        ((), {"c": "YQ=="}),
        ((), {"x": "y"}),
    ):
        with pytest.raises(ArgumentError, match=r"argument '(a|b\[0\]|c|x)' does not fit"):
            fitted("plain", *args, cls=Strict, **kwargs)
    assert build_converter("lenient", Strict) is None
    assert fitted("items", 1, cls=Strict) == (1,)


def strict_driver(annotation: Any) -> type[Driver]:
    def method(self: Any, a: Any) -> None: ...

    method.__annotations__["a"] = annotation
    return type("Strict", (Plain,), {"method": export(strict=True)(method)})


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        ("Nowhere", "name 'Nowhere' is not defined"),
        (Relay, "a value from the wire cannot be converted to test_driver_signature.Relay"),
        (Path | str, "Type unions"),
        ("1 +", "Forward reference must be an expression"),
    ],
)
def test_strict_is_a_promise_that_is_not_made_where_it_cannot_be_kept(
    annotation: Any, says: str
) -> None:
    with pytest.raises(
        ConfigurationError, match=f"'method' of .*Strict: .*'a' cannot be checked: .*{says}"
    ):
        exports_of(strict_driver(annotation))


def test_strict_without_a_signature_is_no_promise_either() -> None:
    def method(self: Any, a: int) -> None: ...

    method.__signature__ = "none"  # type: ignore[attr-defined]  # as some decorators leave it
    assert (
        exports_of(type("Lenient", (Plain,), {"method": export(method)}))["method"].converter
        is None
    )
    strict = type("Strict", (Plain,), {"method": export(strict=True)(method)})
    with pytest.raises(ConfigurationError, match=r"'method' of .*Strict: it has no signature"):
        exports_of(strict)


def test_an_annotation_that_runs_code_is_harmless() -> None:
    class Rude:
        def __hash__(self) -> int:
            raise LookupError

        def __eq__(self, other: object) -> bool:
            raise LookupError

        def __repr__(self) -> str:
            raise LookupError

    def method(self: Any, a: Any, b: Any) -> None: ...

    method.__annotations__.update(a=Rude(), b=Point)
    driver = type("Rude", (Plain,), {"method": export(method)})
    assert fitted("method", 1, {"x": 1}, cls=driver) == (1, Point(1))
    assert exports_of(driver)["method"].signature == ""


# ----------------------------------------------------------------------- signatures as text


def test_a_signature_is_written_as_in_its_def() -> None:
    exports = exports_of(Turntable)
    assert exports["plain"].signature == (
        "(a, b: int, *c: str, d: dict[str, int] | None = None, **e: Any) -> None"
    )
    assert exports["rich"].signature == (
        "(a: Point, /, b: int, c: UUID | None = None, *more: Path, way: Way, **rest: Level)"
        " -> Point"
    )
    assert exports["static"].signature == exports["on_class"].signature == "(a: Point) -> None"
    assert exports["rich"].doc == "Take what fits."
    assert exports["static"].doc == ""


@pytest.mark.parametrize(
    ("default", "text"),
    [
        (None, "None"),
        (1.5, "1.5"),
        ("a\nb", r"'a\nb'"),
        (b"\x00", r"b'\x00'"),
        (Level.HIGH, "..."),
        (object(), "..."),
        ((1, 2), "..."),
    ],
)
def test_a_default_is_shown_if_it_is_a_plain_constant(default: Any, text: str) -> None:
    def method(a: Any = default) -> None: ...

    assert text_of(inspect.signature(method)) == f"(a: Any = {text}) -> None"


def test_types_that_are_no_strings_are_shown_by_their_names() -> None:
    def method(a: Any, b: Any) -> None: ...

    method.__annotations__ = {"a": Point, "b": list[int], "return": None}
    assert text_of(inspect.signature(method)) == (
        "(a: values_for_tests.Point, b: list[int]) -> None"
    )


def test_a_very_long_signature_is_left_out() -> None:
    def method(a: Any = "x" * 2000) -> None: ...

    assert text_of(inspect.signature(method)) == ""
    assert text_of(signature_of(object(), takes_self=True)) == ""
    assert len(doc_of(type("Long", (), {"__doc__": "x" * 10_000}))) < 4200
    assert doc_of(SimpleNamespace(__doc__="a\ud800b")) == "a?b"


def test_the_docstring_that_dataclass_generates_is_left_out() -> None:
    assert doc_of(Point) == ""
    assert doc_of(Turntable) == "Has a parameter of each kind, rich and plain."
    assert doc_of(type("Odd", (), {"__doc__": 5})) == ""


class Shadowing(Plain):
    """A driver whose methods have the names of types."""

    @export
    def set(self, values: set[int]) -> None: ...

    @export
    def Path(self, where: Path) -> None: ...  # noqa: N802


def test_a_method_does_not_hide_the_type_that_it_is_named_after() -> None:
    for name, annotation in (("set", set[int]), ("Path", Path)):
        fit = exports_of(Shadowing)[name].converter
        assert fit is not None, name
        assert fit.positional[0][1] == annotation
