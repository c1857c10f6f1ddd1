"""How large the conformance cases are, over sockets, in memory, byte by byte, and in sweeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from jumpstarter import Limits
from jumpstarter.errors import Code

__all__ = ["DRIPPING", "FULL", "IN_MEMORY", "PASSED_ON", "SWEPT", "Scale"]

# The code of a DriverError that a driver raises, and the one that its caller sees: what speaks of
# a call that the driver itself had made is not true of this one.
PASSED_ON: Final = {code: code for code in Code if Code.OK < code <= Code.CLOSE} | {
    Code.CANCELLED: Code.UNKNOWN,
    Code.DEADLINE_EXCEEDED: Code.TIMED_OUT,
    Code.RESOURCE_EXHAUSTED: Code.UNAVAILABLE,
    Code.REFUSED: Code.UNAVAILABLE,
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the cases are; by default as in gRPC.

    Attributes:
        request: Bytes of a large argument.
        response: Bytes of a large result.
        uploads: Bytes of the messages that are streamed to the driver.
        downloads: Bytes of those that come from it.
        large_calls: Large calls on one connection.
        calls: Small calls at once on one connection.
        soak: Small calls one after the other.
        codes: What a driver fails with.
        windows: How much is offered to a reader that does not read, in windows.
        echoes: Calls after which what is in flight on other slots has arrived.
        limits: Of both sides.
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
    echoes: int = 10
    # Ten thousand calls that end at once take a moment, and none is to give up waiting.
    limits: Limits = field(default_factory=lambda: Limits(max_calls=10_000, cancel_grace=60.0))

    def within(self, max_calls: int | None) -> Scale:
        """The same with so many slots, or as many as before."""
        limits = self.limits
        return replace(self, limits=replace(limits, max_calls=max_calls or limits.max_calls))


FULL: Final = Scale()
IN_MEMORY: Final = Scale(large_calls=100, calls=2_000)
DRIPPING: Final = Scale(large_calls=10, calls=2_000)  # byte by byte; takes a second or two
# All in small: what one connection costs is paid thousands of times. A large message is still of
# several frames, and a stream still longer than its window.
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
