"""Tests of `jumpstarter._exporter.routes`."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import pytest

from drivers_for_tests import Plain
from jumpstarter._exporter.routes import ExecutionMode, Route, Routes
from jumpstarter._exporter.tree import Target
from jumpstarter._protocol.frames import CallHead, Kind
from jumpstarter.driver import export
from jumpstarter.driver._export import exports_of


class _Mixed(Plain):
    @export
    async def wait(self) -> None: ...

    @export
    def block(self) -> None: ...

    @export
    async def items(self) -> Any:
        yield 1

    @export
    def plain_items(self) -> Any:
        yield 1

    async def _both(self, number: int) -> int:
        return number

    partly = export(partialmethod(_both, 5))  # type: ignore[call-overload]


def targets() -> list[Target]:
    return [Target(each, exports_of(_Mixed), "a driver") for each in (_Mixed(), _Mixed())]


def head(
    method: str, kind: Kind = Kind.UNARY, target: int = 1, timeout_ms: int = 0, **flags: bool
) -> CallHead:
    nested = flags.get("nested", False)
    return CallHead(timeout_ms, target, kind, keywords=False, nested=nested, method=method)


def found(routes: Routes, wanted: CallHead) -> Route:
    route = routes.find(wanted)
    assert route is not None
    return route


@pytest.mark.parametrize(
    ("wanted", "mode", "is_direct"),
    [
        (head("wait"), ExecutionMode.EAGER, True),
        (head("wait", nested=True), ExecutionMode.EAGER, False),
        (head("wait", Kind.GENERATOR), ExecutionMode.EAGER, False),
        (head("block"), ExecutionMode.THREAD, False),
        (head("block", nested=True), ExecutionMode.OWN_TASK, False),
        (head("block", Kind.STREAM), ExecutionMode.EAGER, False),
        (head("items", Kind.GENERATOR), ExecutionMode.OWN_TASK, False),
        (head("plain_items", Kind.GENERATOR), ExecutionMode.OWN_TASK, False),
    ],
)
def test_a_call_is_begun_as_its_method_and_its_head_say(
    wanted: CallHead, mode: ExecutionMode, is_direct: bool
) -> None:
    route = found(Routes(targets()), wanted)
    assert (route.mode, route.is_direct) == (mode, is_direct)


def test_a_route_is_found_once_for_a_head() -> None:
    routes = Routes(targets())
    again = head("wait")
    route = found(routes, again)
    assert found(routes, again) is route
    assert found(routes, head("wait")) is not route  # equal, but another object
    assert route.method is not None
    assert route.method.__name__ == "wait"


def test_calls_with_a_timeout_share_a_route_though_each_has_a_head_of_its_own() -> None:
    routes = Routes(targets())
    route = found(routes, head("wait", timeout_ms=1000))
    assert found(routes, head("wait", timeout_ms=20)) is route
    assert found(routes, head("wait")) is not route
    others = [
        head("block", timeout_ms=1000),
        head("wait", Kind.GENERATOR, timeout_ms=1000),
        head("wait", target=0, timeout_ms=1000),
        head("wait", timeout_ms=1000, nested=True),
    ]
    assert route not in [found(routes, each) for each in others]
    assert len({found(routes, each) for each in others}) == len(others)


@pytest.mark.parametrize("timeout_ms", [0, 1000])
def test_a_driver_that_takes_anothers_place_is_reached_from_then_on(timeout_ms: int) -> None:
    all_targets = targets()
    routes = Routes(all_targets)
    wanted = head("wait", timeout_ms=timeout_ms)
    before = found(routes, wanted)
    all_targets[1] = targets()[1]
    after = found(routes, wanted)
    assert after.target is all_targets[1]
    assert after.target is not before.target


def test_drivers_that_come_later_are_found_then() -> None:
    all_targets = targets()
    routes = Routes(all_targets)
    wanted = head("wait", target=2)
    assert routes.find(wanted) is None
    assert routes.find(head("none")) is None
    all_targets.extend(targets())
    assert found(routes, wanted).target is all_targets[2]


def test_what_is_no_function_is_bound_for_each_call() -> None:
    route = found(Routes(targets()), head("partly"))
    assert route.method is None
    assert not route.is_direct


def test_as_many_routes_are_kept_as_there_may_be_heads() -> None:
    routes = Routes(targets())
    heads = [head("wait") for _ in range(1000)]  # as of a client that calls ever new methods
    first = [found(routes, each) for each in heads]
    assert [route.head for route in first] == heads
    assert found(routes, heads[-1]) is first[-1]
    assert found(routes, heads[0]) is not first[0]
