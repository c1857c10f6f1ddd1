"""Sizes of the conformance cases: over sockets, in memory, byte by byte, and in sweeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from jumpstarter import Limits
from jumpstarter._io.crossing_queue import CAPACITY
from jumpstarter._io.lane_streams import BATCH
from jumpstarter.errors import Code

__all__ = ["DRIPPING", "FULL", "IN_MEMORY", "LANE_SWEPT", "PASSED_ON", "SWEPT", "Scale"]

# Maps the code of a DriverError that a driver raises to the code that its caller receives. A code
# that describes a call made by the driver itself would be wrong for the caller's own call.
PASSED_ON: Final = {code: code for code in Code if Code.OK < code <= Code.CLOSE} | {
    Code.CANCELLED: Code.UNKNOWN,
    Code.DEADLINE_EXCEEDED: Code.TIMED_OUT,
    Code.RESOURCE_EXHAUSTED: Code.UNAVAILABLE,
    Code.REFUSED: Code.UNAVAILABLE,
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of the cases; the defaults are gRPC's.

    Attributes:
        request: Bytes of a large argument.
        response: Bytes of a large result.
        uploads: Bytes of each message streamed to the driver.
        downloads: Bytes of each message streamed from the driver.
        large_calls: Large calls on one connection.
        calls: Concurrent small calls on one connection.
        soak: Consecutive small calls.
        codes: Codes of the errors that a driver raises.
        windows: Windows of data offered to a reader that does not read.
        lane_windows: Windows of data that wait between Trio and an asyncio lane.
        echoes: Calls after which data in flight on other slots has arrived.
        limits: Limits of both sides.
    """

    request: int = 271_828
    response: int = 314_159
    uploads: tuple[int, ...] = (27_182, 8, 1_828, 45_904)
    downloads: tuple[int, ...] = (31_415, 9, 2_653, 58_979)
    large_calls: int = 1_000
    calls: int = 10_000
    soak: int = 1_000
    codes: tuple[Code, ...] = tuple(PASSED_ON)
    windows: int = 16
    lane_windows: int = 0
    echoes: int = 10
    # Ten thousand calls that end together take a moment, and each must wait for its end.
    limits: Limits = field(default_factory=lambda: Limits(max_calls=10_000, cancel_grace=60.0))

    def in_lane(self) -> Scale:
        """Return a copy for a driver of asyncio, whose streams cross between two loops."""
        pieces = (CAPACITY + BATCH) // self.limits.stream_window + 1
        # The queue between the loops takes what fills it quickly, which lets a window grow.
        limits = replace(self.limits, max_window=self.limits.stream_window)
        return replace(self, lane_windows=pieces, windows=self.windows + pieces, limits=limits)

    def within(self, max_calls: int | None) -> Scale:
        """Return a copy with `max_calls` slots, or with as many as before if it is None."""
        limits = self.limits
        return replace(self, limits=replace(limits, max_calls=max_calls or limits.max_calls))


FULL: Final = Scale()
IN_MEMORY: Final = Scale(large_calls=100, calls=2_000)
DRIPPING: Final = Scale(large_calls=10, calls=2_000)  # byte by byte; takes a second or two
# Everything is small, because a sweep pays for one connection thousands of times. A large message
# still takes several frames, and a stream is still longer than its window.
SWEPT: Final = Scale(
    request=1_300,
    response=1_500,
    uploads=(271, 8, 18, 459),
    downloads=(314, 9, 26, 589),
    large_calls=3,
    calls=5,
    soak=3,
    codes=(Code.UNKNOWN,),
    windows=4,
    echoes=3,
    limits=Limits(max_frame=1024, stream_window=256, max_window=256, cancel_grace=60.0),
)
# For a driver of asyncio, if the queue between the loops takes one chunk (`CAPACITY` is 1).
LANE_SWEPT: Final = replace(SWEPT, lane_windows=1)
