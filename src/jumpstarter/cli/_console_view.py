"""A recorded console that is only looked at, as a stream for the interactive console.

Another client holds the exporter, and what is typed here would reach its device. So the stream has
the record's last bytes and all that follow, and sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from ..drivers._console_client import ConsoleClient
from ..drivers._record import ConsoleOutput

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ConsoleView"]

_LAST: Final = 4096  # bytes to begin with, as `tail` has it
_NOT_SENT: Final = (
    "nothing is sent: this console is only looked at; to type, connect without --no-claim"
)


class ConsoleView:
    """The output of the device, without a way to answer. For the client's loop.

    Args:
        client: The client of the recorded console.
        tell: Writes a message to the user, and may block.
    """

    def __init__(self, client: ConsoleClient, tell: Callable[[str], None]) -> None:
        self._items = client.watch_async(last=_LAST)
        self._tell = tell
        self._was_told = False

    async def receive_some(self) -> bytes:
        """Return the next bytes, b"" when the recording has ended. A checkpoint."""
        async for item in self._items:
            if text := self._text_of(item):
                return text
        return b""

    @staticmethod
    def _text_of(item: ConsoleOutput) -> bytes:
        if item.missed:
            return b"\r\n[%d bytes were missed]\r\n" % item.missed + item.data
        return item.data

    async def send_all(self, _data: bytes) -> None:
        """Say that nothing is sent, the first time."""
        if not self._was_told:
            self._was_told = True
            await trio.to_thread.run_sync(self._tell, _NOT_SENT, abandon_on_cancel=True)

    async def send_eof(self) -> None:
        """Do nothing: there is nothing to end."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """End the view. A checkpoint."""
        await self._items.aclose()

    abort = aclose  # there is nothing to send before

    def check(self) -> None:
        """Do nothing: a failure has been raised by `receive_some`."""
