"""A driver with plain methods, and both ends of a connection to it, for tests of worker threads."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from drivers_for_tests import Echo
from helpers import PATIENCE, ask, in_time
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.led_connection import LedConnection
from jumpstarter._exporter.session import Session
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._io.ownership import Reader
from jumpstarter._limits import DEFAULT_LIMITS, Limits
from jumpstarter._util.background import open_background
from jumpstarter.client._channel import Channel
from jumpstarter.driver import export
from transports import PairMaker, unix_pair

__all__ = ["Bench", "Led", "led"]

_said: Final[ContextVar[str]] = ContextVar("said", default="nothing")


@dataclass(kw_only=True)
class Bench(Echo):
    """A driver that records the thread of each plain call; slow methods wait for `let_go`."""

    threads: list[int] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    left: list[trio.CancelScope] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    @export
    def plain(self, value: Any = None) -> Any:
        self.threads.append(threading.get_ident())
        return value

    @export
    def slow(self, value: Any = None) -> Any:
        self.begun.set()
        assert self.let_go.wait(PATIENCE)
        self.log.append("slow ended")
        return value

    @export
    def polling(self) -> None:
        self.begun.set()
        try:
            while True:
                trio.from_thread.check_cancelled()
                trio.from_thread.run(trio.sleep, 0.001)
        finally:
            self.log.append("polling ended")

    @export
    def check_cancelled(self) -> str:
        trio.from_thread.check_cancelled()
        return "not cancelled"

    @export
    def task_name(self) -> str:
        return trio.from_thread.run_sync(lambda: trio.lowlevel.current_task().name)

    @export
    def leave_open(self, value: Any) -> Any:
        scope = trio.CancelScope()
        self.left.append(scope)
        trio.from_thread.run_sync(scope.__enter__)
        return value

    @export
    def say(self, text: str) -> list[str]:
        before = _said.get()
        _said.set(text)
        return [before, _said.get()]

    @export
    def fail(self) -> None:
        raise ValueError("no")

    @export
    def exit(self) -> None:
        raise SystemExit(3)

    @export
    def hidden(self) -> Any:
        async def later() -> str:
            await trio.lowlevel.checkpoint()
            return "later"

        return later()

    @export
    def unsendable(self) -> Any:
        return object()

    @export
    def sized(self, size: int) -> bytes:
        return bytes(size)


@dataclass
class Led:
    """Both ends of a connection, in one event loop."""

    channel: Channel
    connection: LedConnection
    session: Session
    driver: Bench

    async def call(self, method: str, *args: Any) -> Any:
        return await self.channel.call(ask(method, *args))

    @property
    def is_led(self) -> bool:
        """True while a thread of the exporter reads."""
        return self.connection.ownership.reader is Reader.THREAD


@asynccontextmanager
async def led(
    *,
    limits: Limits = DEFAULT_LIMITS,
    threads: int = 64,
    make_pair: PairMaker = unix_pair,
    make_session: Callable[..., Session] = Session,
) -> AsyncIterator[Led]:
    driver = Bench()
    exporter = ServerContext(DeviceTree(driver), DriverExecutor(threads), limits=limits)
    ours, theirs = await make_pair()
    async with in_time(), open_background() as nursery:
        session = make_session(exporter, theirs, "the test")
        nursery.start_soon(session.run)
        channel = Channel(ours, "the exporter", limits=limits)
        await channel.begin(nursery)
        try:
            yield Led(channel, session._connection, session, driver)
        finally:
            driver.let_go.set()
            await channel.aclose()
