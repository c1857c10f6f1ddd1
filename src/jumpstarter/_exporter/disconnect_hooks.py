"""Run the functions that drivers have registered for the end of one connection.

They run one after the other, the last one first, each with `HOOK_TIMEOUT` seconds. Once the
exporter ends, all hooks of a connection share one such timeout, since 1,024 of them could otherwise
delay it for hours. When the time is up, the hooks that have not begun are not skipped, since they
switch devices off: they run concurrently, with `LAST_MOMENT` seconds. After that, async functions
are cancelled. A plain function cannot be, since it runs in a thread, so the log names it.

    state of a hook   next
    REGISTERED        RUNNING, when those before it have ended or have used up their time
    RUNNING           ENDED, by itself; CANCELLED, when its time is up
    CANCELLED         ENDED, when its cleanup is done; a plain function, when it returns
    ENDED             -

The first state is kept by `ConnectionContext`, the others by this module, in the session's task.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Callable
from typing import Any, Final

import trio

from .._util.background import open_background
from .._util.ctrl_c import pass_on_ctrl_c
from .._util.wakeup import Wakeup
from ..driver._caller import ConnectionContext
from .error_reporter import ErrorReporter
from .executor import DriverExecutor

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DisconnectHooks"]

_logger: Final = logging.getLogger("jumpstarter.exporter")

HOOK_TIMEOUT: Final = 10.0  # seconds; hardware is slow
LAST_MOMENT: Final = 1.0  # seconds for hooks that have run out of time or are hurried


class HookState(enum.Enum):
    """How far a hook is; see the module's docstring."""

    RUNNING = enum.auto()
    CANCELLED = enum.auto()
    ENDED = enum.auto()


class _Hook:
    """One function that runs."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.scope = trio.CancelScope()
        self.state = HookState.RUNNING

    def __str__(self) -> str:
        name = getattr(self.function, "__qualname__", None) or repr(self.function)
        return f"the function given to on_disconnect() ({name:.100})"

    @property
    def ended(self) -> bool:
        """True once its function has returned or raised."""
        return self.state is HookState.ENDED

    def cancel(self) -> None:
        """Cancel the function: an async one ends at its next checkpoint."""
        self.state = HookState.CANCELLED
        self.scope.cancel()


class DisconnectHooks:
    """Run what drivers have registered for the end of one connection.

    Args:
        connection: The connection with which the functions are registered.
        executor: Runs the functions.
        error_reporter: Logs exceptions of the functions.
        name: How the log names the client.
    """

    __slots__ = (
        "_changed",
        "_connection",
        "_deadline",
        "_errors",
        "_executor",
        "_is_draining",
        "_name",
        "_running",
    )

    def __init__(
        self,
        connection: ConnectionContext,
        executor: DriverExecutor,
        error_reporter: ErrorReporter,
        name: str,
    ) -> None:
        self._connection = connection
        self._executor = executor
        self._errors = error_reporter
        self._name = name
        self._deadline = math.inf  # of all hooks together
        self._is_draining = False
        self._running: list[_Hook] | None = None  # once they run
        self._changed = Wakeup()  # a hook has ended, or the deadline has changed

    def drain(self) -> None:
        """Let all hooks share one timeout, from now or from when they begin."""
        self._is_draining = True
        if self._running is not None:
            self._set_deadline(HOOK_TIMEOUT)

    def hurry(self) -> None:
        """Limit all hooks to `LAST_MOMENT` seconds, and log those that do not end."""
        if self._running is not None and self._deadline <= trio.current_time():
            self._log_hanging()  # again, since the operator has asked again
        self._set_deadline(0)

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = min(self._deadline, trio.current_time() + seconds)
        self._changed.set()

    async def run(self) -> None:
        """Run all hooks. A checkpoint if there are any; cancelling it is like `drain`."""
        function = self._connection.take_hook()
        if function is None:
            return
        self._running = []
        if self._is_draining:
            self._set_deadline(HOOK_TIMEOUT)
        async with open_background() as nursery:
            nursery.start_soon(self._notice_cancellation)
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as hooks:
                    while function is not None:
                        await self._run_next(hooks, function)
                        function = self._connection.take_hook()
                    await self._end_all()

    async def _notice_cancellation(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.drain()

    async def _run_next(self, nursery: trio.Nursery, function: Callable[[], Any]) -> None:
        assert self._running is not None
        hook = _Hook(function)
        self._running.append(hook)
        nursery.start_soon(self._run_hook, hook)
        await self._wait(lambda: hook.ended, trio.current_time() + HOOK_TIMEOUT)
        if not hook.ended and trio.current_time() < self._deadline:
            text = "%s has not ended %g s after %s had left; others begin"
            _logger.warning(text, hook, HOOK_TIMEOUT, self._name)
            hook.cancel()

    async def _end_all(self) -> None:
        """Wait for the hooks that still run, and cancel them once the exporter ends."""
        await self._wait(self._all_ended, math.inf)
        if self._running:
            await self._wait_a_moment()  # for those that have begun last
            for hook in self._running:
                hook.cancel()
            await self._wait_a_moment()
            self._log_hanging()

    async def _wait(self, done: Callable[[], bool], deadline: float) -> None:
        while not done() and trio.current_time() < min(deadline, self._deadline):
            with trio.CancelScope(deadline=min(deadline, self._deadline)):
                await self._changed.wait()

    async def _wait_a_moment(self) -> None:
        with trio.move_on_after(LAST_MOMENT):
            while not self._all_ended():
                await self._changed.wait()

    def _all_ended(self) -> bool:
        return not self._running

    def _log_hanging(self) -> None:
        for hook in self._running or ():
            text = "%s goes on for %s; the exporter ends when it has returned, or by SIGKILL"
            _logger.warning(text, hook, self._name)

    async def _run_hook(self, hook: _Hook) -> None:
        assert self._running is not None
        try:
            with hook.scope:
                await self._executor.run_hook(hook.function)
        except BaseException as exc:  # noqa: BLE001 - SystemExit too stays within it, as in a call
            pass_on_ctrl_c(exc)
            self._errors.log(exc, str(hook))
        finally:
            hook.state = HookState.ENDED
            self._running.remove(hook)
            self._changed.set()
