"""The private names of Trio that this library uses: all of them, and nowhere else.

Trio has no public way to do the same, or only a slow one: entering a cancel scope for each call
takes 15 % of what the call costs, and asking Trio for the deadline 15 to 20 % of an async call. So
an import looks for each name. If a release of Trio lacks one, its entry in `ABSENT` says so, and
something public but worse takes its place:

    private name                what it tells                        without it
    --------------------------  -----------------------------------  ------------------------------
    GLOBAL_RUN_CONTEXT,         the task that a loop runs, read      the watchdog is off, and warns
    Task._schedule_points       from another thread, and its step
    GLOBAL_RUN_CONTEXT,         the same in the loop's thread, and   Trio calls two or three Python
    Runner.trio_token           the loop's token                     functions each time
    Task._cancel_status         whether a driver's code has left a   each call has a task, and Trio
                                cancel scope open                    ends the scope with it
    Task._child_nurseries       the nurseries that it has left open  leaving one open ends the
                                                                     connection
    CancelStatus._scope,        the deadline of the scopes that a    Trio calls three Python
    CancelStatus._parent,       task is in                           functions for each of them
    CancelScope._deadline,
    CancelScope._shield
    CancelStatus                whether the running task is          Trio looks for the deadline of
      .effectively_cancelled    cancelled                            all its scopes
    WaitTaskRescheduled         the request to Trio to let a task    each wait makes a request and
                                sleep, which can be used again       two coroutines
    Task._runner,               whether Ctrl-C has come while Trio   an async call that is then made
    Runner.ki_pending,          ran, and the main task is to raise   is cancelled as soon as it has
    Runner.main_task            KeyboardInterrupt                    been sent

The module is compiled: each async call and each call of an `async` method asks. Attributes must be
slots of their classes: compiled code looks any other up among all names, which costs ten times as
much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import trio

from .._members import Member, member_of

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ABSENT",
    "CAN_SEE_SCOPES",
    "cancel_status",
    "current_task",
    "current_token",
    "effective_deadline",
    "forget_child_nurseries",
    "is_cancelled",
    "request_to_sleep",
    "run_context",
    "steps_of",
]

_run: Any
try:
    from trio._core import _run
except ImportError:
    _run = None
_run_context: Any = getattr(_run, "GLOBAL_RUN_CONTEXT", None)
_absent: list[str] = [] if _run_context is not None else ["GLOBAL_RUN_CONTEXT"]


def _member(owner: Any, kind: str, name: str) -> Any:
    """Find a slot of a class of Trio's, or note that it is absent."""
    member = member_of(owner, name)
    if member is None:
        _absent.append(f"{kind}.{name}")
    return member


_Task: Any = getattr(trio.lowlevel, "Task", None)
_CancelStatus: Any = getattr(_run, "CancelStatus", None)
_CancelScope: Any = getattr(_run, "CancelScope", None)
_Runner: Any = getattr(_run, "Runner", None)
# Slots, which compiled code reads without looking for their names.
_member(_Task, "Task", "_schedule_points")
_CANCEL_STATUS: Final[Member] = _member(_Task, "Task", "_cancel_status")
_member(_Task, "Task", "_child_nurseries")
_RUNNER: Final[Member] = _member(_Task, "Task", "_runner")
_IS_CANCELLED: Final[Member] = _member(_CancelStatus, "CancelStatus", "effectively_cancelled")
_SCOPE: Final[Member] = _member(_CancelStatus, "CancelStatus", "_scope")
_PARENT: Final[Member] = _member(_CancelStatus, "CancelStatus", "_parent")
_DEADLINE: Final[Member] = _member(_CancelScope, "CancelScope", "_deadline")
_SHIELD: Final[Member] = _member(_CancelScope, "CancelScope", "_shield")
_KI_PENDING: Final[Member] = _member(_Runner, "Runner", "ki_pending")
_MAIN_TASK: Final[Member] = _member(_Runner, "Runner", "main_task")
_TRIO_TOKEN: Final[Member] = _member(_Runner, "Runner", "trio_token")
_WaitTaskRescheduled: Any = getattr(_run, "WaitTaskRescheduled", None)


class _Woken:
    """What `_can_request` sends to a coroutine that waits, in place of an outcome."""

    def unwrap(self) -> _Woken:
        return self


def _can_request() -> bool:
    """Return whether a coroutine waits by yielding one request, and unwraps what is sent to it."""

    def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.SUCCEEDED

    woken: Any = _Woken()
    coroutine: Any = trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 - Trio is not asked
    try:
        request = coroutine.send(None)
        coroutine.send(woken)
    except StopIteration as done:
        return type(request) is _WaitTaskRescheduled and done.value is woken
    except Exception:  # noqa: BLE001 - of a later version of Trio, which must not break the import
        return False
    finally:
        coroutine.close()
    return False


if not _can_request():
    _absent.append("WaitTaskRescheduled")

ABSENT: Final[tuple[str, ...]] = tuple(_absent)
CAN_SEE_TASK: Final = _run_context is not None
CAN_SEE_TOKEN: Final = not {"GLOBAL_RUN_CONTEXT", "Runner.trio_token"} & {*ABSENT}
CAN_SEE_SCOPES: Final = "Task._cancel_status" not in ABSENT
CAN_SEE_CANCELLATION: Final = CAN_SEE_SCOPES and "CancelStatus.effectively_cancelled" not in ABSENT
CAN_SEE_DEADLINES: Final = CAN_SEE_SCOPES and not any(each.startswith("Cancel") for each in ABSENT)
CAN_SEE_CTRL_C: Final = not {"Task._runner", "Runner.ki_pending", "Runner.main_task"} & {*ABSENT}
CAN_REQUEST_SLEEP: Final = "WaitTaskRescheduled" not in ABSENT


def request_to_sleep(abort: Callable[[Any], trio.lowlevel.Abort]) -> object:
    """Return what the running task yields to Trio to sleep until it is rescheduled.

    Trio then sends it an outcome, which it unwraps. It may yield the request again, since that only
    holds the function. None if Trio has no such request: then use `wait_task_rescheduled`.
    """
    return _WaitTaskRescheduled(abort) if CAN_REQUEST_SLEEP else None


def run_context() -> dict[str, Any]:
    """Return the variables of this thread's loop, which another thread may read later.

    Its `task` is the running task, and is absent while the loop waits.

    Raises:
        TypeError: This version of Trio has none.
    """
    variables: dict[str, Any] = vars(_run_context)
    return variables


def current_task() -> trio.lowlevel.Task:
    """Return what `trio.lowlevel.current_task` does.

    Raises:
        RuntimeError: No task runs here.
    """
    if CAN_SEE_TASK:
        try:
            task: trio.lowlevel.Task = _run_context.task
        except AttributeError:
            pass
        else:
            return task
    return trio.lowlevel.current_task()  # which raises the error


def current_token() -> trio.lowlevel.TrioToken:
    """Return what `trio.lowlevel.current_trio_token` does.

    Raises:
        RuntimeError: No loop runs here.
    """
    if CAN_SEE_TOKEN:
        try:
            token: trio.lowlevel.TrioToken | None = _TRIO_TOKEN.get(_run_context.runner)
        except AttributeError:
            token = None
        if token is not None:
            return token
    return trio.lowlevel.current_trio_token()  # which makes the first one, or raises the error


def steps_of(task: trio.lowlevel.Task) -> int:
    """Return how often a task has been resumed. From any thread.

    Raises:
        AttributeError: This version of Trio does not count.
    """
    return task._schedule_points  # noqa: SLF001 - see this module's docstring


def cancel_status(task: trio.lowlevel.Task) -> object:
    """Return an object that identifies the innermost cancel scope of the running task.

    A version of Trio in which it cannot be seen gives a different object each time.
    """
    if CAN_SEE_SCOPES:
        return _CANCEL_STATUS.get(task)
    return object()


def is_cancelled(task: trio.lowlevel.Task) -> bool:
    """Return whether the next checkpoint of the running task raises Cancelled."""
    if CAN_SEE_CANCELLATION:
        return bool(_IS_CANCELLED.get(_CANCEL_STATUS.get(task)))
    return trio.current_effective_deadline() == -math.inf


def effective_deadline() -> float:
    """Return what `trio.current_effective_deadline` does, or -inf if Ctrl-C is pending.

    So it is -inf if the next checkpoint of the running task raises an exception.
    """
    if not (CAN_SEE_DEADLINES and CAN_SEE_CTRL_C):
        return trio.current_effective_deadline()
    task = current_task()
    status = _CANCEL_STATUS.get(task)
    if _IS_CANCELLED.get(status) or _awaits_ctrl_c(task):
        return -math.inf
    deadline = math.inf
    while status is not None:
        scope = _SCOPE.get(status)
        own = _DEADLINE.get(scope)
        deadline = min(deadline, own)
        if _SHIELD.get(scope):
            break
        status = _PARENT.get(status)
    return deadline


def _awaits_ctrl_c(task: trio.lowlevel.Task) -> bool:
    runner = _RUNNER.get(task)
    return bool(_KI_PENDING.get(runner)) and task is _MAIN_TASK.get(runner)


def forget_child_nurseries() -> bool:
    """Drop the nurseries that this task has left open. Return whether that is possible."""
    task: Any = trio.lowlevel.current_task()
    try:
        task._child_nurseries.clear()  # noqa: SLF001 - as above
    except AttributeError:
        return False
    return True
