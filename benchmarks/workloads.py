"""What is measured, and who with. Pure data: nothing is imported that a side needs.

A workload has a side named `jumpstarter` and one named `floor`; it may have more, of peers that do
the same. Adding a workload is adding an entry here, and its ends to the modules of its sides.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .payloads import PIECE

__all__ = ["FLOOR", "OURS", "WORKLOADS", "Side", "Unit", "Workload"]

OURS: Final = "jumpstarter"
FLOOR: Final = "floor"


@dataclass(frozen=True)
class Unit:
    """What a figure says.

    Attributes:
        name: As it stands in the table.
        scale: What one operation counts, or one second does.
        is_rate: Operations per second, the more the better; else seconds per operation.
    """

    name: str
    scale: float
    is_rate: bool

    def figure(self, operations: int, seconds: float) -> float:
        """Say in this unit that so many operations took so long."""
        return self.scale * (operations / seconds if self.is_rate else seconds / operations)


@dataclass(frozen=True)
class Side:
    """Who does a workload: two ends, each a function's dotted name and its arguments.

    Attributes:
        server: Serves at the path that it is called with, until the end of its input.
        client: Does `worker.rounds`.
        python: The interpreter of the environment that both ends live in.
    """

    server: str
    client: str
    python: str = sys.executable


@dataclass(frozen=True)
class Workload:
    """One line of the table.

    Attributes:
        name: Unique.
        unit: Of its figures.
        sides: By name; they take turns in this order.
        goal: What our figure is to reach as a multiple of the floor's: at least if the unit is a
            rate, at most if it is a time. None where there is no goal of this kind.
    """

    name: str
    unit: Unit
    sides: Mapping[str, Side]
    goal: float | None = None


_CALL: Final = Unit("µs", 1e6, is_rate=False)
_ITEM: Final = Unit("items/ms", 1e-3, is_rate=True)
_BULK: Final = Unit("MB/s", len(PIECE) / 1e6, is_rate=True)

_ASYNC_ECHO: Final = Side("benchmarks.floors.serve_echo", "benchmarks.floors.trio_ping_pong")
_BLOCKING_ECHO: Final = Side("benchmarks.floors.serve_echo", "benchmarks.floors.blocking_ping_pong")
_ASYNC_ITEMS: Final = Side(
    "benchmarks.floors.serve_downloads message", "benchmarks.floors.trio_download message"
)
_BLOCKING_ITEMS: Final = Side(
    "benchmarks.floors.serve_downloads message", "benchmarks.floors.blocking_download message"
)
_UPLOAD: Final = Side("benchmarks.floors.serve_uploads", "benchmarks.floors.trio_upload")
_DOWNLOAD: Final = Side(
    "benchmarks.floors.serve_downloads piece", "benchmarks.floors.trio_download piece"
)


def _workload(
    name: str, unit: Unit, client: str, floor: Side, goal: float | None = None
) -> Workload:
    ours = Side("benchmarks.ours.serve", f"benchmarks.ours.{client}")
    return Workload(name, unit, {OURS: ours, FLOOR: floor}, goal)


WORKLOADS: Final = (
    _workload("call, async -> async", _CALL, "async_call echo_async", _ASYNC_ECHO, 1.3),
    _workload("call, async -> plain", _CALL, "async_call echo", _ASYNC_ECHO),
    _workload("call, blocking -> async", _CALL, "blocking_call echo_async", _BLOCKING_ECHO, 1.8),
    _workload("call, blocking -> plain", _CALL, "blocking_call echo", _BLOCKING_ECHO),
    # The floor's round trips are one at a time here too: this is what company saves a call.
    _workload("64 calls at once", _CALL, "async_calls_at_once echo_async 64", _ASYNC_ECHO),
    # The floor sends each item by itself, as it is given; we may send several at once.
    _workload("generator, async -> async", _ITEM, "async_generator items_async", _ASYNC_ITEMS),
    _workload("generator, async -> plain", _ITEM, "async_generator items", _ASYNC_ITEMS),
    _workload(
        "generator, blocking -> async", _ITEM, "blocking_generator items_async", _BLOCKING_ITEMS
    ),
    _workload("generator, blocking -> plain", _ITEM, "blocking_generator items", _BLOCKING_ITEMS),
    _workload("stream, ping-pong, async", _CALL, "async_ping_pong", _ASYNC_ECHO),
    _workload("stream, ping-pong, blocking", _CALL, "blocking_ping_pong", _BLOCKING_ECHO),
    _workload("stream, 64 KiB pieces up", _BULK, "async_upload", _UPLOAD, 0.6),
    _workload("stream, 64 KiB pieces down", _BULK, "async_download", _DOWNLOAD, 0.6),
)
