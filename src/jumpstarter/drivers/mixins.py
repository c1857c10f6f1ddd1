"""What client classes are put together from.

A mixin adds methods to a subclass of `DriverClient`, on either side of it among the bases. It uses
what every client has, and knows nothing of portals, connections or Trio.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..client import BlockingStream

__all__ = ["StreamMixin"]


class _Streaming(Protocol):
    """What a mixin needs of the client that it is part of."""

    def stream(
        self, method: str = ..., *args: Any, **kwargs: Any
    ) -> AbstractContextManager[BlockingStream]: ...


class StreamMixin:
    """For the client of a driver that has a raw stream, as a serial console has."""

    def connect(
        self: _Streaming, method: str = "connect"
    ) -> AbstractContextManager[BlockingStream]:
        """Open the driver's raw stream for the length of a `with` block. Blocks.

        From any thread that runs no Trio loop. Leaving the block closes the stream: what was sent
        is still delivered, and the driver's code has ended.

        Args:
            method: Name of the `exportstream` method.

        Returns:
            A context manager that gives the stream.

        Raises:
            DriverError: (on entering) The driver could not open it, or (on leaving) has failed
                with it.
        """
        return self.stream(method)
