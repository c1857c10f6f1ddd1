"""A pexpect session whose `send` sends everything. Imported only where pexpect is asked for.

The one of pexpect makes a single `write`, which a signal cuts short, or a buffer that is full where
the descriptor does not block; what was not sent is lost without a word.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any

from pexpect.fdpexpect import fdspawn

if TYPE_CHECKING:

    class Base(fdspawn[Any]):
        """Adds the names that the stubs of pexpect leave out."""

        _encoder: Any

        def _coerce_send_string(self, s: str | bytes) -> str | bytes: ...
        def _log(self, s: str | bytes, direction: str) -> None: ...
else:
    Base = fdspawn

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Session", "SessionBroken"]


class SessionBroken(BrokenPipeError):
    """The driver takes no more of what is typed: its stream has ended."""


class Session(Base):
    """The session that `pexpect_session` yields."""

    def send(self, s: str | bytes) -> int:
        """Send all of it. Waits for as long as the driver takes nothing; Ctrl-C ends that.

        Returns:
            How many bytes that were.

        Raises:
            BrokenPipeError: The driver's stream has ended, so some of it cannot arrive.
            OSError: The session was closed.
        """
        text = self._coerce_send_string(s)
        self._log(text, "send")
        data = memoryview(self._encoder.encode(text, final=False))
        sent = 0
        while sent < len(data):
            try:
                sent += os.write(self.child_fd, data[sent:])
            except BlockingIOError:  # expect(async_=True) has it not block
                _wait_writable(self.child_fd)
            except (BrokenPipeError, ConnectionResetError) as exc:
                why = f"the driver's stream has ended; {sent} of {len(data)} bytes were sent before"
                raise SessionBroken(exc.errno, why) from exc
        return sent


def _wait_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
