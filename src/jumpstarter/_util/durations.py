"""Read and describe durations, as in `2h` and `1 h 30 min`."""

from __future__ import annotations

import math
import re
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["describe_duration", "parse_duration"]

_FORM: Final = re.compile(
    r"(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?", re.ASCII
)
_SECONDS: Final = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_LONGEST: Final = 12  # characters


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `2h`, `1h30m`, `1d`, `90s` or `90`.

    Raises:
        ValueError: It has another form, or is 0.
    """
    match = _FORM.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    found = {} if match is None else {unit: n for unit, n in match.groupdict().items() if n}
    seconds = math.fsum(float(number) * _SECONDS[unit] for unit, number in found.items())
    if not seconds:
        raise ValueError(f"{text!r} is not a duration: write it as 2h, 1h30m, 90m or 45s")
    return seconds


def describe_duration(seconds: float) -> str:
    """Return a duration in words, such as `2 h 5 min`; below a minute in seconds."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes)
    return " ".join(parts)
