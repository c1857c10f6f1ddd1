"""Limits on frames that cost a connection attention and bring nothing: PINGs, late frames, ACKs.

The protocol's rules count such frames. This module decides how many in which time are too many.
"""

from __future__ import annotations

from .._limits import Limits
from .._protocol.base import BaseProtocol
from .._util.rate_limit import TokenBucket
from ..errors import Code, RemoteProtocolError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["RateLimits"]


class RateLimits:
    """The two token buckets of a connection.

    Attributes:
        total: How many frames were charged: the sum of `late_frames`, `no_op_frames` and
            `control_frames` of the rules at the last charge.
    """

    __slots__ = ("_buckets", "_counted", "_limits", "total")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: tuple[TokenBucket, TokenBucket] | None = None  # once they are needed
        self._counted = (0, 0)  # frames without effect, control frames
        self.total: int = 0

    def charge(self, rules: BaseProtocol, now: float) -> RemoteProtocolError | None:
        """Charge the frames that have arrived since the last call.

        Args:
            rules: The rules that have counted them.
            now: The time, in seconds of one clock.

        Returns:
            The breach if the peer has sent too many, otherwise None.
        """
        counters = (rules.late_frames + rules.no_op_frames, rules.control_frames)
        no_op, control = (new - old for new, old in zip(counters, self._counted, strict=True))
        self._counted = counters
        self.total = sum(counters)
        limits = self._limits
        if self._buckets is None:
            self._buckets = (
                TokenBucket(limits.late_burst, limits.late_rate),
                TokenBucket(limits.ping_burst, limits.ping_rate),
            )
        no_op_frames, control_frames = self._buckets
        if not control_frames.try_acquire(now, control):
            what, burst, rate = "PING and GOAWAY", limits.ping_burst, limits.ping_rate
            names = "ping_burst", "ping_rate"
        elif not no_op_frames.try_acquire(now, no_op):
            what, burst, rate = "frames to no effect", limits.late_burst, limits.late_rate
            names = "late_burst", "late_rate"
        else:
            return None
        text = f"more {what} than {names[0]} ({burst}) and {names[1]} ({rate:g} a second) allow"
        return RemoteProtocolError(text, Code.TOO_MANY_FRAMES)
