"""Tests of the errors for common mistakes in a driver's class: each one explains how to fix it."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pydantic.dataclasses
import pytest

from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.network import TcpNetwork
from jumpstarter.drivers.power import MockPower
from jumpstarter.drivers.serial import SerialPort
from jumpstarter.drivers.shell import Shell
from jumpstarter.drivers.storage import FileStorage
from jumpstarter.errors import ConfigurationError, DriverError
from jumpstarter.testing import client_for


class Base(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"


def enter(driver: Driver) -> None:
    with client_for(driver):
        pytest.fail("it was served")


# ------------------------------------------------------------------------- the class as a whole


class Undecorated(Base):
    port: str
    speed: int = 9600

    @export
    def read(self) -> str:
        return self.port


DECLARES = "Undecorated declares the field 'port' and is not a dataclass: .*@dataclass.kw_only=True"


def test_fields_without_a_decorator_are_an_error() -> None:
    make: Any = Undecorated
    with pytest.raises(TypeError, match=DECLARES):
        make(port="/dev/ttyUSB0")

    class Below(Undecorated):
        """A subclass that inherits the mistake."""

    make = Below
    with pytest.raises(TypeError, match=DECLARES):
        make(port="/dev/ttyUSB0")


def test_reading_an_unset_field_explains_the_missing_decorator() -> None:
    with client_for(Undecorated()) as client:
        text = "no attribute 'port', which Undecorated declares: it is not a dataclass.*"
        text += "Put @dataclass.kw_only=True. "
        with pytest.raises(DriverError, match=text):
            client.call("read")


def test_a_default_factory_without_a_decorator_is_an_error() -> None:
    class Listing(Base):
        lines: list[str] = field(default_factory=list)

    with pytest.raises(
        TypeError, match="Listing declares the field 'lines' and is not a dataclass"
    ):
        Listing()


def test_attribute_with_the_default_none_needs_no_decorator() -> None:
    class Relay(Base):
        _user: str | None = None

        @export
        def user(self) -> str | None:
            return self._user

    with client_for(Relay()) as client:
        assert client.call("user") is None


def test_correct_classes_cause_no_error() -> None:
    class Mixin:
        shared: str

    class Declares(Base, Mixin):
        count: ClassVar[int] = 0
        handle: object  # set when the driver opens it
        speed: int = 9600

        def __post_init__(self) -> None:
            super().__post_init__()
            self.handle = object()

    with client_for(Declares()) as client:
        assert client is not None

    @dataclass(kw_only=True)
    class Decorated(Declares):
        port: str

    assert Decorated(port="x").port == "x"

    class Own(Base):
        port: str

        def __init__(self, port: str) -> None:
            super().__init__()
            self.port = port

    assert Own(port="x").port == "x"

    @pydantic.dataclasses.dataclass(kw_only=True)
    class Checked(Base):
        port: str

    assert Checked(port="x").port == "x"
    for driver in (Own(port="x"), Checked(port="x"), Decorated(port="x")):
        with client_for(driver):
            pass


def test_an_unknown_argument_is_a_type_error_that_lists_the_known_ones() -> None:
    make: Any = Undecorated
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'prot'; it takes uuid, labels"
    ):
        make(prot="x")


def test_a_post_init_without_super_is_explained() -> None:
    @dataclass(kw_only=True)
    class Own(Base):
        port: str = "x"

        def __post_init__(self) -> None:
            self.opened = False

    driver = Own()
    text = (
        r"no attribute 'logger': __post_init__ of Own must call super\(\).__post_init__\(\) first"
    )
    with pytest.raises(ConfigurationError, match=text):
        enter(driver)
    with pytest.raises(AttributeError, match=text):
        driver.logger.info("x")


def test_an_init_without_super_is_explained() -> None:
    class Own(Base):
        def __init__(self, port: str) -> None:
            self.port = port

    driver = Own("x")
    for name in ("children", "uuid", "labels", "resources"):
        text = rf"no attribute '{name}': __init__ of Own must call super\(\).__init__\(\) first"
        with pytest.raises(AttributeError, match=text):
            getattr(driver, name)
    with pytest.raises(ConfigurationError, match=r"__init__ of Own must call super\(\).__init__"):
        enter(driver)
    with pytest.raises(ConfigurationError, match=r"__init__ of Own must call super\(\).__init__"):
        enter(Base(children={"own": driver}))


def test_a_class_without_client_is_explained() -> None:
    class Nameless(Driver):
        pass

    make: Any = Nameless
    with pytest.raises(TypeError) as caught:
        make()
    assert "Nameless: it has no client()" in str(caught.value)
    assert 'def client(cls) -> str:\n        return "jumpstarter.client' in str(caught.value)

    class Interface(ABC):
        @abstractmethod
        def on(self) -> None: ...

    class Unfinished(Interface, Base):
        pass

    make = Unfinished
    with pytest.raises(TypeError, match=r"abstract.*on"):
        make()


def test_other_missing_attributes_have_the_usual_error() -> None:
    driver = Base()
    with pytest.raises(AttributeError, match=r"'Base' object has no attribute 'nothing'$"):
        driver.nothing  # type: ignore[attr-defined]  # noqa: B018 - the lookup raises
    assert not hasattr(driver, "__nothing__")
    assert getattr(driver, "nothing", 7) == 7


def test_a_property_that_raises_attributeerror_keeps_its_error() -> None:
    class Modem(Base):
        runs = 0

        @property
        def line(self) -> int:
            self.runs += 1
            return int(self.wire.number)  # type: ignore[attr-defined]

        @functools.cached_property
        def number(self) -> int:
            return int(self.line.real)

    driver = Modem()
    for name in ("line", "number"):
        with pytest.raises(AttributeError, match=r"'Modem' object has no attribute 'wire'$"):
            getattr(driver, name)
    assert driver.runs == 2


def test_annotations_that_cannot_be_evaluated_are_no_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python 3.14 and later evaluate annotations when they are read."""

    def fail(_: object) -> Any:
        raise NameError("name 'Relay' is not defined")

    monkeypatch.setattr("inspect.get_annotations", fail)

    class Lazy(Base):
        relay: int

    assert not hasattr(Lazy(), "relay")


# --------------------------------------------------------------------------- exported attributes


def exporting(attribute: object) -> Driver:
    """Return a driver whose class has this attribute."""
    made: type[Driver] = type("Made", (Base,), {"volts": attribute})
    return made()


def method() -> Any:
    """Return a new function without an export mark."""

    def volts(self: object) -> int:
        return len(str(self))

    return volts


on_class: Any = classmethod  # a type checker requires a method below `classmethod`


def no_self() -> int:
    return 5


def of_class(cls: type) -> int:
    return len(cls.__name__) + 1


def options_only(**options: object) -> int:
    return len(options)


@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        (property(export(method())), "below a property exports nothing: remove @property"),
        (functools.cached_property(export(method())), "remove @cached_property"),
        (on_class(property(export(method()))), "remove @property"),
        (functools.partial(export(method())), "below a partial exports nothing"),
        (export(staticmethod(method())), "is given no `self`: remove @staticmethod"),
        (staticmethod(export(method())), "is given no `self`: remove @staticmethod"),
        (export(on_class(method())), "not the driver: remove @classmethod"),
        (classmethod(export(method())), "not the driver: remove @classmethod"),
        (exportstream(staticmethod(method())), "is given no `self`"),
        (export(no_self), "no parameter for the driver itself: make `self` its first"),
        (export(options_only), "no parameter for the driver itself: make `self` its first"),
    ],
)
def test_an_export_that_cannot_be_called_is_an_error_when_served(
    attribute: object, text: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"'volts' of .*Made: .*{text}"):
        enter(exporting(attribute))


def test_what_is_bound_otherwise_and_works_is_exported() -> None:
    working: list[Any] = [
        export(staticmethod(no_self)),
        staticmethod(export(no_self)),
        classmethod(export(of_class)),
        export(lambda *args: 4 + len(args)),
    ]
    for attribute in working:
        with client_for(exporting(attribute)) as client:
            assert client.call("volts") == 5
    with client_for(exporting(property(method()))) as client:
        assert "volts" not in dir(client)


# ------------------------------------------------------------------------------------ results


class Returning(Base):
    async def measure(self) -> int:
        return 5

    def numbers(self) -> Iterator[int]:
        yield 1

    async def numbers_async(self) -> AsyncIterator[int]:
        yield 1

    @export
    def plain(self, name: str) -> object:
        return self.result(name)

    @export
    async def forgetful(self, name: str) -> object:
        return self.result(name)

    @export
    def nested(self, name: str) -> object:
        return {"all": [1, {"this": self.result(name)}]}

    @export
    def items(self, name: str) -> Iterator[object]:
        yield 1
        yield self.result(name)

    def result(self, name: str) -> object:
        made: dict[str, Callable[[], object]] = {
            "self": lambda: self,
            "child": Base,
            "coroutine": self.measure,
            "generator": self.numbers,
            "async generator": self.numbers_async,
            "function": lambda: self.measure,
        }
        return made[name]()


RESULTS = [
    ("self", r"it is a driver \(Returning\), which stays on its exporter: return None"),
    ("child", r"it is a driver \(Base\)"),
    ("coroutine", r"it is the coroutine Returning\.measure\(\): an `await` is missing before it"),
    ("generator", r"the generator Returning\.numbers\(\), which was returned: write `yield from`"),
    ("async generator", r"the async generator .*: write `async for \.\.\.: yield"),
    ("function", r"it is the function Returning\.measure: were its parentheses forgotten"),
]


@pytest.mark.parametrize(("name", "text"), RESULTS, ids=[name for name, _ in RESULTS])
def test_a_result_that_cannot_be_sent_names_the_mistake(name: str, text: str) -> None:
    with client_for(Returning()) as client:
        with pytest.raises(DriverError, match=f"its result cannot be sent: .*{text}"):
            client.call("forgetful", name)
        with pytest.raises(DriverError, match=f"its result cannot be sent: .*{text}"):
            client.call("nested", name)
        with pytest.raises(DriverError, match=f"its item cannot be sent: .*{text}"):
            list(client.streamingcall("items", name))
        if name == "coroutine":  # awaited, as a decorator may hide a coroutine function
            assert client.call("plain", name) == 5
        else:
            with pytest.raises(DriverError, match=text):
                client.call("plain", name)


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (SerialPort, "url, baudrate"),
        (TcpNetwork, "host, port"),
        (FileStorage, "path, max_bytes"),
        (Shell, "commands, max_output"),
        (MockPower, "voltage, current"),
    ],
)
def test_ready_made_drivers_list_their_fields_for_an_unknown_one(cls: Any, fields: str) -> None:
    text = rf"{cls.__name__}\(\) got an unexpected keyword argument 'baud'; it takes .*{fields}"
    with pytest.raises(TypeError, match=text):
        cls(baud=9600)
