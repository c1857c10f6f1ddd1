"""Log each call of a session: the method, the client, how it ended, and how long it took.

At level DEBUG only. It is a class of its own, so that sessions that do not log calls pay nothing.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from .._protocol import events as ev
from .._protocol.frames import ErrorBody
from .._util.text import sanitize_name
from ..errors import Code
from .incoming_call import CallState, IncomingCall
from .session import Session

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["open_session"]

_logger: Final = logging.getLogger("jumpstarter.exporter")


def open_session(*args: Any, **kwargs: Any) -> Session:
    """Make a session for a client; see `Session` for the arguments.

    The logger's level is read now: a change affects clients that connect later.
    """
    kind = LoggedSession if _logger.isEnabledFor(logging.DEBUG) else Session
    return kind(*args, **kwargs)


class LoggedSession(Session):
    """A session whose calls are logged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._began: dict[IncomingCall, float] = {}

    def _call(self, event: ev.CallReceived) -> IncomingCall:
        call = super()._call(event)
        self._began[call] = time.perf_counter()
        return call

    def answered(self, call: IncomingCall, result: bytearray) -> None:
        """See `Session`."""
        self._note(call, "returned")
        super().answered(call, result)

    def _finish(
        self, call: IncomingCall, result: bytearray | None, error: tuple[int, ErrorBody] | None
    ) -> None:
        self._note(call, _outcome(call, error, returned=result is not None))
        super()._finish(call, result, error)

    def _note(self, call: IncomingCall, outcome: str) -> None:
        took = 1000 * (time.perf_counter() - self._began.pop(call))
        text = "%s for %s: %s after %.3f ms"
        _logger.debug(text, self._dispatcher.title(call.head), self._context.caller, outcome, took)


def _outcome(call: IncomingCall, error: tuple[int, ErrorBody] | None, *, returned: bool) -> str:
    if error is not None:
        code, body = error
        if body.type:
            return f"raised {sanitize_name(body.type)}"
        return f"refused ({Code.of(code, Code.UNKNOWN).name})"
    if returned:
        return "returned"
    if call.state is CallState.LATE:
        return "its deadline passed"
    return "cancelled"
