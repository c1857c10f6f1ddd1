"""The context managers that the public functions return.

Each explains a forgotten `with`: if code looks up an attribute of the client or server on the
context manager instead, the AttributeError says what to write.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Final, TypeAlias, TypeVar

from .._io.portal import in_trio_thread, start_blocking_portal
from .._limits import Limits
from .._protocol.frames import Node
from .._util.async_library import first_of_asyncio, library_of_client_class
from .._util.forgotten_with import ExplainsForgottenWith
from .._util.tracebacks import trim_traceback
from ..client import DriverClient
from ..client._base import classes_of
from ..client._channel import Channel
from ..client._tree import Wanted

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["AsyncContext", "BlockingContext", "Opened", "SyncContext"]

_C = TypeVar("_C", bound=DriverClient)
_T = TypeVar("_T")

Opened: TypeAlias = tuple[Channel, list[Node]]

# Seconds that the portal waits beyond the grace of the calls that Ctrl-C cancels in it.
_PORTAL_GRACE: Final = 0.5


class AsyncContext(ExplainsForgottenWith, AbstractAsyncContextManager[_T, Any]):
    """An async context manager that delegates to another one.

    Args:
        managed: The other one.
        statement: What to write, as `"async with connect_async(...) as client:"`.
    """

    def __init__(self, managed: AbstractAsyncContextManager[_T, Any], statement: str) -> None:
        self._managed = managed
        self._statement = statement

    async def __aenter__(self) -> _T:
        return await self._managed.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        return await self._managed.__aexit__(exc_type, exc, traceback)


class SyncContext(ExplainsForgottenWith, AbstractContextManager[_T, Any]):
    """A context manager that delegates to another one.

    Args:
        managed: The other one.
        statement: What to write, as `"with client_for(...) as client:"`.
    """

    def __init__(self, managed: AbstractContextManager[_T, Any], statement: str) -> None:
        self._managed = managed
        self._statement = statement

    def __enter__(self) -> _T:
        return self._managed.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        return self._managed.__exit__(exc_type, exc, traceback)


class BlockingContext(ExplainsForgottenWith, AbstractContextManager[_C, None]):
    """The `with` block of `connect` and `serve`: a connection in a portal's thread.

    It is a class rather than a generator function. If a generator were dropped without leaving its
    block, the garbage collector would close it, in an arbitrary thread, and block there until the
    drivers have ended. With this class, such a block stays open until the interpreter exits.

    Args:
        open_it: Makes the async context manager of the connection. It may push callbacks on the
            stack, which run after the connection has been closed.
        wanted: Builds the tree of clients.
        limits: The client's limits.
        statement: What to write, as `"with connect(...) as client:"`.
    """

    def __init__(
        self,
        open_it: Callable[[ExitStack], AbstractAsyncContextManager[Opened]],
        wanted: Wanted[_C],
        limits: Limits,
        statement: str,
    ) -> None:
        self._open = open_it
        self._wanted = wanted
        self._grace = limits.cancel_grace
        self._loop_hold = limits.loop_hold
        self._statement = statement

    def __enter__(self) -> _C:
        if in_trio_thread():
            text = "serve() and connect() block, and a Trio loop runs in this thread"
            raise RuntimeError(f"{text}: use `async with connect_async(...)`, or serve_async(...)")
        try:
            return self._enter()
        except BaseException as exc:
            trim_traceback(exc)
            raise

    def _enter(self) -> _C:
        with ExitStack() as stack:
            opening = self._open(stack)
            # After Ctrl-C, a cancelled call waits for its grace, and the portal a little longer.
            portal = stack.enter_context(start_blocking_portal(grace=self._grace + _PORTAL_GRACE))
            channel, nodes = stack.enter_context(portal.wrap_async_context_manager(opening))
            # In this thread rather than the portal's: building imports the client classes, and this
            # thread may be importing one of their modules just now.
            client = self._wanted.build(nodes, channel, portal)
            others = first_of_asyncio(map(library_of_client_class, classes_of(client)))
            portal.prepare_lane(others, self._loop_hold)
            stack.callback(client.close)
            self._exit_stack = stack.pop_all()
        return client

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit_stack.__exit__(exc_type, exc, traceback)
