"""Watch the calls of a session: log how each has ended, count it, and name it to its records.

Each call is logged at level DEBUG only, and counted only for `Metrics`. A record that the code of a
call logs is told apart from those of other calls if a `JsonFormatter` is there. All of it is in a
class of its own, so that sessions without it pay nothing.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, TypeAlias

import trio

from .._protocol import events as ev
from .._protocol.frames import CallHead, ErrorBody, Hello, Kind
from .._protocol.large_message import LargeMessage, Message
from .._util.log_records import FACTS
from .._util.text import sanitize_name
from ..errors import Code
from .context import ServerContext
from .current_call import CallFacts, current_call, is_call_wanted
from .incoming_call import IncomingCall, IncomingCallState
from .metrics import CountedForwarder, MethodSeries
from .session import Session, SessionState

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["WatchedSession", "is_watched", "open_session"]

_logger: Final = logging.getLogger("jumpstarter.exporter")
_numbers: Final = itertools.count(1)  # of all calls that are watched in this process
_NAME: Final = 100  # characters of a method's name, which a client may choose


def open_session(exporter: ServerContext, *args: Any, **kwargs: Any) -> Session:
    """Make a session for a client; see `Session` for the arguments."""
    kind = WatchedSession if is_watched(exporter) else Session
    return kind(exporter, *args, **kwargs)


def is_watched(exporter: ServerContext) -> bool:
    """Return True if the calls of a session must be watched that begins now.

    A change of the logger's level affects clients that connect later.
    """
    is_counted = exporter.metrics is not None
    return is_counted or is_call_wanted() or _logger.isEnabledFor(logging.DEBUG)


# A call that has begun: how it is named to its records, unless calls are counted
# only; the series that it counts for; when it has begun; and whether its end was noted.
_Begun: TypeAlias = tuple[CallFacts | None, MethodSeries | None, float, bool]


class WatchedSession(Session):
    """A session whose calls are logged, and named to the records that they log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: dict[IncomingCall, _Begun] = {}
        self._is_named = is_call_wanted() or _logger.isEnabledFor(logging.DEBUG)
        self._series: dict[tuple[int, str], MethodSeries] = {}  # by target and exported method
        self._counting = ExitStack()

    def on_hello(self, hello: Hello) -> None:
        """See `Session`."""
        super().on_hello(hello)
        if self._state is SessionState.ADMITTED and self._exporter.metrics is not None:
            self._counting.enter_context(self._exporter.metrics.session())

    async def run(self) -> None:
        """See `Session`."""
        with self._counting:
            await super().run()

    def _call(self, event: ev.CallReceived) -> IncomingCall:
        call = super()._call(event)
        head = call.head
        series = self._series.get((head.target, head.method)) or self._series_of(head)
        if series is not None:
            series.begin()
            if call.stream is not None:
                call.forwarder = CountedForwarder(call.stream, call.changed, series)
        facts = self._facts_of(head) if self._is_named else None
        self._begun[call] = facts, series, time.perf_counter(), False
        return call

    def _series_of(self, head: CallHead) -> MethodSeries | None:
        """Return the series of an exported method; of others, a client could make any number."""
        metrics, targets = self._exporter.metrics, self._exporter.targets
        if metrics is None or head.target == 0:  # the exporter's own service
            return None
        path = self._exporter.path_of(head.target)
        exported = None if path is None else targets[head.target].exports.get(head.method)
        if path is None or exported is None:
            metrics.count_unknown()
            return None
        series = metrics.series(path, head.method, is_stream=exported.kind is Kind.STREAM)
        self._series[head.target, head.method] = series
        return series

    def _facts_of(self, head: CallHead) -> CallFacts:
        return CallFacts(self._exporter.path_of(head.target), head.method[:_NAME], next(_numbers))

    def age_of(self, call: IncomingCall) -> float | None:
        """Return for how many seconds a call has run; None if it has ended. In any thread."""
        begun = self._begun.get(call)
        return None if begun is None else time.perf_counter() - begun[2]

    def _begin(self, call: IncomingCall, task: trio.lowlevel.Task) -> Awaitable[None] | None:
        """See `BaseSession`."""
        if self._is_named:
            current_call.set(self._begun[call][0])  # the call has a context of its own
        return super()._begin(call, task)

    # Not `async`: another coroutine would make each call slower.
    def answer(
        self, call: IncomingCall, rest: Awaitable[Message] | None = None, apart: bool = False
    ) -> Coroutine[Any, Any, None]:
        """See `Session`."""
        if self._is_named and rest is None:  # otherwise it has begun, and is named
            return self._answer_named(call, apart)
        return super().answer(call, rest, apart)

    async def _answer_named(self, call: IncomingCall, apart: bool) -> None:
        current_call.set(self._begun[call][0])  # the call has a context of its own
        await super().answer(call, apart=apart)

    def run_sync(self, call: IncomingCall) -> object:
        """See `Session`. Notes here that it returned: `answered` is called with the lock."""
        if self._is_named:
            with self._named(call):
                answer = super().run_sync(call)
        else:
            answer = super().run_sync(call)
        if isinstance(answer, bytearray | LargeMessage) and self.may_answer(call):
            self._note(call, "returned", "returned")
        return answer

    def _report(self, exc: BaseException, call: IncomingCall) -> tuple[int, ErrorBody] | None:
        with self._named(call):
            return super()._report(exc, call)

    @contextmanager
    def _named(self, call: IncomingCall) -> Iterator[None]:
        token = current_call.set(self._begun[call][0])
        try:
            yield
        finally:
            current_call.reset(token)

    def answered(self, call: IncomingCall, result: Message) -> None:
        """See `Session`."""
        del self._begun[call]
        super().answered(call, result)

    def _finish(
        self, call: IncomingCall, result: Message | None, error: tuple[int, ErrorBody] | None
    ) -> None:
        if not self._begun[call][3]:
            self._note(call, *_outcome(call, error, returned=result is not None))
        del self._begun[call]
        super()._finish(call, result, error)

    def _note(self, call: IncomingCall, outcome: str, told: str) -> None:
        facts, series, at, _ = self._begun[call]
        self._begun[call] = facts, series, at, True
        took = time.perf_counter() - at
        if series is not None:
            series.end(outcome, took)
        if facts is not None and _logger.isEnabledFor(logging.DEBUG):
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
    if call.state is IncomingCallState.LATE:
        return "deadline", "its deadline passed"
    return "cancelled", "cancelled"
