"""Call `reset` or `close` of each driver of a tree once, whichever code asks for it.

The server asks for each driver in its turn. A driver's `super().close()` asks for the drivers below
it, so that they are closed when it returns. And a driver may call a child's method by hand. A round
sees to it that each method runs once.

    state of a driver in a round   next
    WAITING                        BEGUN, by the first that asks
    BEGUN                          -

Parents begin before their children: if `super().close()` of a driver reaches a child that another
driver, which waits, has too, the child is left for that one. Nested calls of `super().close()` are
passed on to 50 levels; what is deeper has its turn afterwards.

This module knows neither the base class of drivers nor threads.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Family", "Round", "Turn", "current_turn"]

_MAX_NESTED: Final = 50  # calls within one another, each of which takes some of Python's stack
_ABSENT: Final = object()
_logger: Final = logging.getLogger("jumpstarter.exporter")

# The turn in which this code of a driver runs.
_turn: Final[ContextVar[Turn | None]] = ContextVar("jumpstarter_turn", default=None)


class Family:
    """The drivers of a tree, and which are the parents of which.

    Args:
        rows: Each driver with its parent, parents before children.

    Attributes:
        drivers: Each driver once, by its `id`, after all of its parents.
    """

    def __init__(self, rows: Iterable[tuple[Any, Any]]) -> None:
        self.drivers: dict[int, Any] = {}
        self._parents: dict[int, set[int]] = {}
        self._children: dict[int, dict[int, None]] = {}
        for driver, parent in rows:
            self.drivers.pop(id(driver), None)  # its last place comes after all of its parents
            self.drivers[id(driver)] = driver
            if parent is not None:
                self._parents.setdefault(id(driver), set()).add(id(parent))
                self._children.setdefault(id(parent), {})[id(driver)] = None
        self._places = {key: place for place, key in enumerate(self.drivers)}

    def parents_of(self, driver: Any) -> set[int]:
        """Return the `id` of each parent of a driver."""
        return self._parents.get(id(driver), set())

    def below(self, driver: Any) -> list[Any]:
        """Return the drivers below a driver, each once, after all of its parents."""
        found: set[int] = set()
        waiting = [id(driver)]
        while waiting:
            below = [key for key in self._children.get(waiting.pop(), ()) if key not in found]
            found.update(below)
            waiting.extend(below)
        return [self.drivers[key] for key in sorted(found, key=self._places.__getitem__)]

    def part(self, top: Any) -> Family:
        """Return a driver and those below it, as a family of its own."""
        below = self.below(top)
        keys = {id(top), *map(id, below)}
        rows: list[tuple[Any, Any]] = [(top, None)]
        for driver in below:
            parents = sorted(self.parents_of(driver) & keys, key=self._places.__getitem__)
            rows += [(driver, self.drivers[key]) for key in parents]
        return Family(rows)


class Round:
    """One round of `reset` or `close` through a tree. Used by any number of threads.

    Args:
        verb: `"reset"` or `"close"`.
        base: The method of the base class, which only passes on.
        family: The drivers.
        failed: Called with a driver and its exception, if the others are to have their turn all the
            same. None raises the exception where the driver was asked.
        caught: The exceptions for which `failed` is called.
        around: Makes a context for each call of a driver's method.
    """

    def __init__(
        self,
        verb: str,
        base: Callable[..., None],
        family: Family,
        *,
        failed: Callable[[Any, BaseException], None] | None = None,
        caught: type[BaseException] = Exception,
        around: Callable[[Any], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.verb = verb
        self.family = family
        self.failed = failed
        self.caught = caught
        self.around = around
        self._base = base
        self._lock = threading.Lock()
        self._begun: set[int] = set()
        self._users = 0
        self._own: dict[int, _Own] = {}

    def begin(self, driver: Any) -> bool:
        """Return True to the first that asks for a driver."""
        with self._lock:
            if id(driver) in self._begun:
                return False
            self._begun.add(id(driver))
            return True

    @property
    def progress(self) -> int:
        """How many drivers have begun."""
        return len(self._begun)

    def overrides(self, driver: Any) -> bool:
        """Return True if a driver's method does more than to pass on."""
        return getattr(self.method_of(driver), "__func__", None) is not self._base

    def method_of(self, driver: Any) -> Callable[[], None]:
        """Return a driver's own method, whose place `watched` has given to another."""
        return self._own[id(driver)].method

    def may_begin(self, driver: Any) -> bool:
        """Return False if a parent of the driver has not begun."""
        return self.family.parents_of(driver) <= self._begun

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Put a method into each driver that leads into the round, for calls by hand.

        It stays for as long as one of these blocks lasts, in any thread: the block of a thread that
        hangs, too.
        """
        with self._lock:
            self._users += 1
            if self._users == 1:
                for driver in self.family.drivers.values():
                    self._replace(driver)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._restore()

    def _replace(self, driver: Any) -> None:
        def by_hand() -> None:
            if self.begin(driver):
                turn = _turn.get()
                nested = turn is not None and turn.round is self
                (turn if nested and turn is not None else Turn(self)).run(driver)

        attributes = vars(driver)
        before = attributes.get(self.verb, _ABSENT)
        self._own[id(driver)] = _Own(getattr(driver, self.verb), before, by_hand)
        attributes[self.verb] = by_hand

    def _restore(self) -> None:
        for key, own in self._own.items():
            attributes = vars(self.family.drivers[key])
            if attributes.get(self.verb) is own.instead:  # and not the method of a later round
                del attributes[self.verb]
                if own.before is not _ABSENT:
                    attributes[self.verb] = own.before
        self._own.clear()


class _Own(NamedTuple):
    """A method that a round has replaced in one driver.

    Attributes:
        method: The driver's method.
        before: The attribute of the instance, if it had one of this name.
        instead: The attribute now.
    """

    method: Callable[[], None]
    before: object
    instead: Callable[[], None]


class Turn:
    """The code of one driver that the server runs, and what that asks for, in one thread.

    Attributes:
        round: The round.
        running: The drivers whose methods run, each called by the one before.
        failure: The last exception of a method, and the driver that raised it first.
    """

    def __init__(self, round_: Round) -> None:
        self.round = round_
        self.running: list[Any] = []
        self.failure: tuple[BaseException, Any] | None = None

    def run(self, driver: Any) -> None:
        """Call the method of a driver that has begun.

        Raises:
            BaseException: Raised by the method.
        """
        token = _turn.set(self)
        self.running.append(driver)
        try:
            with self.round.around(driver) as runs:
                if runs is not False:
                    self._report_async(driver, self.round.method_of(driver)())
        except BaseException as exc:
            if self.failure is None or self.failure[0] is not exc:
                self.failure = exc, driver
            raise
        finally:
            self.running.pop()
            _turn.reset(token)

    def _report_async(self, driver: Any, result: object) -> None:
        """Log an error if the method has returned a coroutine, whose code has not run.

        It is not raised, because a driver may export an async method of this name, for its clients.
        """
        if inspect.iscoroutine(result):
            result.close()
            text = "%s() of %s is async, and did not run: write a plain method; it may use %s"
            kind = type(driver).__qualname__
            _logger.error(text, self.round.verb, kind, "anyio.from_thread")

    def attempt(self, driver: Any) -> None:
        """Call the method of a driver that has begun, and report its exception to `failed`."""
        try:
            self.run(driver)
        except self.round.caught as exc:
            if self.round.failed is None:
                raise
            self.round.failed(driver, exc)

    def pass_on(self, driver: Any) -> None:
        """Ask for all drivers below one, as `super().close()` does."""
        if len(self.running) >= _MAX_NESTED:
            return
        for other in self.round.family.below(driver):
            may_begin = self.round.may_begin(other) and self.round.begin(other)
            if may_begin and self.round.overrides(other):
                self.attempt(other)


def current_turn(driver: Any, verb: str) -> Turn | None:
    """Return the turn in which a driver's method runs, or None if it was called outside of one."""
    turn = _turn.get()
    if turn is None or turn.round.verb != verb or id(driver) not in turn.round.family.drivers:
        return None
    return turn
