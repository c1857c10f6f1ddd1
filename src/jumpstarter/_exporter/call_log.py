"""Watch the calls of a session: log how each has ended, count it, and name it to its records.

Each call is logged at level DEBUG only. A record that the code of a call logs is told apart from
those of other calls if a `JsonFormatter` is there. All of it is in a class of its own, so that
sessions without it pay nothing.
"""

from __future__ import annotations

import itertools
import logging
import time
from typing import Any, Final, NamedTuple

from .._protocol import events as ev
from .._protocol.frames import CallHead, ErrorBody
from .._util.log_records import FACTS
from .._util.text import sanitize_name
from ..errors import Code
from .context import ServerContext
from .current_call import CallFacts, current_call, is_call_wanted
from .incoming_call import CallState, IncomingCall
from .session import Session

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["WatchedSession", "is_watched", "open_session"]

_logger: Final = logging.getLogger("jumpstarter.exporter")
_numbers: Final = itertools.count(1)  # of all calls that are watched in this process
_NAME: Final = 100  # characters of a method's name, which a client may choose


def open_session(exporter: ServerContext, *args: Any, **kwargs: Any) -> Session:
    """Make a session for a client; see `Session` for the arguments."""
    kind = WatchedSession if is_watched() else Session
    return kind(exporter, *args, **kwargs)


def is_watched() -> bool:
    """Return True if the calls of a session must be watched that begins now.

    A change of the logger's level affects clients that connect later.
    """
    return is_call_wanted() or _logger.isEnabledFor(logging.DEBUG)


class _Begun(NamedTuple):
    """What is known of a call that has begun."""

    facts: CallFacts
    at: float


class WatchedSession(Session):
    """A session whose calls are logged, and named to the records that they log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: dict[IncomingCall, _Begun] = {}

    def _call(self, event: ev.CallReceived) -> IncomingCall:
        call = super()._call(event)
        self._begun[call] = _Begun(self._facts_of(call.head), time.perf_counter())
        return call

    def _facts_of(self, head: CallHead) -> CallFacts:
        return CallFacts(self._exporter.path_of(head.target), head.method[:_NAME], next(_numbers))

    async def answer(self, call: IncomingCall) -> None:
        """See `Session`. The call has a context of its own."""
        current_call.set(self._begun[call].facts)
        await super().answer(call)

    def run_sync(self, call: IncomingCall) -> object:
        """See `Session`."""
        token = current_call.set(self._begun[call].facts)
        try:
            return super().run_sync(call)
        finally:
            current_call.reset(token)

    def _report(self, exc: BaseException, call: IncomingCall) -> tuple[int, ErrorBody] | None:
        token = current_call.set(self._begun[call].facts)
        try:
            return super()._report(exc, call)
        finally:
            current_call.reset(token)

    def answered(self, call: IncomingCall, result: bytearray) -> None:
        """See `Session`."""
        self._note(call, "returned", "returned")
        super().answered(call, result)

    def _finish(
        self, call: IncomingCall, result: bytearray | None, error: tuple[int, ErrorBody] | None
    ) -> None:
        self._note(call, *_outcome(call, error, returned=result is not None))
        super()._finish(call, result, error)

    def _note(self, call: IncomingCall, outcome: str, told: str) -> None:
        facts, at = self._begun.pop(call)
        took = time.perf_counter() - at
        if _logger.isEnabledFor(logging.DEBUG):
            self._log(call, facts, outcome, told, took)

    def _log(
        self, call: IncomingCall, facts: CallFacts, outcome: str, told: str, took: float
    ) -> None:
        known = {"outcome": outcome, "duration": round(took, 6)}
        token = current_call.set(facts)
        text, title = "%s for %s: %s after %.3f ms", self.title(call)
        caller = self._context.caller
        _logger.debug(text, title, caller, told, 1000 * took, extra={FACTS: known})
        current_call.reset(token)


def _outcome(
    call: IncomingCall, error: tuple[int, ErrorBody] | None, *, returned: bool
) -> tuple[str, str]:
    """Return how a call has ended, in one word, and as the log says it."""
    if error is not None:
        code, body = error
        if body.type:
            return "raised", f"raised {sanitize_name(body.type)}"
        return "refused", f"refused ({Code.of(code, Code.UNKNOWN).name})"
    if returned:
        return "returned", "returned"
    if call.state is CallState.LATE:
        return "deadline", "its deadline passed"
    return "cancelled", "cancelled"
