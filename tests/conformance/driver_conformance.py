"""An echo driver that answers all conformance cases. It touches nothing and keeps no secrets.

Methods that run for a client, and must end with it, register while they run. A client can therefore
ask which of them still run, and how many have ever begun.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from drivers_for_tests import Plain
from jumpstarter.driver import export, exportstream
from jumpstarter.errors import Code, DriverError

__all__ = ["HEAD", "Conformance", "pattern", "receive_exactly", "stretched"]

HEAD = 8  # bytes before each request on `duplex`: four for its size, four for its answer's

Stream = trio.abc.HalfCloseableStream


def pattern(size: int) -> bytes:
    """Return bytes in which neighbouring pieces always differ."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def stretched(payload: bytes, size: int) -> bytes:
    """Repeat or cut a payload to this size, so that an answer identifies its request."""
    return (payload * (size // max(1, len(payload)) + 1))[:size]


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Receive `size` bytes, or fewer if the stream ends first."""
    data = b""
    while len(data) < size and (piece := await stream.receive_some(size - len(data))):
        data += piece
    return data


@dataclass(kw_only=True)
class Conformance(Plain):
    """A driver that answers the conformance cases.

    Attributes:
        running: Names of the registered methods that run now.
        begun: How many registered methods have ever begun.
        offered: Bytes that the last `flood` has sent.
    """

    running: list[str] = field(default_factory=list)
    begun: int = 0
    offered: int = 0
    _let_go: trio.Event = field(default_factory=trio.Event, repr=False)
    _changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot, repr=False)

    @contextmanager
    def _signed_in(self, name: str) -> Generator[None, None, None]:
        self.begun += 1
        self.running.append(name)
        self._changed.unpark_all()
        try:
            yield
        finally:
            self.running.remove(name)

    # ----------------------------------------------------------------- the driver's state

    @export
    async def what_runs(self) -> list[str]:
        return self.running

    @export
    async def how_much_began(self) -> int:
        return self.begun

    @export
    async def until_running(self, name: str) -> None:
        while name not in self.running:
            await self._changed.park()

    @export
    async def how_much_was_offered(self) -> int:
        return self.offered

    @export
    async def release(self) -> None:
        """Let `stuck` read the bytes sent to it."""
        self._let_go.set()

    # ---------------------------------------------------------------------------- methods

    @export
    def empty(self) -> None:
        """Take no argument and return nothing, in a thread."""

    @export
    async def empty_async(self) -> None:
        """Take no argument and return nothing, in a task."""

    @export
    def unary(self, size: int, payload: bytes) -> bytes:
        return stretched(payload, size)

    @export
    async def unary_async(self, size: int, payload: bytes) -> bytes:
        return stretched(payload, size)

    @export
    async def echo(self, value: Any = None) -> Any:
        return value

    @export
    async def sleep(self, seconds: float) -> None:
        with self._signed_in("sleep"):
            await trio.sleep(seconds)

    @export
    async def hold(self) -> None:
        with self._signed_in("hold"):
            await trio.sleep_forever()

    @export
    async def fail(self, code: int, text: str, notes: list[str]) -> None:
        raise _failure(code, text, notes)

    # ------------------------------------------------------------------------- generators

    @export
    def gen(self, sizes: list[int]) -> Generator[bytes, None, None]:
        for size in sizes:
            yield pattern(size)

    @export
    async def gen_async(self, sizes: list[int]) -> AsyncGenerator[bytes, None]:
        with self._signed_in("gen_async"):
            for size in sizes:
                yield pattern(size)

    @export
    async def fail_gen(self, code: int, text: str, notes: list[str]) -> AsyncGenerator[int, None]:
        yield 1
        raise _failure(code, text, notes)

    # ---------------------------------------------------------------------------- streams

    @asynccontextmanager
    async def _device(
        self, name: str, behave: Callable[[Stream], Awaitable[None]]
    ) -> AsyncIterator[Stream]:
        """Yield one end of an unbuffered stream, and run `behave` as the device at the other."""
        ours, theirs = trio.testing.lockstep_stream_pair()
        with self._signed_in(name):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(behave, ours)
                yield theirs
                nursery.cancel_scope.cancel()

    @exportstream
    @asynccontextmanager
    async def sum_stream(self) -> AsyncIterator[Stream]:
        """Send back the number of bytes received, after the client has ended its half."""
        async with self._device("sum_stream", _add_up) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def duplex(self) -> AsyncIterator[Stream]:
        """Answer each request with the number of bytes that its head asks for."""

        async def answer(stream: Stream) -> None:
            while len(head := await receive_exactly(stream, HEAD)) == HEAD:
                request = await receive_exactly(stream, int.from_bytes(head[:4], "little"))
                size = int.from_bytes(head[4:], "little")
                await stream.send_all(stretched(request, size))
            await stream.send_eof()

        async with self._device("duplex", answer) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def hasty(self) -> AsyncIterator[Stream]:
        """Answer the first bytes, end this half, and discard all later bytes."""

        async def answer(stream: Stream) -> None:
            await stream.receive_some()
            await stream.send_all(b"enough")
            await stream.send_eof()
            async for _ in stream:
                pass

        async with self._device("hasty", answer) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def stuck(self) -> AsyncIterator[Stream]:
        """Read nothing before `release`, and then behave like `sum_stream`."""
        self._let_go = trio.Event()

        async def wait(stream: Stream) -> None:
            await self._let_go.wait()
            await _add_up(stream)

        async with self._device("stuck", wait) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def flood(self, pieces: int, size: int) -> AsyncIterator[Stream]:
        """Send `pieces` pieces of `size` bytes, as fast as the client reads them."""
        self.offered = 0

        async def send(stream: Stream) -> None:
            for _ in range(pieces):
                await stream.send_all(bytes(size))
                self.offered += size
            await stream.send_eof()

        async with self._device("flood", send) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def fail_stream(self, code: int, text: str, notes: list[str]) -> AsyncIterator[Stream]:
        """Fail after the first bytes have arrived."""

        async def fail(stream: Stream) -> None:
            await stream.receive_some()
            raise _failure(code, text, notes)

        async with self._device("fail_stream", fail) as stream:
            yield stream


async def _add_up(stream: Stream) -> None:
    total = 0
    async for data in stream:
        total += len(data)
    await stream.send_all(total.to_bytes(8, "little"))
    await stream.send_eof()


def _failure(code: int, text: str, notes: list[str]) -> DriverError:
    exc = DriverError(text, code=Code(code))
    for note in notes:
        exc.add_note(note)
    return exc
