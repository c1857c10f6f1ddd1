"""Test that values small on the wire but large or deep in memory are refused before decoding."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from alone import alone
from jumpstarter._limits import Limits
from jumpstarter._protocol.codec import decode_value
from jumpstarter.errors import ArgumentError
from memory import measured_here, peak_memory, set_growth

SCRIPT: Final = Path(__file__).parent / "script_bombs.py"
PATIENCE: Final = 120.0  # seconds for a run that takes two seconds
LIMITS: Final = Limits()
MIB: Final = 1024 * 1024


def test_no_depth_overflows_the_stack_of_a_small_thread() -> None:
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "decoded\nserved\n")


def many(count: int, body: bytes) -> bytes:
    """Encode a list that repeats one value."""
    return b"\xdd" + count.to_bytes(4, "big") + body * count


def a_map(count: int) -> bytes:
    """Encode a map of different numbers, chosen so that their hashes agree in many low bits."""
    keys = (b"\xcf" + (number << 40).to_bytes(8, "big") + b"\xc0" for number in range(count))
    return b"\xdf" + count.to_bytes(4, "big") + b"".join(keys)


# Each is made when it is measured, since the memory that others took would be used again.
BOMBS: Final[dict[str, Callable[[], bytes]]] = {
    "4 Gi values": lambda: b"\xdd\xff\xff\xff\xff",
    "4 Gi pairs": lambda: b"\xdf\xff\xff\xff\xff",
    "4 GiB of text": lambda: b"\xdb\xff\xff\xff\xff",
    "4 GiB of bytes": lambda: b"\xc6\xff\xff\xff\xff",
    "lists of 64 Ki promised values": lambda: many(64, b"\xdc\xff\xff"),
    "a million empty lists": lambda: many(1024 * 1024, b"\x90"),
    "a million empty maps": lambda: many(1024 * 1024, b"\x80"),
    "a list too many": lambda: many(LIMITS.max_containers, b"\x90"),
    "a value too many": lambda: many(LIMITS.max_items, b"\xc0"),
    "a million pairs": lambda: a_map(1024 * 1024),
}


@measured_here
@alone
def test_a_bomb_is_refused_and_costs_nothing() -> None:
    costs = {}
    for name, make in BOMBS.items():
        bomb = make()
        before = peak_memory(reset=True)
        with pytest.raises(ArgumentError):
            decode_value(bomb, LIMITS)
        costs[name] = peak_memory() - before
        del bomb
    assert {name: cost for name, cost in costs.items() if cost >= MIB} == {}


# One four-byte character makes Python store every character of a text in four bytes.
WIDE_TEXT: Final = b"x" * (16 * MIB - 4) + b"\xf0\x9f\x98\x80"
# The largest value of each kind within the limits, and the most memory that it may take where the
# growing list is moved, and where it is copied from 14.5 to 16.3 MiB.
MOST: Final[dict[str, tuple[Callable[[], bytes], int, int]]] = {
    "lists": (lambda: many(LIMITS.max_containers - 1, b"\x90"), 24, 24),
    "maps": (lambda: many(LIMITS.max_containers - 1, b"\x80"), 24, 24),
    "small numbers": (lambda: many(LIMITS.max_items - 1, b"\x01"), 20, 33),
    "texts": (lambda: many(LIMITS.max_items - 1, b"\xa4\xf0\x9f\x98\x80"), 211, 224),
    "a text": (lambda: b"\xdb" + (16 * MIB).to_bytes(4, "big") + WIDE_TEXT, 5 * 16 + 1, 5 * 16 + 1),
    "pairs": (lambda: a_map(LIMITS.max_items // 17 - 1), 20, 20),
}


@measured_here
@pytest.mark.parametrize("growth", ["moved", "copied"])
@alone
def test_the_largest_value_that_is_taken_costs_what_the_limits_promise(growth: str) -> None:
    set_growth(growth)
    costs = {}
    for name, (make, moved, copied) in MOST.items():
        body = make()
        before = peak_memory(reset=True)
        value = decode_value(body, LIMITS)
        costs[name] = peak_memory() - before, (moved if growth == "moved" else copied) * MIB
        assert len(value) > 100_000
        del body, value
    assert {name: cost for name, cost in costs.items() if cost[0] >= cost[1]} == {}
