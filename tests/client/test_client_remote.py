"""Tests of `jumpstarter.client._remote`: one driver as the channel's client sees it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from helpers import PATIENCE
from jumpstarter._framing import HEADER_SIZE
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter._protocol.codec import decode_call, decode_value
from jumpstarter._protocol.frames import Kind
from jumpstarter._protocol.large_message import head_of
from jumpstarter.client._channel import Channel
from jumpstarter.client._outgoing_call import Request
from jumpstarter.client._remote import DriverRef
from jumpstarter.errors import ArgumentTypeError, DriverInvalidArgument

# `DriverRef` does not use its channel before it makes a request.
remote = DriverRef(cast("Channel", None), 7, "driver 'power' (lab.PowerClient)")


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("args", "kwargs", "sent"),
    [
        ((), {}, []),
        ((1, "two"), {}, [1, "two"]),
        ((), {"volts": 5}, [{"volts": 5}]),
        (({"a": 1},), {"volts": 5}, [{"a": 1}, {"volts": 5}]),
    ],
    ids=["none", "positional", "keywords", "both"],
)
def test_request_contains_target_method_and_arguments(
    kind: Kind, args: tuple[object, ...], kwargs: dict[str, object], sent: list[object]
) -> None:
    request = remote.request(kind, "on", args, kwargs)
    head, body = decode_call(bytes(head_of(request.buffer)[HEADER_SIZE:]))
    assert (head.target, head.kind, head.method) == (7, kind, "on")
    assert head.keywords is bool(kwargs)
    assert head.timeout_ms == 0
    assert decode_value(body, DEFAULT_LIMITS) == sent


def test_errors_name_the_driver_and_the_method() -> None:
    assert remote.request(Kind.UNARY, "on", (), {}).context == (
        "method 'on' of driver 'power' (lab.PowerClient)"
    )
    with pytest.raises(DriverInvalidArgument, match="method 'on' of driver 'power' "):
        remote.request(Kind.UNARY, "on", (object(),), {})


@pytest.mark.parametrize("name", ["", "x" * 256, "ü" * 128])
def test_a_name_that_cannot_cross_the_wire_is_refused(name: str) -> None:
    with pytest.raises(DriverInvalidArgument, match="a method's name"):
        remote.request(Kind.UNARY, name, (), {})


@pytest.mark.parametrize("name", [5, None, b"on", ["on"]])
def test_a_method_name_that_is_not_a_str_is_refused(name: Any) -> None:
    text = "method must be the name of an exported method of driver 'power' .*, as a str, not "
    with pytest.raises(ArgumentTypeError, match=text):
        remote.request(Kind.UNARY, name, (), {})


def test_requests_are_made_in_any_thread() -> None:
    def make(number: int) -> Request:
        return remote.request(Kind.UNARY, "on", (number,), {})

    with ThreadPoolExecutor(4) as pool:
        for number, request in enumerate(pool.map(make, range(100), timeout=PATIENCE)):
            _, body = decode_call(bytes(head_of(request.buffer)[HEADER_SIZE:]))
            assert decode_value(body, DEFAULT_LIMITS) == [number]
