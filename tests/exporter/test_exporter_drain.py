"""Tests of a drain: drivers are notified, calls that only listen end soon, the log says why."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import jumpstarter
from exporter_process import PATIENCE, exporter
from jumpstarter._api.connecting import ask_for_report
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.session import Session
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter.client import DriverClient
from jumpstarter.client._channel import Channel
from jumpstarter.client._tree import build_tree
from jumpstarter.driver import Driver, draining, export, exportstream, until_draining
from jumpstarter.drivers.mixins import ResourceMixin
from jumpstarter.errors import ArgumentError, CallCancelled, JumpstarterException
from processes import running

GRACE = 60.0


class Listener(ResourceMixin, DriverClient):
    pass


class Endless(Driver):
    """A driver with endless generators and streams."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[str, float] = {}

    @classmethod
    def client(cls) -> str:
        return f"{__name__}.Listener"

    async def _items(self, name: str) -> AsyncIterator[str]:
        try:
            yield name
            await trio.sleep_forever()
        finally:
            self.ended[name] = trio.current_time()

    @export
    async def by_default(self) -> AsyncIterator[str]:
        async for item in self._items("by_default"):
            yield item

    @export(drain=0)
    async def at_once(self) -> AsyncIterator[str]:
        async for item in self._items("at_once"):
            yield item

    @export(drain=20)
    async def later(self) -> AsyncIterator[str]:
        async for item in self._items("later"):
            yield item

    @export(drain=math.inf)
    async def never(self) -> AsyncIterator[str]:
        async for item in self._items("never"):
            yield item

    @export
    async def method(self) -> None:
        async for _ in self._items("method"):
            pass

    @export
    async def flash(self, image: str) -> AsyncIterator[int]:
        try:
            async with self.resource(image) as stream:
                async for data in stream:
                    yield len(data)
                    await trio.sleep(12)
            await trio.sleep_forever()
        finally:
            self.ended["flash"] = trio.current_time()

    @asynccontextmanager
    async def _wire(self, name: str) -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._swallow, theirs)
                yield ours
                nursery.cancel_scope.cancel()
        finally:
            self.ended[name] = trio.current_time()

    @staticmethod
    async def _swallow(stream: trio.abc.Stream) -> None:
        while await stream.receive_some():
            pass

    @exportstream
    @asynccontextmanager
    async def console(self) -> AsyncIterator[trio.abc.Stream]:
        async with self._wire("console") as stream:
            yield stream

    @exportstream(drain=20)
    @asynccontextmanager
    async def console_later(self) -> AsyncIterator[trio.abc.Stream]:
        async with self._wire("console_later") as stream:
            yield stream

    @exportstream(drain=math.inf)
    @asynccontextmanager
    async def console_never(self) -> AsyncIterator[trio.abc.Stream]:
        async with self._wire("console_never") as stream:
            yield stream


@asynccontextmanager
async def joined(driver: Driver) -> AsyncIterator[tuple[Any, Session, trio.Nursery]]:
    """Yield a client of a driver, over memory, the session that serves it, and a nursery."""
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(1000):  # seconds of the mock clock
        session = Session(ServerContext(DeviceTree(driver), DriverExecutor()), theirs, "the client")
        channel = Channel(ours, "the exporter")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await channel.begin(nursery)
            nodes = await ask_for_report(channel)
            yield build_tree(nodes, channel, allow=[f"{__name__}.*"]), session, nursery
            await channel.aclose()
            nursery.cancel_scope.cancel()


async def listen(client: Any, name: str) -> None:
    with pytest.raises(JumpstarterException, match="shutting down"):
        async for _ in client.streamingcall_async(name):
            pass


async def watch(client: Any, name: str, every: float) -> None:
    """Open a raw stream, and send a byte every `every` seconds."""
    with pytest.raises((trio.BrokenResourceError, JumpstarterException)):  # noqa: PT012
        async with client.stream_async(name) as stream:
            while True:
                await trio.sleep(every)
                await stream.send_all(b"x")


@pytest.mark.parametrize(
    ("name", "end"),
    [("by_default", 5), ("at_once", 0), ("later", 20), ("never", GRACE), ("method", GRACE)],
)
async def test_a_generator_goes_on_in_a_drain_for_as_long_as_its_driver_says(
    name: str, end: float, autojump_clock: MockClock
) -> None:
    driver = Endless()
    async with joined(driver) as (client, session, nursery):
        if name == "method":

            async def call() -> None:
                with pytest.raises(CallCancelled, match="shutting down"):
                    await client.call_async("method")

            nursery.start_soon(call)
        else:
            nursery.start_soon(listen, client, name)
        await trio.testing.wait_all_tasks_blocked()
        begin = autojump_clock.current_time()
        await session.drain(GRACE, "the end")
        assert driver.ended == {name: begin + end}


@pytest.mark.parametrize(
    ("name", "every", "end"),
    [
        ("console", math.inf, 5),
        ("console", 3, GRACE),
        ("console_later", math.inf, 20),
        ("console_later", 3, 20),
        ("console_never", math.inf, GRACE),
    ],
)
async def test_a_raw_stream_goes_on_in_a_drain_while_its_client_sends_or_its_driver_says(
    name: str, every: float, end: float, autojump_clock: MockClock
) -> None:
    driver = Endless()
    async with joined(driver) as (client, session, nursery):
        nursery.start_soon(watch, client, name, every)
        await trio.testing.wait_all_tasks_blocked()
        begin = autojump_clock.current_time()
        await session.drain(GRACE, "the end")
        assert driver.ended == {name: begin + end}


async def test_a_generator_that_uses_a_lent_file_goes_on_until_it_has_it(
    autojump_clock: MockClock,
) -> None:
    driver = Endless()
    async with joined(driver) as (client, session, nursery):

        async def flash() -> None:
            ours, theirs = trio.testing.memory_stream_one_way_pair()
            await ours.send_all(b"x" * 100)
            await ours.aclose()
            async with client.resource_async(theirs) as image:
                with pytest.raises(CallCancelled):
                    async for _ in client.streamingcall_async("flash", image):
                        pass

        nursery.start_soon(flash)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.5)
        begin = autojump_clock.current_time()
        await session.drain(GRACE, "the end")
        assert 11 < driver.ended["flash"] - begin <= 17


# ---------------------------------------------------------------------- notification of drivers

MODULE = '''
import time
from contextlib import asynccontextmanager
import trio
from jumpstarter.driver import Driver, draining, export, exportstream, until_draining

class Told(Driver):
    """Ends by itself when the exporter drains."""

    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

    @export(drain=1000)
    def plain(self):
        yield "begun"
        while not draining(wait=1000):
            yield "item"
        yield "bye"

    @export(drain=1000)
    def polling(self):
        yield "begun"
        while not draining():
            time.sleep(0.01)
        yield "bye"

    @export(drain=1000)
    async def in_loop(self):
        yield "begun"
        while not draining():
            with trio.move_on_after(1000):
                await until_draining()
        yield "bye"

    @export
    def method(self):
        while not draining(wait=1000):
            pass
        return "bye"

    @export
    async def async_method(self):
        await until_draining()
        return "bye"

    @export
    async def blocks_the_loop(self):
        draining(wait=1)

class Untold(Told):
    @export
    def plain(self):
        try:
            yield "begun"
            while True:
                time.sleep(0.01)
                yield "item"
        finally:
            self.logger.warning("a plain generator was closed")

    @export
    async def in_loop(self):
        try:
            yield "begun"
            await trio.sleep_forever()
        finally:
            self.logger.warning("an async generator was closed")
'''


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "told.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_drivers_learn_of_the_drain_and_end_by_themselves(told: Path) -> None:
    with (
        exporter(told, "--grace", "1000", driver="told:Told") as server,
        jumpstarter.connect(server.address) as client,
        client.timeout(PATIENCE),
        ThreadPoolExecutor() as pool,
    ):
        with pytest.raises(JumpstarterException, match="until_draining"):
            client.call("blocks_the_loop")
        calls = [pool.submit(client.call, name) for name in ("method", "async_method")]
        loops = [client.streamingcall(name) for name in ("plain", "polling", "in_loop")]
        assert [next(loop) for loop in loops] == ["begun"] * 3
        rests = [pool.submit(list, loop) for loop in loops]
        server.send(signal.SIGTERM)
        assert [rest.result(PATIENCE) for rest in rests] == [["bye"]] * 3
        assert [call.result(PATIENCE) for call in calls] == ["bye"] * 2
        assert server.wait() == 0


def test_generators_that_ignore_the_drain_are_ended_early(told: Path) -> None:
    with (
        exporter(told, "--grace", "1000", driver="told:Untold") as server,
        jumpstarter.connect(server.address) as client,
        client.timeout(PATIENCE),
        ThreadPoolExecutor() as pool,
    ):
        loops = [client.streamingcall(name) for name in ("plain", "in_loop")]
        assert [next(loop) for loop in loops] == ["begun"] * 2
        rests = [pool.submit(list, loop) for loop in loops]
        server.send(signal.SIGTERM)
        for rest in rests:
            assert "shutting down" in str(rest.exception(PATIENCE))
        assert server.wait() == 0
        log = server.rest_of_log()
    assert "a plain generator was closed" in log
    assert "an async generator was closed" in log


# ----------------------------------------------------------------------------------- the log


def test_the_log_of_a_drain_names_the_signal_and_what_it_ends_for_whom(told: Path) -> None:
    with (
        exporter(told, "--grace", "1000", driver="told:Untold") as server,
        jumpstarter.connect(server.address, name="the bench") as client,
        client.timeout(PATIENCE),
        ThreadPoolExecutor() as pool,
    ):
        loop = client.streamingcall("in_loop")
        assert next(loop) == "begun"
        rest = pool.submit(list, loop)
        server.send(signal.SIGTERM)
        assert "shutting down" in str(rest.exception(PATIENCE))
        assert server.wait() == 0
        log = server.rest_of_log()
    lines = [
        "received SIGTERM: shutting down",
        "draining: 1 calls of 1 clients have 1000 s to finish",
        "generators, and raw streams into which no client sends, end after 5 s",
        "1 calls of uid ",
    ]
    positions = [log.index(line) for line in lines]
    assert positions == sorted(positions)
    assert "says 'the bench' are cancelled, since the exporter shuts down: 'in_loop' of" in log


def test_the_log_of_a_drain_without_calls_says_nothing_of_the_grace(told: Path) -> None:
    with exporter(told, "--grace", "1000", driver="told:Told") as server:
        server.send(signal.SIGINT)
        assert server.wait() == 0
        log = server.rest_of_log()
    assert "received SIGINT: shutting down" in log
    assert "1000 s" not in log


def test_the_log_of_a_second_signal_names_what_it_cancels(told: Path) -> None:
    with (
        exporter(told, "--grace", "1000", driver="exporter_process:Probe") as server,
        jumpstarter.connect(server.address) as client,
        ThreadPoolExecutor() as pool,
    ):
        held = pool.submit(client.call, "hold")
        client.call("until_held", 1)
        server.send(signal.SIGTERM)
        server.until_logged("draining: 1 calls")
        server.send(signal.SIGTERM)
        assert isinstance(held.exception(PATIENCE), CallCancelled)
        assert server.wait() == 128 + signal.SIGTERM
        log = server.rest_of_log()
    hurried = log.index("received SIGTERM while shutting down: cancelling what still runs")
    assert hurried < log.index(
        "are cancelled, since the exporter shuts down: 'hold' of driver 'root'"
    )


STARTING = """
from jumpstarter.driver import Driver
class Slow(Driver):
    @classmethod
    def client(cls): return "jumpstarter.client.DriverClient"
    def reset(self):
        self.logger.warning("resetting")
        input()
"""


def test_a_signal_while_the_drivers_start_is_logged_and_nothing_becomes_ready(
    told: Path,
) -> None:
    (told / "starting.py").write_text(STARTING)
    command = [sys.executable, "-m", "jumpstarter", "serve", "starting:Slow"]
    pipe = subprocess.PIPE
    with running(
        [*command, "--address", f"unix:{told}/socket"],
        seconds=PATIENCE,
        cwd=told,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        for text in ("resetting", "received SIGTERM: shutting down when the reset()"):
            while text not in (line := process.stderr.readline()):
                assert line
            if text == "resetting":
                process.send_signal(signal.SIGTERM)
        output, _ = process.communicate("on\n" * 2, timeout=PATIENCE)
    assert output == ""
    assert process.returncode == 0


HUNG = """
import threading
import trio
from jumpstarter.driver import Driver, export, on_disconnect
class Hung(Driver):
    @classmethod
    def client(cls): return "jumpstarter.client.DriverClient"
    @export
    def register(self, name):
        on_disconnect(getattr(self, name))
    async def in_loop(self):
        self.logger.warning("it hangs")
        await trio.sleep_forever()
    def in_thread(self):
        self.logger.warning("it hangs")
        threading.Event().wait()
"""


@pytest.mark.parametrize("name", ["in_loop", "in_thread"])
def test_a_second_signal_reaches_what_hangs_at_the_end_of_a_connection(
    name: str, told: Path
) -> None:
    (told / "hanging.py").write_text(HUNG)
    with (
        exporter(told, "--grace", "1000", driver="hanging:Hung") as server,
        jumpstarter.connect(server.address) as client,
        client.timeout(PATIENCE),
    ):
        client.call("register", name)
        server.send(signal.SIGTERM)
        server.until_logged("it hangs")
        server.send(signal.SIGTERM)
        if name == "in_loop":
            assert server.wait() == 128 + signal.SIGTERM
        else:
            server.until_logged("in_thread) goes on for client of uid")


async def test_outside_of_a_call_draining_is_false(autojump_clock: MockClock) -> None:
    assert not draining()
    with trio.move_on_after(10) as scope:
        await until_draining()
    assert scope.cancelled_caught
    assert autojump_clock.current_time() == 10
    assert not await trio.to_thread.run_sync(draining, 0.01)


@pytest.mark.parametrize("wait", [-1, math.nan, "1", None])
def test_draining_refuses_an_invalid_wait(wait: Any) -> None:
    with pytest.raises(ArgumentError, match="wait"):
        draining(wait)


def method(_: object) -> None: ...


def items(_: object) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("decorate", [export, exportstream])
@pytest.mark.parametrize("drain", [-1, math.nan, "5"])
def test_export_refuses_an_invalid_drain(decorate: Callable[..., Any], drain: Any) -> None:
    with pytest.raises(ArgumentError, match="drain"):
        decorate(drain=drain)


def test_a_method_takes_no_time_to_go_on() -> None:
    export(drain=1)(items)
    with pytest.raises(TypeError, match="method is not one"):
        export(drain=1)(method)
