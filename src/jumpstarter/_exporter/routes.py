"""Find the method that a call reaches, and remember it for the next call of the same kind.

The heads of such calls are one object, since the codec keeps it, so a dictionary by identity gives
the route. A head with a timeout is its call's alone: the fields that matter give its route, more
slowly. This module runs no code of drivers.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from .._protocol.frames import CallHead, Kind
from ..driver._export import Exported
from .tree import Target

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ExecutionMode", "Route", "Routes"]

_MOST: Final = 512  # routes that are kept; the codec keeps half as many heads


class ExecutionMode(enum.Enum):
    """Which task or thread begins a call."""

    EAGER = enum.auto()  # the task that has read it, since it may never have to wait
    THREAD = enum.auto()  # a worker thread, which may own the connection meanwhile
    OWN_TASK = enum.auto()  # a task of its own


_UNARY: Final = Kind.UNARY


class Route:
    """The method that calls with a certain head reach.

    Attributes:
        head: The head; of calls with a timeout, that of the first.
        target: The driver.
        exported: The exported method, which may be of another kind than the call.
        method: The method, bound to the driver; None if it is of another kind than the call, or
            must be bound anew for each call.
        mode: How a call with few arguments is begun.
        is_direct: The call is one of a coroutine function that may be called as it is.
    """

    __slots__ = ("_index", "exported", "head", "is_direct", "method", "mode", "target")

    def __init__(self, head: CallHead, target: Target, exported: Exported) -> None:
        self.head: CallHead = head
        self.target: Target = target
        self._index: int = head.target
        self.exported: Exported = exported
        function = exported.function
        self.method: Callable[..., Any] | None = None
        # Any other descriptor may give another object each time.
        if type(function) is FunctionType and exported.kind is head.kind:
            self.method = self.bind()
        self.is_direct: bool = (
            self.method is not None
            and bool(function.__code__.co_flags & inspect.CO_COROUTINE)
            and head.kind is _UNARY
            and not head.nested
        )
        self.mode: ExecutionMode = ExecutionMode.THREAD
        if exported.kind is not head.kind or exported.is_async:
            self.mode = ExecutionMode.EAGER
        elif exported.kind is not _UNARY or head.nested:
            self.mode = ExecutionMode.OWN_TASK

    def bind(self) -> Callable[..., Any]:
        """Bind the method to the driver."""
        return self.exported.bind(self.target.instance)

    def is_of(self, head: CallHead, targets: list[Target]) -> bool:
        """Return whether this is the route of a head."""
        return self.head is head and targets[self._index] is self.target


class Routes:
    """The routes to the methods of one exporter. In any thread.

    Args:
        targets: What can be called, by the target of a CALL. It changes when drivers can be called.
    """

    __slots__ = ("_known", "_targets", "_timed")

    def __init__(self, targets: list[Target]) -> None:
        self._targets = targets
        self._known: dict[int, Route] = {}  # by the identity of the head, which they keep
        self._timed: dict[tuple[int, str, Kind, bool], Route] = {}  # of heads with a timeout

    def find(self, head: CallHead) -> Route | None:
        """Return the route of a call with this head; None if it reaches no method."""
        route = self._known.get(id(head))
        if route is not None and route.is_of(head, self._targets):
            return route
        return self._find(head)

    def _find(self, head: CallHead) -> Route | None:
        targets = self._targets
        if head.target >= len(targets):
            return None
        target = targets[head.target]
        key = (head.target, head.method, head.kind, head.nested)
        route = self._timed.get(key) if head.timeout_ms else None
        if route is not None and route.target is target:
            return route
        exported = target.exports.get(head.method)
        if exported is None:
            return None
        route = Route(head, target, exported)
        if head.timeout_ms:  # as many as there are methods, at most eight times
            self._timed[key] = route
            return route
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[id(head)] = route
        return route
