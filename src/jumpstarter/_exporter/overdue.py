"""Log which calls go on after they were cancelled, where they are, and how to change that.

The end of a connection waits for its calls, and so do the ends of the exporter and of `serve`. A
plain method that waits for an event, or `async` code that is shielded, can make them wait forever.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import trio

from .._io.watchdog import function_in, summary_of
from .._util.foreign_frames import frame_of, locals_of, stack_of_thread
from .._util.log_limit import RateLimitedLogger
from .._util.wakeup import Wakeup
from .cancellations import woken_by_cancellations
from .eager import resume
from .executor import in_worker_thread
from .incoming_call import IncomingCall
from .session import Session, tasks_of

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["OverdueCalls"]

PATIENCE: Final = 3.0  # seconds: more than most drivers need to clean up, and less than users have

_IN_A_THREAD: Final = (
    "a thread cannot be interrupted, so give its waits a timeout, and call "
    "trio.from_thread.check_cancelled() between them"
)
_ASYNC: Final = (
    "it is shielded from the cancellation, or has caught it, so give that a deadline, or raise "
    "the exception again"
)
_NEXT: Final = ("cr_await", "gi_yieldfrom", "ag_await")  # what a coroutine or generator waits for

_logger = logging.getLogger("jumpstarter.overdue")


class OverdueCalls:
    """Watches the cancelled calls of an exporter, while there are any.

    Args:
        sessions: Its sessions, which change.
    """

    def __init__(self, sessions: Collection[Session]) -> None:
        self._sessions = sessions
        self._cancelled = Wakeup()
        self._logged: set[IncomingCall] = set()  # of those that go on
        self._log = RateLimitedLogger()
        # The exporter may be cancelled, and goes on until the calls have ended.
        self._scope = trio.CancelScope(shield=True)

    async def run(self) -> None:
        """Log overdue calls until `stop`. Only that cancels it."""
        with self._scope, woken_by_cancellations(self._cancelled):
            while True:
                await self._cancelled.wait()
                await self._watch()

    def stop(self) -> None:
        """End `run`."""
        self._scope.cancel()

    async def _watch(self) -> None:
        """Log cancelled calls that go on for too long; those cancelled meanwhile a bit later."""
        while waiting := self._going().keys() - self._logged:
            await trio.sleep(PATIENCE)
            going = self._going()
            self._logged &= going.keys()
            for call in waiting & going.keys():
                self._logged.add(call)
                self._log.log(_logger, logging.WARNING, "%s", _describe(going[call], call))

    def _going(self) -> dict[IncomingCall, Session]:
        """Return the calls that were cancelled and have not ended, with their sessions."""
        return {
            call: session
            for session in self._sessions
            for call in list(session.running)  # a thread may add one
            if call.cancelled
        }


def _describe(session: Session, call: IncomingCall) -> str:
    """Say which call goes on, what to do, and where it is."""
    thread, stack = False, list[FrameType]()
    with suppress(Exception):  # frames and tasks change while we look at them
        thread, stack = _place_of(session, call)
    text = f"{session.title(call)} has not ended, {PATIENCE:g} s after it was cancelled, and"
    text += " the end of its client, or of the exporter, waits for it: "
    text += _IN_A_THREAD if thread else _ASYNC
    if function_in(stack, "") is None:  # only libraries' frames, as of code in the asyncio lane
        return text
    return f"{text}. It is at:\n{''.join(summary_of(stack).format()).rstrip()}"


def _place_of(session: Session, call: IncomingCall) -> tuple[bool, list[FrameType]]:
    """Return whether a call is in a thread, and its frames, the innermost first."""
    for task in tasks_of(session):
        frames = list(_frames_of(task.coro))
        if any(_answers(frame, call) for frame in frames):
            for frame in frames:
                if frame.f_code is in_worker_thread.__code__:
                    ident = locals_of(frame).get("thread")
                    return True, [] if ident is None else stack_of_thread(ident)
            return False, frames[::-1]
    return False, []


def _answers(frame: FrameType, call: IncomingCall) -> bool:
    """Return True if a frame is the session's own for a call."""
    if frame.f_code is Session.answer.__code__:
        return locals_of(frame).get("call") is call
    if frame.f_code is Session.answer_in_thread.__code__:
        return locals_of(frame)["worker"].call is call
    return False


def _frames_of(coro: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine or generator that waits, the outermost first."""
    while (frame := frame_of(coro)) is not None:
        yield frame
        coro = _inner(coro, frame)


def _inner(coro: Any, frame: FrameType) -> Any:
    """Return the coroutine or generator that another one waits for."""
    if frame.f_code is resume.__code__:
        return locals_of(frame).get("work")
    inner = next((each for name in _NEXT if (each := getattr(coro, name, None)) is not None), None)
    if inner is None or frame_of(inner) is not None:
        return inner
    # It waits for a step of an async generator, which does not tell the generator.
    own = locals_of(frame)
    return own.get("source") or getattr(own.get("self"), "gen", None)
