"""Test what a sink gets if the block that lends it ends by an exception: all that had arrived.

A program that uses a forwarded port gets it too, if the driver fails.

Each sink takes nothing until the test lets it, so that the bytes wait at the client when the block
ends. Without care they would be lost then.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from helpers import begin, timed
from jumpstarter import serve
from jumpstarter._io.forward import forward
from jumpstarter._limits import Limits
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.mixins import ResourceMixin
from jumpstarter.errors import DriverOSError
from jumpstarter.testing import client_for_async

LINES: Final = [f"reading {number}\n".encode() for number in range(50)]
DEADLINE: Final = 30.0  # seconds for each test: generous, since the machine may be busy
PATIENT: Final = Limits(cancel_grace=2 * DEADLINE)
ALL: Final = b"".join(LINES)

compressed_or_not = pytest.mark.parametrize("compress", [False, True])
in_a_task_or_a_thread = pytest.mark.parametrize("suffix", ["", "_in_thread"])


@dataclass(kw_only=True)
class Probe(Driver):
    """Writes all lines, each in a piece of its own.

    Attributes:
        written: Set when a method that waits has written them.
    """

    written: trio.Event = field(default_factory=trio.Event)

    @classmethod
    def client(cls) -> str:
        return "test_client_interrupted.ProbeClient"

    @export
    async def measure(self, log: str) -> None:
        async with self.resource(log) as stream:
            for line in LINES:
                await stream.send_all(line)
            raise OSError("the probe has slipped")

    @export
    def measure_in_thread(self, log: str) -> None:
        with self.resource(log) as file:
            for line in LINES:
                file.write(line)
                file.flush()
            raise OSError("the probe has slipped")

    @export
    async def measure_and_wait(self, log: str) -> None:
        async with self.resource(log) as stream:
            for line in LINES:
                await stream.send_all(line)
            self.written.set()
            await trio.sleep_forever()

    @export
    async def measure_without_end(self, log: str) -> None:
        async with self.resource(log) as stream:
            for line in LINES:
                await stream.send_all(line)
            self.written.set()
            while True:
                await stream.send_all(b"x" * 10_000)

    @export
    async def wait_written(self) -> None:
        await self.written.wait()

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        yield FailingDevice()


class FailingDevice(trio.abc.Stream):
    """Sends all lines, then fails."""

    def __init__(self) -> None:
        self.lines = iter(LINES)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        await trio.lowlevel.checkpoint()
        for line in self.lines:
            return line
        raise OSError("the probe has slipped")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError(data)

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError

    async def aclose(self) -> None:
        pass


class ProbeClient(ResourceMixin, DriverClient):
    """Its client."""


@asynccontextmanager
async def trio_client(limits: Limits = PATIENT) -> AsyncIterator[ProbeClient]:
    """Yield a client for Trio code."""
    async with client_for_async(Probe(), limits=limits) as client:
        yield cast("ProbeClient", client)


class SlowStream:
    """A Trio stream that takes nothing before `gate` is set."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.taken = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.gate.wait()
        self.taken += data


class SlowFile:
    """A blocking file that takes nothing before `gate` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.taken = b""

    def write(self, data: bytes) -> int:
        assert self.gate.wait(DEADLINE)
        self.taken += data
        return len(data)


@contextmanager
def blocking() -> Iterator[tuple[ProbeClient, SlowFile]]:
    """Yield a client for blocking code, and a file that takes nothing yet."""
    file = SlowFile()
    with serve(Probe(), limits=PATIENT) as client, client.timeout(DEADLINE):
        try:
            yield cast("ProbeClient", client), file
        finally:
            file.gate.set()


@contextmanager
def late(sink: SlowStream | SlowFile) -> Iterator[None]:
    """Let the sink take bytes only at the end of the block, just before the loan ends."""
    try:
        yield
    finally:
        assert not sink.taken
        sink.gate.set()


@timed(DEADLINE)
@compressed_or_not
@in_a_task_or_a_thread
async def test_a_sink_gets_what_a_driver_had_written_before_it_failed(
    suffix: str, compress: bool
) -> None:
    sink = SlowStream()
    with pytest.raises(DriverOSError, match="the probe has slipped"):  # noqa: PT012 - the body raises
        async with (
            trio_client() as client,
            client.resource_async(sink, write=True, compress=compress) as log,
        ):
            with late(sink):
                await client.call_async(f"measure{suffix}", log)
    assert sink.taken == ALL


@compressed_or_not
@in_a_task_or_a_thread
def test_blocking_code_gets_what_a_driver_had_written_before_it_failed(
    suffix: str, compress: bool
) -> None:
    with blocking() as (client, file):
        with (
            pytest.raises(DriverOSError, match="the probe has slipped"),
            client.resource(file, write=True, compress=compress) as log,
            late(file),
        ):
            client.call(f"measure{suffix}", log)
        assert file.taken == ALL


@timed(DEADLINE)
@pytest.mark.parametrize("method", ["measure_and_wait", "measure_without_end"])
@pytest.mark.parametrize("cancels", [False, True])
async def test_a_block_that_ends_early_does_not_wait_for_its_driver(
    method: str, cancels: bool
) -> None:
    """A driver that keeps the loan, or writes on, does not prolong the end."""
    sink = SlowStream()
    async with trio_client() as client, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope, suppress(KeyError):
            async with client.resource_async(sink, write=True) as log:
                await begin(nursery, client.call_async, method, log)
                await client.call_async("wait_written")
                if cancels:
                    scope.cancel()
                with late(sink):
                    raise KeyError  # as a timeout() that has run out does, in blocking code
        assert sink.taken.startswith(ALL)
        nursery.cancel_scope.cancel()


@timed(DEADLINE)
async def test_a_sink_gets_what_had_arrived_before_a_cancellation() -> None:
    sink = SlowStream()
    async with trio_client() as client, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with client.resource_async(sink, write=True) as log:
                await begin(nursery, client.call_async, "measure_and_wait", log)
                await client.call_async("wait_written")
                with late(sink):
                    scope.cancel()
                    await trio.sleep_forever()
        assert sink.taken == ALL
        nursery.cancel_scope.cancel()


@timed(DEADLINE)
async def test_a_sink_that_takes_nothing_delays_the_end_for_the_grace_only() -> None:
    sink = SlowStream()
    with pytest.raises(DriverOSError, match="the probe has slipped"):
        async with (
            trio_client(Limits(cancel_grace=0.05)) as client,
            client.resource_async(sink, write=True) as log,
        ):
            await client.call_async("measure", log)
    assert not sink.taken


class SlowProgram(SlowStream, trio.abc.HalfCloseableStream):
    """A program's connection, on which the program sends a byte when `says` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.says = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        await self.says.wait()
        return b"!"

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError

    async def send_eof(self) -> None:
        raise AssertionError

    async def aclose(self) -> None:
        raise AssertionError


@timed(DEADLINE)
async def test_a_program_gets_what_had_arrived_before_it_sent_to_a_failed_driver() -> None:
    program = SlowProgram()
    async with trio_client() as client, trio.open_nursery() as nursery:
        with suppress(DriverOSError):
            async with client.stream_async() as stream:
                forwarding = await begin(nursery, forward, program, stream)
                program.says.set()
                await wait_all_tasks_blocked()
                program.gate.set()
                await wait_all_tasks_blocked()
        forwarding.failed(trio.BrokenResourceError, "the probe has slipped")
    assert program.taken == ALL
