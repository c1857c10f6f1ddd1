"""Loops in which clients repeat an operation, alone or concurrently with others, and time it.

This module imports only the standard library and `worker`, so that the ends of every side can use
the same loops.
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

PACE: Final = 1e-3  # seconds between two small calls during bulk; keeps their own load negligible


def repeat(do: Callable[[], object]) -> None:
    """Call `do` for each operation of each round, one after the other."""
    for count in rounds():
        for _ in range(count):
            do()


async def repeat_async(do: Callable[[], Awaitable[object]]) -> None:
    """Await `do` for each operation of each round, one after the other, on any event loop."""
    for count in rounds():
        for _ in range(count):
            await do()


def repeat_from_threads(do: Callable[[], object], threads: int) -> None:
    """Call `do` from several threads concurrently, which share each round's operations."""
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
    """Times a small call repeatedly while something else runs."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.over = False  # set when the other work has finished

    async def run(
        self,
        call: Callable[[], Awaitable[object]],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        """Repeat the call until `over` is set.

        Cancellation would end the loop in the middle of a round trip, so a flag ends it instead.
        """
        while not self.over:
            started = time.perf_counter()
            await call()
            self.latencies.append(time.perf_counter() - started)
            await sleep(PACE)


def report_beside_bulk(alone: float, beside: float, latencies: Sequence[float]) -> None:
    """Report the latencies of small calls during bulk transfers, and the slowdown of the bulk.

    Args:
        alone: Seconds that the bulk took without the calls.
        beside: Seconds that the bulk took concurrently with the calls.
        latencies: The latencies of the calls, in seconds.
    """
    ordered = sorted(latencies)
    last = len(ordered) - 1
    report(p50=ordered[last // 2], p99=ordered[round(last * 0.99)], slowdown=beside / alone)
