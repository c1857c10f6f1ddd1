"""Accept connections while an exporter runs.

The failure of a connection does not end the loop. If the system has run out of file descriptors or
memory, the loop tries again: open connections continue, and new ones wait in the listener's queue
until they can be accepted. This module does not know the protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio

from .._util.log_limit import RateLimitedLogger
from .hangup import at_end
from .listener import GONE

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["accept_forever"]

_logger = logging.getLogger("jumpstarter.exporter")

_TASK: Final = f"{__name__}.a connection"  # formatting a name for each task costs too much
_PAUSE: Final = 0.1  # seconds between tries: no event reports that descriptors are free again


async def accept_forever(
    listener: trio.abc.Listener[trio.abc.Stream],
    handler: Callable[[trio.abc.Stream], Awaitable[object]],
    nursery: trio.Nursery,
) -> NoReturn:
    """Accept connections until cancelled, and handle each in its own task.

    A checkpoint for each connection. If the system has run out of file descriptors, buffers or
    memory, it tries again every 100 ms and logs the error at most once a minute.

    Args:
        listener: The listener to accept from.
        handler: Runs in a connection's task. It closes the stream, and must not raise.
        nursery: The nursery of these tasks.

    Raises:
        trio.ClosedResourceError: The listener was closed.
    """
    event_log = RateLimitedLogger(burst=1, rate=1 / 60)
    while True:
        try:
            stream = await listener.accept()
        except (OSError, MemoryError) as exc:
            if getattr(exc, "errno", None) not in GONE:
                text = "cannot accept connections: %s; those that are open go on, trying again"
                event_log.log(_logger, logging.ERROR, text, str(exc) or type(exc).__name__)
                await trio.sleep(_PAUSE)
        else:
            if _has_gone(stream):
                await trio.aclose_forcefully(stream)
            else:
                nursery.start_soon(handler, stream, name=_TASK)


def _has_gone(stream: trio.abc.Stream) -> bool:
    """Return True if the peer hung up before it was accepted: it needs no session."""
    inner = getattr(stream, "transport_stream", stream)  # what a TLS stream runs over
    if not isinstance(inner, trio.SocketStream):
        return False
    return at_end(inner.socket)
