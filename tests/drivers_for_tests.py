"""Small drivers that several tests serve. Each shows one thing; none touches a device."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import trio
import trio.testing

from jumpstarter.driver import Driver, export, exportstream

__all__ = ["Echo", "Lab", "Plain", "Recorder"]


class Plain(Driver):
    """The least that can be served: it exports nothing."""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"


class Echo(Plain):
    """Gives back what it is given, in each of the five ways in which a driver can be called."""

    @export
    def echo(self, value: Any = None) -> Any:
        return value

    @export
    async def echo_async(self, value: Any = None) -> Any:
        return value

    @export
    def count(self, stop: int) -> Generator[int, None, str]:
        yield from range(stop)
        return "counted"

    @export
    async def count_async(self, stop: int) -> AsyncGenerator[int, None]:
        for number in range(stop):
            yield number

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()

        async def echo() -> None:
            async for data in ours:
                await ours.send_all(data)
            await ours.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            yield theirs
            nursery.cancel_scope.cancel()


@dataclass(kw_only=True)
class Recorder(Plain):
    """Writes down when it is reset and closed.

    Attributes:
        name: By which it signs.
        log: Where it signs, `"reset <name>"` and `"close <name>"`; share it within a tree.
        calls_super: Let the base class pass each on to the children.
        failure: What both raise after they have signed.
    """

    name: str
    log: list[str] = field(default_factory=list, repr=False)
    calls_super: bool = True
    failure: BaseException | None = None

    def reset(self) -> None:
        self._sign("reset")
        if self.calls_super:
            super().reset()

    def close(self) -> None:
        self._sign("close")
        if self.calls_super:
            super().close()

    def _sign(self, verb: str) -> None:
        self.log.append(f"{verb} {self.name}")
        if self.failure is not None:
            raise self.failure


@dataclass(kw_only=True)
class Lab(Echo):
    """Writes down when its code starts and ends; most of it waits to be cancelled or let go.

    Attributes:
        log: Where it writes, `"<name> started"` and `"<name> ended"`.
        let_go: What it waits for.
        ended: For a thread to wait until some of it has ended.
    """

    log: list[str] = field(default_factory=list)
    let_go: trio.Event = field(default_factory=trio.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @asynccontextmanager
    async def logged(self, name: str, cleanup: float = 0) -> AsyncIterator[None]:
        self.log.append(f"{name} started")
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(cleanup)
            self.log.append(f"{name} ended")
            self.ended.set()

    @export
    async def wait(self, name: str = "wait", cleanup: float = 0) -> str:
        async with self.logged(name, cleanup):
            await self.let_go.wait()
        return name

    @export
    async def stubborn(self, seconds: float) -> str:
        async with self.logged("stubborn", cleanup=seconds):
            await trio.sleep_forever()
        raise AssertionError

    @export
    async def swallow(self) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "swallowed"

    @export
    async def fail(self) -> NoReturn:
        raise TimeoutError("the device is slow")

    @export
    async def items(self, count: int, cleanup: float = 0) -> AsyncGenerator[int, None]:
        """Give that many numbers, and then wait."""
        async with self.logged("items", cleanup):
            for number in range(count):
                yield number
            await self.let_go.wait()

    @export
    async def items_and_failure(self) -> AsyncGenerator[int, None]:
        yield 1
        yield 2
        raise ValueError("no third")

    @exportstream
    @asynccontextmanager
    async def sink(self, pace: float = 0) -> AsyncIterator[trio.abc.Stream]:
        """Take each piece of bytes after `pace` seconds; fail at `b"fail"`."""
        ours, theirs = trio.testing.lockstep_stream_pair()

        async def read() -> None:
            async for data in ours:
                await trio.sleep(pace)
                self.log.append(f"took {len(data)}")
                if data == b"fail":
                    raise OSError("the device has gone")

        async with self.logged("sink"), trio.open_nursery() as nursery:
            nursery.start_soon(read)
            yield theirs

    @exportstream
    @asynccontextmanager
    async def nobody(self) -> AsyncIterator[trio.abc.Stream]:
        async with self.logged("nobody"):
            await self.let_go.wait()
            raise ConnectionRefusedError("nobody is there")
        yield  # type: ignore[unreachable]  # makes it a generator
