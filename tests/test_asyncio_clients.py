"""Tests of client code that is written for asyncio, through `serve`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.lowlevel

import asyncio_clients
from asyncio_clients import AsyncioClient, echo_adapter, hang_adapter
from asyncio_drivers import Asyncio
from helpers import PATIENCE, served
from jumpstarter import serve
from jumpstarter._io.portal import BlockingPortal
from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import TcpPortforwardAdapter, blocking
from jumpstarter.errors import DriverTimeoutError

LANE = "jumpstarter-portal-asyncio"
log = asyncio_clients.log


class Served(Asyncio):
    @classmethod
    def client(cls) -> str:
        return "asyncio_clients.AsyncioClient"


@pytest.fixture
def driver() -> Served:
    log.clear()
    return Served()


@pytest.fixture
def client(driver: Served) -> Iterator[AsyncioClient]:
    with serve(driver, client=AsyncioClient) as client, client.timeout(PATIENCE):
        yield client


@pytest.fixture
def portal(client: AsyncioClient) -> BlockingPortal:
    assert client.portal is not None
    return client.portal


def test_portal_runs_asyncio_code_in_its_lane(portal: BlockingPortal) -> None:
    assert portal.call(asyncio_clients.where, "here") == f"here in {LANE}"
    assert portal.call(asyncio_clients.where_sync) == LANE
    assert portal.start_task_soon(asyncio_clients.where).result(PATIENCE) == f"in {LANE}"
    with pytest.raises(LookupError, match="nothing here"):
        portal.call(asyncio_clients.fail)


def test_portal_runs_trio_code_in_trio(portal: BlockingPortal) -> None:
    async def in_trio() -> str:
        await trio.lowlevel.checkpoint()
        return threading.current_thread().name

    assert portal.call(in_trio) == "jumpstarter-portal"
    assert portal.call(trio.current_time) > 0


def test_future_that_is_cancelled_cancels_the_asyncio_task(portal: BlockingPortal) -> None:
    started = threading.Event()
    future = portal.start_task_soon(asyncio_clients.hang, started)
    assert started.wait(PATIENCE)
    future.cancel()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)


def test_client_code_awaits_the_methods_of_its_client(
    driver: Served, client: AsyncioClient
) -> None:
    assert client.sum_of([1, 2, 3]) == 6
    assert client.counted(500) == list(range(500))
    assert client.first() == 2
    assert driver.log == ["begin", "cleaned"] * 2
    while len(driver.log) == 4:  # on a busy machine, the time can run out before the driver begins
        with pytest.raises(TimeoutError):
            client.cancelled()
    assert driver.log[4:] == ["begin", "cancelled", "end"]


@pytest.mark.parametrize("timeout", [True, False])
def test_adapter_of_asyncio_uses_a_stream(
    driver: Served, client: AsyncioClient, timeout: bool
) -> None:
    data = bytes(range(256)) * 1000
    limit = client.timeout(PATIENCE if timeout else float("inf"))
    with limit, echo_adapter(client=client, data=data) as received:
        assert received == data
    assert log == ["left"]
    assert driver.log == ["open", "eof", "closed"]


def test_timeout_ends_an_adapter_of_asyncio(client: AsyncioClient) -> None:
    while not log:  # on a busy machine, the time can run out before the adapter begins
        with pytest.raises(DriverTimeoutError), client.timeout(0.05):
            hang_adapter(client=client).__enter__()
    assert log == ["cleaned"]


def test_adapter_of_this_library_runs_in_trio_beside_asyncio_clients(client: AsyncioClient) -> None:
    with TcpPortforwardAdapter(client=client) as (host, port):
        assert host == "127.0.0.1"
        assert port > 0


async def library() -> str:
    await anyio.lowlevel.checkpoint()
    return anyio.get_cancelled_exc_class().__name__


@asynccontextmanager
async def library_adapter(*, client: DriverClient) -> Any:
    del client
    yield await library()


class Says(DriverClient):
    async_library: ClassVar[str] = "asyncio"

    async def method(self) -> str:
        return await library()


def test_client_class_can_say_for_which_library_it_is() -> None:
    class Driver(Asyncio):
        @classmethod
        def client(cls) -> str:
            return f"{__name__}.Says"

    with serve(Driver(), client=Says) as client:
        assert client.portal is not None
        assert client.portal.call(client.method) == "CancelledError"
        with blocking(library_adapter)(client=client) as name:
            assert name == "CancelledError"


def test_code_that_is_in_the_wrong_loop_is_told_why() -> None:
    class Wrong:
        async_library: ClassVar[str] = "asyncio"

        async def sleep(self) -> None:
            await trio.lowlevel.checkpoint()

    with served(Asyncio()) as client:
        assert client.portal is not None
        with pytest.raises(RuntimeError) as caught:
            client.portal.call(Wrong().sleep)
        assert "Wrong.sleep runs in the asyncio lane, because" in caught.value.__notes__[0]
        assert 'async_library: ClassVar[str] = "trio" into its class' in caught.value.__notes__[0]


def test_task_that_has_started_is_returned_with_its_value(portal: BlockingPortal) -> None:
    future, value = portal.start_task(asyncio_clients.serve, "address")
    assert value == "address"
    assert future.result(PATIENCE) == "address has ended"

    async def in_trio(*, task_status: trio.TaskStatus[int]) -> None:
        task_status.started(1)
        with pytest.raises(RuntimeError, match="called twice"):
            task_status.started(2)
        await trio.sleep_forever()

    other, number = portal.start_task(in_trio)
    assert number == 1
    other.cancel()


def test_task_that_ends_before_it_has_started_is_an_error(portal: BlockingPortal) -> None:
    with pytest.raises(RuntimeError, match="has ended without calling task_status"):
        portal.start_task(asyncio_clients.never_starts)

    async def fails(*, task_status: object) -> None:
        del task_status
        await trio.lowlevel.checkpoint()
        raise LookupError("no address")

    with pytest.raises(LookupError, match="no address"):
        portal.start_task(fails)


def test_closing_the_client_ends_what_runs_in_the_lane() -> None:
    log.clear()
    started = threading.Event()
    with served(Asyncio()) as client:
        assert client.portal is not None
        client.portal.start_task_soon(asyncio_clients.hang, started)
        assert started.wait(PATIENCE)
    assert log == ["cleaned"]


def test_many_clients_leak_nothing() -> None:
    for _ in range(20):
        with served(Asyncio()) as client:
            assert client.portal is not None
            assert client.portal.call(asyncio_clients.where) == f"in {LANE}"


def test_ctrl_c_cancels_asyncio_code_and_waits_for_its_cleanup() -> None:
    script = """
import _thread, sys, threading, time
sys.path.insert(0, "tests")
import asyncio_clients
from asyncio_drivers import Asyncio
from jumpstarter import serve

with serve(Asyncio()) as client:
    started = threading.Event()
    def interrupt():
        started.wait()
        time.sleep(0.05)
        _thread.interrupt_main()
    threading.Thread(target=interrupt).start()
    try:
        client.portal.call(asyncio_clients.hang, started)
    except KeyboardInterrupt:
        assert asyncio_clients.log == ["cleaned"], asyncio_clients.log
        print("interrupted")
    assert client.portal.call(asyncio_clients.where).startswith("in ")
"""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=6 * PATIENCE)
    assert (run.returncode, run.stdout) == (0, "interrupted\n"), run.stderr
