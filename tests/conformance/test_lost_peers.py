"""Tests that a side notices in time that its peer was killed, stopped or cut off.

Every call that was sent ends as *unknown*, every call that was not sent ends as *refused*, and the
driver's code for a lost client ends. All peers are processes, and a pair of network devices serves
as the cable.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from exporter_process import ExporterProcess, exporter
from helpers import until
from jumpstarter import Limits, connect_async
from jumpstarter._io.connection import Connection
from jumpstarter.client import DriverClient
from jumpstarter.errors import CallOutcomeUnknown, CallRefused
from processes import running

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds for a test; each takes a few
SOON = 30.0  # seconds for what the end of the peer's socket causes within a few milliseconds
# Without keepalive, only the end of its socket tells that a peer is lost.
NO_KEEPALIVE = Limits(ping_interval=0)
NO_PINGS = ("--limit", "ping_interval=0")
QUICK = Limits(ping_interval=0.3, ping_timeout=2)  # the same keepalive, but faster
DRIVER = "driver_holding:Holding"
in_each_lane = pytest.mark.parametrize("driver", [DRIVER, "driver_holding_asyncio:Holding"])


@contextlib.contextmanager
def holding_exporter(
    directory: Path, *options: str, driver: str = DRIVER
) -> Iterator[ExporterProcess]:
    with exporter(directory, *options, driver=driver, cwd=HERE) as process:
        yield process


@contextlib.contextmanager
def client_process(address: str, what: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(HERE / "script_client.py"), address, what]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        yield process


async def use(client: DriverClient, what: str) -> None:
    """Use the client for an operation that the exporter never completes."""
    match what:
        case "hold" | "hold_thread":
            await client.call_async(what)
        case "hold_items":
            async for _ in client.streamingcall_async(what):
                pass
        case "hold_stream":
            async with client.stream_async(what) as stream:
                await stream.receive_some()


async def ends_unknown(client: DriverClient, what: str, ended: list[str]) -> None:
    with pytest.raises((CallOutcomeUnknown, trio.BrokenResourceError)) as info:
        await use(client, what)
    if isinstance(info.value, trio.BrokenResourceError):  # Trio code expects this of a stream
        assert isinstance(info.value.__cause__, CallOutcomeUnknown)
    ended.append(what)


EVERYTHING = ["hold", "hold_items", "hold_stream", "hold_thread"]


@in_each_lane
@pytest.mark.parametrize("scheme", ["unix", "tcp"])
async def test_killing_the_exporter_ends_everything_as_unknown(
    tmp_path: Path, scheme: str, driver: str
) -> None:
    options = ("--address", "tcp://127.0.0.1:0") if scheme == "tcp" else ()
    ended: list[str] = []
    with (
        trio.fail_after(PATIENCE),
        holding_exporter(tmp_path, *options, driver=driver) as process,
    ):
        async with connect_async(process.address, limits=NO_KEEPALIVE) as client:
            async with trio.open_nursery() as nursery:
                for what in EVERYTHING:
                    nursery.start_soon(ends_unknown, client, what, ended)
                await trio.to_thread.run_sync(begun, process, EVERYTHING)
                process.send(signal.SIGKILL)
                nursery.cancel_scope.deadline = trio.current_time() + SOON
            assert sorted(ended) == EVERYTHING
            with pytest.raises(CallRefused, match="not sent"):
                await client.call_async("echo")


def begun(process: ExporterProcess, what: list[str]) -> None:
    waiting = {f"{name} begins" for name in what}
    while waiting:
        line = process.log_line()
        waiting = {text for text in waiting if text not in line}


@in_each_lane
@pytest.mark.parametrize("what", ["call", "generator", "stream"])
async def test_killing_a_client_ends_the_drivers_code(
    tmp_path: Path, what: str, driver: str
) -> None:
    method = {"call": "hold", "generator": "hold_items", "stream": "hold_stream"}[what]
    with trio.fail_after(PATIENCE), holding_exporter(tmp_path, *NO_PINGS, driver=driver) as process:
        with client_process(process.address, what) as client:
            await trio.to_thread.run_sync(process.until_logged, f"{method} begins")
            client.kill()
            with trio.fail_after(SOON):
                await trio.to_thread.run_sync(process.until_logged, f"{method} has ended")
        async with connect_async(process.address) as other:
            assert await other.call_async("echo", "well") == "well"


ASKS_SOON = ("--limit", "ping_interval=0.3", "--limit", "ping_timeout=2")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGSTOP, signal.SIGTERM])
@pytest.mark.parametrize("what", ["on", "on_items"])
@pytest.mark.parametrize("scheme", ["unix", "tcp"])
async def test_a_device_does_not_outlive_its_user(
    tmp_path: Path, scheme: str, what: str, number: signal.Signals
) -> None:
    options = ("--address", "tcp://127.0.0.1:0") if scheme == "tcp" else ()
    with trio.fail_after(PATIENCE), holding_exporter(tmp_path, *options, *ASKS_SOON) as process:
        with client_process(process.address, what) as client:
            await trio.to_thread.run_sync(process.until_logged, "it is on")
            client.send_signal(number)
            with trio.fail_after(SOON):
                await trio.to_thread.run_sync(process.until_logged, f"it is off, since {what} has")
        async with connect_async(process.address) as other:
            assert await other.call_async("echo", "well") == "well"


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
async def test_a_quiet_client_keeps_what_it_has(tmp_path: Path, scheme: str) -> None:
    """The client answers pings by itself, so a silent program does not count as lost.

    The exporter sends no second PING before the first is answered, and none on a Unix socket.
    """
    options = ("--address", "tcp://127.0.0.1:0") if scheme == "tcp" else ()
    with trio.fail_after(PATIENCE), holding_exporter(tmp_path, *options, *ASKS_SOON) as process:
        async with connect_async(process.address, name="quiet") as client:
            await client.call_async("on")
            if scheme == "tcp":
                rules = client.channel.channel.connection.rules
                await until(lambda: rules.control_frames >= 2)
            else:
                await trio.sleep(1)
            assert await client.call_async("echo", 1) == 1
        await trio.to_thread.run_sync(process.until_logged, "it is off, since quiet has gone")


async def test_an_exporter_that_is_told_to_end_switches_off(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE), holding_exporter(tmp_path, "--grace", "0.1") as process:
        async with connect_async(process.address, name="user") as client:
            await client.call_async("on")
            process.send(signal.SIGTERM)
            await trio.to_thread.run_sync(process.until_logged, "it is off, since user has gone")


async def test_a_deadline_bounds_the_driver_of_a_client_that_was_stopped(tmp_path: Path) -> None:
    with (
        trio.fail_after(PATIENCE),
        holding_exporter(tmp_path) as process,
        client_process(process.address, "deadline") as client,
    ):
        await trio.to_thread.run_sync(process.until_logged, "hold begins")
        client.send_signal(signal.SIGSTOP)
        await trio.to_thread.run_sync(process.until_logged, "hold has ended")


async def test_keepalive_finds_an_exporter_that_has_stopped(tmp_path: Path) -> None:
    ended: list[str] = []
    with (
        trio.fail_after(PATIENCE),
        holding_exporter(tmp_path, "--address", "tcp://127.0.0.1:0") as process,
    ):
        async with (
            connect_async(process.address, limits=QUICK) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(ends_unknown, client, "hold", ended)
            await trio.to_thread.run_sync(process.until_logged, "hold begins")
            process.send(signal.SIGSTOP)
        assert ended == ["hold"]


async def until_read(connection: Connection) -> None:
    """Wait for the next bytes from the exporter, which are a PONG while a call is held."""
    before = connection.reader.last_read
    await until(lambda: connection.reader.last_read > before)


async def test_a_long_call_survives_many_keepalives(tmp_path: Path) -> None:
    """No default limit ends a call while the exporter answers the pings."""
    options = ("--address", "tcp://127.0.0.1:0")
    with trio.fail_after(PATIENCE), holding_exporter(tmp_path, *options) as process:
        async with connect_async(process.address, limits=QUICK) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call_async, "hold")
                await trio.to_thread.run_sync(process.until_logged, "hold begins")
                for _ in range(3):
                    await until_read(client.channel.channel.connection)
                nursery.cancel_scope.cancel()
            assert await client.call_async("echo", 1) == 1


# ------------------------------------------------------------------------------------ a cable


@dataclass(frozen=True)
class Cable:
    """A cable to another machine, which is a network namespace.

    Attributes:
        namespace: The name of the namespace.
        device: The name of the device at this end.
        here: The address of this end.
        there: The address of the other end.
    """

    namespace: str
    device: str
    here: str
    there: str


@contextlib.contextmanager
def cable() -> Iterator[Cable]:
    """Create a network namespace and a cable to it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making network namespaces takes root, and the ip command")
    name = f"js{uuid.uuid4().hex[:8]}"
    inside, outside = f"{name}a", f"{name}b"
    # A network of its own, since another run may have a cable too. The block is for such tests.
    networks = ipaddress.ip_network("198.18.0.0/15")
    network = networks.network_address + 4 * random.randrange(networks.num_addresses // 4)
    here, there = str(network + 1), str(network + 2)
    made = ip("netns", "add", name)
    if made.returncode:
        pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
    try:
        made = ip("link", "add", outside, "type", "veth", "peer", inside, "netns", name)
        if made.returncode:
            pytest.skip(f"a veth pair is not allowed here: {made.stderr.strip()}")
        for arguments in (
            ("addr", "add", f"{here}/30", "dev", outside),
            ("link", "set", outside, "up"),
            ("-n", name, "addr", "add", f"{there}/30", "dev", inside),
            ("-n", name, "link", "set", inside, "up"),
        ):
            ip(*arguments).check_returncode()
        yield Cable(name, outside, here, there)
    finally:
        ip("netns", "del", name)
        ip("link", "del", outside)


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("ip") or "ip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


async def test_a_cable_that_is_pulled_is_found_by_keepalive(tmp_path: Path) -> None:
    ended: list[str] = []
    with (
        trio.fail_after(PATIENCE),
        cable() as link,
        exporter(
            tmp_path,
            *("--address", f"tcp://{link.there}:0", "--insecure"),
            driver=DRIVER,
            cwd=HERE,
            prefix=("ip", "netns", "exec", link.namespace),
        ) as process,
    ):
        async with connect_async(process.address, limits=QUICK) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends_unknown, client, "hold", ended)
                await trio.to_thread.run_sync(process.until_logged, "hold begins")
                ip("link", "set", link.device, "down").check_returncode()
            assert ended == ["hold"]
            with pytest.raises(CallRefused):
                await client.call_async("echo")
