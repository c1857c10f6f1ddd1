"""One driver, as the channel's client sees it: an address, and how to speak of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .._protocol.frames import Kind
from ._channel import Channel, Request
from ._methods import Method

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DriverRef"]


class DriverRef:
    """A channel bound to one driver of the exporter.

    Attributes:
        channel: The connection it shares with the rest of the tree.
        who: How messages name the driver.
        methods: What it exports that can be an attribute, by name.
        doc: What it says of itself, or empty.
    """

    __slots__ = ("_target", "channel", "doc", "methods", "who")

    def __init__(
        self,
        channel: Channel,
        target: int,
        who: str,
        methods: Mapping[str, Method] = MappingProxyType({}),
        doc: str = "",
    ) -> None:
        self.channel: Channel = channel
        self._target = target
        self.who: str = who
        self.methods: Mapping[str, Method] = methods
        self.doc: str = doc

    def request(
        self, kind: Kind, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request:
        """Encode a call of this driver. In any thread.

        Raises:
            DriverInvalidArgument: An argument cannot be encoded.
        """
        return Request(self._target, kind, method, args, kwargs, who=self.who)

    def lending(self, mode: str, encoding: str) -> Request:
        """Encode a request to lend something to this driver. In any thread.

        Args:
            mode: What the driver does with it, `"read"` or `"write"`.
            encoding: How it is compressed on the wire, `""` or `"zstd"`.
        """
        args = (self._target, mode, encoding)
        return Request(0, Kind.STREAM, "lend", args, who=f"the exporter, to {self.who}")
