"""Make `anyio.from_thread` work in the worker threads that run drivers' plain code.

Trio's `from_thread` finds the loop through Trio's own thread-local data, and anyio's through that
of anyio. anyio is not imported here unless some other code has imported it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any, Final, TypeAlias, TypeVar

import trio

from .._io.current_lane import Lane

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["in_anyio_thread", "leads_to_lane"]

T = TypeVar("T")
_AnyioClaim: TypeAlias = Callable[[object], AbstractContextManager[None]]

_logger: Final = logging.getLogger("jumpstarter.exporter")
_no_anyio: Final[list[Exception]] = []  # exception of anyio's private function, if any


def in_anyio_thread(function: Callable[[], T]) -> Callable[[], T]:
    """Make `anyio.from_thread` work in a worker thread of Trio. In the loop."""
    if "anyio" not in sys.modules:
        return function
    try:
        claim = _anyio_claim()
    except OSError:  # no descriptor is left to import with; the next call tries again
        claim = None
    if claim is None:
        return function
    token = trio.lowlevel.current_trio_token()

    def run() -> T:
        leave = _enter(claim, token)
        try:
            return function()
        finally:
            leave()

    return run


@contextmanager
def leads_to_lane(lane: Lane) -> Iterator[None]:
    """Make `anyio.from_thread` lead to an asyncio lane in the block. In a worker thread of Trio.

    Within a block, or a function of `in_anyio_thread`, the innermost one counts.
    """
    private: Any = sys.modules.get("anyio._core._eventloop")
    local = None if private is None else getattr(private, "threadlocals", None)
    if local is None or _no_anyio:
        yield
        return
    outer = dict(vars(local))
    leave = _enter(partial(private.claim_worker_thread, _LaneBackend(lane)), None)
    try:
        yield
    finally:
        leave()
        vars(local).update(outer)


class _LaneBackend:
    """The part of a backend of anyio that `anyio.from_thread` uses.

    It goes through Trio's `from_thread`, so that what the thread waits for ends with its call.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def run_async_from_thread(self, func: Any, args: tuple[Any, ...], token: object) -> Any:
        del token
        return trio.from_thread.run(self._lane.run, func, *args)

    def run_sync_from_thread(self, func: Any, args: tuple[Any, ...], token: object) -> Any:
        async def call() -> Any:
            return func(*args)

        return self.run_async_from_thread(call, (), token)

    def check_cancelled(self) -> None:
        trio.from_thread.check_cancelled()


def _enter(claim: _AnyioClaim, token: object) -> Callable[[], None]:
    """Enter anyio's context manager, and return its exit function. Failures are ignored."""
    try:
        manager = claim(token)
        manager.__enter__()
    except Exception as exc:  # noqa: BLE001 - a private function: another release may change it
        _give_up_anyio(exc)
        return _nothing

    def leave() -> None:
        try:
            manager.__exit__(None, None, None)
        except Exception as exc:  # noqa: BLE001 - the same
            _give_up_anyio(exc)

    return leave


def _nothing() -> None:
    """Do nothing, in place of an exit function."""


@cache
def _anyio_claim() -> _AnyioClaim | None:
    """Return anyio's function that marks a thread as a worker of a Trio loop.

    The function is private to anyio. If a version of anyio lacks it, or has one with other
    parameters, calls still work, but `anyio.from_thread` raises in drivers' threads, as it does in
    any foreign thread.
    """
    if _no_anyio:
        return None
    try:
        from anyio._core._eventloop import (  # noqa: PLC0415 - only where anyio is in use
            claim_worker_thread,
            get_async_backend,
        )

        return partial(claim_worker_thread, get_async_backend("trio"))
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - a private module: another release may change anything in it
        return None


def _give_up_anyio(exc: Exception) -> None:
    """Stop using anyio's private function in this process."""
    if not _no_anyio:
        _no_anyio.append(exc)
        text = "anyio.from_thread does not work in drivers' threads with this anyio: %s: %s"
        _logger.warning(text, type(exc).__name__, exc)
    _anyio_claim.cache_clear()
