"""Show the progress of a stream as a bar, in either kind of loop.

This module needs the extra `compat`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .._util.extras import requires_extra
from ..client._progress import Meter, open_meter

with requires_extra("compat", "jumpstarter.streams.progress"):
    from anyio.abc import ObjectStream

    from ..client._progress_attribute import ProgressAttribute

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ProgressAttribute", "ProgressStream"]

_logger = logging.getLogger("jumpstarter.progress")

_LOG_INTERVAL: Final = 2.0  # seconds


@dataclass(kw_only=True)
class ProgressStream(ObjectStream[bytes]):
    """Passes everything to and from another stream, and shows how much that was.

    There is a bar on stderr if that is a terminal other than one with `TERM=dumb`, and the transfer
    takes longer than a second.

    Attributes:
        stream: The other stream. Its `ProgressAttribute.total` is the end of the bar.
        logging: Log the progress every 2 seconds in place of the bar.
    """

    stream: Any
    logging: bool = False
    _meter: Meter | None = field(init=False, default=None, repr=False)
    _logged: float = field(init=False, default_factory=time.monotonic, repr=False)

    async def receive(self) -> bytes:
        """Receive from the stream. A checkpoint; raises as the stream does."""
        data: bytes = await self.stream.receive()
        self._advance(len(data))
        return data

    async def send(self, item: bytes) -> None:
        """Send to the stream. A checkpoint; raises as the stream does."""
        await self.stream.send(item)
        self._advance(len(item))

    def _advance(self, count: int) -> None:
        if self._meter is None:
            total = self.stream.extra(ProgressAttribute.total, None)
            shown = False if self.logging else None
            self._meter = open_meter(shown, "transfer", None if total is None else int(total))
        self._meter.advance(count)
        if self.logging and time.monotonic() - self._logged >= _LOG_INTERVAL:
            self._logged = time.monotonic()
            of = "" if self._meter.total is None else f" of {self._meter.total:,}"
            _logger.info("transferred %s%s bytes", f"{self._meter.count:,}", of)

    async def send_eof(self) -> None:
        """End this half of the stream. A checkpoint."""
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream, and end the display. A checkpoint."""
        self._close_meter()
        await self.stream.aclose()

    def _close_meter(self) -> None:
        if self._meter is not None:
            self._meter.close()

    def __del__(self) -> None:
        self._close_meter()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes of the other stream."""
        attributes: Mapping[Any, Callable[[], Any]] = self.stream.extra_attributes
        return attributes
