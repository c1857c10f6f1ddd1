"""Define `DriverClient`: the client of one driver, and the base class of client classes.

The blocking methods run the `_async` ones through the portal, so there is one implementation of
each. `call` does the same without the loop where it can.

A client class may use any name for its own private members except `_jmp_open`. Everything else that
is private here is a function of this module or of `_runner`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import UUID, uuid4
from weakref import WeakSet

from .._io.portal import BlockingPortal
from .._protocol.frames import Kind
from .._util.checks import check_seconds
from .._util.labels import NameOfLabel
from .._util.no_copies import ReduceEx, no_copies
from .._util.text import indent_text, sanitize_name
from .._util.tracebacks import hidden_contextmanager
from ..errors import DriverError
from ._channel import Channel
from ._generators import RemoteGenerator
from ._lane import generator_for, stream_for
from ._log_stream import LogStreams
from ._made_cli import MadeCommandLine, made_command_line
from ._methods import CALL_STYLES, Method, as_function, build_help
from ._outgoing_call import Request
from ._raw_streams import RemoteStream, close_together, open_stream
from ._remote import NO_DRIVER, DriverRef
from ._resources import ResourceLending
from ._runner import runner_for, time_limit
from ._streams import BlockingGenerator, BlockingStream, open_blocking_stream
from ._typed import TypedCalls

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DriverClient", "classes_of"]

_MAX_NAMES: Final = 20  # of children, and of methods, that an error lists

_UNARY: Final = Kind.UNARY
_TWIN: Final = "_async"
_MIXINS: Final = {
    "ResourceMixin": ("local_file", "resource"),
    "StreamMixin": ("pexpect", "portforward", "portforward_unix"),
}

# True while a tree of clients is being closed, client by client.
_in_walk: ContextVar[bool] = ContextVar("jumpstarter_closing", default=False)


@dataclass(kw_only=True, eq=False, repr=False)
class DriverClient(TypedCalls, LogStreams, ResourceLending):
    """The client of one driver. A keyword-only dataclass; subclasses with fields must be one too.

    Any number of threads that run no Trio loop may call the blocking methods concurrently; the
    `_async` methods are for tasks of the Trio loop that the client was connected in. In a thread
    with a running asyncio loop the blocking methods work, and block that loop: call them through
    `asyncio.to_thread`.

    The children are attributes. Each exported method is an attribute too, unless the class or a
    child has that name: an exported `on` is `client.on(...)`, and `client.on_async(...)` for Trio
    code. A method is called, a generator iterated over, and a raw stream is a context manager.
    `help(client)` lists them. If the class defines no `cli`, and neither the driver nor a child has
    that name, `client.cli()` gives a click group that is made from the exporter's report, as the
    command `j` uses it. A class that defines `cli` gets that group by `super().cli()`, and can add
    commands to it.

    Attributes:
        async_library: Which library the class's async code is written for, `"trio"` or
            `"asyncio"`. By default, that is found out: see docs/howto/asyncio-code.md.
        uuid: The driver's UUID.
        labels: The driver's labels.
        description: What the exporter's configuration says about the driver, or None.
        methods_description: What it says about methods, by the names of methods or commands.
        channel: The connection to the driver. Without one, every call raises an error; but tests of
            a client class can construct it, and replace `call`.
        stub: Not used. Existing tests of client classes pass it.
        log_level: The level of this client's logger.
        children: Clients of the drivers below, by name.
        portal: Runs the `_async` methods for the blocking ones; None in a client for Trio code.
        stack: An ExitStack that is closed with the client.
        logger: This client's logger, `client.<class>`.
        name: The driver's name among its parent's children, `"unknown"` for the root.
    """

    async_library: ClassVar[str | None] = None
    uuid: UUID = field(default_factory=uuid4)
    labels: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    methods_description: dict[str, str] = field(default_factory=dict)
    channel: DriverRef = field(default=NO_DRIVER, repr=False)
    stub: Any = field(default=None, repr=False)
    log_level: str = "INFO"
    children: dict[str, DriverClient] = field(default_factory=dict)
    portal: BlockingPortal | None = field(default=None, repr=False)
    stack: ExitStack = field(repr=False, default_factory=ExitStack)
    logger: logging.Logger = field(init=False, repr=False)
    if TYPE_CHECKING:  # a field of a subclass may override a property, but not a descriptor

        @property
        def name(self) -> str: ...

        cli: ClassVar[Any]

    else:
        name = NameOfLabel()
        cli = MadeCommandLine()
    # Open blocking streams. Weak, so that a stream which is dropped is collected, and its
    # finalizer ends the driver's code.
    _jmp_open: WeakSet[BlockingStream] = field(init=False, repr=False, default_factory=WeakSet)

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()  # type: ignore[misc]  # a mixin's, if there is one
        self.logger = logging.getLogger(f"client.{type(self).__name__}")
        if self.logger.level != logging.getLevelName(self.log_level):  # setting it is slow
            self.logger.setLevel(self.log_level)
        methods = _methods_of(self)
        if methods or self.children:
            self.__doc__ = build_help(
                type(self), self.channel.name, self.channel.doc, methods, self.children
            )

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a client",
        "connect again there, with connect() and the exporter's address; within this process, "
        "threads share the client itself",
    )

    def __repr__(self) -> str:
        methods = _methods_of(self)
        exports = _listed(methods) if methods else "nothing"
        children = _listed(self.children)
        driver = getattr(self.channel, "name", "no driver")
        cls = type(self).__name__
        return f"<{cls} of {driver}, uuid {self.uuid}; exports: {exports}; children: {children}>"

    def __dir__(self) -> Iterable[str]:
        methods = _methods_of(self)
        twins = (name + _TWIN for name in methods)
        return sorted({*super().__dir__(), *self.children, *methods, *twins})

    def __getattr__(self, name: str) -> Any:
        # Python calls this only for names that are not found otherwise, so a child never hides a
        # method. It uses `__dict__`, since an object under construction has no children yet. Python
        # uses names like `__wrapped__` to find out what an object supports, so names from a peer
        # must not match them.
        children = self.__dict__.get("children", {})
        if name in children and not (name.startswith("__") and name.endswith("__")):
            return children[name]
        methods = _methods_of(self)
        base = name if name in methods else name.removesuffix(_TWIN)
        if base in methods:
            suffix = name.removeprefix(base)
            call = getattr(self, CALL_STYLES[methods[base].kind] + suffix)
            return as_function(methods[base], call, type(self).__name__, suffix=suffix)
        if name == "cli":
            return partial(made_command_line, self)
        text = (
            f"{type(self).__name__} has no attribute {name!r}; its children: {_listed(children)}; "
            f"its driver exports: {_listed(methods)}{_where_to_get(name)}"
        )
        raise AttributeError(text, name=name, obj=self)

    # -------------------------------------------------------------------------- for Trio code

    async def call_async(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an exported method and return its result.

        A checkpoint. The deadline of the surrounding cancel scope also applies to the driver's
        code. If it is cancelled before the call was sent, nothing is sent. If it is cancelled
        later, it waits until the driver's code has ended, for at most `cancel_grace` seconds; if
        that is too short, a log entry and a note on the exception say so.

        Args:
            method: Name of the exported method.
            args: Its arguments, of the types in docs/values.md. The driver gets them converted to
                the method's annotations, or else to the nearest plain type.
            kwargs: Its keyword arguments, likewise.

        Returns:
            The result, of plain types; `call_as_async` returns a type of your choice.

        Raises:
            DriverError: The call failed; see the subclasses in `jumpstarter.errors`.
            ArgumentTypeError: `method` is not a str.
            RuntimeError: The client belongs to another Trio loop, or none runs here.
        """
        channel = self.channel.channel
        lane = channel.check_loop(type(self).__name__, "call_async")
        request = self.channel.request(_UNARY, method, args, kwargs)
        if lane is not None:
            return await lane.run_in_trio(channel.call, request)
        return await channel.call(request)

    def streamingcall_async(self, method: str, /, *args: Any, **kwargs: Any) -> RemoteGenerator:
        """Call an exported generator and iterate over what it yields.

        Best used as `async with client.streamingcall_async(...) as items: async for ...`. The call
        is sent when the block is entered, or without a block, when the first item is requested.
        Arguments and errors are as for `call_async`.

        Returns:
            An async iterator, which ends the driver's code when its `async with` block is left.
        """
        channel = self.channel.channel
        lane = channel.check_loop(type(self).__name__, "streamingcall_async")
        request = self.channel.request(Kind.GENERATOR, method, args, kwargs)
        return generator_for(lane, RemoteGenerator(channel, request))

    @asynccontextmanager
    async def stream_async(
        self, method: str = "connect", *args: Any, **kwargs: Any
    ) -> AsyncIterator[RemoteStream]:
        """Open an exported raw stream, for the length of an `async with` block.

        Args:
            method: Name of the `exportstream` method.
            args: Its arguments, as for `call_async`.
            kwargs: Its keyword arguments.

        Yields:
            A Trio stream with half-close. Leaving the block closes it: what was sent is still
            delivered, and the driver's code has ended.

        Raises:
            DriverError: The driver could not open it, or has failed with it.
            ArgumentTypeError: `method` is not a str.
            RuntimeError: The client belongs to another Trio loop, or none runs here.
        """
        channel = self.channel.channel
        lane = channel.check_loop(type(self).__name__, "stream_async")
        request = self.channel.request(Kind.STREAM, method, args, kwargs)
        async with stream_for(lane, _open_stream(channel, request)) as stream:
            yield stream

    # ---------------------------------------------------------------------- for blocking code

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an exported method and return its result. The blocking form of `call_async`.

        It has no default timeout, since flashing may take an hour: set one with `timeout`. On
        Ctrl-C it cancels the driver's code, waits up to `cancel_grace` seconds until that has
        ended, and then raises KeyboardInterrupt.

        Raises:
            DriverError: The call failed; see the subclasses in `jumpstarter.errors`.
            DriverTimeoutError: The surrounding `timeout` ran out, and the driver's code has ended.
            ArgumentTypeError: `method` is not a str.
            RuntimeError: This thread runs a Trio loop, which would deadlock: use `call_async`.
        """
        request = self.channel.request(_UNARY, method, args, kwargs)
        return runner_for(self, "call", request).call()

    def streamingcall(self, method: str, /, *args: Any, **kwargs: Any) -> BlockingGenerator:
        """Call an exported generator. The blocking form of `streamingcall_async`.

        Returns:
            A generator; also a context manager, which ends the driver's code when its block is
            left. If you stop early without a block, closing the generator (as `yield from` does)
            ends the driver's code and waits for that. If it is only garbage-collected, the driver's
            code is cancelled without waiting.
        """
        request = self.channel.request(Kind.GENERATOR, method, args, kwargs)
        runner = runner_for(self, "streamingcall", request)
        return BlockingGenerator(runner, RemoteGenerator(self.channel.channel, request))

    @hidden_contextmanager
    def stream(
        self, method: str = "connect", *args: Any, **kwargs: Any
    ) -> Iterator[BlockingStream]:
        """Open an exported raw stream, for the length of a `with` block.

        Yields:
            The stream. Leaving the block closes it: what was sent is still delivered, and the
            driver's code has ended.

        Raises:
            DriverError: The driver could not open it, or has failed with it.
            DriverTimeoutError: The surrounding `timeout` ran out.
        """
        request = self.channel.request(Kind.STREAM, method, args, kwargs)
        with _open(self, "stream", request) as stream:
            yield stream

    def open_stream(self, method: str = "connect", *args: Any, **kwargs: Any) -> BlockingStream:
        """Open an exported raw stream, which stays open until its `close()` or the client's.

        Raises:
            DriverError: The driver could not open it.
            DriverTimeoutError: The surrounding `timeout` ran out.
        """
        return _open(self, "open_stream", self.channel.request(Kind.STREAM, method, args, kwargs))

    @hidden_contextmanager
    def timeout(self, seconds: float) -> Iterator[None]:
        """Limit the sum of all blocking calls of this thread within the block, of any client.

        It is a context manager rather than an argument, so that it also holds for the calls which
        methods of client classes make. An inner block can only shorten an outer one. When the time
        is up, the driver's code is cancelled, as by a Trio cancel scope; a raw stream can still be
        used after a `receive` that timed out. Do not `yield` from within the block: the timeout
        would also apply to the code that iterates over the generator.

        Args:
            seconds: How long, from now.

        Raises:
            DriverTimeoutError: (from the call) It took longer. It is a TimeoutError.
            RuntimeError: (on entering) This client is for Trio code, which has scopes for that.
            ArgumentError: (on entering) `seconds` is not a number of seconds, or is NaN.
        """
        if self.portal is None:
            text = f"{type(self).__name__}.timeout() is for blocking calls, and this client was"
            raise RuntimeError(
                f"{text} connected for Trio code; use trio.fail_after() or trio.move_on_after()"
            )
        with time_limit(check_seconds("seconds", seconds)):
            yield

    def close(self) -> None:
        """Close everything opened through this client and its children. Idempotent.

        Everything is closed even if closing one thing raises. If a raw stream that was still open
        has failed, that is logged.
        """
        if _in_walk.get():  # the client that closes the tree visits each client itself
            self.stack.close()
            return
        clients = list(_walk(self))
        token = _in_walk.set(True)
        try:
            with ExitStack() as everything:  # runs them from the last to the first
                everything.callback(self.stack.close)
                for client in clients[1:]:
                    everything.callback(client.close)
                everything.callback(_close_left_open, self, clients)
        finally:
            _in_walk.reset(token)


def _methods_of(client: DriverClient) -> Mapping[str, Method]:
    """Return the methods that the client's driver exports; none for a client under construction."""
    return getattr(client.__dict__.get("channel"), "methods", {})


@asynccontextmanager
async def _open_stream(channel: Channel, request: Request) -> AsyncIterator[RemoteStream]:
    stream = await open_stream(channel, request)
    try:
        yield stream
    finally:
        await stream.aclose()
    stream.check()


def _open(client: DriverClient, method: str, request: Request) -> BlockingStream:
    runner = runner_for(client, method, request, "stream_async")
    left_open = client._jmp_open  # noqa: SLF001 - of this module's class
    stream = open_blocking_stream(runner, client.channel.channel, request, left_open.discard)
    left_open.add(stream)
    return stream


def _walk(root: DriverClient) -> Iterator[DriverClient]:
    """Go through the tree, parents before children, without a limit to its depth."""
    waiting = [root]
    while waiting:
        client = waiting.pop()
        yield client
        waiting.extend(reversed(client.children.values()))


def classes_of(root: DriverClient) -> list[type[DriverClient]]:
    """Return the classes of a tree of clients, each once, parents before children."""
    return list(dict.fromkeys(type(client) for client in _walk(root)))


def _close_left_open(root: DriverClient, clients: list[DriverClient]) -> None:
    left = [stream.detach() for client in clients for stream in list(client._jmp_open)]  # noqa: SLF001 - as above
    if not left or root.portal is None or root.channel.channel.closed:
        return
    root.portal.call_in_trio(close_together, left)
    for stream in left:
        try:
            stream.check()
        except DriverError as exc:
            text = "a stream was left open, and has failed: %s"
            root.logger.warning(text, indent_text(str(exc)))


def _where_to_get(name: str) -> str:
    """Return which part of this library adds an attribute that a plain client does not have."""
    for mixin, names in _MIXINS.items():
        if name.removesuffix(_TWIN) in names:
            text = f"; {mixin} of jumpstarter.drivers.mixins gives it to a client class"
            is_stream = mixin == "StreamMixin"
            return text + (", and jumpstarter.client.adapters to any client" if is_stream else "")
    return ""


def _listed(names: Mapping[str, object]) -> str:
    """Join names for an error message, up to a limit."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return (", ".join(map(sanitize_name, islice(names, _MAX_NAMES))) or "none") + more
