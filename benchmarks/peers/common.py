"""Helpers that the ends of several peers share: servers, and loops on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import sys
import threading
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence

from ..loops import Watch, report_beside_bulk
from ..worker import ready, rounds

__all__ = [
    "drain",
    "on_asyncio",
    "repeat_at_once",
    "repeat_beside_bulk",
    "serve_in_thread",
    "stay",
]

Do = Callable[[], Awaitable[object]]
Download = Callable[[int], Awaitable[object]]


def serve_in_thread(path: str, run: Callable[[], object]) -> None:
    """Run a blocking server until the harness closes this process's standard input.

    Args:
        path: The path of the socket on which the server listens.
        run: The server's loop. It runs in a daemon thread, which ends with the process.
    """
    threading.Thread(target=run, daemon=True).start()
    while not _listens(path):
        time.sleep(0.001)
    ready()
    sys.stdin.read()


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
        sock.connect(path)
        return True
    return False


def on_asyncio(main: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Turn an async function into a blocking one, because a worker calls only blocking ones."""

    @functools.wraps(main)
    def run(*args: str) -> None:
        async def whole() -> None:
            await main(*args)

        asyncio.run(whole())

    return run


async def stay() -> None:
    """Report ready, and wait until the harness closes this server's standard input."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin, over.set)
    ready()
    await over.wait()
    loop.remove_reader(sys.stdin)


async def drain(items: AsyncIterable[object]) -> None:
    """Receive all items and discard them."""
    async for _ in items:
        pass


async def repeat_at_once(do: Do, tasks: int) -> None:
    """Call `do` from several tasks concurrently, which share each round's operations."""
    for count in rounds():
        turns = iter(range(count))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(tasks, count)):
                group.create_task(_do_for_each(do, turns))


async def _do_for_each(do: Do, turns: Iterator[int]) -> None:
    for _ in turns:
        await do()


async def repeat_beside_bulk(downloads: Sequence[Download], call: Do) -> None:
    """Run the bulk transfers alone, then concurrently with small calls, as in `benchmarks.ends`."""
    for count in rounds():
        watch = Watch()
        started = time.perf_counter()
        await asyncio.gather(*(download(count) for download in downloads))
        middle = time.perf_counter()
        calls = asyncio.create_task(watch.run(call, asyncio.sleep))
        await asyncio.gather(*(download(count) for download in downloads))
        beside = time.perf_counter() - middle
        watch.over = True
        await calls
        report_beside_bulk(middle - started, beside, watch.latencies)
