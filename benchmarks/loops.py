"""Loops in which clients repeat an operation, alone or concurrently with others, and time it.

This module imports only the standard library and `worker`, so that the ends of every side can use
the same loops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from .worker import report, rounds

__all__ = [
    "PACE",
    "Watch",
    "percentiles",
    "repeat",
    "repeat_async",
    "repeat_from_threads",
    "repeat_timed",
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


def repeat_timed(do: Callable[[], object], beside: str) -> None:
    """Time each call of `do`, and report the percentiles of each round.

    Args:
        do: The operation.
        beside: "computing" to run a thread beside that computes in Python all the time, or
            "nothing".
    """
    for count in rounds():
        if beside == "computing":
            with _computing():
                latencies = _timed(do, count)
        else:
            latencies = _timed(do, count)
        report(**percentiles(latencies))


def _timed(do: Callable[[], object], count: int) -> list[float]:
    latencies = []
    for _ in range(count):
        started = time.perf_counter()
        do()
        latencies.append(time.perf_counter() - started)
    return latencies


@contextmanager
def _computing() -> Iterator[None]:
    """Run a thread that computes while the block runs: the interpreter's lock is never free."""
    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=_compute, args=(begun, over))
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _compute(begun: threading.Event, over: threading.Event) -> None:
    begun.set()
    number = 0
    while not over.is_set():
        number = (number * 5 + 1) % 1_000_003


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
    report(**percentiles(latencies), slowdown=beside / alone)


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, by the names of their measures."""
    ordered = sorted(latencies)
    last = len(ordered) - 1
    return {"p50": ordered[last // 2], "p99": ordered[round(last * 0.99)]}
