"""Decide for each method of a device tree whether it runs in Trio or in the asyncio lane.

It is decided once, when the tree is served. A tree without asyncio code has no lane, and nothing of
it is looked at again. The rules are those of `_util.async_library`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Final

import msgspec

from .._io.current_lane import Lane
from .._io.watchdog import Namer
from .._util.async_library import (
    ASYNCIO,
    UNDECIDED,
    Choice,
    advice_for,
    choose,
    library_of_class,
    library_of_function,
    said_by,
)
from ..driver._base import Driver
from ..driver._export import Exported
from .anyio_threads import leads_to_lane
from .tree import Target

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Libraries"]

LANE: Final = "jumpstarter-asyncio"  # the name of the thread


class Libraries:
    """Which library each method of a device tree is written for.

    Args:
        targets: The drivers.
        switch: `"trio"` or `"asyncio"`, for all code that does not say itself what it is; None to
            look at its modules.
    """

    def __init__(self, targets: Iterable[Target], switch: str | None = None) -> None:
        self._switch = switch
        self._others = UNDECIDED
        self._said: dict[type, Choice] = {}
        for cls in dict.fromkeys(type(target.instance) for target in targets):
            said = self._said[cls] = said_by(cls)
            of_class = said if said.library or switch else library_of_class(cls)
            if of_class.library == ASYNCIO and not self._others.library:
                self._others = of_class

    @property
    def need_lane(self) -> bool:
        """True if code of the tree may run in the asyncio lane."""
        return ASYNCIO in (self._others.library, self._switch)

    def of(self, instance: object, function: Any) -> Choice:
        """Return the library of a method, or of another function of a driver.

        Args:
            instance: The driver, or None for a function that belongs to no class.
            function: The function.
        """
        said = self._said.get(type(instance), UNDECIDED)
        seen = UNDECIDED if said.library else library_of_function(function)
        return choose(said, self._switch, seen, self._others)

    def advice(self, target: Target, exported: Exported, title: str) -> str:
        """Explain in which loop a method runs, why, and how to change that."""
        function = getattr(exported.function, "original", exported.function)
        return advice_for(title, self.of(target.instance, function))

    def hook_adapter(self, lane: Lane) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        """Make a function that puts functions for the end of a connection into a lane."""
        from .lane_methods import hook_in_lane  # noqa: PLC0415 - it imports asyncio

        def adapt(function: Callable[[], Any]) -> Callable[[], Any]:
            choice = self.of(getattr(function, "__self__", None), function)
            return hook_in_lane(function, lane) if choice.library == ASYNCIO else function

        return adapt

    def loop_finder(self, lane: Lane) -> Callable[[Driver, str], AbstractContextManager[None]]:
        """Make a function that lets `anyio.from_thread` of `reset` and `close` lead to a lane."""

        def find(driver: Driver, verb: str) -> AbstractContextManager[None]:
            choice = self.of(driver, getattr(type(driver), verb))
            return leads_to_lane(lane) if choice.library == ASYNCIO else nullcontext()

        return find

    @asynccontextmanager
    async def open_lane(
        self, targets: list[Target], limit: float = math.inf, namer: Namer | None = None
    ) -> AsyncIterator[Lane | None]:
        """Put the methods that are asyncio's into a lane, for the length of the block.

        Args:
            targets: What can be called. Its items are replaced.
            limit: Seconds for which code may hold the lane's loop before it is logged.
            namer: Names that code.

        Yields:
            The lane, or None if the tree needs none.
        """
        if not self.need_lane:
            yield None
            return
        # They import asyncio, for which a tree of Trio drivers has no use.
        from .._io.asyncio_lane import open_lane  # noqa: PLC0415
        from .._io.asyncio_watchdog import watched_asyncio  # noqa: PLC0415
        from .lane_methods import in_lane  # noqa: PLC0415

        async with open_lane(LANE, partial(watched_asyncio, limit, namer)) as lane:
            for place, target in enumerate(targets):
                exports = {
                    name: in_lane(exported, lane)
                    if self.of(target.instance, exported.function).library == ASYNCIO
                    else exported
                    for name, exported in target.exports.items()
                }
                targets[place] = msgspec.structs.replace(target, exports=exports)
            yield lane
