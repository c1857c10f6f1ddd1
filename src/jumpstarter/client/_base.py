"""The client of one driver: what a test author holds, and client classes are derived from.

The blocking methods are the `_async` ones, run through the portal: there is one implementation. A
plain call may do the same without the loop, see `_lead`.
This file knows the portal and the remote handle, and nothing of frames or sockets.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
)
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID
from weakref import WeakSet

import trio

from .._io.portal import BlockingPortal, in_trio_thread
from .._protocol.frames import Kind
from .._util.checks import check_seconds
from .._util.no_copies import ReduceEx, no_copies
from .._util.text import indented, sanitize_name
from .._util.tracebacks import block
from ..errors import DriverError
from ._channel import Request
from ._generators import RemoteGenerator
from ._lending import Lending
from ._methods import CALL_STYLES, Method, as_function, build_help
from ._raw_streams import RemoteStream, close_together, open_stream
from ._remote import DriverRef
from ._runner import Runner, deadline, timed
from ._streams import BlockingGenerator, BlockingStream
from ._typed import TypedCalls

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DriverClient"]

_MAX_NAMES: Final = 20  # of children, and of methods, that an error lists
T = TypeVar("T")

_UNARY: Final = Kind.UNARY
_TWIN: Final = "_async"
_MIXINS: Final = {
    "ResourceMixin": ("local_file", "resource"),
    "StreamMixin": ("pexpect", "portforward", "portforward_unix"),
}

# True while a tree of clients is being closed, client by client.
_in_walk: ContextVar[bool] = ContextVar("jumpstarter_closing", default=False)


@dataclass(kw_only=True, eq=False, repr=False)
class DriverClient(TypedCalls):
    """The client of one driver. A keyword-only dataclass, as its subclasses with fields must be.

    The blocking methods may be called from any thread that runs no Trio loop, several at once; the
    `_async` ones from tasks of the loop that the client was connected in. Children are attributes,
    and so is what the driver exports, as far as neither the class nor a child has the name: an
    exported `on` is `client.on(...)`, and `client.on_async(...)` for Trio code. A method is called,
    a generator iterated over, and a raw stream a context manager. `help(client)` lists them.

    Attributes:
        uuid: The driver's.
        labels: The driver's.
        channel: The way to the driver.
        log_level: Of this client's logger.
        children: Clients of the drivers below, by name.
        portal: Runs the `_async` methods for the blocking ones; None in a client for Trio code.
        stack: Closed with the client.
        logger: This client's, `client.<class>`.
    """

    uuid: UUID
    labels: dict[str, str] = field(default_factory=dict)
    channel: DriverRef = field(repr=False)
    log_level: str = "INFO"
    children: dict[str, DriverClient] = field(default_factory=dict)
    portal: BlockingPortal | None = field(default=None, repr=False)
    stack: ExitStack = field(init=False, repr=False, default_factory=ExitStack)
    logger: logging.Logger = field(init=False, repr=False)
    # Weakly, so that a stream which is dropped is collected, and ends the driver's code.
    _open: WeakSet[BlockingStream] = field(init=False, repr=False, default_factory=WeakSet)

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()  # type: ignore[misc]  # a mixin's, if there is one
        self.logger = logging.getLogger(f"client.{type(self).__name__}")
        if self.logger.level != logging.getLevelName(self.log_level):  # to set it takes long
            self.logger.setLevel(self.log_level)
        if self._methods() or self.children:
            self.__doc__ = build_help(
                type(self), self.channel.who, self.channel.doc, self._methods(), self.children
            )

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a client",
        "connect again there, with connect() and the exporter's address; within this process, "
        "threads share the client itself",
    )

    def __repr__(self) -> str:
        exports = _listed(self._methods()) if self._methods() else "nothing"
        children = _listed(self.children)
        who = getattr(self.channel, "who", "no driver")
        cls = type(self).__name__
        return f"<{cls} of {who}, uuid {self.uuid}; exports: {exports}; children: {children}>"

    def __dir__(self) -> Iterable[str]:
        methods = self._methods()
        twins = (name + _TWIN for name in methods)
        return sorted({*super().__dir__(), *self.children, *methods, *twins})

    def __getattr__(self, name: str) -> Any:
        # Only for what is not found otherwise, so a child never hides a method. `__dict__`, since
        # an object that is just being made has no children yet. By names like `__wrapped__` Python
        # asks what an object can do: what an exporter calls a child is no answer to that.
        children = self.__dict__.get("children", {})
        if name in children and not (name.startswith("__") and name.endswith("__")):
            return children[name]
        methods = self._methods()
        base = name if name in methods else name.removesuffix(_TWIN)
        if base in methods:
            suffix = name.removeprefix(base)
            call = getattr(self, CALL_STYLES[methods[base].kind] + suffix)
            return as_function(methods[base], call, type(self).__name__, suffix=suffix)
        text = (
            f"{type(self).__name__} has no attribute {name!r}; its children: {_listed(children)}; "
            f"its driver exports: {_listed(methods)}{_where_to_get(name)}"
        )
        raise AttributeError(text, name=name, obj=self)

    def _methods(self) -> Mapping[str, Method]:
        """Give what the driver exports: nothing for an object that is just being made."""
        return getattr(self.__dict__.get("channel"), "methods", {})

    # -------------------------------------------------------------------------- for Trio code

    async def call_async(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an exported method and give its result.

        A checkpoint. The deadline of the surrounding cancel scope holds for the driver too.
        Cancelled, the driver's code has ended when this returns (or `cancel_grace` has passed,
        which is logged and noted on the exception); cancelled before it was sent, nothing was.

        Args:
            method: Name of the exported method.
            args: Its arguments: any of the types in docs/values.md. They arrive as what the
                driver's method is annotated with, and without that as the nearest plain type.
            kwargs: Its keyword arguments, likewise.

        Raises:
            DriverError: The call failed; see the subclasses in `jumpstarter.errors`.
        """
        self._check_loop("call_async")
        request = self._request(_UNARY, method, args, kwargs)
        return await self.channel.channel.call(request)

    def streamingcall_async(self, method: str, /, *args: Any, **kwargs: Any) -> RemoteGenerator:
        """Call an exported generator and iterate over what it yields.

        Best used as `async with client.streamingcall_async(...) as items: async for ...`. Nothing
        is sent before the block is entered, or, without one, before the first step; arguments and
        errors as for `call_async`.
        """
        self._check_loop("streamingcall_async")
        request = self._request(Kind.GENERATOR, method, args, kwargs)
        return RemoteGenerator(self.channel.channel, request)

    @asynccontextmanager
    async def stream_async(
        self, method: str = "connect", *args: Any, **kwargs: Any
    ) -> AsyncIterator[RemoteStream]:
        """Open an exported raw stream, for the length of an `async with` block.

        Yields:
            A Trio stream with half-close. Leaving the block closes it: what was sent is still
            delivered, and the driver's code has ended.

        Raises:
            DriverError: The driver could not open it, or has failed with it.
        """
        self._check_loop("stream_async")
        request = self._request(Kind.STREAM, method, args, kwargs)
        stream = await open_stream(self.channel.channel, request)
        try:
            yield stream
        finally:
            await stream.aclose()
        stream.check()

    @asynccontextmanager
    async def _lend_async(self, lending: Lending) -> AsyncIterator[str]:
        self._check_loop("resource_async")
        request = self.channel.lending(lending.mode, lending.encoding)
        stream = await open_stream(self.channel.channel, request)
        async with lending.carry(stream) as handle:
            yield handle

    def _request(
        self, kind: Kind, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request:
        """Encode a call of this driver; everything that is sent passes here."""
        return self.channel.request(kind, method, args, kwargs)

    def _check_loop(self, asked: str) -> None:
        channel = self.channel.channel
        if trio.lowlevel.current_trio_token() is not channel.token:
            channel.check_loop(f"{type(self).__name__}.{asked}")

    # ---------------------------------------------------------------------- for blocking code

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an exported method and give its result. The blocking form of `call_async`.

        There is no timeout of its own: a flash takes an hour. Set one with `timeout`. Ctrl-C
        cancels the driver's code, waits for it to end within the grace, and is raised.

        Raises:
            DriverError: The call failed; see the subclasses in `jumpstarter.errors`.
            RuntimeError: This thread runs a Trio loop, which would deadlock: use `call_async`.
        """
        request = self._request(_UNARY, method, args, kwargs)
        return self._run_for("call", request).call()

    def streamingcall(self, method: str, /, *args: Any, **kwargs: Any) -> BlockingGenerator:
        """Call an exported generator. The blocking form of `streamingcall_async`.

        Returns:
            A generator; also a context manager, which ends the driver's code at the end of its
            block however that is left. Left early without one, the driver is told when the
            generator is collected, or waited for if it is closed, as `yield from` does.
        """
        request = self._request(Kind.GENERATOR, method, args, kwargs)
        run = self._run_for("streamingcall", request)
        return BlockingGenerator(run, RemoteGenerator(self.channel.channel, request))

    @block
    def stream(
        self, method: str = "connect", *args: Any, **kwargs: Any
    ) -> Iterator[BlockingStream]:
        """Open an exported raw stream for the length of a `with` block.

        Raises:
            DriverError: The driver could not open it, or has failed with it.
        """
        with self.open_stream(method, *args, **kwargs) as stream:
            yield stream

    def open_stream(self, method: str = "connect", *args: Any, **kwargs: Any) -> BlockingStream:
        """Open an exported raw stream; close it with its `close()`, at the latest with the client.

        Raises:
            DriverError: The driver could not open it.
        """
        request = self._request(Kind.STREAM, method, args, kwargs)
        return self._open_as("open_stream", "stream_async", request)

    def _open_as(self, asked: str, twin: str, request: Request) -> BlockingStream:
        run = self._run_for(asked, request, twin)

        async def open_it() -> BlockingStream:
            # Made in there, so that a stream which Ctrl-C keeps from its caller is collected, and
            # closed by that.
            remote = await open_stream(self.channel.channel, request)
            return BlockingStream(run, remote, self._open.discard)

        stream: BlockingStream = run(open_it)
        self._open.add(stream)
        return stream

    @block
    def timeout(self, seconds: float) -> Iterator[None]:
        """Bound all blocking calls of this thread within the block, of any client, in sum.

        A context manager rather than an argument, so that it holds for methods of client classes
        too, which call on without knowing of it. An inner block can only shorten an outer one. When
        the time is up the driver's code is cancelled, as by a Trio cancel scope. Do not `yield`
        from within the block: whoever holds the generator would be under the timeout too.

        Args:
            seconds: How long, from now.

        Raises:
            DriverTimeoutError: (from the call) It took longer. It is a TimeoutError.
            RuntimeError: (on entering) This client is for Trio code, which has scopes for that.
            ArgumentError: (on entering) It is no number of seconds: NaN, None, a text.
        """
        if self.portal is None:
            text = f"{type(self).__name__}.timeout() is for blocking calls, and this client was"
            raise RuntimeError(
                f"{text} connected for Trio code; use trio.fail_after() or trio.move_on_after()"
            )
        until = time.monotonic() + check_seconds("seconds", seconds)
        token = deadline.set(min(deadline.get(), until))
        try:
            yield
        finally:
            deadline.reset(token)

    @block
    def _lend(self, lending: Lending) -> Iterator[str]:
        """Lend something to the driver for the length of a block; gives the handle."""
        request = self.channel.lending(lending.mode, lending.encoding)
        stream = self._open_as("resource", "resource_async", request)
        assert self.portal is not None
        carrying = timed(lending.carry(stream.detach()), "lending to the driver")
        with self.portal.wrap_async_context_manager(carrying) as handle:
            yield handle

    def _hold(
        self, manager: AbstractAsyncContextManager[T], asked: str, twin: str
    ) -> AbstractContextManager[T, bool]:
        """Make a blocking context manager of an async one that uses the `_async` methods."""
        return self._portal_for(asked, twin).wrap_async_context_manager(timed(manager, asked))

    def _run_for(self, asked: str, request: Request, twin: str = "") -> Runner:
        """Give the way to run coroutines, or say why there is none."""
        portal = self.portal
        if portal is None or in_trio_thread():
            portal = self._portal_for(f"{type(self).__name__}.{asked}", twin or f"{asked}_async")
        return Runner(portal, request, self.channel.channel)

    def _portal_for(self, name: str, twin: str) -> BlockingPortal:
        portal = self.portal
        if portal is None:
            text = f"{name} blocks, and this client was connected for Trio code"
            raise RuntimeError(f"{text}; use {twin} instead")
        if in_trio_thread():
            text = f"{name} blocks, and would block the Trio loop that runs in this thread"
            raise RuntimeError(f"{text}; use {twin} of a client for Trio code, or a worker thread")
        return portal

    def close(self) -> None:
        """Close what was opened through this client and its children. Again, it does nothing.

        All of it is closed, whatever one of them raises. What a raw stream that was left open has
        failed with is logged.
        """
        if _in_walk.get():  # of whoever closes the tree, and visits each client anyway
            self.stack.close()
            return
        clients = list(self._walk())
        token = _in_walk.set(True)
        try:
            with ExitStack() as everything:  # from the last to the first
                everything.callback(self.stack.close)
                for client in clients[1:]:
                    everything.callback(client.close)
                everything.callback(self._close_left_open, clients)
        finally:
            _in_walk.reset(token)

    def _walk(self) -> Iterator[DriverClient]:
        """Go through the tree, parents before children, without a limit to its depth."""
        waiting: list[DriverClient] = [self]
        while waiting:
            client = waiting.pop()
            yield client
            waiting.extend(reversed(client.children.values()))

    def _close_left_open(self, clients: list[DriverClient]) -> None:
        left = [stream.detach() for client in clients for stream in list(client._open)]  # noqa: SLF001
        if not left or self.portal is None or self.channel.channel.closed:
            return
        self.portal.call(close_together, left)
        for stream in left:
            try:
                stream.check()
            except DriverError as exc:
                text = "a stream was left open, and has failed: %s"
                self.logger.warning(text, indented(str(exc)))


def _where_to_get(name: str) -> str:
    """Say which part of this library has an attribute that a plain client has not."""
    for mixin, names in _MIXINS.items():
        if name.removesuffix(_TWIN) in names:
            text = f"; {mixin} of jumpstarter.drivers.mixins gives it to a client class"
            is_stream = mixin == "StreamMixin"
            return text + (", and jumpstarter.client.adapters to any client" if is_stream else "")
    return ""


def _listed(names: Mapping[str, object]) -> str:
    """Give names for an error's text, and not too many."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return (", ".join(map(sanitize_name, islice(names, _MAX_NAMES))) or "none") + more
