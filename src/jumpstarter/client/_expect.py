"""A pexpect session over a socket to a driver's raw stream. Imported only when one is opened.

pexpect's own `send` calls `write` once. If a signal interrupts that, or a non-blocking descriptor's
buffer is full, the rest of the bytes is lost silently. Its EOF does not say why the stream ended.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pexpect
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
    """The driver takes no more bytes: its stream has ended."""


class Session(Base):
    """The session that `pexpect_session` yields.

    Args:
        descriptor: This end of the socket.
        failure: Returns why the driver's stream has failed, or None.
        options: Of `fdspawn`.
    """

    def __init__(
        self, descriptor: int, failure: Callable[[], Exception | None], **options: Any
    ) -> None:
        super().__init__(descriptor, **options)
        self._jmp_failure = failure

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> Any:
        """Read as `fdspawn` does; the text of an EOF says why the stream has ended.

        Raises:
            pexpect.EOF: The stream has ended. `__cause__` is the failure, if it is one.
            pexpect.TIMEOUT: No bytes have arrived in time.
        """
        try:
            return super().read_nonblocking(size, timeout)
        except pexpect.EOF:
            failure = self._jmp_failure()
            if failure is None:
                raise
            raise pexpect.EOF(f"the driver's stream has ended: {failure}") from failure

    def send(self, s: str | bytes) -> int:
        """Send all bytes. Blocks while the driver reads none; Ctrl-C interrupts it.

        Returns:
            The number of bytes.

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
            except BlockingIOError:  # expect(async_=True) makes it non-blocking
                _wait_writable(self.child_fd)
            except (BrokenPipeError, ConnectionResetError) as exc:
                raise SessionBroken(exc.errno, self._why_broken(sent, len(data))) from exc
        return sent

    def _why_broken(self, sent: int, total: int) -> str:
        failure = self._jmp_failure()
        why = "" if failure is None else f" ({failure})"
        return f"the driver's stream has ended{why}; {sent} of {total} bytes were sent before"


def _wait_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
