"""Test that values small on the wire but large or deep in memory are refused before decoding."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from jumpstarter._limits import Limits
from jumpstarter._protocol.codec import decode_value
from jumpstarter.errors import ArgumentError
from memory import measured_here, peak_memory

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


BOMBS: Final = {
    "4 Gi values": b"\xdd\xff\xff\xff\xff",
    "4 Gi pairs": b"\xdf\xff\xff\xff\xff",
    "4 GiB of text": b"\xdb\xff\xff\xff\xff",
    "4 GiB of bytes": b"\xc6\xff\xff\xff\xff",
    "lists of 64 Ki promised values": many(64, b"\xdc\xff\xff"),
    "a million empty lists": many(1024 * 1024, b"\x90"),
    "a million empty maps": many(1024 * 1024, b"\x80"),
    "a list too many": many(LIMITS.max_containers, b"\x90"),
    "a value too many": many(LIMITS.max_items, b"\xc0"),
    "a million pairs": a_map(1024 * 1024),
}


@measured_here
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_and_costs_nothing(bomb: bytes) -> None:
    gc.collect()
    before = peak_memory(reset=True)
    with pytest.raises(ArgumentError):
        decode_value(bomb, LIMITS)
    assert peak_memory() - before < MIB


# One four-byte character makes Python store every character of a text in four bytes.
WIDE_TEXT: Final = b"x" * (16 * MIB - 4) + b"\xf0\x9f\x98\x80"
# The largest value of each kind within the limits, and the most memory that it may take.
MOST: Final = {
    "lists": (many(LIMITS.max_containers - 1, b"\x90"), 24),
    "maps": (many(LIMITS.max_containers - 1, b"\x80"), 24),
    "small numbers": (many(LIMITS.max_items - 1, b"\x01"), 20),
    "texts": (many(LIMITS.max_items - 1, b"\xa4\xf0\x9f\x98\x80"), 200),
    "a text": (b"\xdb" + (16 * MIB).to_bytes(4, "big") + WIDE_TEXT, 5 * 16),
    "pairs": (a_map(LIMITS.max_items // 17 - 1), 20),
}


@measured_here
@pytest.mark.parametrize(("body", "mebibytes"), MOST.values(), ids=MOST)
def test_the_largest_value_that_is_taken_costs_what_the_limits_promise(
    body: bytes, mebibytes: int
) -> None:
    gc.collect()
    before = peak_memory(reset=True)
    value = decode_value(body, LIMITS)
    cost = peak_memory() - before
    assert len(value) > 100_000
    assert cost < mebibytes * MIB
