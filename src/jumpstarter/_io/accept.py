"""Takes in who connects, for as long as an exporter lives.

Nothing that goes wrong with one connection ends it, and want of descriptors or memory is waited
out: those who are connected go on, and those who wait in the listener's queue are taken in when
there is room again. This file knows no protocol.
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

_PAUSE: Final = 0.1  # seconds: what is missing comes back when others let go, and we hear of none


async def accept_forever(
    listener: trio.abc.Listener[trio.abc.Stream],
    handler: Callable[[trio.abc.Stream], Awaitable[object]],
    nursery: trio.Nursery,
) -> NoReturn:
    """Accept connections until cancelled, each to a task of its own.

    A checkpoint for each. What is missing (descriptors, buffers, memory) is said once and then at
    most once a minute; a try is made every 100 ms.

    Args:
        listener: Who takes the connections of the system.
        handler: What a connection's task runs. It closes the stream, and raises nothing.
        nursery: Where the tasks run.

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
                nursery.start_soon(handler, stream)


def _has_gone(stream: trio.abc.Stream) -> bool:
    """Tell if a peer has hung up before it was accepted, without a word: it costs no session."""
    inner = getattr(stream, "transport_stream", stream)  # what a TLS stream runs over
    if not isinstance(inner, trio.SocketStream):
        return False
    return at_end(inner.socket)
