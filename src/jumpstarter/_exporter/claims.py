"""Make sure that a driver is served once at a time: its `reset` and `close` have one owner.

A second server would reset and close the device while clients of the first one use it. A driver
stays claimed from before its first `reset` until every thread that runs its `reset` or `close` has
returned, including a thread that hangs and was abandoned. Drivers are told apart by identity. Any
thread may claim them.

A forked child starts without claims: the server of its parent does not run there, and neither do
the threads that would release the claims, or the locks that they held.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from ..driver._base import Driver
from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Claims", "ThreadClaim"]

_claims: Final[dict[int, _Claim]] = {}  # by `id`, since a driver may have no hash


class _Claim:
    """The claim of one server on one driver. It keeps the driver alive, so its `id` stays unique.

    Attributes:
        driver: The driver.
        title: Its name in messages.
        place: Where it is served, for messages.
        lock: Guards `threads` and `released`.
        threads: The number of threads that run, or are about to run, code of the driver.
        released: True once the server has ended.
    """

    def __init__(self, driver: Driver, title: str, place: str) -> None:
        self.driver = driver
        self.title = title
        self.place = place
        self.lock = threading.Lock()
        self.threads = 0
        self.released = False

    def forget_if_unused(self) -> None:
        """Let others claim the driver, if this claim has ended. Call it with the lock held."""
        key = id(self.driver)
        # In a forked child, another server may have claimed the driver since.
        if self.released and not self.threads and _claims.get(key) is self:
            del _claims[key]


class ThreadClaim:
    """Keep a driver claimed for one thread, from before it starts until it has returned.

    State     Next
    WAITING   RUNNING in `running`, DONE in `withdraw`
    RUNNING   DONE at the end of `running`
    DONE      -
    """

    def __init__(self, claim: _Claim) -> None:
        self._claim = claim
        self._waiting = True
        with claim.lock:
            claim.threads += 1

    def withdraw(self) -> None:
        """Release the claim if the thread has not begun; if it begins later, it does nothing.

        Does nothing once the thread runs. In any thread.
        """
        with self._claim.lock:
            if self._waiting:
                self._waiting = False
                self._end()

    @contextmanager
    def running(self) -> Iterator[bool]:
        """Keep the claim for the length of the block, even after `Claims.release`.

        Yields:
            False if the claim was withdrawn, and the driver's code must not run.
        """
        with self._claim.lock:
            runs, self._waiting = self._waiting, False
        try:
            yield runs
        finally:
            if runs:
                with self._claim.lock:
                    self._end()

    def _end(self) -> None:
        self._claim.threads -= 1
        self._claim.forget_if_unused()


class Claims:
    """Claim all drivers of a tree for one server.

    Args:
        drivers: Each driver with its name in messages.
        place: Where they are served, for the error of a second server.

    Raises:
        ConfigurationError: One of them is served already. None is claimed then.
    """

    def __init__(self, drivers: Iterable[tuple[Driver, str]], place: str) -> None:
        self._claims: dict[int, _Claim] = {}
        try:
            # Always in the same order: if two trees share drivers, one of them gets all of its own.
            for driver, title in sorted(drivers, key=lambda pair: id(pair[0])):
                claim = _Claim(driver, title, place)
                if (first := _claims.setdefault(id(driver), claim)) is not claim:
                    raise ConfigurationError(_explain_conflict(first))
                self._claims[id(driver)] = claim
        except BaseException:
            self.release()
            raise

    def for_thread(self, driver: Driver) -> ThreadClaim:
        """Claim a driver for a thread that is about to start. In any thread."""
        return ThreadClaim(self._claims[id(driver)])

    def release(self) -> None:
        """Let others serve the drivers, each as soon as no thread runs its code."""
        for claim in self._claims.values():
            with claim.lock:
                claim.released = True
                claim.forget_if_unused()


def _explain_conflict(claim: _Claim) -> str:
    if claim.released:
        return (
            f"{claim.title} was served {claim.place}, and its reset() or close() has not returned: "
            "it cannot be served again before that; make another instance"
        )
    return (
        f"{claim.title} is served already, {claim.place}: a second server would reset and close "
        "it while clients of the first one use it. Connect to that one, or make another instance"
    )


def _forget_all() -> None:
    """Drop the claims of the parent process, with locks that its other threads may have held."""
    for claim in _claims.values():
        claim.lock = threading.Lock()
    _claims.clear()


os.register_at_fork(after_in_child=_forget_all)
