"""Tests of values through a client and a driver: each arrives as the type its receiver asks for."""

from __future__ import annotations

import decimal
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
import trio
from hypothesis import given, settings

from drivers_for_tests import Echo, Plain
from helpers import PATIENCE, served, timed
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export
from jumpstarter.errors import ArgumentError, Code, DriverError, DriverInvalidArgument
from jumpstarter.testing import client_for_async
from values_for_tests import Colour, Model, Point, Route, typed_values

ID = UUID(int=7)


class Board(Plain):
    """A driver that returns values of its own types, and records its arguments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.given: list[Any] = []

    @export
    def move(self, route: Route, *more: Point, colour: Colour = Colour.RED) -> Route:
        self.given.append((route, more, colour))
        return route

    @export(strict=True)
    async def volts(self, value: float) -> decimal.Decimal:
        self.given.append(value)
        return decimal.Decimal(str(value))

    @export
    def points(self, count: int) -> Generator[Point, None, Point]:
        for number in range(count):
            yield Point(number)
        return Point(count)

    @export
    async def mixed(self) -> AsyncGenerator[Any, None]:
        try:
            yield Point(1)
            yield "no point"
            raise AssertionError("the generator went on")
        finally:
            self.given.append("ended")


@dataclass
class OddPoint:
    """A class that resembles `Point`, but whose field has another type."""

    x: bool


@dataclass
class Odd:
    points: list[OddPoint]


class Relay:
    """An ordinary class."""


ROUTE: Final = Route("there", [Point(1, 2.5)], {Colour.GREEN: (ID,)})


# --------------------------------------------------------------------------------- both ways


def keeping(type_: Any, kept: list[Any]) -> Driver:
    """Return a driver whose only method has this annotation, and records its argument."""

    async def echo(self: Driver, value: Any) -> Any:
        del self
        kept.append(value)
        return value

    echo.__annotations__["value"] = type_
    driver: Driver = type("Keeping", (Plain,), {"echo": export(echo)})()
    return driver


@settings(max_examples=60)  # each example opens a connection
@given(typed_values())
def test_values_of_supported_types_arrive_equal(drawn: tuple[Any, Any]) -> None:
    type_, value = drawn
    kept: list[Any] = []

    async def exchange() -> Any:
        with trio.fail_after(PATIENCE):
            async with client_for_async(keeping(type_, kept)) as client:
                return await client.call_as_async(type_, "echo", value)

    returned = trio.run(exchange)
    assert returned == value
    assert type(returned) is type(value)
    [arrived] = kept
    assert arrived == value


@settings(max_examples=30)
@given(typed_values())
def test_unsendable_value_in_a_container_is_a_clear_error(drawn: tuple[Any, Any]) -> None:
    async def exchange() -> None:
        with trio.fail_after(PATIENCE):
            async with client_for_async(Echo()) as client:
                with pytest.raises(DriverInvalidArgument) as caught:
                    await client.call_async("echo", [drawn[1], {"deep": 1j}])
                assert str(caught.value).endswith(
                    "an argument cannot be sent: an object of type complex cannot be encoded"
                    " - at `args[0][1]['deep']`"
                )

    trio.run(exchange)


# ------------------------------------------------------------------------------ to the driver


def test_arguments_arrive_as_the_driver_has_annotated_them() -> None:
    board = Board()
    with served(board) as client:
        client.call("move", ROUTE, Point(1), Point(2), colour=Colour.GREEN)
        client.call("move", {"name": "plain", "points": []})
    assert board.given == [
        (ROUTE, (Point(1), Point(2)), Colour.GREEN),
        (Route("plain", []), (), Colour.RED),
    ]


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "says"),
    [
        (
            "move",
            ({"name": "x", "points": [{"x": "1"}]},),
            {},
            r"'route' .*Route.*`route.points\[0\].x`",
        ),
        ("move", (ROUTE, Point(1), 5), {}, r"'more\[1\]' does not fit .*Point"),
        ("move", (ROUTE,), {"colour": "blue"}, "'colour' does not fit .*Colour: Invalid enum"),
        ("volts", ("3.3",), {}, "'value' does not fit float: Expected `float`, got `str`"),
        ("volts", (), {"value": None}, "'value' does not fit float"),
    ],
)
def test_mismatched_argument_is_refused_before_the_method_runs(
    method: str, args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    board = Board()
    with served(board) as client:
        with pytest.raises(
            DriverInvalidArgument, match=rf"{method}.*: its argument {says}"
        ) as caught:
            client.call(method, *args, **kwargs)
        assert (caught.value.code, caught.value.remote_type) == (Code.INVALID_ARGUMENT, "")
        assert client.call("volts", 5) == "5.0"
    assert board.given == [5.0]


# ----------------------------------------------------------------------------- to the client


def test_results_and_items_arrive_as_the_client_asks() -> None:
    with served(Board()) as client:
        assert client.call_as(Route, "move", ROUTE) == ROUTE
        assert client.call_as(decimal.Decimal, "volts", 1.5) == decimal.Decimal("1.5")
        assert client.call_as(dict[str, Any], "move", ROUTE)["name"] == "there"
        with client.streamingcall_as(Point, "points", 2) as points:
            assert [*points] == [Point(0), Point(1)]


@timed()
async def test_result_types_work_in_trio_code() -> None:
    async with client_for_async(Board()) as client:
        assert await client.call_as_async(Route, "move", ROUTE) == ROUTE
        async with client.streamingcall_as_async(Point, "points", count=2) as points:
            assert [point async for point in points] == [Point(0), Point(1)]
        assert points.value == {"x": 2, "y": 0.0}


def test_keywords_of_any_name_are_the_drivers() -> None:
    class Keywords(Plain):
        @export
        def odd(self, method: str, type_: str, self_: str = "default") -> list[str]:
            return [method, type_, self_]

    with served(Keywords()) as client:
        assert client.call("odd", method="a", type_="b") == ["a", "b", "default"]
        assert client.call_as(tuple[str, ...], "odd", type_="b", method="a", self_="c") == (
            "a",
            "b",
            "c",
        )


def test_a_result_that_does_not_fit_is_an_error_of_the_call_that_has_run() -> None:
    board = Board()
    with served(board) as client:
        with pytest.raises(
            DriverError, match=r"'move' .*: its result: it does not fit .*Point: "
        ) as got:
            client.call_as(Point, "move", ROUTE)
        assert not isinstance(got.value, DriverInvalidArgument)
        with pytest.raises(DriverError, match=r"`bool`, got `int` - at `result.points\[0\].x`$"):
            client.call_as(Odd, "move", ROUTE)
    assert len(board.given) == 2


@timed()
async def test_an_item_that_does_not_fit_ends_the_generator() -> None:
    board = Board()
    async with client_for_async(board) as client:
        points = client.streamingcall_as_async(Point, "mixed")
        assert await anext(points) == Point(1)
        with pytest.raises(DriverError, match=r"its item: it does not fit .*Point: Expected `obj"):
            await anext(points)
        assert board.given == ["ended"]
        with pytest.raises(StopAsyncIteration):
            await anext(points)


@pytest.mark.parametrize(
    "type_", [complex, Path | str, list[Relay], "Point"], ids=["class", "union", "part", "name"]
)
def test_impossible_result_type_is_refused_before_sending(type_: Any) -> None:
    board = Board()
    with served(board) as client:
        with pytest.raises(ArgumentError, match=r"converted to|the type comes first"):
            client.call_as(type_, "move", ROUTE)
        with pytest.raises(ArgumentError, match=r"converted to|the type comes first"):
            client.streamingcall_as(type_, "points", 1)
    assert board.given == []


@timed()
async def test_wrong_context_error_names_the_other_method() -> None:
    async with client_for_async(Board()) as client:
        with pytest.raises(RuntimeError, match=r"call_as blocks.*; use call_as_async instead"):
            client.call_as(Route, "move", ROUTE)
        with pytest.raises(RuntimeError, match=r"use streamingcall_as_async instead"):
            client.streamingcall_as(Point, "points", 1)


def test_a_client_class_reads_well() -> None:
    class BoardClient(DriverClient):
        def move(self, route: Route) -> Route:
            return self.call_as(Route, "move", route)

    with served(Board()) as plain:
        client = BoardClient(uuid=plain.uuid, channel=plain.channel, portal=plain.portal)
        assert client.move(ROUTE) == ROUTE


@timed()
async def test_models_cross_in_both_directions() -> None:
    kept: list[Any] = []
    model = Model(where=ID, path=Path("/dev/x"), raw=b"\xff", Colours={Colour.RED})
    async with client_for_async(keeping(list[Model], kept)) as client:
        assert await client.call_as_async(list[Model], "echo", [model]) == [model]
        with pytest.raises(
            DriverInvalidArgument, match=r"where: Input should be .* - at `value\[1\]`"
        ):
            await client.call_async("echo", [model, {"where": "x", "path": "y"}])
    assert kept == [[model]]
