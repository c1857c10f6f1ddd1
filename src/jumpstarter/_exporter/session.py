"""Answer the calls of one connection, and report how each has ended.

Each call gets exactly one terminal frame, after the driver's code for it has ended. A call ends
because the driver returned or raised, its deadline passed, the client cancelled it, or the session
ends. An exception of the driver never leaves its call. When the connection ends, the session
cancels its calls and waits for them before `run` returns.

    state        next
    HANDSHAKE    ADMITTED or REJECTED, in `on_hello`; CLEANING_UP
    ADMITTED     DRAINING, in `drain`; CLEANING_UP
    REJECTED     CLEANING_UP, when the client has read the reason, or was evicted
    DRAINING     CLEANING_UP, when the calls have ended, or the connection is lost
    CLEANING_UP  OVER, when the functions given to `on_disconnect` have run
    OVER         -

The session owns its state. CLEANING_UP begins in `run`, when the connection and all its calls have
ended. This module knows neither client code nor addresses.
"""

from __future__ import annotations

import enum
import hmac
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import ClassVar, Final

import trio

from .._io.transport import transport_for
from .._protocol.codec import truncate
from .._protocol.frames import ErrorBody, Hello
from .._protocol.large_message import Message
from .._util.background import open_background
from .._util.ctrl_c import pass_on_ctrl_c
from .._util.log_limit import RateLimitedLogger
from .._util.reentrancy import CallOrigin, call_origin
from .._util.text import sanitize_name
from .._util.trio_private import cancel_status
from .._util.wakeup import LazyEvent
from .._version import __version__
from ..driver._caller import (
    Caller,
    ClaimedIdentity,
    ConnectionContext,
    VerifiedIdentity,
    current_connection,
)
from ..driver._drain import current_drain
from ..errors import Code, HandshakeError
from .answering import BaseSession
from .context import ServerContext
from .disconnect_hooks import DisconnectHooks
from .dispatch import Dispatcher
from .drain import end_listening
from .error_reporter import ErrorReporter
from .incoming_call import IncomingCall, IncomingCallState, check_scopes
from .led_connection import LedConnection
from .worker import Worker

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Session", "SessionState", "caller_of", "tasks_of"]

_logger = logging.getLogger("jumpstarter.exporter")

AGENT: Final = f"jumpstarter/{__version__}"
_CLAIM: Final = 255  # characters of the name, and of the agent, that a client sends
_SHUTTING_DOWN: Final = "the exporter is shutting down"
_SHOWN_CALLS: Final = 8  # calls that one line of the log names
_TO_END: Final = 1.0  # seconds for cancelled calls to end before the log names them


class SessionState(enum.Enum):
    """How far a session is; see the module's docstring."""

    HANDSHAKE = enum.auto()
    ADMITTED = enum.auto()
    REJECTED = enum.auto()
    DRAINING = enum.auto()
    CLEANING_UP = enum.auto()
    OVER = enum.auto()


class Session(BaseSession):
    """The calls of one connection, from HELLO to the last of them.

    Args:
        exporter: The exporter whose drivers are called.
        stream: The stream to the client.
        name: The client's name in the log.
        welcome: False for a client that is not admitted, whatever token it sends.
        verify: Returns what the system or TLS reports of a stream's client. Called after its HELLO.

    Attributes:
        running: The calls that have not ended.
    """

    _connection: LedConnection
    _dispatcher: Dispatcher
    _connection_class: ClassVar[type[LedConnection]] = LedConnection
    _is_exclusive: ClassVar[bool] = False

    def __init__(
        self,
        exporter: ServerContext,
        stream: trio.abc.Stream,
        name: str,
        *,
        welcome: bool = True,
        verify: Callable[[trio.abc.Stream], VerifiedIdentity] = lambda _: VerifiedIdentity(),
    ) -> None:
        super().__init__(exporter)
        self._welcome = welcome
        self._stream = stream
        self._verify = verify
        self._context = ConnectionContext()
        event_log = RateLimitedLogger(parent=exporter.error_log)
        self._error_reporter = ErrorReporter(event_log, send_tracebacks=exporter.send_tracebacks)
        self._connection = self._connection_class(
            transport_for(stream),
            self._rules,
            self,
            name,
            event_log=exporter.event_log,
            dispatch_lock=exporter.dispatch_lock,
        )
        self._dispatcher = Dispatcher(exporter, self._connection, self._rules)
        self.executor: Final = exporter.executor  # see `CallSource`
        self._state = SessionState.HANDSHAKE
        self._over = LazyEvent()  # set in state OVER
        self._hooks = DisconnectHooks(self._context, exporter.executor, self._error_reporter, name)

    async def run(self) -> None:
        """Answer calls until the connection ends. Raises nothing but Cancelled.

        When it returns, all drivers' code of this session has ended.
        """
        # The tasks and threads that answer calls are started in here, and inherit these.
        call_origin.set(CallOrigin.CALLED)
        current_connection.set(self._context)
        current_drain.set(self._exporter.drain)
        self._exporter.admission.arrive(self)
        try:
            await self._connection.run()
        finally:
            self._exporter.admission.leave(self)
            self._state = SessionState.CLEANING_UP
            try:
                await self._hooks.run()
            finally:
                self._state = SessionState.OVER
                self._over.set()
        self._log_end()

    def _log_end(self) -> None:
        exporter, ended = self._exporter, self._connection.ended
        if self._context.caller is not None:
            text, name = "%s has left: %s", self._connection.name
            exporter.access_log.log(_logger, logging.INFO, text, name, ended)
        elif self._rules.failure is None:  # otherwise the connection has logged it
            exporter.event_log.log(_logger, logging.INFO, "no session came about: %s", ended)
        self._error_reporter.event_log.close(_logger, self._connection.name)

    def title(self, call: IncomingCall) -> str:
        """Name the method that a call asks for, for the log. In any thread."""
        return self._dispatcher.title(call.head)

    async def drain(self, grace: float, text: str) -> None:
        """Accept no more calls, let running calls finish, and end the connection.

        A checkpoint. If it is cancelled, it cancels the calls, and hurries the functions that run
        at the connection's end. It still waits for both.

        Args:
            grace: Seconds for calls to end and answers to be sent; then calls are cancelled.
            text: The reason, for the client.
        """
        is_new = self._state in (SessionState.HANDSHAKE, SessionState.REJECTED)
        if is_new or self._rules.failure is not None:
            self._connection.end(ConnectionError(text))
            return
        self._hooks.drain()
        if self._connection.ended is None:
            with self._connection.lock:
                self._state = SessionState.DRAINING
            await self._drain_calls(grace, text)
        try:
            await self._over.wait()
        finally:  # of a drain that was cancelled, since the operator has asked again
            if not self._over.is_set():
                self._hooks.hurry()
                with trio.CancelScope(shield=True):
                    await self._over.wait()

    async def _drain_calls(self, grace: float, text: str) -> None:
        self._exporter.drain.begin()
        with self._connection.lock:
            self._rules.goaway(Code.OK, int(min(grace, 4e6) * 1000), text)
            self._connection.writer.flush()
        try:
            async with open_background() as nursery:
                limit_of = self._dispatcher.drain_of
                nursery.start_soon(end_listening, self._going, limit_of, self._end_calls)
                with trio.move_on_after(grace):
                    await self._connection.acked.wait()
                    await self._answered()
                    await self._connection.writer.written()
        finally:
            self._end_calls(self._going())
            with trio.CancelScope(shield=True):
                with trio.move_on_after(_TO_END):
                    await self._answered()
                for call in self._going():
                    text = "%s goes on; the exporter ends when it has returned, or by SIGKILL"
                    _logger.warning(text, self._dispatcher.title(call.head))
                await self._answered()
                await self._connection.writer.flush_goaway()
            self._connection.end(ConnectionError("the exporter has shut down"))

    def _going(self) -> list[IncomingCall]:
        """Return the calls that have not ended: threads may change `running`."""
        with self._connection.lock:
            return list(self.running)

    def _end_calls(self, calls: Sequence[IncomingCall]) -> None:
        """Cancel calls because the exporter ends, and log it."""
        with self._connection.lock:
            going = [call for call in calls if call in self.running and not call.cancelled]
            for call in going:
                call.cancel(_SHUTTING_DOWN)
        if going:
            _log_cancelled([self.title(call) for call in going], self._context.caller)

    async def _answered(self) -> None:
        with self._connection.lock:  # a thread that ends the last call looks at this with the lock
            self._is_awaited = True
        while self.running and self._connection.ended is None:
            await self._all_answered.park()

    # ----------------------------------------------------------------- for the connection

    def on_hello(self, hello: Hello) -> None:
        """Admit or reject a client."""
        if self._connection.ended is not None:  # evicted, or lost, while HELLO was being read
            return
        exporter, expected = self._exporter, self._exporter.token
        code, told = Code.UNAUTHENTICATED, "not admitted"  # without the reason, which is a secret
        if not self._welcome:
            why = "its user is not allowed to; --allow-user or users= allows it"
        elif expected and not hmac.compare_digest(hello.token.encode(), expected.encode()):
            why = "no valid token"
        elif not exporter.admission.admit(self):
            code = Code.RESOURCE_EXHAUSTED
            told = why = f"{exporter.limits.max_connections} clients are connected already"
        else:
            self._state = SessionState.ADMITTED
            self._rules.admit(Hello.of(exporter.limits, agent=AGENT, exclusive=self._is_exclusive))
            verified = self._verify(self._stream)
            self._context.caller = _introduce(hello, next(exporter.connections), verified)
            text, name = "%s has connected: %s", self._connection.name
            client = f"{sanitize_name(hello.agent or '?')}, {self._context.caller}"
            exporter.access_log.log(_logger, logging.INFO, text, name, client)
            return
        text, name = "%s was not admitted: %s", self._connection.name
        exporter.auth_log.log(_logger, logging.WARNING, text, name, why)
        self._state = SessionState.REJECTED
        exporter.admission.reject(self)
        self._rules.refuse(code, told)

    def evict(self) -> None:
        """Close the connection, which was not admitted: a newer one needs its slot."""
        text = f"{self._connection.name} had not said HELLO, and gave way to others"
        self._connection.end(HandshakeError(text))

    def on_slot_free(self) -> None:
        """Wake `drain`: the connection has ended, so it need not wait for answers."""
        self._all_answered.unpark_all()

    # ------------------------------------------------------------------------- one call

    async def answer(
        self, call: IncomingCall, rest: Awaitable[Message] | None = None, apart: bool = False
    ) -> None:
        """See `BaseSession`."""
        scope = self._connection.enter_apart(call) if apart else None
        if call.head.nested:
            call_origin.set(CallOrigin.NESTED)
        result: Message | None = None
        error: tuple[int, ErrorBody] | None = None
        try:
            if rest is None:
                rest = await self._dispatcher.run_async(call)
            result = await rest
            check_scopes(call.status, trio.lowlevel.current_task())
        except BaseException as exc:  # noqa: BLE001 - SystemExit too stays within its call
            # Without a local variable for it: the traceback refers to this frame, which would keep
            # the call's arguments alive.
            error = self._report(exc, call)
        self._finish(call, result, error)
        if scope is not None:
            self._connection.leave_apart(scope)

    async def answer_in_thread(self, worker: Worker) -> None:
        """Let a thread answer calls, and finish the call that it returns unanswered, if any."""
        result: Message | None = None
        error: tuple[int, ErrorBody] | None = None
        task = trio.lowlevel.current_task()
        status = cancel_status(task)
        try:
            for answer in await self._dispatcher.executor.thread(worker.lead):
                result = await self._dispatcher.finished(answer)
                check_scopes(status, task)
        except BaseException as exc:  # in the loop, as in `answer`
            if worker.call is None:
                raise  # not the exception of a driver
            error = self._report(exc, worker.call)
        if worker.call is not None:
            self._finish(worker.call, result, error)

    def _report(self, exc: BaseException, call: IncomingCall) -> tuple[int, ErrorBody] | None:
        pass_on_ctrl_c(exc)
        return self._dispatcher.report(self._error_reporter, exc, call)

    def _cancellation_error(self, call: IncomingCall) -> tuple[int, ErrorBody]:
        return _cancellation_error(call, in_drain=self._exporter.drain.has_begun)


def caller_of(session: Session) -> Caller | None:
    """Return the client of a session, once it was admitted."""
    return session._context.caller  # noqa: SLF001 - of this module


def _introduce(hello: Hello, connection: int, verified: VerifiedIdentity) -> Caller:
    claimed = ClaimedIdentity(
        name=truncate(hello.name, _CLAIM), agent=truncate(hello.agent, _CLAIM)
    )
    return Caller(connection=connection, verified=verified, claimed=claimed)


def _cancellation_error(call: IncomingCall, *, in_drain: bool) -> tuple[int, ErrorBody]:
    if call.state is IncomingCallState.LATE:
        seconds = call.head.timeout_ms / 1000
        text = f"its deadline passed, {seconds:g} s after the exporter had received it"
        return Code.DEADLINE_EXCEEDED, ErrorBody("", text)
    return Code.CANCELLED, ErrorBody("", _SHUTTING_DOWN if in_drain else "the call was cancelled")


def _log_cancelled(titles: Sequence[str], caller: Caller | None) -> None:
    shown = ", ".join(titles[:_SHOWN_CALLS])
    more = f", and {len(titles) - _SHOWN_CALLS} more" if len(titles) > _SHOWN_CALLS else ""
    text = "%d calls of %s are cancelled, since the exporter shuts down: %s%s"
    _logger.info(text, len(titles), caller, shown, more)


def tasks_of(session: Session) -> Collection[trio.lowlevel.Task]:
    """Return the tasks of a session that runs, among them those that answer calls."""
    return session._connection.tasks  # noqa: SLF001 - of this module
