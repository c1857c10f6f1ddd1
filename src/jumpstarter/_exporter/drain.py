"""In a drain, end calls whose client only receives, so that it need not last its whole grace.

Such calls are generators, and raw streams on which the client sends nothing. A generator is not
ended while a driver uses a loan of the same client: it may take an image and yield its progress. A
driver chooses another time with the argument `drain=` of its decorator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import trio

from .._protocol.frames import CallHead, Kind
from ..driver._drain import DRAIN_GRACE
from .incoming_call import IncomingCall

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["end_listening"]


async def end_listening(
    calls: Callable[[], Collection[IncomingCall]],
    limit_of: Callable[[CallHead], float | None],
    end_calls: Callable[[Sequence[IncomingCall]], None],
) -> None:
    """Cancel calls in a drain, each when its time is up. A checkpoint; it runs until cancelled.

    Args:
        calls: Returns the calls of one connection that have not ended.
        limit_of: Returns how many seconds a call may continue; None if that depends on what its
            client does, which is checked every `DRAIN_GRACE` seconds.
        end_calls: Cancels calls.
    """
    begin = trio.current_time()
    next_look = begin + DRAIN_GRACE
    counts = {call: call.sent_by_client for call in calls()}
    while True:
        now = trio.current_time()
        look, times = next_look <= now, [next_look]
        over = []
        running = calls()
        for call in running:
            limit = limit_of(call.head)
            if limit is not None and begin + limit > now:
                times.append(begin + limit)
            elif limit is not None or (look and _only_listens(call, running, counts)):
                over.append(call)
        end_calls(over)
        if look:
            next_look = times[0] = now + DRAIN_GRACE
        await trio.sleep_until(min(times))


def _only_listens(
    call: IncomingCall, running: Collection[IncomingCall], counts: dict[IncomingCall, int]
) -> bool:
    if call.head.kind is Kind.GENERATOR:
        return not any(other.is_loan_in_use for other in running)
    before, counts[call] = counts.get(call, 0), call.sent_by_client
    return counts[call] == before and not call.is_sending
