"""Test the ranges of the limits, their dependencies, and the rejection of invalid limits."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from typing import Any

import pytest

from jumpstarter._limits import DEFAULT_LIMITS, MAX_WIRE_FRAME, MIN_WIRE_FRAME, Limits
from jumpstarter.errors import ConfigurationError

# The smallest and largest value of each limit; None means no upper bound.
RANGES: list[tuple[str, float, float | None]] = [
    ("max_frame", 1024, 2**20),
    ("max_message", 64 * 1024, 2**31 - 1),
    ("max_pending", 128 * 2**20, 2**40),
    ("max_unsent", 1, 2**40),
    ("max_depth", 1, 512),
    ("max_items", 1, 2**31 - 1),
    ("max_containers", 1, 2**31 - 1),
    ("max_calls", 1, 65535),
    ("stream_window", 1, 4 * 2**20),
    ("max_window", 32 * 1024, 2**31 - 1),
    ("max_total_window", 32 * 1024, 2**40),
    ("max_hello", 256, 64 * 1024),
    ("max_connections", 1, 2**31 - 1),
    ("max_unadmitted", 1, 2**31 - 1),
    ("max_frames_per_turn", 1, 2**31 - 1),
    ("ping_burst", 2, 2**31 - 1),
    ("ping_rate", 0, None),
    ("late_burst", 1, 2**31 - 1),
    ("late_rate", 0, None),
    ("hello_timeout", 0, None),
    ("start_timeout", 0, None),
    ("ping_interval", 0, 4_294_966.296),
    ("ping_timeout", 0, None),
    ("cancel_grace", 0, None),
    ("linger", 0, None),
    ("write_stall", 0, None),
    ("read_stall", 0, None),
    ("loop_hold", 0.01, None),
]
NAMES = [field.name for field in dataclasses.fields(Limits)]


def changed(**limits: Any) -> Limits:
    return dataclasses.replace(DEFAULT_LIMITS, **limits)


def test_the_table_of_ranges_has_every_limit() -> None:
    assert [name for name, _, _ in RANGES] == NAMES


@pytest.mark.parametrize(("name", "low", "high"), RANGES)
def test_a_limit_accepts_exactly_its_range(name: str, low: float, high: float | None) -> None:
    pending = {} if name == "max_pending" else {"max_pending": 2**31}
    accepted: list[float] = [low, math.inf if high is None else high]
    for value in accepted:
        assert getattr(changed(**{name: value, **pending}), name) == value
    refused: list[float] = [low - 1, -math.inf] if high is None else [low - 1, high + 1]
    for value in refused:
        with pytest.raises(ConfigurationError) as caught:
            changed(**{name: value, **pending})
        assert "must be from" in str(caught.value)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, "5", None])
def test_a_limit_that_is_not_a_number_is_rejected(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"Limits\\({name}={value!r}\\): must be"):
        changed(**{name: value})


def test_a_number_of_bytes_or_calls_is_whole() -> None:
    with pytest.raises(ConfigurationError, match=r"Limits\(max_message=128000000.0\): must be int"):
        Limits(max_message=128e6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "other"),
    [
        ({"max_message": 1024}, "from 65536 (max_frame) to"),
        ({"max_pending": 1024}, "from 134217728 (max_message) to"),
        ({"stream_window": 2**20, "max_window": 2**19}, "to 524288 (max_window)"),
        ({"max_total_window": 1024}, "from 32768 (stream_window) to"),
    ],
    ids=["a message has a frame", "one message fits", "a window grows", "one window fits"],
)
def test_limits_that_contradict_each_other_are_rejected(limits: dict[str, int], other: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(other)):
        changed(**limits)


def test_limits_are_immutable_and_can_be_replaced() -> None:
    limits = Limits(max_calls=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max_calls = 6  # type: ignore[misc]
    assert dataclasses.replace(limits, max_depth=9) == Limits(max_calls=5, max_depth=9)
    assert hash(limits) == hash(Limits(max_calls=5))


def test_the_reasons_given_for_the_defaults_hold() -> None:
    limits = DEFAULT_LIMITS
    assert limits == Limits()
    assert limits.stream_window * limits.max_calls == limits.max_total_window
    assert limits.max_pending == 2 * limits.max_message
    assert limits.max_window >= 1e9 / 8 * 0.030  # 1 Gbit/s for 30 ms
    assert limits.max_items > 2 * 1_000_000 + 1  # a list of a million pairs, flattened
    assert MIN_WIRE_FRAME <= limits.max_frame <= MAX_WIRE_FRAME


def test_every_limit_is_documented_with_its_name() -> None:
    documented = inspect.getdoc(Limits) or ""
    assert [name for name in NAMES if f"    {name}: " not in documented] == []


def test_the_repr_shows_only_changed_limits() -> None:
    assert repr(Limits()) == "Limits()"
    limits = Limits(max_frames_per_turn=3, ping_rate=0.5, max_calls=1024)
    assert repr(limits) == "Limits(max_frames_per_turn=3, ping_rate=0.5)"
    assert eval(repr(limits)) == limits  # noqa: S307 - our own repr
