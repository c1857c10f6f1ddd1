"""One driver, as the channel's client sees it: an address, and how to speak of it."""

from __future__ import annotations

from typing import Any

from .._messages import Kind
from ._channel import Channel, Request

__all__ = ["Remote"]


class Remote:
    """A channel bound to one driver of the exporter.

    Attributes:
        channel: The connection it shares with the rest of the tree.
        who: How messages name the driver.
    """

    __slots__ = ("_target", "channel", "who")

    def __init__(self, channel: Channel, target: int, who: str) -> None:
        self.channel = channel
        self._target = target
        self.who = who

    def request(
        self, kind: Kind, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request:
        """Encode a call of this driver. In any thread.

        Raises:
            DriverInvalidArgument: An argument cannot be encoded.
        """
        return Request(self._target, kind, method, args, kwargs, who=self.who)
