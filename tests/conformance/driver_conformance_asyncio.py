"""The `Conformance` driver with its async code written for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from driver_conformance import HEAD, Conformance, pattern, stretched

from jumpstarter.driver import export, exportstream
from jumpstarter.errors import Code, DriverError

__all__ = ["AsyncioConformance"]


class _Lock:
    """One direction of an unbuffered stream: sending waits until everything was received."""

    def __init__(self) -> None:
        self._data = b""
        self._ended = False
        self._changed = asyncio.Condition()

    async def send(self, data: bytes) -> None:
        async with self._changed:
            self._data = bytes(data)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: not self._data)

    async def receive(self, max_bytes: int | None) -> bytes:
        async with self._changed:
            await self._changed.wait_for(lambda: self._data or self._ended)
            size = len(self._data) if max_bytes is None else max_bytes
            data, self._data = self._data[:size], self._data[size:]
            self._changed.notify_all()
            return data

    async def end(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()


class Stream:
    """One end of an unbuffered stream."""

    def __init__(self, incoming: _Lock, outgoing: _Lock) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._incoming.receive(max_bytes)

    async def send_all(self, data: bytes) -> None:
        await self._outgoing.send(data)

    async def send_eof(self) -> None:
        await self._outgoing.end()

    async def receive_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := await self.receive_some(size - len(data))):
            data += piece
        return data


@dataclass(kw_only=True)
class AsyncioConformance(Conformance):
    """A driver that answers the conformance cases in an asyncio loop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._released = asyncio.Event()

    @contextmanager
    def _signed_in(self, name: str) -> Generator[None, None, None]:
        self.begun += 1
        self.running.append(name)
        try:
            yield
        finally:
            self.running.remove(name)

    @export
    async def what_runs(self) -> list[str]:
        return self.running

    @export
    async def how_much_began(self) -> int:
        return self.begun

    @export
    async def until_running(self, name: str) -> None:
        while name not in self.running:  # noqa: ASYNC110 - an event would belong to one loop
            await asyncio.sleep(0.001)

    @export
    async def how_much_was_offered(self) -> int:
        return self.offered

    @export
    async def release(self) -> None:
        self._released.set()

    @export
    async def empty_async(self) -> None:
        await asyncio.sleep(0)

    @export
    async def unary_async(self, size: int, payload: bytes) -> bytes:
        return stretched(payload, size)

    @export
    async def echo(self, value: Any = None) -> Any:
        return value

    @export
    async def sleep(self, seconds: float) -> None:
        with self._signed_in("sleep"):
            await asyncio.sleep(seconds)

    @export
    async def hold(self) -> None:
        with self._signed_in("hold"):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)

    @export
    async def fail(self, code: int, text: str, notes: list[str]) -> None:
        raise _failure(code, text, notes)

    @export
    async def gen_async(self, sizes: list[int]) -> AsyncGenerator[bytes, None]:
        with self._signed_in("gen_async"):
            try:
                for size in sizes:
                    yield pattern(size)
            finally:
                await asyncio.sleep(0)

    @export
    async def fail_gen(self, code: int, text: str, notes: list[str]) -> AsyncGenerator[int, None]:
        yield 1
        raise _failure(code, text, notes)

    @asynccontextmanager
    async def _connected(
        self, name: str, behave: Callable[[Stream], Awaitable[None]]
    ) -> AsyncIterator[Any]:
        """Yield one end of an unbuffered stream, and run `behave` as the device at the other."""
        up, down = _Lock(), _Lock()
        with self._signed_in(name):
            device = asyncio.ensure_future(behave(Stream(up, down)))
            failed = asyncio.ensure_future(self._watch(device, asyncio.current_task()))
            try:
                yield Stream(down, up)
            except asyncio.CancelledError:
                if device.done() and not device.cancelled() and device.exception() is not None:
                    task = asyncio.current_task()
                    assert task is not None
                    task.uncancel()
                    device.result()
                raise
            finally:
                for each in (failed, device):
                    each.cancel()
                    with suppress(asyncio.CancelledError, DriverError):
                        await each

    async def _watch(self, device: asyncio.Future[None], task: asyncio.Task[Any] | None) -> None:
        """Cancel the task that holds the stream when the device fails, as a task group does."""
        await asyncio.wait([device])
        if not device.cancelled() and device.exception() is not None and task is not None:
            task.cancel()

    @exportstream
    @asynccontextmanager
    async def sum_stream(self) -> AsyncIterator[Any]:
        async with self._connected("sum_stream", _add_up) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def duplex(self) -> AsyncIterator[Any]:
        async def answer(stream: Stream) -> None:
            while len(head := await stream.receive_exactly(HEAD)) == HEAD:
                request = await stream.receive_exactly(int.from_bytes(head[:4], "little"))
                await stream.send_all(stretched(request, int.from_bytes(head[4:], "little")))
            await stream.send_eof()

        async with self._connected("duplex", answer) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def hasty(self) -> AsyncIterator[Any]:
        async def answer(stream: Stream) -> None:
            await stream.receive_some()
            await stream.send_all(b"enough")
            await stream.send_eof()
            while await stream.receive_some():
                pass

        async with self._connected("hasty", answer) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def stuck(self) -> AsyncIterator[Any]:
        self._released = asyncio.Event()

        async def wait(stream: Stream) -> None:
            await self._released.wait()
            await _add_up(stream)

        async with self._connected("stuck", wait) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def flood(self, pieces: int, size: int) -> AsyncIterator[Any]:
        self.offered = 0

        async def send(stream: Stream) -> None:
            for _ in range(pieces):
                await stream.send_all(bytes(size))
                self.offered += size
            await stream.send_eof()

        async with self._connected("flood", send) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def fail_stream(self, code: int, text: str, notes: list[str]) -> AsyncIterator[Any]:
        async def fail(stream: Stream) -> None:
            await stream.receive_some()
            raise _failure(code, text, notes)

        async with self._connected("fail_stream", fail) as stream:
            yield stream


async def _add_up(stream: Stream) -> None:
    total = 0
    while data := await stream.receive_some():
        total += len(data)
    await stream.send_all(total.to_bytes(8, "little"))
    await stream.send_eof()


def _failure(code: int, text: str, notes: list[str]) -> DriverError:
    exc = DriverError(text, code=Code(code))
    for note in notes:
        exc.add_note(note)
    return exc
