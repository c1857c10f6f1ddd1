"""What all clients do with an operation: repeat it, alone or in company, and time what is asked.

The standard library alone is known here, so that every side's ends can use the same loops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from .worker import report, rounds

__all__ = [
    "PACE",
    "Watch",
    "repeat",
    "repeat_async",
    "repeat_from_threads",
    "report_beside_bulk",
]

PACE: Final = 1e-3  # seconds between two small calls beside bulk: company, not a load of their own


def repeat(do: Callable[[], object]) -> None:
    """Do it, one after the other."""
    for count in rounds():
        for _ in range(count):
            do()


async def repeat_async(do: Callable[[], Awaitable[object]]) -> None:
    """Do it, one after the other, on any event loop."""
    for count in rounds():
        for _ in range(count):
            await do()


def repeat_from_threads(do: Callable[[], object], threads: int) -> None:
    """Do it from so many threads at once, which share the round's operations."""
    for count in rounds():
        workers = [
            threading.Thread(target=_repeat, args=(do, len(range(first, count, threads))))
            for first in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def _repeat(do: Callable[[], object], count: int) -> None:
    for _ in range(count):
        do()


class Watch:
    """Times a small call again and again, beside something else."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.over = False  # set by whoever waits for the something else

    async def run(
        self,
        call: Callable[[], Awaitable[object]],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        """Call until it is over. Not by cancelling: half a round trip would be left."""
        while not self.over:
            started = time.perf_counter()
            await call()
            self.latencies.append(time.perf_counter() - started)
            await sleep(PACE)


def report_beside_bulk(alone: float, beside: float, latencies: Sequence[float]) -> None:
    """Report what small calls had to wait beside bulk, and what they did to it.

    Args:
        alone: Seconds that the bulk took by itself.
        beside: Seconds that it took beside the calls.
        latencies: Of the calls, in seconds.
    """
    ordered = sorted(latencies)
    last = len(ordered) - 1
    report(p50=ordered[last // 2], p99=ordered[round(last * 0.99)], slowdown=beside / alone)
