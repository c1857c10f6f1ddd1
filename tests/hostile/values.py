"""Attacks on the values that our protocol carries: arguments, results, names and texts.

None of them violates the protocol: each call gets its answer, and the connection stays open.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from jumpstarter._limits import DEFAULT_LIMITS

from .attacker import Attacker, Function
from .victim import BAD_RESULTS, TEXTS
from .wire_ours import PART, SLOTS, call, raw_call, read_ends, ready

__all__ = ["FUNCTIONS"]

_ARRAY_32: Final = struct.Struct(">BI")
_ITEMS: Final = DEFAULT_LIMITS.max_items
_CONTAINERS: Final = DEFAULT_LIMITS.max_containers
_HUGE: Final = 2**32 - 1
_NAMES: Final = (
    *dir(object),
    *dir(type),
    "__dict__",
    "__globals__",
    "__reduce_ex__",
    "__subclasses__",
    "secret",
    "not_exported",
    "close",
    "reset",
    "report",
    "logger",
    "echo\n",
    "os.system",
    "../echo",
    *TEXTS,
)


def _array(count: int, element: bytes, promised: int | None = None) -> bytes:
    return _ARRAY_32.pack(0xDD, count if promised is None else promised) + element * count


def _map(pairs: Sequence[tuple[Any, Any]]) -> bytes:
    encode = msgspec.msgpack.Encoder().encode
    return _ARRAY_32.pack(0xDF, len(pairs)) + b"".join(encode(k) + encode(v) for k, v in pairs)


def calls_with(*arguments: bytes) -> Function:
    """Make an attack that makes a call with each encoded argument, one call at a time."""
    calls = [raw_call(1, b"echo_size", b"\x91" + each) for each in arguments]

    def attack(attacker: Attacker) -> None:
        line = ready(attacker)
        while True:
            for data in calls:
                line.send(data)
                read_ends(line, 1)

    return attack


def calls_of(*calls: tuple[str, tuple[Any, ...]]) -> Function:
    """Make an attack that makes these calls in all slots concurrently."""
    every = [calls[number % len(calls)] for number in range(len(SLOTS))]
    storm = b"".join(call(slot, name, *a) for slot, (name, a) in zip(SLOTS, every, strict=True))

    def attack(attacker: Attacker) -> None:
        line = ready(attacker)
        while True:
            line.send(storm, len(SLOTS))
            read_ends(line, len(SLOTS))

    return attack


_DEEP: Final = (
    b"\x91" * 63 + b"\xc0",
    b"\x91" * (PART - 100) + b"\xc0",
    b"\x81\xa1k" * 20_000 + b"\xc0",
    b"\x91" * 1_000_000 + b"\xc0",
)
_LYING: Final = (
    _array(0, b"", _HUGE),
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdc\xff\xff" + b"\xdc\xff\xff" * 60,
    b"\xc9\xff\xff\xff\xff\x01",
)
_KEYS: Final = (
    _map([(number << 40, None) for number in range(60_000)]),
    _map([(number * (2**61 - 1), None) for number in range(8)] * 5000),
    _map([("key", None)] * 50_000),
    _map([(0.5, 1)]),
    b"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xc0",
    b"\x81\x91\x01\xc0",
    b"\x81\xc0\xc0",
)
_MALFORMED: Final = (
    b"\xa4\xff\xfe\xfd\xfc",
    b"\xa3\xed\xa0\x80",
    b"\xc1",
    b"\xc0\xc0",
    b"",
    b"\xc7\x05\x05hello",
    b"\xd4\x01\x00",
    b"\xc7\xff\x01",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xc7\x0c\xff" + b"\xff" * 12,
)

FUNCTIONS: Final[dict[str, Function]] = {
    "depth": calls_with(*_DEEP),
    "lying lengths": calls_with(*_LYING),
    "many values": calls_with(_array(_ITEMS - 2, b"\x01"), _array(_ITEMS, b"\x01")),
    "many containers": calls_with(
        _array(_CONTAINERS - 2, b"\x90"), _array(_CONTAINERS - 2, b"\x80"), _array(10**6, b"\x90")
    ),
    "keys": calls_with(*_KEYS),
    "malformed values": calls_with(*_MALFORMED),
    "bad results": calls_of(*(("bad_result", (name,)) for name in BAD_RESULTS)),
    "names": calls_of(*((name[:80], ()) for name in _NAMES if name)),
    "log flood": calls_of(*(("fail", (text,)) for text in TEXTS), ("fail", ("x" * 1000,))),
}
