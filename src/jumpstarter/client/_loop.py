"""Find out which event loop runs the code that uses a client, and refuse a wrong one."""

from __future__ import annotations

from typing import Final

import trio

from .._io.current_lane import Lane, current_lane
from .._util import trio_private
from .._util.event_loop import no_trio_loop

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["lane_of_loop"]

_FROM_ASYNCIO: Final = (
    "use a client of connect(), and call the method without _async in a thread: "
    "await asyncio.to_thread(client.call, ...)"
)


def lane_of_loop(own: trio.lowlevel.TrioToken, client: str, method: str) -> Lane | None:
    """Return the lane that runs this code, or None in the loop itself; see `Channel.check_loop`.

    Args:
        own: Identifies the loop of the client.
        client: Name of the client's class.
        method: Name of the method that was called.
    """
    try:
        token = trio_private.current_token()
    except RuntimeError:
        lane = current_lane()
        if lane is not None and lane.token is own:
            return lane
        raise no_trio_loop(f"{client}.{method}()", _FROM_ASYNCIO) from None
    if token is not own:
        text = f"{client}.{method}: this client belongs to another Trio loop"
        raise RuntimeError(
            f"{text}; make one for this loop with connect_async() or, in tests, "
            "client_for_async(); or use its blocking methods in a worker thread"
        )
    return None
