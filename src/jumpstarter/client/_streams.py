"""What blocking code holds of a generator or a raw stream: each step is a call through the portal.

Closing waits for the driver's code to end; collecting an object that was not closed only tells the
exporter, since a finalizer may run in any thread, the portal's own included, and must never block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, Self

import trio

from .._io.portal import in_trio_thread
from .._util.checks import check_max_bytes
from .._util.no_copies import ReduceEx, no_copies
from ..errors import DriverConnectionError, DriverError, EndOfStream

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for a default, which typing's own has from 3.13 on

    from ._generators import RemoteGenerator
    from ._raw_streams import RemoteStream

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BlockingGenerator", "BlockingRunner", "BlockingStream"]


class BlockingRunner(Protocol):
    """How blocking code runs a coroutine of the client's loop."""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `await function(*args)` there, and block until it has ended."""

    def permits(self) -> bool:
        """Tell if it would run anything; else it raises, since the client or the time is over."""


class BlockingGenerator(Generator[T, None, Any]):
    """Iterates over a driver's generator from blocking code, in any one thread at a time.

    It is a generator like any other: `yield from` it gives what the driver's generator returned,
    `close()` ends the driver's code and waits for that, and so does the end of a `with` block.
    """

    def __init__(self, run: BlockingRunner, remote: RemoteGenerator[T]) -> None:
        self._run = run
        self._remote = remote
        self._items: deque[bytes] = deque()  # fetched together, and not asked for yet

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a driver's generator", "pass the items on, as list() gives them"
    )

    def __next__(self) -> T:
        """Give the next item. Blocks; Ctrl-C ends the driver's generator.

        Raises:
            StopIteration: The driver's generator has ended; its `value` is what that one returned.
            DriverError: It failed; all items from before that were given.
        """
        try:
            if not (self._items and self._run.permits()):
                self._items.clear()
                self._items.extend(self._run(self._remote.fetch))
            return self._decode(self._items.popleft())
        except StopAsyncIteration:
            value = self._remote.value
        except KeyboardInterrupt:
            # An item that had come already is lost, so nothing may follow it.
            self._items.clear()
            self._remote.close_soon()
            raise
        raise StopIteration(value)

    def _decode(self, body: bytes) -> T:
        try:
            return self._remote.decode(body)
        except DriverError:
            self.close()
            raise

    def send(self, value: Any) -> T:
        """The same as `next`: a driver's generator takes nothing.

        Raises:
            TypeError: `value` is not None.
        """
        if value is not None:
            raise TypeError(f"a driver's generator takes no values, and was sent {value!r}")
        return next(self)

    def throw(self, typ: Any, val: object = None, tb: TracebackType | None = None) -> NoReturn:
        """End the driver's generator and raise here: exceptions do not cross the wire this way."""
        self.close()
        exc = typ if val is None else val
        if not isinstance(exc, BaseException):
            exc = typ() if val is None else typ(val)
        raise exc.with_traceback(tb) if tb is not None else exc

    def close(self) -> None:
        """End the driver's generator; blocks until its code has ended, or `cancel_grace` passed.

        In a thread that runs a Trio loop, where a collector may call it, it only tells the
        exporter.
        """
        self._items.clear()
        if self._remote.running and not in_trio_thread():
            self._run(self._remote.end)
        else:
            self._remote.close_soon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlockingStream:
    """A raw stream to a driver, for blocking code. A context manager, and an iterator of bytes.

    One thread may send while another receives. Ctrl-C interrupts both; no bytes that had come are
    lost by it.
    """

    def __init__(
        self, run: BlockingRunner, remote: RemoteStream, forget: Callable[[BlockingStream], None]
    ) -> None:
        self._run = run
        self._remote = remote
        self._forget = forget
        self._received: bytes | None = None  # has come, and Ctrl-C has kept it from its caller

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a stream", "open another one there, by a client of that process"
    )

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; blocks while the driver takes none.

        Raises:
            DriverError: The driver has failed or closed the stream, or the connection is gone.
            trio.ClosedResourceError: The stream, or our half of it, was closed here.
        """
        self._call(self._remote.send_all, data)

    def receive(self, max_bytes: int | None = None) -> bytes:
        """Receive what there is, at least one byte; blocks until there is some.

        Args:
            max_bytes: At most so many; None takes what there is, up to 256 KiB.

        Raises:
            EndOfStream: The driver has ended its half; nothing is missing.
            DriverError: The driver has failed, or the connection is gone: bytes may be missing.
            trio.ClosedResourceError: The stream was closed here.
        """
        check_max_bytes(max_bytes)
        if self._received is None:
            self._call(self._receive, max_bytes)
        data = self._received or b""
        rest = b"" if max_bytes is None else data[max_bytes:]
        self._received = rest or None
        if not data:
            raise EndOfStream("the driver has ended its half of the stream")
        return data[: len(data) - len(rest)]

    async def _receive(self, max_bytes: int | None) -> None:
        """Receive into `_received`, from where an interrupted caller's next call takes it."""
        self._received = await self._remote.receive_some(max_bytes)

    def send_eof(self) -> None:
        """End our half; the driver reads all that was sent, and then the end. Receiving goes on."""
        self._call(self._remote.send_eof)

    def detach(self) -> RemoteStream:
        """Give the stream to whoever closes it now."""
        self._forget(self)
        return self._remote

    def close(self) -> None:
        """Close the stream; blocks until the driver has what was sent and its code has ended.

        What was not received is lost. Closing again does nothing.

        Raises:
            DriverError: The driver has failed in what it did with the bytes.
        """
        self._forget(self)
        if not self._remote.closed:
            self._run(self._remote.aclose)
            self._remote.check()

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return self._run(function, *args)
        except trio.BrokenResourceError as exc:
            # Blocking code knows no Trio: it gets the reason itself.
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
        with suppress(DriverError):  # the body's exception says it, or is the more telling one
            self._close_for(exc_type)

    def _close_for(self, exc_type: type[BaseException]) -> None:
        """Close after an exception: after Ctrl-C, the driver need not have taken what was sent."""
        if issubclass(exc_type, Exception) or self._remote.closed:
            self.close()
        else:
            self._forget(self)
            self._run(self._remote.abort)

    def __del__(self) -> None:
        self._remote.close_soon()
