"""Test what is counted of an exporter, with the parser of a real client library."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
import trio
import trio.testing
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from drivers_for_tests import Echo, Plain
from helpers import PATIENCE, ScriptedClient, timed, until
from jumpstarter import Limits, connect, connect_async, serve_async
from jumpstarter._api.serving import serve_leased
from jumpstarter._exporter.call_log import open_session
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.metrics import BOUNDS, Distribution
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._io.portal import start_blocking_portal
from jumpstarter.driver import Driver, export
from jumpstarter.errors import ArgumentError, DriverError
from jumpstarter.observe import Metrics, Reading
from jumpstarter.observe._exposition import exposition

Samples = dict[tuple[str, ...], float]


def samples(metrics: Metrics, name: str) -> Samples:
    """Return the values of a sample by those of its labels, in the order of the labels' names."""
    families = text_string_to_metric_families(exposition(metrics).decode())
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"jumpstarter_{name}"
    }


def outcomes(metrics: Metrics, driver: str, method: str) -> dict[str, float]:
    """Return how often a method ended how, without the outcomes that did not occur."""
    found = samples(metrics, "calls_total")
    return {key[2]: value for key, value in found.items() if key[:2] == (driver, method) if value}


def series(metrics: Metrics) -> int:
    return exposition(metrics).count(b"\n")


class Busy(Echo):
    """A driver whose methods end in each way."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.begun = trio.Event()

    @export
    def fail(self) -> NoReturn:
        raise ValueError("no voltage")

    @export
    async def sleep(self) -> None:
        self.begun.set()
        await trio.sleep_forever()

    @export(strict=True)
    def switch(self, on: bool) -> bool:
        return on


@asynccontextmanager
async def counted(path: Path, tree: Driver) -> AsyncIterator[tuple[Metrics, str]]:
    metrics = Metrics()
    async with serve_async(tree, f"unix:{path}/s", metrics=metrics) as server:
        yield metrics, server.address


@timed()
async def test_calls_are_counted_by_driver_method_and_outcome(tmp_path: Path) -> None:
    busy = Busy()
    tree = Plain(children={"dut": Plain(children={"busy": busy})})
    async with counted(tmp_path, tree) as (metrics, address), connect_async(address) as root:
        client = root.children["dut"].children["busy"]
        for _ in range(3):
            await client.call_async("echo")
        await client.call_async("echo_async")
        assert [n async for n in client.streamingcall_async("count", 3)] == [0, 1, 2]
        with pytest.raises(DriverError):
            await client.call_async("fail")
        with pytest.raises(DriverError):
            await client.call_async("switch", "off")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call_async, "sleep")
            await busy.begun.wait()
            assert samples(metrics, "running_calls")["dut.busy", "sleep"] == 1
            nursery.cancel_scope.cancel()
        assert outcomes(metrics, "dut.busy", "echo") == {"returned": 3}
        assert outcomes(metrics, "dut.busy", "echo_async") == {"returned": 1}
        assert outcomes(metrics, "dut.busy", "count") == {"returned": 1}
        assert outcomes(metrics, "dut.busy", "fail") == {"raised": 1}
        assert outcomes(metrics, "dut.busy", "switch") == {"refused": 1}
        assert outcomes(metrics, "dut.busy", "sleep") == {"cancelled": 1}
        assert samples(metrics, "running_calls")["dut.busy", "sleep"] == 0
        assert samples(metrics, "call_seconds_count")["dut.busy", "echo"] == 3


@timed()
async def test_a_deadline_is_an_outcome_of_its_own() -> None:
    metrics = Metrics()
    exporter = ServerContext(DeviceTree(Busy()), DriverExecutor(), metrics=metrics)
    ours, theirs = trio.testing.memory_stream_pair()
    session = open_session(exporter, theirs, "the test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        client = ScriptedClient(ours, session, Limits(), "")  # whose own clock ends no call
        await client.greet()
        with pytest.raises(DriverError, match="its deadline passed"):
            await client.answer(await client.call("sleep", timeout_ms=10))
        assert outcomes(metrics, ".", "sleep") == {"deadline": 1}
        nursery.cancel_scope.cancel()


def test_calls_of_blocking_clients_in_several_threads_are_counted(tmp_path: Path) -> None:
    """Their calls are answered by threads of the exporter, which count concurrently."""
    metrics, calls, clients = Metrics(), 300, 4
    with start_blocking_portal() as portal:
        served = serve_async(Echo(), f"unix:{tmp_path}/s", metrics=metrics)
        with portal.wrap_async_context_manager(served) as server:

            def work() -> None:
                with connect(server.address) as client, client.timeout(PATIENCE):
                    for number in range(calls):
                        assert client.call("echo", number) == number

            threads = [threading.Thread(target=work) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert outcomes(metrics, ".", "echo") == {"returned": calls * clients}
            assert samples(metrics, "running_calls")[".", "echo"] == 0
            assert samples(metrics, "sessions_total")[()] == clients


@timed()
async def test_what_a_client_asks_for_makes_no_series(tmp_path: Path) -> None:
    async with counted(tmp_path, Echo()) as (metrics, address), connect_async(address) as client:
        await client.call_async("echo")
        before = series(metrics)
        for number in range(100):
            with pytest.raises(DriverError):
                await client.call_async(f"missing{number}", "x" * number)
        assert series(metrics) == before
        assert samples(metrics, "unknown_calls_total") == {(): 100}


@timed()
async def test_raw_streams_and_their_bytes_are_counted(tmp_path: Path) -> None:
    async with counted(tmp_path, Echo()) as (metrics, address), connect_async(address) as client:
        async with client.stream_async("connect") as stream:
            await stream.send_all(b"x" * 100_000)
            received = 0
            while received < 100_000:
                received += len(await stream.receive_some())
            assert samples(metrics, "open_streams") == {(".", "connect"): 1}
        await until(lambda: samples(metrics, "open_streams") == {(".", "connect"): 0})
        assert samples(metrics, "stream_bytes_total") == {
            ("to_device", ".", "connect"): 100_000,
            ("from_device", ".", "connect"): 100_000,
        }
        await client.call_async("echo")
        assert len(samples(metrics, "open_streams")) == 1  # methods have no streams


@timed()
async def test_sessions_are_counted_while_they_last(tmp_path: Path) -> None:
    async with counted(tmp_path, Echo()) as (metrics, address):
        async with connect_async(address), connect_async(address):
            assert samples(metrics, "open_sessions") == {(): 2}
        await until(lambda: samples(metrics, "open_sessions") == {(): 0})
        assert samples(metrics, "sessions_total") == {(): 2}


class Runner:
    """Hooks that do nothing."""

    async def begin(self, host: str, client: str) -> str:
        del host, client
        return ""

    async def end(self, host: str, client: str) -> None:
        del host, client


@timed()
async def test_sessions_with_hooks_are_counted_too(tmp_path: Path) -> None:
    metrics = Metrics()
    served = serve_leased(Echo(), f"unix:{tmp_path}/s", Runner(), metrics=metrics)
    async with served as server, connect_async(server.address) as client:
        await client.call_async("echo")
        assert outcomes(metrics, ".", "echo") == {"returned": 1}
        assert samples(metrics, "open_sessions") == {(): 1}


async def test_how_late_the_loop_is(mock_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(metrics.watch_loop)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.25 + 2)  # two seconds later than it should run
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert samples(metrics, "loop_delay_seconds_sum") == {(): 2}
    assert samples(metrics, "loop_delay_seconds_bucket")["1.0",] == 0
    assert samples(metrics, "loop_delay_seconds_bucket")["5.0",] == 1


def test_distribution_counts_each_value_once_up_to_its_bound() -> None:
    found = Distribution()
    for value in (0.0, BOUNDS[0], 0.0002, 7, 4000):
        found.add(value)
    buckets = dict(found.buckets())
    assert buckets[BOUNDS[0]] == 2
    assert (buckets[5], buckets[10]) == (3, 4)
    assert buckets[float("inf")] == 5
    assert found.total == pytest.approx(4007.0003)


def reading(*values: tuple[str, float]) -> Reading:
    return Reading(
        name="held_seconds",
        kind="counter",
        text="How long\nclients held the device",
        labels=("subtree",),
        values={(name,): value for name, value in values},
    )


def test_sources_add_metrics_while_their_block_lasts() -> None:
    metrics = Metrics()
    hostile = 'a"b\\c\nd\udcff'
    with metrics.source(lambda: [reading(("dut", 1.5))]):
        with metrics.source(lambda: [reading((hostile, 2))]):
            found = samples(metrics, "held_seconds_total")
            assert found == {("dut",): 1.5, ('a"b\\c\nd\\udcff',): 2}
        assert samples(metrics, "held_seconds_total") == {("dut",): 1.5}
    assert samples(metrics, "held_seconds_total") == {}


@timed()
async def test_log_records_that_a_client_misses_are_counted(tmp_path: Path) -> None:
    async with counted(tmp_path, Echo()) as (metrics, address), connect_async(address) as client:
        async with client.log_stream_async():
            logger: Final = logging.getLogger("driver.Flood")
            logger.setLevel(logging.INFO)
            for number in range(10_100):  # the loop sends none of them meanwhile
                logger.info("%d", number)
            lost = samples(metrics, "log_records_dropped_total")["clients",]
            assert lost >= 100
        assert samples(metrics, "log_records_dropped_total")["clients",] >= lost


async def test_anything_else_than_metrics_is_refused(tmp_path: Path) -> None:
    wrong: Any = 9464
    with pytest.raises(ArgumentError, match=r"metrics must be a jumpstarter\.observe\.Metrics"):
        async with serve_async(Echo(), f"unix:{tmp_path}/s", metrics=wrong):
            pass
