"""What all ends that run on Trio share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable

import trio

from .worker import ready

__all__ = ["on_trio", "stay"]


def on_trio(main: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a blocking function of an async one: a worker knows no other."""

    @functools.wraps(main)
    def run(*args: str) -> None:
        trio.run(main, *args)

    return run


async def stay() -> None:
    """Serve until the harness is done with this server."""
    ready()
    await trio.lowlevel.wait_readable(sys.stdin)
