"""A driver is served once at a time: its `reset` and `close` belong to whoever serves it.

A second serving would reset and close the device under the clients of the first. A claim lasts from
before the first `reset` until every thread that runs a verb of the driver has returned, one that
hangs and was left behind too. Drivers are told apart by identity; any thread may claim.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from ..driver._base import Driver
from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Claims"]

_claimed: Final[dict[int, _Claim]] = {}  # by `id`: a driver may have no hash


class _Claim:
    """One driver, which is kept alive by it, so that its `id` stays its own."""

    def __init__(self, driver: Driver, title: str, place: str) -> None:
        self.driver = driver
        self.title = title
        self.place = place
        self.lock = threading.Lock()
        self.busy = 0  # threads that run its code
        self.released = False

    def settle(self) -> None:
        """Forget the claim once nobody needs it. With the lock."""
        if self.released and not self.busy:
            _claimed.pop(id(self.driver), None)


class Claims:
    """All drivers of a tree, each claimed for one serving.

    Args:
        drivers: Each with how messages name it.
        place: Where they are served, for the error of a second serving.

    Raises:
        ConfigurationError: One of them is served already; none is claimed.
    """

    def __init__(self, drivers: Iterable[tuple[Driver, str]], place: str) -> None:
        self._claims: dict[int, _Claim] = {}
        try:
            # In one order everywhere: of trees that share drivers, one gets all of its own.
            for driver, title in sorted(drivers, key=lambda pair: id(pair[0])):
                claim = _Claim(driver, title, place)
                if (first := _claimed.setdefault(id(driver), claim)) is not claim:
                    raise ConfigurationError(_refusal(first))
                self._claims[id(driver)] = claim
        except BaseException:
            self.release()
            raise

    @contextmanager
    def running(self, driver: Driver) -> Iterator[None]:
        """Keep the claim of a driver while its code runs, even past `release`. In any thread."""
        claim = self._claims[id(driver)]
        try:
            yield
        finally:
            with claim.lock:
                claim.busy -= 1
                claim.settle()

    def begin(self, driver: Driver) -> None:
        """Say that a thread is about to enter `running`."""
        claim = self._claims[id(driver)]
        with claim.lock:
            claim.busy += 1

    def release(self) -> None:
        """Let others serve the drivers, each once none of its code runs."""
        for claim in self._claims.values():
            with claim.lock:
                claim.released = True
                claim.settle()


def _refusal(claim: _Claim) -> str:
    if claim.released:
        return (
            f"{claim.title} was served {claim.place}, and its reset() or close() has not returned: "
            "it may not be served again before; make another instance"
        )
    return (
        f"{claim.title} is served already, {claim.place}: a second serving would reset and close "
        "it under the clients of the first. Connect to that one, or make another instance"
    )
