"""Find the asyncio lane that runs the calling code, without importing asyncio.

Code that works in both kinds of loops asks for it: in an asyncio lane it goes through the lane to
the Trio loop that owns the device or the connection.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeVar

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Lane", "current_lane", "enter_lane"]

T = TypeVar("T")


class Lane(Protocol):
    """An asyncio lane, as far as the code that runs in it or gives it work needs to know it.

    `AsyncioLane` documents the methods.
    """

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        """The token of the Trio loop that has opened the lane."""

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Run an async function in the asyncio loop, for a Trio task."""

    def hold(
        self, manager: AbstractAsyncContextManager[T]
    ) -> AbstractAsyncContextManager[T, bool | None]:
        """Enter and leave a context manager in the asyncio loop, around a block of a Trio task."""

    async def run_in_trio(
        self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any
    ) -> T:
        """Run an async function in the Trio loop, for an asyncio task."""

    def hold_in_trio(
        self, manager: AbstractAsyncContextManager[T]
    ) -> AbstractAsyncContextManager[T, bool | None]:
        """Enter and leave a context manager in the Trio loop, around a block of an asyncio task."""


class _Here(threading.local):
    lane: Lane | None = None


_here: Final = _Here()


def current_lane() -> Lane | None:
    """Return the lane whose asyncio loop runs in this thread, or None."""
    return _here.lane


def enter_lane(lane: Lane | None) -> None:
    """Record that this thread runs the loop of a lane, or no longer does."""
    _here.lane = lane
