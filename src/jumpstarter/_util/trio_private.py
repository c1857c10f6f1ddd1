"""The private names of Trio that this library uses: all of them, and nowhere else.

Trio has no public way to do the same, or only a slow one: entering a cancel scope for each call
takes 15 % of what the call costs, and asking Trio for the deadline 15 to 20 % of an async call. So
an import looks for each name. If a release of Trio lacks one, its entry in `ABSENT` says so, and
something public but worse takes its place:

    private name                what it tells                        without it
    --------------------------  -----------------------------------  ------------------------------
    GLOBAL_RUN_CONTEXT,         the task that a loop runs, read      the watchdog is off, and warns
    Task._schedule_points       from another thread, and its step
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
    Task._runner,               whether Ctrl-C has come while Trio   an async call that is then made
    Runner.ki_pending,          ran, and the main task is to raise   is cancelled as soon as it has
    Runner.main_task            KeyboardInterrupt                    been sent

The module is compiled: each async call and each call of an `async` method asks.
"""

from __future__ import annotations

import math
from typing import Any, Final

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ABSENT",
    "CAN_SEE_SCOPES",
    "cancel_status",
    "effective_deadline",
    "forget_child_nurseries",
    "is_cancelled",
    "run_context",
    "steps_of",
]

_TASK: Final[Any] = getattr(trio.lowlevel, "Task", None)
_ATTRIBUTES: Final = ("_schedule_points", "_cancel_status", "_child_nurseries", "_runner")

_run: Any
try:
    from trio._core import _run
except ImportError:
    _run = None
_run_context: Any = getattr(_run, "GLOBAL_RUN_CONTEXT", None)
_CANCELLED: Final = "effectively_cancelled"
_OF_CLASSES: Final = {
    "CancelStatus": ("_scope", "_parent"),
    "CancelScope": ("_deadline", "_shield"),
    "Runner": ("ki_pending", "main_task"),
}

ABSENT: Final[tuple[str, ...]] = (
    *(("GLOBAL_RUN_CONTEXT",) if _run_context is None else ()),
    *(f"Task.{name}" for name in _ATTRIBUTES if not hasattr(_TASK, name)),
    *(
        ()
        if hasattr(getattr(_run, "CancelStatus", None), _CANCELLED)
        else ("CancelStatus." + _CANCELLED,)
    ),
    *(
        f"{kind}.{name}"
        for kind, names in _OF_CLASSES.items()
        for name in names
        if not hasattr(getattr(_run, kind, None), name)
    ),
)
CAN_SEE_SCOPES: Final = "Task._cancel_status" not in ABSENT
CAN_SEE_CANCELLATION: Final = CAN_SEE_SCOPES and f"CancelStatus.{_CANCELLED}" not in ABSENT
CAN_SEE_DEADLINES: Final = CAN_SEE_SCOPES and not any(each.startswith("Cancel") for each in ABSENT)
CAN_SEE_CTRL_C: Final = not {"Task._runner", "Runner.ki_pending", "Runner.main_task"} & {*ABSENT}


def run_context() -> dict[str, Any]:
    """Return the variables of this thread's loop, which another thread may read later.

    Its `task` is the running task, and is absent while the loop waits.

    Raises:
        TypeError: This version of Trio has none.
    """
    variables: dict[str, Any] = vars(_run_context)
    return variables


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
        return task._cancel_status  # noqa: SLF001 - as above
    return object()


def is_cancelled(task: trio.lowlevel.Task) -> bool:
    """Return whether the next checkpoint of the running task raises Cancelled."""
    if CAN_SEE_CANCELLATION:
        return task._cancel_status.effectively_cancelled  # noqa: SLF001 - as above
    return trio.current_effective_deadline() == -math.inf


def effective_deadline() -> float:
    """Return what `trio.current_effective_deadline` does, or -inf if Ctrl-C is pending.

    So it is -inf if the next checkpoint of the running task raises an exception.
    """
    if not (CAN_SEE_DEADLINES and CAN_SEE_CTRL_C):
        return trio.current_effective_deadline()
    task: Any = trio.lowlevel.current_task()
    status = task._cancel_status  # noqa: SLF001 - as above
    if status.effectively_cancelled or _awaits_ctrl_c(task):
        return -math.inf
    deadline = math.inf
    while status is not None:
        scope = status._scope  # noqa: SLF001 - as above
        own = scope._deadline  # noqa: SLF001 - as above
        deadline = min(deadline, own)
        if scope._shield:  # noqa: SLF001 - as above
            break
        status = status._parent  # noqa: SLF001 - as above
    return deadline


def _awaits_ctrl_c(task: Any) -> bool:
    runner = task._runner  # noqa: SLF001 - as above
    return runner.ki_pending and task is runner.main_task


def forget_child_nurseries() -> bool:
    """Drop the nurseries that this task has left open. Return whether that is possible."""
    try:
        trio.lowlevel.current_task()._child_nurseries.clear()  # noqa: SLF001 - as above
    except AttributeError:
        return False
    return True
