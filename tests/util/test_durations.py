"""Test how durations are read and described."""

from __future__ import annotations

import pytest

from jumpstarter._util.durations import describe_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("1h30m", 5400), ("90m", 5400), ("45s", 45), ("45", 45), ("1d", 86_400)],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0h", "2 h", "-1h", "1w", "h", "30m1h", "9" * 20, "nan"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write it as 2h, 1h30m, 90m or 45s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.05, "0.05 s"), (12, "12 s"), (60, "1 min"), (5400, "1 h 30 min"), (7200, "2 h")],
)
def test_a_duration_is_described(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text
