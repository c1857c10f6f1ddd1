"""Tests of drivers whose async code is written for asyncio, through `serve`."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import anyio
import anyio.lowlevel
import pytest
import trio

from asyncio_drivers import Asyncio
from exporter_process import exporter
from helpers import PATIENCE, served
from jumpstarter import Limits, connect, serve
from jumpstarter.client import BlockingStream, DriverClient
from jumpstarter.driver import Driver, export
from jumpstarter.drivers.mixins import ResourceMixin
from jumpstarter.drivers.power import MockPower as Power
from jumpstarter.errors import ArgumentError, DriverError, DriverTimeoutError

LANE = "jumpstarter-asyncio"


@pytest.fixture
def driver() -> Asyncio:
    return Asyncio()


@pytest.fixture
def client(driver: Asyncio) -> Iterator[DriverClient]:
    with served(driver) as client:
        yield client


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 3 * PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_calls(client: DriverClient) -> None:
    assert client.call("nop") is None
    assert client.call("add", 2, b=3) == 5
    assert client.call("task") == [LANE, "1"]
    with pytest.raises(DriverError, match="its arguments do not fit"):
        client.call("add")


def test_each_call_has_a_context_to_itself(client: DriverClient) -> None:
    assert [client.call("context", value) for value in (1, 2)] == [0, 0]


def test_exceptions_have_their_types(client: DriverClient) -> None:
    with pytest.raises(DriverError, match="no good"):
        client.call("fail", "value")
    with pytest.raises(FileNotFoundError) as missing:
        client.call("fail", "os")
    assert missing.value.filename == "/dev/none"
    with pytest.raises(TimeoutError):
        client.call("fail", "timeout")
    with pytest.raises(DriverError, match="no good"):
        client.call("fail", "group")
    with pytest.raises(DriverError, match="3"):
        client.call("fail", "exit")
    with pytest.raises(DriverError, match="nobody has cancelled the call"):
        client.call("fail", "cancel")
    assert client.call("add", 1) == 2


def test_timeout_cancels_the_driver_and_waits_for_its_cleanup(
    driver: Asyncio, client: DriverClient
) -> None:
    while not driver.log:  # on a busy machine, the time can run out before the driver begins
        with pytest.raises(DriverTimeoutError), client.timeout(0.05):
            client.call("hang")
    assert driver.log == ["begin", "cancelled", "end"]


def test_driver_that_swallows_its_cancellation_is_reported_and_waited_for(driver: Asyncio) -> None:
    with serve(driver, limits=Limits(cancel_grace=0.05)) as client:
        notes: list[str] = []
        while not driver.started.is_set():
            with pytest.raises(DriverTimeoutError) as late, client.timeout(0.1):
                client.call("swallow")
            notes = getattr(late.value, "__notes__", [])
        assert "its driver had not ended after 0.05 s" in notes[0]
        assert driver.log == []
        driver.release.set()
        until(lambda: driver.log == ["end"])


def test_generator_yields_everything_in_order(driver: Asyncio, client: DriverClient) -> None:
    assert list(client.streamingcall("count", 3000)) == list(range(3000))
    assert driver.log == ["begin", "cleaned"]


def test_generator_that_is_left_early_has_cleaned_up(driver: Asyncio, client: DriverClient) -> None:
    with client.streamingcall("count", 10**9) as numbers:
        assert [next(numbers) for _ in range(3)] == [0, 1, 2]
    assert driver.log == ["begin", "cleaned"]
    with client.streamingcall("tick") as ticks:
        assert next(ticks) == 0
        driver.started.wait(PATIENCE)
    assert driver.log == ["begin", "cleaned", "cleaned"]


def test_items_before_a_failure_arrive(client: DriverClient) -> None:
    numbers = client.streamingcall("wait_then_fail")
    assert next(numbers) == 1
    with pytest.raises(DriverError, match="no more"):
        next(numbers)


def test_raw_stream_with_half_close(driver: Asyncio, client: DriverClient) -> None:
    with client.stream("connect") as stream:
        stream.send(b"one")
        assert stream.receive() == b"one"
        stream.send(b"two")
        stream.send_eof()
        assert b"".join(stream) == b"two"
    assert driver.log == ["open", "eof", "closed"]


def test_large_transfer_arrives(client: DriverClient) -> None:
    data = os_random(4 << 20)
    received = bytearray()
    with client.stream("connect") as stream:
        thread = threading.Thread(target=send_all, args=(stream, data))
        thread.start()
        for piece in stream:
            received += piece
        thread.join()
    assert received == data


def os_random(size: int) -> bytes:
    return bytes(range(256)) * (size // 256)


def send_all(stream: BlockingStream, data: bytes) -> None:
    for start in range(0, len(data), 50_000):
        stream.send(data[start : start + 50_000])
    stream.send_eof()


def test_failures_of_a_raw_stream_are_raised(driver: Asyncio, client: DriverClient) -> None:
    with pytest.raises(PermissionError, match="not now"):
        client.open_stream("refuse")
    with pytest.raises(OSError, match="the device is gone"), client.stream("connect") as stream:
        stream.send(b"fail")
    assert driver.log == ["open", "closed"]


def test_anyio_of_plain_code_leads_to_the_lane(driver: Asyncio, client: DriverClient) -> None:
    assert client.call("plain") == LANE
    assert list(client.streamingcall("plain_count", 3)) == [LANE] * 3
    assert driver.log == [LANE]
    while len(driver.log) == 1:  # on a busy machine, the time can run out before the driver begins
        with pytest.raises(DriverTimeoutError), client.timeout(0.1):
            client.call("plain_hang")
    assert driver.log[1:] == ["begin", "cancelled", "end"]


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_hooks_and_close_lead_to_the_lane_in_order(driver: Asyncio, kind: str) -> None:
    with served(driver) as client:
        client.call("register", kind)
    hook = {"async": f"async hook in {LANE}", "plain": f"plain hook leads to {LANE}"}[kind]
    assert driver.log == [hook, f"close leads to {LANE}"]


def test_task_left_behind_ends_with_serving(driver: Asyncio) -> None:
    with served(driver) as client:
        client.call("leave_behind")
        until(lambda: driver.log == ["begin"])
    assert driver.log == ["begin", f"close leads to {LANE}", "cancelled", "end"]


class Lender(ResourceMixin, DriverClient):
    """A client that lends files."""


class Borrows(Asyncio):
    @classmethod
    def client(cls) -> str:
        return f"{__name__}.Lender"


@pytest.fixture
def lender() -> Iterator[tuple[Borrows, Lender]]:
    driver = Borrows()
    with serve(driver, client=Lender) as client, client.timeout(PATIENCE):
        yield driver, client


@pytest.mark.parametrize("size", [0, 1, 10_000_000])
def test_driver_reads_what_a_client_lends(lender: tuple[Borrows, Lender], size: int) -> None:
    _, client = lender
    with client.resource(io.BytesIO(bytes(size))) as handle:
        assert client.call("read", handle) == size
        with pytest.raises(DriverError, match="was used already"):
            client.call("read", handle)


def test_driver_that_fails_while_it_reads_waits_for_nothing(
    lender: tuple[Borrows, Lender],
) -> None:
    _, client = lender
    lent = client.resource(io.BytesIO(bytes(10_000_000)))
    with lent as handle, pytest.raises(DriverError, match="enough"):
        client.call("read", handle, limit=0)


def test_driver_writes_to_what_a_client_lends(lender: tuple[Borrows, Lender]) -> None:
    _, client = lender
    target = io.BytesIO()
    with client.resource(target, write=True) as handle:
        client.call("write", handle, 3000)
    assert target.getvalue() == b"x" * 3_000_000


def test_driver_that_fails_while_it_writes_fails_the_block(lender: tuple[Borrows, Lender]) -> None:
    _, client = lender
    with pytest.raises(DriverError, match="stuck"), client.resource(io.BytesIO(), write=True) as h:
        client.call("write", h, 3, fails=True)


def test_cancelled_call_gives_the_resource_back(lender: tuple[Borrows, Lender]) -> None:
    driver, client = lender
    lent = client.resource(io.BytesIO(bytes(10_000_000)))
    with lent as handle, pytest.raises(DriverTimeoutError), client.timeout(0.2):
        client.call("read_forever", handle)
    assert driver.log == ["end"] or not driver.started.is_set()
    assert client.call("add", 1) == 2


class Wrong(Asyncio):
    async_library: ClassVar[str] = "trio"


def test_asyncio_code_in_trio_is_told_why_and_how_to_change_that() -> None:
    with served(Wrong()) as client:
        for method in ("nop", "future"):
            with pytest.raises(DriverError) as caught:
                client.call(method)
            note = caught.value.__notes__[0]
            assert f"'{method}' of driver 'root' (test_asyncio_drivers.Wrong)" in note
            assert "runs in Trio, because" in note
            assert "Wrong has async_library = 'trio'" in note
            assert "--async-library asyncio" in note


class Trios(Driver):
    async_library: ClassVar[str] = "asyncio"

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    async def sleep(self) -> None:
        await trio.sleep(0.01)

    @export
    async def wait(self) -> None:
        await trio.Event().wait()


def test_trio_code_in_the_lane_is_told_why_and_how_to_change_that() -> None:
    with served(Trios()) as client:
        for method in ("sleep", "wait"):
            with pytest.raises(DriverError) as caught:
                client.call(method)
            note = caught.value.__notes__[0]
            assert f"'{method}' of driver 'root' (test_asyncio_drivers." in note
            assert "runs in the asyncio lane, because" in note
            assert "Trios has async_library = 'asyncio'" in note
            assert "--async-library trio" in note


class Neutral(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    async def library(self) -> str:
        await anyio.lowlevel.checkpoint()
        return anyio.get_cancelled_exc_class().__name__


# As if its module had nothing of either library.
_code = vars(Neutral)["library"].__code__
Neutral.library = export(  # type: ignore[method-assign]
    types.FunctionType(_code, {"__name__": "neutral", "anyio": anyio})
)


@pytest.mark.parametrize(
    ("tree", "switch", "name"),
    [
        (Neutral, None, "Cancelled"),
        (Neutral, "trio", "Cancelled"),
        (Neutral, "asyncio", "CancelledError"),
        (lambda: Neutral(children={"other": Asyncio()}), None, "CancelledError"),
        (lambda: Neutral(children={"other": Asyncio()}), "trio", "Cancelled"),
        (lambda: Neutral(children={"other": Power()}), None, "Cancelled"),
        (lambda: Neutral(children={"other": Power()}), "asyncio", "CancelledError"),
    ],
)
def test_code_that_is_neither_runs_where_the_rest_of_the_tree_does(
    tree: Callable[[], Driver], switch: str | None, name: str
) -> None:
    with serve(tree(), async_library=switch) as client:
        assert client.call("library") == name
        power = getattr(client, "other", None)
        if switch != "trio" and power is not None:
            power.call("nop" if "nop" in dir(power) else "off")


def test_command_line_has_the_switch_too(tmp_path: Path) -> None:
    options = ("--async-library", "trio")
    place = Path(__file__).parent
    with (
        exporter(tmp_path, *options, driver="asyncio_drivers:Asyncio", cwd=place) as process,
        connect(process.address) as client,
        pytest.raises(DriverError) as caught,
    ):
        client.call("nop")
    assert "this exporter was started with async_library='trio'" in caught.value.__notes__[0]


def test_switch_is_checked() -> None:
    with pytest.raises(ArgumentError, match="'trio', 'asyncio', or None"):
        serve(Asyncio(), async_library="curio")
    with pytest.raises(ArgumentError, match="'trio', 'asyncio', or None"):
        serve(Asyncio(), async_library=3)  # type: ignore[call-overload]


def test_tree_of_trio_drivers_starts_no_thread_and_imports_no_asyncio() -> None:
    script = """
import sys, threading
from jumpstarter import Limits, connect, serve
from jumpstarter.drivers.mixins import ResourceMixin
from jumpstarter.drivers.power import MockPower

with serve(MockPower()) as client:
    client.on()
    next(client.read())
    names = [thread.name for thread in threading.enumerate()]
assert not any("asyncio" in name for name in names), names
assert "asyncio" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=3 * PATIENCE)


def test_many_serves_leak_nothing() -> None:
    for _ in range(20):
        with served(Asyncio()) as client:
            assert client.call("add", 1) == 2
