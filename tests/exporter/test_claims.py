"""Tests that one server at a time serves a driver, and that clients wait for a slow start."""

from __future__ import annotations

import ssl
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from helpers import PATIENCE, ScriptedClient, timed, until
from jumpstarter import Limits, connect, connect_async, serve, serve_async
from jumpstarter._api import serving as server_module
from jumpstarter._exporter import claims
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._io.addresses import parse_address
from jumpstarter._io.sockets import open_stream
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export
from jumpstarter.drivers.composite import Composite
from jumpstarter.errors import CallRefused, ConfigurationError, HandshakeError
from jumpstarter.testing import client_for, client_for_async
from ports import connect_to_listener, free_port

UNUSED: Any = None
SERVED = "is served already, .*make another instance"


@dataclass(kw_only=True)
class Device(Driver):
    log: list[str] = field(init=False, default_factory=list)
    slow: threading.Event | None = None  # `reset` waits for it
    hung: threading.Event | None = None  # `close` waits for it

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def use(self) -> int:
        self.log.append("use")
        return len(self.log)

    def reset(self) -> None:
        self.log.append("reset")
        if self.slow is not None:
            assert self.slow.wait(PATIENCE)

    def close(self) -> None:
        if self.hung is not None:
            assert self.hung.wait(PATIENCE)
        self.log.append("close")


@dataclass(kw_only=True)
class Equal(Device):
    """A device without a hash, which equals all others of its class."""


def enter(manager: AbstractContextManager[DriverClient, None]) -> int:
    with manager as client:
        used: int = client.call("use")
        return used


# ------------------------------------------------------------------- one server for each driver


@pytest.mark.parametrize("make", [Device, Equal])
def test_each_way_of_serving_refuses_what_is_served_already(
    make: type[Device], tmp_path: Path
) -> None:
    device = make()

    async def each_async_way() -> None:
        with pytest.raises(ConfigurationError, match=SERVED):
            async with serve_async(device, f"unix:{tmp_path}/socket"):
                pass
        with pytest.raises(ConfigurationError, match=SERVED):
            async with client_for_async(device):
                pass

    with serve(device) as client:
        for manager in (
            serve(device),
            client_for(device),
            serve(Composite(children={"a": device})),
        ):
            with pytest.raises(ConfigurationError, match=SERVED):
                enter(manager)
        trio.run(each_async_way)
        assert client.call("use") == 2
    assert device.log == ["reset", "use", "close"]
    assert not (tmp_path / "socket").exists()
    with serve(make()) as one, serve(make()) as other:  # equal, but not the same driver
        assert (one.call("use"), other.call("use")) == (2, 2)


def test_the_error_names_the_driver_and_the_place() -> None:
    device = Device()
    with (
        client_for(Composite(children={"board": device})),
        pytest.raises(ConfigurationError) as caught,
    ):
        enter(serve(device))
    assert "driver 'board' (test_claims.Device) is served already, in a block of" in str(
        caught.value
    )


@timed()
async def test_a_child_of_two_trees_is_served_in_the_first(tmp_path: Path) -> None:
    shared = Device()
    first, second = Composite(children={"a": shared}), Composite(children={"b": shared})
    async with serve_async(first, f"unix:{tmp_path}/first") as server:
        with pytest.raises(ConfigurationError, match=f"'a' .*at unix:{tmp_path}/first"):
            async with serve_async(second, f"unix:{tmp_path}/second"):
                pass
        async with connect_async(server.address) as client:
            assert await client.children["a"].call_async("use") == 2
    async with serve_async(second, f"unix:{tmp_path}/second"):
        pass
    assert claims._claims == {}


def test_a_driver_in_two_places_is_served() -> None:
    shared = Device()
    with serve(Composite(children={"a": shared, "b": shared})) as client:
        assert client.children["a"].call("use") == 2
        assert client.children["b"].call("use") == 3


def test_a_driver_may_be_served_again_afterwards() -> None:
    device = Device()
    assert enter(serve(device)) == 2
    assert enter(client_for(device)) == 5
    assert device.log == ["reset", "use", "close"] * 2


def test_a_driver_can_be_served_elsewhere_after_a_failed_start(tmp_path: Path) -> None:
    device, other = Device(), Device()

    async def fail() -> None:
        with pytest.raises(ConfigurationError, match="directory"):
            async with serve_async(device, f"unix:{tmp_path}/no/such/socket"):
                pass

    trio.run(fail)
    with serve(other):
        with pytest.raises(ConfigurationError, match=SERVED):
            enter(serve(Composite(children={"a": device, "b": other})))
        assert enter(serve(device)) == 2
    assert claims._claims == {}


def test_only_one_of_many_threads_serves_a_driver() -> None:
    device = Device()
    barrier, over = threading.Barrier(8), threading.Barrier(8)

    def attempt(_: int) -> bool:
        barrier.wait(PATIENCE)
        with ExitStack() as stack:
            try:
                stack.enter_context(client_for(Composite(children={"a": device})))
            except ConfigurationError:
                over.wait(PATIENCE)
                return False
            over.wait(PATIENCE)
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8), timeout=3 * PATIENCE)) == 1
    assert device.log == ["reset", "close"]


@timed()
async def test_a_driver_whose_close_hangs_cannot_be_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server_module, "END_GRACE", 0.2)
    device = Device(hung=threading.Event())
    async with serve_async(device, f"unix:{tmp_path}/socket"):
        pass
    with pytest.raises(ConfigurationError, match=r"its reset\(\) or close\(\) has not returned"):
        async with client_for_async(device):
            pass
    assert device.hung is not None
    device.hung.set()
    await until(lambda: not claims._claims)
    async with client_for_async(device) as client:
        assert await client.call_async("use") == 4


@timed()
async def test_a_reset_that_is_cancelled_before_it_begins_leaves_no_claim() -> None:
    device = Device()
    tree = DeviceTree(device)
    with tree.claimed("here"), trio.CancelScope() as scope:
        scope.cancel()
        await tree.reset()
    assert scope.cancelled_caught
    assert device.log == []
    assert claims._claims == {}


@timed()
async def test_a_tree_whose_start_was_cancelled_can_be_served_again(tmp_path: Path) -> None:
    slow, other = Device(slow=threading.Event()), Device()
    tree = Composite(children={"slow": slow, "other": other})

    async def serve_it(scope: trio.CancelScope) -> None:
        with scope:
            async with serve_async(tree, f"unix:{tmp_path}/socket"):
                pass

    assert slow.slow is not None
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(serve_it, scope)
        await until(lambda: slow.log == ["reset"])
        scope.cancel()
        slow.slow.set()
    assert claims._claims == {}
    async with (
        serve_async(tree, f"unix:{tmp_path}/socket") as server,
        connect_async(server.address) as client,
    ):
        await client.children["other"].call_async("use")


def test_a_thread_that_begins_after_its_claim_was_withdrawn_does_nothing() -> None:
    device = Device()
    claim = claims.Claims([(device, "it")], "here")
    late, early = claim.for_thread(device), claim.for_thread(device)
    late.withdraw()
    with late.running() as runs:
        assert not runs
    with early.running() as runs:
        early.withdraw()
        assert runs
        claim.release()
        assert claims._claims != {}
    assert claims._claims == {}


FORKING = """
    import os, sys, threading
    from jumpstarter import serve
    from jumpstarter._exporter import claims
    from jumpstarter.driver import Driver, export
    class Device(Driver):
        @classmethod
        def client(cls): return "jumpstarter.client.DriverClient"
        @export
        def use(self): return os.getpid()
    device = Device()
    with serve(device) as client:
        assert client.call("use") == os.getpid()
        with claims._claims[id(device)].lock:  # as another thread may hold it in a fork
            child = os.fork()
        if child == 0:
            with serve(device) as own:
                os._exit(0 if own.call("use") == os.getpid() else 3)
        _, status = os.waitpid(child, 0)
        assert client.call("use") == os.getpid()
    assert claims._claims == {}
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_can_serve_what_its_parent_serves() -> None:
    script = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(FORKING)]
    subprocess.run(script, timeout=60, check=True)


# ------------------------------------------------------------------------------------ slow starts


async def until_there(address: str, context: ssl.SSLContext | None) -> None:
    """Wait until a server listens at the address."""
    while True:
        try:
            stream = await open_stream(parse_address(address), ssl_context=context)
        except HandshakeError:
            await trio.sleep(0.01)
        else:
            await stream.aclose()
            return


@pytest.mark.parametrize("scheme", ["unix", "tcp", "tls"])
@timed()
async def test_a_client_waits_for_the_reset(scheme: str, tmp_path: Path) -> None:
    device = Device(slow=threading.Event())
    authority = trustme.CA()
    ours = theirs = None
    if scheme == "tls":
        ours, theirs = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.configure_trust(ours)
        authority.issue_cert("localhost").configure_cert(theirs)
    address = f"{scheme}://localhost:{free_port()}"
    address = f"unix:{tmp_path}/socket" if scheme == "unix" else address
    used = []

    async def use() -> None:
        limits = Limits(hello_timeout=1)
        async with connect_async(address, limits=limits, ssl_context=ours) as client:
            used.append(await client.call_async("use"))

    async def serve_it(*, task_status: trio.TaskStatus[None]) -> None:
        async with serve_async(device, address, ssl_context=theirs):
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:

        async def go_on() -> None:
            await until_there(address, ours)
            async with trio.open_nursery() as clients:
                clients.start_soon(use)
                clients.start_soon(use)
                await trio.sleep(1.2)  # longer than the clients wait for a HELLO
                assert device.log == ["reset"]
                assert device.slow is not None
                device.slow.set()
            nursery.cancel_scope.cancel()

        nursery.start_soon(go_on)
        await nursery.start(serve_it)
    assert sorted(used) == [2, 3]


@timed()
async def test_a_client_that_waits_too_long_for_the_start_gets_the_reason(tmp_path: Path) -> None:
    device = Device(slow=threading.Event())
    address = f"unix:{tmp_path}/socket"
    assert device.slow is not None
    limits = Limits(start_timeout=0.3, hello_timeout=PATIENCE)
    told: list[str] = []

    async def wait_in_vain() -> None:
        await until((tmp_path / "socket").exists)
        with pytest.raises(HandshakeError, match="is still starting, or hangs") as caught:
            async with connect_async(address, limits=limits):
                pass
        told.append(str(caught.value))
        assert device.slow is not None
        device.slow.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_in_vain)
        async with serve_async(device, address):
            pass
    assert "within 0.3 s" in told[0]
    assert "start_timeout" in told[0]


@timed()
async def test_no_driver_is_called_before_it_was_reset(tmp_path: Path) -> None:
    """The exporter refuses a client that does not wait for the report."""
    device = Device(slow=threading.Event())
    address = f"unix:{tmp_path}/socket"

    async def ask() -> None:
        await until((tmp_path / "socket").exists)
        stream = await open_stream(parse_address(address))
        async with stream:
            client = ScriptedClient(stream, UNUSED, DEFAULT_LIMITS, "")
            await client.greet()
            with pytest.raises(CallRefused, match="the exporter is starting"):
                await client.answer(await client.call("use"))
        assert device.slow is not None
        device.slow.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        async with serve_async(device, address):
            pass
    assert "use" not in device.log


def test_the_log_names_a_slow_reset(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jumpstarter._exporter.tree._SLOW", 0.05)
    device = Device(slow=threading.Event())
    told = "clients wait for the reset() of driver 'board' (test_claims.Device), which"

    def let_go_when_told() -> None:
        give_up = time.monotonic() + PATIENCE
        while told not in caplog.text and time.monotonic() < give_up:
            time.sleep(0.01)
        assert device.slow is not None
        device.slow.set()

    thread = threading.Thread(target=let_go_when_told)
    thread.start()
    with serve(Composite(children={"board": device})):
        pass
    thread.join()
    assert told in caplog.text


LAB = """
    import time
    from jumpstarter.driver import Driver, export
    class Slow(Driver):
        @classmethod
        def client(cls): return "jumpstarter.client.DriverClient"
        @export
        def on(self): return 1
        def reset(self): time.sleep(1.5)
"""


def test_a_blocking_client_waits_for_an_exporter_that_starts(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(textwrap.dedent(LAB))
    command = [sys.executable, "-m", "jumpstarter", "serve", "lab:Slow"]
    address = f"unix:{tmp_path}/s"
    exporter = subprocess.Popen(
        [*command, "--address", address], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert exporter.stdout is not None
        connect_to_listener(tmp_path / "s").close()
        with connect(address, limits=Limits(hello_timeout=1)) as client:
            assert client.call("on") == 1
        exporter.terminate()
        assert exporter.wait(PATIENCE) == 0
    finally:
        exporter.kill()
        exporter.wait(PATIENCE)
        exporter.stdout.close()  # type: ignore[union-attr]
