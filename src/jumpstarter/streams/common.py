"""Connect streams with each other, in either kind of loop.

This module needs the extra `compat`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .._util.extras import requires_extra

with requires_extra("compat", "jumpstarter.streams.common"):
    import anyio
    from anyio.streams.stapled import StapledObjectStream

    from .._io.anyio_tasks import open_tasks

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["copy_stream", "create_memory_stream", "forward_stream"]

_logger = logging.getLogger("jumpstarter.streams")

_ITEMS = 32  # of a memory stream that may wait to be received


async def copy_stream(dst: Any, src: Any) -> None:
    """Copy everything from one stream to another, and then the end. A checkpoint.

    A stream that is broken or closed ends the copying; that is logged, and not an error here.

    Args:
        dst: The stream to send to, by `send`. The end is passed on if it has `send_eof`.
        src: The stream to iterate over.
    """
    try:
        async for data in src:
            await dst.send(data)
        if hasattr(dst, "send_eof"):
            await dst.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
        # A peer that has closed its end after all was said is the usual end of a connection.
        usual = isinstance(exc.__cause__, BrokenPipeError)
        level = logging.DEBUG if usual else logging.WARNING
        _logger.log(level, "copying from a stream has ended: %s: %s", type(exc).__name__, exc)


@asynccontextmanager
async def forward_stream(a: Any, b: Any) -> AsyncIterator[None]:
    """Copy between two streams in both directions, and close them at the end of the block.

    The end of each direction is passed on. Entering and leaving are checkpoints; leaving waits
    until both directions have ended. If the block raises, they are ended, and its exception leaves
    unchanged.

    Args:
        a: A stream of anyio.
        b: Another one.
    """
    async with a, b, open_tasks() as tasks:
        tasks.start_soon(copy_stream, a, b)
        tasks.start_soon(copy_stream, b, a)
        yield


def create_memory_stream() -> tuple[StapledObjectStream[bytes], StapledObjectStream[bytes]]:
    """Make two connected streams of bytes in memory; each holds up to 32 items.

    Returns:
        The two ends.
    """
    to_b, from_a = anyio.create_memory_object_stream[bytes](_ITEMS)
    to_a, from_b = anyio.create_memory_object_stream[bytes](_ITEMS)
    return StapledObjectStream(to_b, from_b), StapledObjectStream(to_a, from_a)
