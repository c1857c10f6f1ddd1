"""Buckets: what is borne at once, what comes back with time, and that neither is ever exceeded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumpstarter._util.rate_limit import TokenBucket


def test_a_burst_passes_at_once_and_nothing_beyond_it() -> None:
    bucket = TokenBucket(3, 1)
    assert [bucket.try_acquire(100.0) for _ in range(5)] == [True, True, True, False, False]


def test_what_was_taken_comes_back_at_its_rate() -> None:
    bucket = TokenBucket(2, 0.5)
    assert bucket.try_acquire(0.0, 2)
    assert not bucket.try_acquire(1.9)
    assert bucket.try_acquire(2.0)
    assert not bucket.try_acquire(3.9)
    assert bucket.try_acquire(4.0)


def test_no_more_comes_back_than_a_burst() -> None:
    bucket = TokenBucket(2, 1)
    assert bucket.try_acquire(0.0, 2)
    assert bucket.try_acquire(1e9, 2)
    assert not bucket.try_acquire(1e9)


def test_what_cannot_be_taken_whole_is_not_taken_in_part() -> None:
    bucket = TokenBucket(5, 0)
    assert not bucket.try_acquire(0.0, 6)
    assert bucket.try_acquire(0.0, 5)


def test_nothing_is_always_to_be_had() -> None:
    bucket = TokenBucket(1, 0)
    assert bucket.try_acquire(0.0)
    assert bucket.try_acquire(0.0, 0)


@pytest.mark.parametrize("start", [0.0, -5.0, 1e12])
def test_a_clock_may_begin_anywhere(start: float) -> None:
    bucket = TokenBucket(1, 1)
    assert bucket.try_acquire(start)
    assert not bucket.try_acquire(start + 0.5)
    assert bucket.try_acquire(start + 1.5)


def test_without_a_rate_nothing_comes_back() -> None:
    bucket = TokenBucket(1, 0)
    assert bucket.try_acquire(0.0)
    assert not bucket.try_acquire(1e18)


@given(
    burst=st.integers(1, 50),
    rate=st.integers(0, 50),
    asked=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=50),
)
def test_never_more_passes_than_burst_and_rate_allow(
    burst: int, rate: int, asked: list[tuple[int, int]]
) -> None:
    """Over every stretch of time, and what is refused would have been too much."""
    bucket = TokenBucket(burst, rate)
    now, passed = 0, [(0, 0)]
    for pause, amount in asked:
        now += pause
        stretches = enumerate([*passed, (now, 0)])
        worst = max(
            amount + sum(taken for _, taken in passed[first:]) - burst - rate * (now - start)
            for first, (start, _) in stretches
        )
        assert bucket.try_acquire(now, amount) is (worst <= 0)
        if worst <= 0:
            passed.append((now, amount))
