"""Tests of token buckets: the burst, the rate, and that neither is ever exceeded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumpstarter._util.rate_limit import TokenBucket


def test_a_burst_passes_immediately_and_nothing_more() -> None:
    bucket = TokenBucket(3, 1)
    assert [bucket.try_acquire(100.0) for _ in range(5)] == [True, True, True, False, False]


def test_tokens_return_at_the_rate() -> None:
    bucket = TokenBucket(2, 0.5)
    assert bucket.try_acquire(0.0, 2)
    assert not bucket.try_acquire(1.9)
    assert bucket.try_acquire(2.0)
    assert not bucket.try_acquire(3.9)
    assert bucket.try_acquire(4.0)


def test_tokens_never_exceed_a_burst() -> None:
    bucket = TokenBucket(2, 1)
    assert bucket.try_acquire(0.0, 2)
    assert bucket.try_acquire(1e9, 2)
    assert not bucket.try_acquire(1e9)


def test_a_failed_take_removes_no_tokens() -> None:
    bucket = TokenBucket(5, 0)
    assert not bucket.try_acquire(0.0, 6)
    assert bucket.try_acquire(0.0, 5)


def test_taking_zero_tokens_always_succeeds() -> None:
    bucket = TokenBucket(1, 0)
    assert bucket.try_acquire(0.0)
    assert bucket.try_acquire(0.0, 0)


@pytest.mark.parametrize("start", [0.0, -5.0, 1e12])
def test_a_clock_may_start_at_any_time(start: float) -> None:
    bucket = TokenBucket(1, 1)
    assert bucket.try_acquire(start)
    assert not bucket.try_acquire(start + 0.5)
    assert bucket.try_acquire(start + 1.5)


def test_a_rate_of_zero_returns_no_tokens() -> None:
    bucket = TokenBucket(1, 0)
    assert bucket.try_acquire(0.0)
    assert not bucket.try_acquire(1e18)


@given(
    burst=st.integers(1, 50),
    rate=st.integers(0, 50),
    asked=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=50),
)
def test_no_interval_exceeds_burst_and_rate(
    burst: int, rate: int, asked: list[tuple[int, int]]
) -> None:
    """Check every interval of time; a refused token would have exceeded the limit."""
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
