"""A driver's generator and raw stream for blocking code: each step is a call through the portal.

Closing waits until the driver's code has ended. When an object that was not closed is
garbage-collected, a cancellation is sent to the exporter, and nothing waits for it: a finalizer may
run in any thread, even the portal's own, and must never block.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Self

import trio

from .._io import leading, passive_wait
from .._io.byte_stream import ThreadReceive
from .._io.portal import in_trio_thread
from .._protocol.receive_buffer import Body
from .._util.checks import check_max_bytes, refuse_timeout
from .._util.no_copies import ReduceEx, no_copies
from .._util.stream_errors import end_of_stream
from ..errors import DriverConnectionError, DriverError, EndOfStream
from ._channel import Channel
from ._outgoing_call import Request
from ._raw_streams import RemoteStream, open_stream
from ._runner import BlockingRunner

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for a default, which typing's own has from 3.13 on

    from ._generators import RemoteGenerator

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BlockingGenerator", "BlockingStream", "open_blocking_stream"]

_USE_TIMEOUT: Final = "put it into a block: `with client.timeout(seconds):`"


class BlockingGenerator(Generator[T, None, Any]):
    """Iterates over a driver's generator, from blocking code. In one thread at a time.

    It behaves like a Python generator: `yield from` evaluates to what the driver's generator
    returned, and `close()` ends the driver's code and waits for that, as does the end of a `with`
    block.
    """

    def __init__(self, runner: BlockingRunner, remote: RemoteGenerator[T]) -> None:
        self._runner = runner
        self._remote = remote
        self._items: deque[Body] = deque()  # fetched in one batch, not requested yet

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a driver's generator", "pass the items on, as list() gives them"
    )

    def __next__(self) -> T:
        """Return the next item. Blocks.

        Ctrl-C, another signal's handler that raises, or a timeout ends the driver's generator.

        Raises:
            StopIteration: The driver's generator has ended; `value` is what it returned.
            DriverError: It failed, after all items from before were returned.
            DriverTimeoutError: The surrounding `timeout` ran out.
        """
        try:
            if not (self._items and self._runner.permits()):
                self._items.clear()
                if not self._fetch():
                    self._items.extend(self._runner.run("the wait for an item", self._remote.fetch))
            return self._decode(self._items.popleft())
        except StopAsyncIteration:
            value = self._remote.value
        except (DriverError, trio.BusyResourceError):  # of a step
            raise
        except RuntimeError:
            if not self._runner.refuses:
                self._break_off()
            raise
        except BaseException:
            self._break_off()
            raise
        raise StopIteration(value)

    def _break_off(self) -> None:
        """End it after the exception of a signal handler.

        An item that had arrived may be lost, so no later one may follow.
        """
        self._items.clear()
        self._remote.close_soon()

    def _fetch(self) -> bool:
        """Fetch items in this thread. Return False if there are none, and the loop must look."""
        if not self._runner.may_lead:
            return False
        try:
            return self._remote.fetch_in_thread(self._items, self._runner.left())
        except (StopAsyncIteration, DriverError, trio.BusyResourceError):
            raise
        except BaseException as exc:  # a signal handler's: the loop must end the generator
            self._items.clear()
            self._runner.abandon(self._remote.end, exc)
            raise

    def _decode(self, body: Body) -> T:
        try:
            return self._remote.decode(body)
        except DriverError:
            self.close()
            raise

    def send(self, value: Any) -> T:
        """Return the next item, as `next` does: values cannot be sent to a driver's generator.

        Raises:
            TypeError: `value` is not None.
        """
        if value is not None:
            raise TypeError(f"a driver's generator takes no values, and was sent {value!r}")
        return next(self)

    def throw(self, typ: Any, val: object = None, tb: TracebackType | None = None) -> NoReturn:
        """End the driver's generator and raise the exception here: it is not sent to the driver."""
        self.close()
        exc = typ if val is None else val
        if not isinstance(exc, BaseException):
            exc = typ() if val is None else typ(val)
        raise exc.with_traceback(tb) if tb is not None else exc

    def close(self) -> None:
        """End the driver's generator. Blocks until its code has ended, or `cancel_grace` passed.

        In a thread that runs a Trio loop, where the garbage collector may call it, it sends a
        cancellation and does not wait.
        """
        self._items.clear()
        if self._remote.running and not in_trio_thread():
            self._runner.run("the end of the generator", self._remote.end)
        else:
            self._remote.close_soon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlockingStream:
    """A raw stream to a driver, for blocking code. A context manager, and an iterator of bytes.

    One thread may send while another receives. Closing the stream ends a `receive` of another
    thread, with `trio.ClosedResourceError`. Ctrl-C and a `timeout` of the client interrupt both,
    and the stream can still be used. Bytes that had arrived are returned by the next call. After an
    interrupted `send`, it is unknown how much was sent.
    """

    def __init__(
        self,
        runner: BlockingRunner,
        remote: RemoteStream,
        forget: Callable[[BlockingStream], None],
    ) -> None:
        self._runner = runner
        self._remote = remote
        self._connection = remote.connection
        self._forget = forget
        self._received: bytes | None = None  # arrived, but Ctrl-C kept it from its caller

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a stream", "open another one there, by a client of that process"
    )

    @refuse_timeout("send()", _USE_TIMEOUT)
    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes. Blocks while the driver reads none.

        Raises:
            DriverError: The driver has failed or closed the stream, or the connection is gone.
            DriverTimeoutError: The surrounding `timeout` ran out; an unknown part was sent.
            trio.ClosedResourceError: The stream, or this half of it, was closed here.
        """
        if type(data) is not bytes or not self._lead(self._send_here, data):
            self._run("send()", self._remote.send_all, data)

    def _send_here(self, data: bytes) -> bool:
        return leading.send(self._connection, lambda: self._remote.send_in_thread(data))

    @refuse_timeout("receive()", _USE_TIMEOUT)
    def receive(self, max_bytes: int | None = None) -> bytes:
        """Receive the bytes that are available. Blocks until there is at least one.

        Args:
            max_bytes: The largest number of bytes to return. None returns all that are available,
                up to 256 KiB.

        Raises:
            EndOfStream: The driver has closed its half; no bytes are missing. It is anyio's
                `EndOfStream` too, if anyio was imported.
            DriverError: The driver has failed, or the connection is gone: bytes may be missing.
            DriverTimeoutError: The surrounding `timeout` ran out. No bytes are lost, and the
                stream can still be used.
            trio.ClosedResourceError: The stream was closed here.
        """
        check_max_bytes(max_bytes)
        if self._received is None and not self._lead(self._receive_here, max_bytes):
            self._run("receive()", self._receive, max_bytes)
        data = self._received or b""
        rest = b"" if max_bytes is None else data[max_bytes:]
        self._received = rest or None
        if not data:
            raise end_of_stream("the driver has ended its half of the stream")
        return data[: len(data) - len(rest)]

    def _receive_here(self, max_bytes: int | None) -> bool:
        """Receive in this thread. Return False if the loop must do it: after a timeout, too."""
        wait = ThreadReceive(self._remote, max_bytes, self._store)
        try:
            if not leading.begin(self._connection, wait, ThreadReceive.start, math.inf):
                return False
            if wait.receiving:
                passive_wait.wait(wait, self._runner.left())
        finally:
            try:
                if wait.receiving:
                    leading.collect(self._connection, wait, wait.end)
            finally:
                if wait.receiving:  # a signal handler has raised before signals were deferred
                    leading.collect(self._connection, wait, wait.end)
        if wait.at_end:
            self._store(self._remote.take(max_bytes))
        return self._received is not None

    def _store(self, data: bytes) -> None:
        self._received = data

    async def _receive(self, max_bytes: int | None) -> None:
        """Receive into `_received`, so that the next call gets the data after an interruption."""
        self._received = await self._remote.receive_some(max_bytes)

    def send_eof(self) -> None:
        """Close this half: the driver reads all that was sent, then EOF. Receiving still works.

        Raises as `send` does.
        """
        self._run("send_eof()", self._remote.send_eof)

    def detach(self) -> RemoteStream:
        """Return the stream; from now on the caller is responsible for closing it."""
        self._forget(self)
        return self._remote

    def close(self) -> None:
        """Close the stream. Blocks until the driver has what was sent, and its code has ended.

        Bytes that were not received are lost. Closing it again does nothing.

        Raises:
            DriverError: The driver has failed while it processed the bytes.
        """
        self._forget(self)
        if not self._remote.closed:
            self._runner.run(self._runner.on_stream("close()"), self._remote.aclose)
            self._remote.check()

    def _lead(self, function: Callable[..., bool], *args: Any) -> bool:
        """Do a step in this thread. Return False if the loop must do it."""
        return self._runner.may_lead and self._mapped(function, *args)

    def _run(self, step: str, function: Callable[..., Any], *args: Any) -> Any:
        return self._mapped(self._runner.run, self._runner.on_stream(step), function, *args)

    def _mapped(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except trio.BrokenResourceError as exc:
            # Blocking code gets the reason itself instead of Trio's exception.
            if isinstance(exc.__cause__, DriverError):
                raise exc.__cause__ from None
            raise DriverConnectionError(str(exc)) from None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            return self.receive()
        except EndOfStream:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            self.close()
            return
        with suppress(DriverError):  # the body's exception is the same, or says more
            self._close_for(exc_type)

    def _close_for(self, exc_type: type[BaseException]) -> None:
        """Close after an exception; after Ctrl-C, without delivering what was sent."""
        if issubclass(exc_type, Exception) or self._remote.closed:
            self.close()
        else:
            self._forget(self)
            self._runner.run(self._runner.on_stream("close()"), self._remote.abort)

    def __del__(self) -> None:
        self._remote.close_soon()


def open_blocking_stream(
    runner: BlockingRunner,
    channel: Channel,
    request: Request,
    forget: Callable[[BlockingStream], None],
) -> BlockingStream:
    """Open a raw stream for blocking code. Blocks.

    Args:
        runner: Runs the steps.
        channel: The connection.
        request: The encoded call.
        forget: Called with the stream when its owner closes or detaches it.
    """

    async def open_it() -> BlockingStream:
        # The object is made in the loop: if Ctrl-C keeps it from its caller, it is collected, and
        # its finalizer closes the stream.
        return BlockingStream(runner, await open_stream(channel, request), forget)

    stream: BlockingStream = runner.run("opening the stream", open_it)
    return stream
