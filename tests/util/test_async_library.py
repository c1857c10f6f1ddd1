"""Tests of the rules that decide if code is Trio's or asyncio's."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from jumpstarter._util.async_library import (
    ASYNCIO,
    TRIO,
    UNDECIDED,
    Choice,
    advice_for,
    choose,
    library_of_class,
    library_of_function,
    said_by,
)
from jumpstarter.errors import ConfigurationError


def module(source: str, name: str = "a_module") -> dict[str, Any]:
    """Run a module's source, and return its globals."""
    made = types.ModuleType(name)
    exec(source, vars(made))  # noqa: S102 - the test's own text
    return vars(made)


FUNCTION = "\nasync def function(): ...\n"


@pytest.mark.parametrize(
    ("source", "library"),
    [
        ("", ""),
        ("import anyio, os", ""),
        ("import trio", TRIO),
        ("from trio import sleep", TRIO),
        ("from trio.lowlevel import checkpoint", TRIO),
        ("import trio, asyncio", TRIO),
        ("import asyncio", ASYNCIO),
        ("import asyncio.subprocess as sub", ASYNCIO),
        ("from asyncio import sleep", ASYNCIO),
        ("from asyncio import Lock", ASYNCIO),
        ("import asyncio\nlock = asyncio.Lock()\ndel asyncio", ASYNCIO),
        ("from anyio._backends._asyncio import StreamReaderWrapper", ASYNCIO),
        ("import types\nopendal = types.ModuleType('opendal')", ASYNCIO),
        ("import types\nqmp = types.ModuleType('qemu.qmp')", ASYNCIO),
        ("import types\nother = types.ModuleType('asyncio_like')", ""),
        ("import types\nother = types.ModuleType('triologue')", ""),
        ("import types\nnameless = types.ModuleType('x')\ndel nameless.__name__", ""),
    ],
)
def test_library_is_seen_in_the_globals_of_the_module(source: str, library: str) -> None:
    found = library_of_function(module(source + FUNCTION)["function"])
    assert found.library == library
    if library:
        assert "its module a_module has " in found.reason


async def plain() -> None: ...


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def test_decorators_of_other_modules_are_looked_through() -> None:
    function = module("import asyncio" + FUNCTION)["function"]

    class Raw:
        raw_function = staticmethod(function)

        def __call__(self) -> None: ...

    class CallableObject:
        __call__ = function

    class Bound:
        method = function

    for each in (
        decorated(function),
        functools.partial(decorated(function), 1),
        asynccontextmanager(function),
        Raw(),
        CallableObject(),
        Bound().method,
        staticmethod(function),
    ):
        assert library_of_function(each).library == ASYNCIO, each


def test_what_is_no_function_decides_nothing() -> None:
    for each in (len, 3, "text", int):
        assert library_of_function(each) == UNDECIDED


def test_code_of_this_library_is_trios() -> None:
    ours = module(FUNCTION, "jumpstarter.anything")["function"]
    theirs = module(FUNCTION, "jumpstarter_driver_x.driver")["function"]
    assert library_of_function(ours).library == TRIO
    assert library_of_function(theirs).library == ""
    switched = choose(UNDECIDED, ASYNCIO, library_of_function(ours), UNDECIDED)
    assert switched.library == TRIO


CLASS = """
class Base:
    async def helper(self): ...
class Plain:
    def method(self): ...
class Generator:
    async def items(self):
        yield
"""


def test_class_is_what_it_says_or_what_its_async_methods_are() -> None:
    asyncio_module = module("import asyncio" + CLASS)
    trio_module = module("import trio" + CLASS)
    base: Any = asyncio_module["Base"]
    trio_base: Any = trio_module["Base"]
    generator: Any = asyncio_module["Generator"]

    class Neutral(base):  # type: ignore[misc]
        async def other(self) -> None: ...

    class Says(base):  # type: ignore[misc]
        async_library: ClassVar[str] = "trio"

    class Both(trio_base, generator):  # type: ignore[misc]
        pass

    assert library_of_class(asyncio_module["Base"]).library == ASYNCIO
    assert library_of_class(asyncio_module["Generator"]).library == ASYNCIO
    assert library_of_class(asyncio_module["Plain"]) == UNDECIDED
    assert library_of_class(trio_module["Base"]).library == TRIO
    assert library_of_class(Neutral).library == ASYNCIO
    assert library_of_class(Says) == said_by(Says)
    assert library_of_class(Says).reason.endswith("Says has async_library = 'trio'")
    assert library_of_class(Both).library == ASYNCIO


def test_class_that_says_nonsense_is_refused() -> None:
    class Wrong:
        async_library = "curio"

    with pytest.raises(ConfigurationError, match="is 'curio'; it must be 'trio' or 'asyncio'"):
        said_by(Wrong)


SEEN_TRIO = Choice(TRIO, "seen")
SEEN_ASYNCIO = Choice(ASYNCIO, "seen")


@pytest.mark.parametrize(
    ("rules", "library", "reason"),
    [
        ((Choice(TRIO, "said"), ASYNCIO, SEEN_ASYNCIO, SEEN_ASYNCIO), TRIO, "said"),
        ((Choice(ASYNCIO, "said"), TRIO, SEEN_TRIO, UNDECIDED), ASYNCIO, "said"),
        (
            (UNDECIDED, ASYNCIO, SEEN_TRIO, UNDECIDED),
            ASYNCIO,
            "started with async_library='asyncio'",
        ),
        ((UNDECIDED, TRIO, SEEN_ASYNCIO, SEEN_ASYNCIO), TRIO, "started with async_library='trio'"),
        ((UNDECIDED, None, SEEN_TRIO, SEEN_ASYNCIO), TRIO, "seen"),
        ((UNDECIDED, None, SEEN_ASYNCIO, UNDECIDED), ASYNCIO, "seen"),
        ((UNDECIDED, None, UNDECIDED, SEEN_ASYNCIO), ASYNCIO, "together with asyncio code: seen"),
        ((UNDECIDED, None, UNDECIDED, SEEN_TRIO), TRIO, "nothing else of the tree is"),
        ((UNDECIDED, None, UNDECIDED, UNDECIDED), TRIO, "nothing else of the tree is"),
    ],
)
def test_first_rule_that_applies_decides(
    rules: tuple[Choice, str | None, Choice, Choice], library: str, reason: str
) -> None:
    choice = choose(*rules)
    assert choice.library == library
    assert reason in choice.reason


def test_advice_names_the_code_the_rule_and_both_switches() -> None:
    text = advice_for("measure of driver 'meter'", choose(UNDECIDED, None, UNDECIDED, UNDECIDED))
    assert "measure of driver 'meter' runs in Trio, because nothing in its module" in text
    assert 'async_library: ClassVar[str] = "asyncio"' in text
    assert "--async-library asyncio" in text
    assert "in the asyncio lane" in advice_for("it", SEEN_ASYNCIO)
