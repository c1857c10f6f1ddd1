"""Helpers that all ends on Trio share."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from .loops import Watch, report_beside_bulk
from .worker import ready, rounds

__all__ = ["Do", "on_trio", "repeat_among", "repeat_at_once", "repeat_beside_bulk", "stay"]

Do = Callable[[], Awaitable[object]]
Download = Callable[[int], Awaitable[object]]


def on_trio(main: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Turn an async function into a blocking one, because a worker calls only blocking ones."""

    @functools.wraps(main)
    def run(*args: str) -> None:
        trio.run(main, *args)

    return run


async def stay() -> None:
    """Report ready, and wait until the harness closes this server's standard input."""
    ready()
    await trio.lowlevel.wait_readable(sys.stdin)


async def repeat_at_once(do: Do, tasks: int) -> None:
    """Call `do` from several tasks concurrently, which share each round's operations."""
    for count in rounds():
        turns = iter(range(count))
        async with trio.open_nursery() as nursery:
            for _ in range(min(tasks, count)):
                nursery.start_soon(_do_for_each, do, turns)


async def _do_for_each(do: Do, turns: Iterator[int]) -> None:
    for _ in turns:
        await do()


async def repeat_among(hold: Callable[..., Awaitable[None]], each: int) -> None:
    """Hold connections or streams open concurrently, and share each round's operations among them.

    Args:
        hold: A task that opens one of them, passes the operation to `task_status.started`, and
            keeps it open until cancelled. Each runs in its own task, so that a thousand scopes
            need not be nested.
        each: The number of operations on each.
    """
    for count in rounds():
        async with trio.open_nursery() as holders:
            opened = [await holders.start(hold) for _ in range(0, count, each)]
            async with trio.open_nursery() as doers:
                for do in opened:
                    doers.start_soon(_do_for_each, do, iter(range(each)))
            holders.cancel_scope.cancel()


async def repeat_beside_bulk(downloads: Sequence[Download], call: Do) -> None:
    """Run the bulk transfers alone, then concurrently with small calls.

    Args:
        downloads: The bulk transfers, one for each stream. Each takes the number of pieces of a
            round.
        call: The small call.
    """
    for count in rounds():
        watch = Watch()
        started = time.perf_counter()
        await _download(downloads, count)
        middle = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run, call, trio.sleep)
            await _download(downloads, count)
            beside = time.perf_counter() - middle
            watch.over = True
        report_beside_bulk(middle - started, beside, watch.latencies)


async def _download(downloads: Sequence[Download], count: int) -> None:
    async with trio.open_nursery() as nursery:
        for download in downloads:
            nursery.start_soon(download, count)
