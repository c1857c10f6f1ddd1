"""The words that workloads are put in. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["FLOOR", "OURS", "Side", "Unit", "Workload"]

OURS: Final = "jumpstarter"
FLOOR: Final = "floor"


@dataclass(frozen=True)
class Unit:
    """What a figure says.

    Attributes:
        name: As it stands in the table.
        scale: What one of the measure counts in this unit.
        is_rate: Operations per measure, the more the better; else the less the better.
        measure: Which of a round's: "seconds", what an end reports, or of the memory of the
            "server" or "client" its "_growth" at most, or its "_peak", in bytes.
        each: The measure is shared out among the operations; else it is taken as it is.
    """

    name: str
    scale: float
    is_rate: bool = False
    measure: str = "seconds"
    each: bool = True

    def figure(self, operations: int, measures: Mapping[str, float]) -> float:
        """Say in this unit what a round of so many operations measured."""
        value = measures[self.measure]
        if self.is_rate:
            return self.scale * operations / value
        return self.scale * value / (operations if self.each else 1)


@dataclass(frozen=True)
class Side:
    """Who does a workload: two ends, each a function's dotted name and its arguments.

    Attributes:
        server: Serves at the path that it is called with, until the end of its input. Empty if the
            client is all there is.
        client: Does `worker.rounds`.
        peer: The distribution that both need from the peers' environment; empty if they live in
            ours.
    """

    server: str
    client: str
    peer: str = ""


@dataclass(frozen=True)
class Workload:
    """One subject of the table, with a line for each side and unit.

    Attributes:
        name: Unique.
        units: Of its figures; the first is the one that is drawn.
        sides: By name; they take turns in this order.
        goals: By side. For ours, what the figure itself is to reach; for the floor, what multiple
            of its figure; for a peer, how many times better ours is to be. At least if the unit is
            a rate, else at most, but for a peer always at least. They hold for the first unit.
        series: What it is a point of, if it is measured at several sizes; else empty.
        size: Where on the series.
        operations: In each round; by default as many as take the planned time.
        cores: How many the ends are pinned to: one for times, two for rates.
        afresh: Each round has new processes, since memory that was used is never small again.
        quick: A quick run has it too.
    """

    name: str
    units: tuple[Unit, ...]
    sides: Mapping[str, Side]
    goals: Mapping[str, float]
    series: str = ""
    size: int = 0
    operations: int = 0
    cores: int = 1
    afresh: bool = False
    quick: bool = True
