"""Test that the log names a call that goes on after it was cancelled, with its place."""

from __future__ import annotations

import inspect
import logging
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing

from drivers_for_tests import Plain
from helpers import in_time, until
from jumpstarter import Limits, connect_async, serve_async
from jumpstarter._exporter import overdue
from jumpstarter._util.background import open_background
from jumpstarter.client import DriverClient
from jumpstarter.driver import export, exportstream
from jumpstarter.errors import CallOutcomeUnknown

IMPATIENT: Final = Limits(cancel_grace=0.01)


@dataclass(kw_only=True)
class Stuck(Plain):
    """Goes on after it was cancelled, until it is let go."""

    began: threading.Event = field(default_factory=threading.Event)
    events: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    let_go: trio.Event = field(default_factory=trio.Event)

    def release(self) -> None:
        self.events.put("released")
        self.let_go.set()

    @export
    def plain(self) -> None:
        self.began.set()
        self.events.get()

    @export
    async def shielded(self) -> None:
        await self._wait()

    @export
    def plain_items(self) -> Iterator[str]:
        self.began.set()
        yield self.events.get()

    @export
    async def shielded_items(self) -> AsyncGenerator[str, None]:
        await self._wait()
        yield "too late"

    @exportstream
    @asynccontextmanager
    async def shielded_stream(self) -> AsyncIterator[trio.abc.Stream]:
        await self._wait()
        yield trio.testing.memory_stream_pair()[0]

    async def _wait(self) -> None:
        self.began.set()
        with trio.CancelScope(shield=True):
            await self.let_go.wait()


async def call(client: DriverClient, method: str) -> None:
    """Call a method that goes on until this is cancelled, or the connection is lost."""
    with suppress(CallOutcomeUnknown):
        await _call(client, method)


async def _call(client: DriverClient, method: str) -> None:
    if method.endswith("_items"):
        async with client.streamingcall_async(method) as items:
            async for _ in items:
                pass
    elif method.endswith("_stream"):
        async with client.stream_async(method):
            pass
    else:
        await client.call_async(method)


def line_of(method: str) -> str:
    """Return the line of the report that shows where a method waits."""
    function = inspect.unwrap(getattr(Stuck, method))
    lines, first = inspect.getsourcelines(function)
    sought = "self.events.get()" if method.startswith("plain") else "self._wait()"
    number = first + next(at for at, line in enumerate(lines) if sought in line)
    return f'File "{__file__}", line {number}, in {method}'


@pytest.fixture(autouse=True)
def no_lines_at_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the handler of the pytest plugin, under which this runs, from writing them."""
    monkeypatch.setattr(logging.getLogger("jumpstarter.overdue"), "handlers", [])


@pytest.mark.parametrize("method", ["plain", "plain_items"])
@pytest.mark.parametrize("is_lost", [False, True], ids=["cancelled", "lost"])
async def test_place_of_a_thread_that_waits_is_logged(
    method: str,
    is_lost: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = await report_of(method, tmp_path, monkeypatch, caplog, is_lost=is_lost)
    assert text.startswith(f"{method!r} of driver 'root' (test_overdue.Stuck) has not ended, ")
    assert "a thread cannot be interrupted, so give its waits a timeout, and call " in text
    assert line_of(method) in text


@pytest.mark.parametrize("method", ["shielded", "shielded_items", "shielded_stream"])
async def test_place_of_async_code_that_is_shielded_is_logged(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = await report_of(method, tmp_path, monkeypatch, caplog)
    assert text.startswith(f"{method!r} of driver 'root' (test_overdue.Stuck) has not ended, ")
    assert "it is shielded from the cancellation, or has caught it" in text
    assert line_of(method) in text


async def report_of(
    method: str,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    is_lost: bool = False,
) -> str:
    """Cancel a call that goes on, and return what the exporter logs."""
    monkeypatch.setattr(overdue, "PATIENCE", 0.01)
    driver, address = Stuck(), f"unix:{directory}/socket"

    def records() -> list[logging.LogRecord]:
        return [each for each in caplog.records if each.name == "jumpstarter.overdue"]

    async with in_time(), serve_async(driver, address):
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(connect_async(address, limits=IMPATIENT))
                nursery = await stack.enter_async_context(open_background())
                nursery.start_soon(call, client, method)
                await until(driver.began.is_set)
                if is_lost:
                    client.channel.channel.connection.end(ConnectionError("cut"))
            await until(lambda: bool(records()))
        finally:
            driver.release()
    [record] = records()
    return record.getMessage()
