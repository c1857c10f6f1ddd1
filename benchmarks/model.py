"""The types that describe workloads. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["BEFORE", "FLOOR", "OURS", "Side", "Unit", "Workload"]

OURS: Final = "jumpstarter"
FLOOR: Final = "floor"
BEFORE: Final = "before"


@dataclass(frozen=True)
class Unit:
    """The unit of a figure, and the measure from which the figure is computed.

    Attributes:
        name: The unit's name in the table.
        scale: The factor that converts the raw figure to this unit.
        is_rate: If true, the figure is operations per measure, and higher is better. Otherwise
            lower is better.
        measure: The name of a round's measure: "seconds", a name that an end reports, or a memory
            measure in bytes. Memory measures are "server" or "client" followed by "_peak", or by
            "_growth" for the peak's growth.
        each: If true, the measure is divided by the number of operations, otherwise not.
    """

    name: str
    scale: float
    is_rate: bool = False
    measure: str = "seconds"
    each: bool = True

    def figure(self, operations: int, measures: Mapping[str, float]) -> float:
        """Return the figure of a round in this unit."""
        value = measures[self.measure]
        if self.is_rate:
            return self.scale * operations / value
        return self.scale * value / (operations if self.each else 1)


@dataclass(frozen=True)
class Side:
    """The two ends that run a workload, each a function's dotted name and its arguments.

    Attributes:
        server: The function that serves at the given path until its standard input ends. Empty if
            the side has only a client.
        client: The function that runs the rounds of `worker.rounds`.
        peer: The distribution that both ends need from the peers' environment. Empty if they run
            in ours.
        is_ours: It is the library too, without what the workload is about: with nothing else open,
            for example.
        is_before: It is an earlier state of the library, in an environment that the plan names. The
            ends are those of our side.
        delay: Seconds that each byte takes from one end to the other, through a process of its own.
            Without a delay the ends are connected directly.
    """

    server: str
    client: str
    peer: str = ""
    is_ours: bool = False
    is_before: bool = False
    delay: float = 0.0


@dataclass(frozen=True)
class Workload:
    """One entry of the table, with a line for each side and unit.

    Attributes:
        name: A unique name.
        units: The units of its figures; the chart shows the first.
        sides: The sides by name. They take turns in this order.
        goals: Goals for our figure in the first unit, by side. Our own side's entry is the figure
            to reach, the entry of the floor, or of another side that is ours, a multiple of that
            side's figure, and a peer's entry how many times better than the peer ours must be. A
            peer's goal is always a minimum. The others are a minimum if the unit is a rate, and a
            maximum otherwise.
        series: The name of the series, if the workload is one of several sizes. Otherwise empty.
        size: The size, as the position on the series' axis.
        operations: Operations in each round. By default, as many as take the planned time.
        shortest: Seconds that a round takes at least, whatever was planned: for figures that are
            steady only over a longer time.
        cores: The number of cores that the ends are pinned to: one for times, two for rates.
        afresh: Start new processes for each round, because a process rarely shrinks again once it
            has used memory.
        quick: Include the workload in a quick run.
    """

    name: str
    units: tuple[Unit, ...]
    sides: Mapping[str, Side]
    goals: Mapping[str, float]
    series: str = ""
    size: int = 0
    operations: int = 0
    shortest: float = 0.0
    cores: int = 1
    afresh: bool = False
    quick: bool = True
