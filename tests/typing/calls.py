"""Types of calls with a result type, as type checkers see them. Nothing here is run.

Each `assert_type` must hold; each line with a comment to ignore it must be an error.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, assert_type
from uuid import UUID

from jumpstarter.client import BlockingGenerator, DriverClient, RemoteGenerator
from jumpstarter.driver import Driver, export


@dataclass
class Point:
    x: int


class Board(Driver):
    @classmethod
    def client(cls) -> str:
        return "calls.BoardClient"

    @export
    def move(self, to: Point) -> Point:
        return to

    @export(strict=True)
    async def volts(self, value: float) -> float:
        return value

    @export
    def points(self, count: int) -> Generator[Point, None, None]:
        yield from map(Point, range(count))


class BoardClient(DriverClient):
    def move(self, to: Point) -> Point:
        return self.call_as(Point, "move", to)

    def points(self, count: int) -> Generator[Point, None, None]:
        yield from self.streamingcall_as(Point, "points", count)

    def wrong(self, to: Point) -> str:
        return self.call_as(Point, "move", to)  # type: ignore[return-value]


def decorated_methods_keep_their_types(board: Board) -> None:
    assert_type(board.move(Point(1)), Point)
    assert_type(board.points(1), Generator[Point, None, None])
    board.move("there")  # type: ignore[arg-type]
    board.volts("three")  # type: ignore[arg-type,unused-coroutine]


def a_blocking_call_gives_what_was_asked_for(client: DriverClient) -> None:
    assert_type(client.call_as(Point, "move", Point(1)), Point)
    assert_type(client.call_as(int, "count", unit="s"), int)
    assert_type(client.call_as(list[UUID], "ids"), list[UUID])
    assert_type(client.call_as(dict[str, tuple[int, ...]], "map"), dict[str, tuple[int, ...]])
    assert_type(client.call("move", Point(1)), Any)
    with client.streamingcall_as(Point, "points", 3) as points:
        assert_type(points, BlockingGenerator[Point])
        for point in points:
            assert_type(point, Point)


def what_is_annotated_is_what_a_union_is_asked_for_with(client: DriverClient) -> None:
    maybe: Point | None = client.call_as(Point | None, "last")
    assert_type(maybe, Point | None)


async def an_awaited_one_too(client: DriverClient) -> None:
    assert_type(await client.call_as_async(Point, "move", Point(1)), Point)
    assert_type(await client.call_as_async(list[UUID], "ids"), list[UUID])
    async with client.streamingcall_as_async(Point, "points") as points:
        assert_type(points, RemoteGenerator[Point])
        async for point in points:
            assert_type(point, Point)


def without_a_type_nothing_is_known(client: DriverClient) -> None:
    plain: BlockingGenerator = client.streamingcall("points")
    for item in plain:
        assert_type(item, Any)
    assert_type(client.anything_that_is_exported(1, by=2), Any)


async def the_plain_names_need_no_parameter(client: DriverClient) -> None:
    plain: RemoteGenerator = client.streamingcall_async("points")
    async for item in plain:
        assert_type(item, Any)


def a_method_is_named_first(client: DriverClient) -> None:
    client.call_as("move", Point(1))  # type: ignore[call-overload]
    client.call_as(Point)  # type: ignore[call-overload]
