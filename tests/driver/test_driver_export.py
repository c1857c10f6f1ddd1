"""Tests of the export table, which is built from the class and contains only its marked methods."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, TypeVar, cast

import pytest

from drivers_for_tests import Echo, Plain
from jumpstarter._protocol.frames import Kind
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.driver._export import exports_of
from jumpstarter.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])


def kinds_of(cls: type) -> dict[str, Kind]:
    return {name: exported.kind for name, exported in exports_of(cls).items()}


def wrapped(function: F) -> F:
    """Decorate as most decorators do: the wrapper hides what kind of function it is."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return cast("F", wrapper)


def validated(function: F) -> F:
    """Decorate as validators do: an attribute holds the function, without `__wrapped__`."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    wrapper.raw_function = function  # type: ignore[attr-defined]
    return cast("F", wrapper)


# --- kinds ---


def test_each_way_of_writing_a_method_has_its_kind() -> None:
    assert kinds_of(Echo) == {
        "connect": Kind.STREAM,
        "count": Kind.GENERATOR,
        "count_async": Kind.GENERATOR,
        "echo": Kind.UNARY,
        "echo_async": Kind.UNARY,
    }


@pytest.mark.parametrize("decorate", [wrapped, validated], ids=["wrapped", "validated"])
def test_a_decorated_method_has_the_kind_of_what_it_decorates(
    decorate: Callable[[Any], Any],
) -> None:
    class Decorated(Plain):
        @export
        @decorate
        def plain(self) -> None: ...

        @export
        @decorate
        async def asynchronous(self) -> None: ...

        @export
        @decorate
        def generator(self) -> Generator[int, None, None]:
            yield 1

        @export
        @decorate
        async def async_generator(self) -> AsyncGenerator[int, None]:
            yield 1

    assert kinds_of(Decorated) == {
        "plain": Kind.UNARY,
        "asynchronous": Kind.UNARY,
        "generator": Kind.GENERATOR,
        "async_generator": Kind.GENERATOR,
    }


def test_a_decorator_above_export_keeps_the_mark() -> None:
    class Decorated(Plain):
        @wrapped
        @export
        def generator(self) -> Generator[int, None, None]:
            yield 1

        @asynccontextmanager
        @exportstream
        async def stream(self) -> AsyncIterator[None]:
            yield

    assert kinds_of(Decorated) == {"generator": Kind.GENERATOR, "stream": Kind.STREAM}


def test_a_decorator_that_makes_no_method_of_it_takes_the_mark_away() -> None:
    class Counted:
        def __init__(self, function: Callable[..., Any]) -> None:
            functools.update_wrapper(self, function)

        def __call__(self, *args: Any) -> None: ...

    class Decorated(Plain):
        @Counted
        @export
        def called_without_self(self) -> None: ...

    assert not exports_of(Decorated)


def test_the_decorators_give_the_method_back_unchanged() -> None:
    def method(self: object, value: int) -> int:
        del self
        return value + 1

    assert export(method) is method
    assert exportstream(method) is method
    assert method(None, 1) == 2


def test_methods_without_self_are_exported_with_the_decorators_in_either_order() -> None:
    class Unbound(Plain):
        @export
        @staticmethod
        def static_inside(value: int) -> int:
            return value

        @staticmethod
        @export
        def static_outside(value: int) -> int:
            return value

        @export
        @classmethod
        def class_inside(cls, value: int) -> tuple[str, int]:
            return cls.__name__, value

        @classmethod
        @export
        def class_outside(cls, value: int) -> Generator[tuple[str, int], None, None]:
            yield cls.__name__, value

    class Derived(Unbound):
        pass

    driver = Derived()
    bound = {name: method.bind(driver) for name, method in exports_of(Derived).items()}
    assert kinds_of(Derived)["class_outside"] is Kind.GENERATOR
    assert bound["static_inside"](1) == 1
    assert bound["static_outside"](2) == 2
    assert bound["class_inside"](3) == ("Derived", 3)
    assert list(bound["class_outside"](4)) == [("Derived", 4)]


def test_a_partial_method_is_exported() -> None:
    class Presets(Plain):
        def set_level(self, level: int) -> int:
            return level

        high = export(functools.partialmethod(set_level, 100))  # type: ignore[call-overload]

    assert exports_of(Presets)["high"].bind(Presets())() == 100


@pytest.mark.parametrize("decorate", [export, exportstream])
@pytest.mark.parametrize(
    "thing",
    [property(lambda _: 1), 5, len, str.upper, Plain, functools.partial(abs)],
    ids=["property", "value", "builtin", "builtin method", "class", "partial"],
)
def test_what_is_no_method_of_the_class_is_refused_when_it_is_decorated(
    decorate: Callable[[Any], Any], thing: object
) -> None:
    with pytest.raises(TypeError, match=rf"a {type(thing).__name__} cannot be exported"):
        decorate(thing)


# --- the class and nothing else ---


class Trap:
    """An object that fails if code looks up its attributes, or evaluates it as a descriptor."""

    __isabstractmethod__ = False  # `ABCMeta` reads this when it creates the class

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was looked up on an object in the class")

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        raise AssertionError("a descriptor was evaluated")


class TrappedMeta(type(Driver)):  # type: ignore[misc]
    def __getattr__(cls, name: str) -> Any:
        raise AssertionError(f"{name} was looked up on the class")


class Trapped(Echo, metaclass=TrappedMeta):
    """A driver with everything that could run code when a name is looked up."""

    attribute: ClassVar[Any] = Trap()

    @property
    def voltage(self) -> float:
        raise AssertionError("a property was evaluated")

    @functools.cached_property
    def current(self) -> float:
        raise AssertionError("a cached property was evaluated")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was looked up on the instance")


def test_building_the_table_runs_no_code_of_the_class() -> None:
    assert kinds_of(Trapped) == kinds_of(Echo)


@pytest.mark.parametrize("name", ["attribute", "voltage", "current", "client", "children", "nope"])
def test_the_table_has_only_exported_methods(name: str) -> None:
    assert exports_of(Trapped).get(name) is None


def test_nothing_that_python_or_the_base_class_defines_is_exported() -> None:
    driver = Echo()
    names = {*dir(object), *dir(type), *dir(Driver), *vars(driver), *dir(driver), "__dict__"}
    exported = {"connect", "count", "count_async", "echo", "echo_async"}
    assert names & exports_of(Echo).keys() == exported
    assert not exports_of(Plain)


def test_an_attribute_of_the_instance_exports_nothing_and_replaces_nothing() -> None:
    @export
    def intruder() -> str:
        return "intruder"

    driver = Echo()
    driver.intruder = intruder  # type: ignore[attr-defined]
    driver.echo = intruder  # type: ignore[assignment]
    assert "intruder" not in exports_of(type(driver))
    assert exports_of(type(driver))["echo"].bind(driver)("mine") == "mine"


def test_the_table_is_built_once_and_cannot_be_changed() -> None:
    table = exports_of(Echo)
    assert exports_of(Echo) is table
    with pytest.raises(TypeError):
        table["echo"] = table["count"]  # type: ignore[index]


# --- inheritance ---


class Base(Plain):
    @export
    def kept(self) -> str:
        return "base"

    @export
    def replaced(self) -> str:
        return "base"

    @export
    def hidden(self) -> str:
        return "base"

    @export
    def turned(self) -> str:
        return "base"

    @export
    def removed(self) -> str:
        return "base"


class Middle(Base):
    @export
    def replaced(self) -> str:
        return "middle"

    def hidden(self) -> str:
        return "middle"

    @export
    def turned(self) -> Generator[str, None, None]:  # type: ignore[override]
        yield "middle"

    removed = None  # type: ignore[assignment]


class Leaf(Middle):
    @export
    def hidden(self) -> str:
        return "leaf"


def test_exports_are_inherited_and_an_override_decides_anew() -> None:
    assert kinds_of(Base).keys() == {"kept", "replaced", "hidden", "turned", "removed"}
    assert kinds_of(Middle) == {
        "kept": Kind.UNARY,
        "replaced": Kind.UNARY,
        "turned": Kind.GENERATOR,
    }
    assert kinds_of(Leaf).keys() == {"kept", "replaced", "turned", "hidden"}


@pytest.mark.parametrize(("name", "who"), [("kept", "base"), ("replaced", "middle")])
def test_the_method_that_python_would_call_is_the_exported_one(name: str, who: str) -> None:
    assert exports_of(Leaf)[name].bind(Leaf())() == who


def test_a_mixin_exports_and_hides_by_its_place_among_the_bases() -> None:
    class Mixin:
        @export
        def added(self) -> str:
            return "mixin"

        def kept(self) -> str:
            return "mixin"

    class Before(Mixin, Base):
        pass

    class After(Base, Mixin):
        pass

    assert kinds_of(Before).keys() == kinds_of(Base).keys() - {"kept"} | {"added"}
    assert kinds_of(After).keys() == kinds_of(Base).keys() | {"added"}


def test_a_second_name_for_an_exported_method_is_exported_too() -> None:
    class Aliased(Echo):
        again = Echo.echo

    assert exports_of(Aliased)["again"].bind(Aliased())(1) == 1


# --- a decorator in the wrong place ---


class StreamAsMethod(Plain):
    @export
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[object]:
        yield self


class MethodAboveStream(Plain):
    @asynccontextmanager
    @export
    async def connect(self) -> AsyncIterator[object]:
        yield self


class StreamOfGenerator(Plain):
    @exportstream
    async def connect(self) -> AsyncIterator[object]:
        yield self


class StreamOfBlockingCode(Plain):
    @exportstream
    @contextmanager
    def connect(self) -> Iterator[object]:
        yield self


class MethodOfBlockingCode(Plain):
    @export
    @wrapped
    @contextmanager
    def connect(self) -> Iterator[object]:
        yield self


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (StreamAsMethod, "a raw stream takes @exportstream, not @export"),
        (MethodAboveStream, "a raw stream takes @exportstream, not @export"),
        (StreamOfGenerator, "put @asynccontextmanager below it"),
        (StreamOfBlockingCode, "with @exportstream above @asynccontextmanager"),
        (MethodOfBlockingCode, "with @exportstream above @asynccontextmanager"),
    ],
)
def test_what_no_client_could_use_is_refused_when_it_is_served(cls: type, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        exports_of(cls)
    assert str(caught.value).startswith(f"'connect' of {__name__}.{cls.__name__}: ")


def test_a_mark_below_the_context_manager_is_as_good() -> None:
    class Stream(Plain):
        @asynccontextmanager
        @exportstream
        async def connect(self) -> AsyncIterator[object]:
            yield self

    assert kinds_of(Stream) == {"connect": Kind.STREAM}
