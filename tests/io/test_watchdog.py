"""Test that the log names code that holds an event loop, and does not report a busy loop."""

from __future__ import annotations

import functools
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import anyio
import pytest
import trio
import trio.testing
from trio._core._thread_cache import THREAD_CACHE

from drivers_for_tests import Echo, Plain
from exporter_process import exporter
from helpers import timed
from jumpstarter import Limits, connect, connect_async, serve, serve_async
from jumpstarter._io import watchdog
from jumpstarter._io.watchdog import Holder, watched
from jumpstarter._util import trio_private
from jumpstarter.client import DriverClient
from jumpstarter.driver import export, exportstream
from jumpstarter.drivers.mixins import ResourceMixin

STRICT: Final = Limits(loop_hold=0.1)
HOLD: Final = 0.5  # seconds: five times the limit
BLOCKS: Final = "time.sleep(seconds)", "sum(range(steps))"
HERE: Final = Path(__file__).parent
TESTS: Final = HERE.parent
HELPERS: Final = ("env", f"PYTHONPATH={TESTS}")  # so that a process can import the tests' helpers


def block(seconds: float = HOLD) -> None:
    """Block, as a blocking library does.

    A hold lasts until the watchdog has counted twice its limit, since a busy machine may keep the
    watchdog's thread from running. The report was then written before its latest look.
    """
    time.sleep(seconds)
    watch = watch_of_this_loop() if seconds >= HOLD else None
    while watch is not None and watch._held < 2 * min(watch.limits) <= 2 * HOLD:
        time.sleep(seconds)


def watch_of_this_loop() -> watchdog.Watch | None:
    try:
        return watchdog._watch_here.get()
    except (LookupError, RuntimeError):  # nothing watches this loop, or this thread runs none
        return None


class Device(trio.abc.Stream):
    """A stream that blocks where it would talk to a device."""

    def __init__(self, *, reading: bool = False) -> None:
        self._reading = reading
        self._closed = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        if self._reading:
            block()
            return b""
        await self._closed.wait()
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        del data
        block()
        self._closed.set()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._closed.set()
        await trio.lowlevel.checkpoint()


def hiding(method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Decorate a method so that it is not visibly async before it is called."""

    @functools.wraps(method)
    def call(*args: Any) -> Any:
        return method(*args)

    return call


class Blocking(Plain):
    """A driver that blocks in each way in which its code can run on the event loop."""

    @export
    async def first(self) -> None:
        block()

    @export
    async def later(self) -> None:
        await trio.sleep(0.001)
        block()

    @export
    async def in_finally(self) -> None:
        try:
            await trio.sleep(0.001)
        finally:
            block()

    @export
    @hiding
    async def hidden(self) -> None:
        block()

    @export
    async def by_a_task(self) -> None:
        async def work() -> None:
            block()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)

    @export
    async def by_a_task_below(self) -> None:
        async def work() -> None:
            async with anyio.create_task_group() as group:
                await group.start(start)

        async def start(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            block()
            task_status.started()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)

    @export
    async def items_first(self) -> AsyncGenerator[int, None]:
        block()
        yield 1

    @export
    async def items_between(self) -> AsyncGenerator[int, None]:
        yield 1
        block()
        yield 2

    @export
    async def items_last(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            block()

    @exportstream
    @asynccontextmanager
    async def opening(self) -> AsyncIterator[trio.abc.Stream]:
        block()
        yield Device()

    @exportstream
    @asynccontextmanager
    async def closing(self) -> AsyncIterator[trio.abc.Stream]:
        try:
            yield Device()
        finally:
            block()

    @exportstream
    @asynccontextmanager
    async def reading(self) -> AsyncIterator[trio.abc.Stream]:
        yield Device(reading=True)

    @exportstream
    @asynccontextmanager
    async def writing(self) -> AsyncIterator[trio.abc.Stream]:
        yield Device()

    @export
    async def held_by_c(self, steps: int) -> int:
        return sum(range(steps))  # in C, and holds the interpreter's lock


async def call(client: DriverClient, name: str) -> None:
    await client.call_async(name)


async def iterate(client: DriverClient, name: str) -> None:
    async with client.streamingcall_async(name) as items:
        async for _ in items:
            pass


async def talk(client: DriverClient, name: str) -> None:
    async with client.stream_async(name) as stream:
        await stream.send_all(b"hello")
        await stream.send_eof()
        if name not in {"opening", "closing"}:
            await stream.receive_some()


KINDS: Final = [
    ("method", "first", call),
    ("method", "later", call),
    ("method", "in_finally", call),
    ("method", "hidden", call),
    ("method", "by_a_task", call),
    ("method", "by_a_task_below", call),
    ("generator", "items_first", iterate),
    ("generator", "items_between", iterate),
    ("generator", "items_last", iterate),
    ("stream", "opening", talk),
    ("stream", "closing", talk),
    ("stream", "reading", talk),
    ("stream", "writing", talk),
]


@asynccontextmanager
async def client_of(
    driver: Plain, directory: Path, limits: Limits = STRICT
) -> AsyncIterator[DriverClient]:
    """Serve a driver, and connect, in this Trio loop."""
    async with (
        serve_async(driver, f"unix:{directory}/socket", limits=limits) as server,
        connect_async(server.address) as client,
    ):
        yield client


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that returns the watchdog's lines about code of this file.

    The limits here are so short that other code may exceed them on a loaded machine.
    """

    def lines() -> list[str]:
        records = [each for each in caplog.records if each.name == "jumpstarter.watchdog"]
        assert all(each.levelno == logging.WARNING for each in records)
        messages = [each.getMessage() for each in records]
        return [each for each in messages if any(statement in each for statement in BLOCKS)]

    return lines


Told = Callable[[], list[str]]


# -------------------------------------------------------------------------- what is named


@pytest.mark.parametrize(("kind", "name", "use"), KINDS, ids=[name for _, name, _ in KINDS])
@timed()
async def test_blocking_code_is_reported_once_with_its_place_and_advice(
    kind: str,
    name: str,
    use: Callable[[DriverClient, str], Awaitable[None]],
    tmp_path: Path,
    told: Told,
) -> None:
    async with client_of(Blocking(), tmp_path) as client:
        await use(client, name)
        await use(client, name)
    [line] = told()
    said, _, stack = line.partition("\n")
    assert said.startswith(f"{kind} {name!r} of driver 'root' (test_watchdog.Blocking) has held ")
    assert "trio.to_thread.run_sync" in said
    assert ("make it a plain" in said) == (kind != "stream")
    assert "time.sleep(seconds)" in stack
    assert __file__ in stack
    assert "trio/_core" not in stack
    assert f"{os.sep}jumpstarter{os.sep}_" not in stack.partition(__file__)[0], "no frames of ours"


@timed()
async def test_each_method_and_each_driver_has_a_line_of_its_own(
    tmp_path: Path, told: Told
) -> None:
    tree = Blocking(children={"one": Blocking(), "other": Blocking()})
    async with client_of(tree, tmp_path) as client:
        for driver in (client, client.one, client.other, client.one):
            await driver.call_async("first")
            await driver.call_async("later")
    names = [line.partition(" has held")[0] for line in told()]
    assert len(names) == len(set(names)) == 6


@timed()
async def test_another_exporter_reports_the_same_code_again(tmp_path: Path, told: Told) -> None:
    for _ in range(2):
        async with client_of(Blocking(), tmp_path) as client:
            await client.call_async("first")
    assert len(told()) == 2


@dataclass(kw_only=True, eq=False)
class Posting(Plain):
    """A driver whose thread runs blocking code in the loop."""

    @export
    def post(self) -> None:
        trio.from_thread.run_sync(block)

    @export
    async def post_apart(self) -> None:
        await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(block))

    def reset(self) -> None:
        trio.from_thread.run_sync(hold_in_reset)

    def close(self) -> None:
        trio.from_thread.run_sync(hold_in_close)


def hold_in_reset() -> None:
    block()


def hold_in_close() -> None:
    block()


@timed()
async def test_code_that_a_thread_runs_in_the_loop_is_reported(tmp_path: Path, told: Told) -> None:
    async with client_of(Posting(), tmp_path) as client:
        await client.call_async("post")
        await client.call_async("post_apart")
    first, *calls, last = told()
    assert first.startswith("reset of driver 'root' (test_watchdog.Posting) has held")
    assert [line.partition(" of driver")[0] for line in calls] == [
        "method 'post'",
        "method 'post_apart'",
    ]
    assert all("call it in the thread itself" in line for line in (first, *calls))
    assert last.startswith("hold_in_close (")
    assert "must not run in a task of the event loop" in last
    assert first.count("File ") == 2, "nothing of the program around it"


@timed()
async def test_other_task_of_the_program_is_reported(tmp_path: Path, told: Told) -> None:
    async def mine() -> None:
        block()

    async with client_of(Echo(), tmp_path), trio.open_nursery() as nursery:
        nursery.start_soon(mine)
    [line] = told()
    assert ".mine (" in line.partition(" has held")[0]


class Lender(ResourceMixin, DriverClient):
    def give(self) -> None:
        with self.resource(Device(reading=True)) as handle:
            self.call("take", handle)


class Taker(Plain):
    @classmethod
    def client(cls) -> str:
        return "test_watchdog.Lender"

    @export
    def take(self, handle: str) -> bytes:
        with self.resource(handle) as file:
            return file.read()


@timed(30)
async def test_the_loop_of_a_blocking_client_is_watched(tmp_path: Path, told: Told) -> None:
    def use(address: str) -> None:
        with connect(address, allow=["test_watchdog.*"], limits=STRICT) as client:
            assert isinstance(client, Lender)
            client.give()

    unwatched = Limits(loop_hold=math.inf)
    async with serve_async(Taker(), f"unix:{tmp_path}/socket", limits=unwatched) as server:
        await trio.to_thread.run_sync(use, server.address)
    [line] = told()
    assert "Device.receive_some (" in line.partition(" has held")[0]
    assert "time.sleep(seconds)" in line


def test_serve_takes_the_limit_too(told: Told) -> None:
    with serve(Blocking(), limits=STRICT) as client:
        client.call("first")
        client.call("first")
    [line] = told()
    assert line.startswith("method 'first' of driver 'root'")
    with serve(Blocking(), limits=Limits(loop_hold=60)) as client:
        client.call("first")
    assert len(told()) == 1


@timed(60)
async def test_c_code_that_holds_the_interpreters_lock_is_reported(
    tmp_path: Path, told: Told
) -> None:
    """The watching thread cannot run meanwhile; it measures the hold by processor time."""
    async with client_of(Blocking(), tmp_path, Limits(loop_hold=0.2)) as client:
        while not told():  # it is missed if the process is stopped meanwhile
            await client.call_async("held_by_c", 60_000_000)
    [line] = told()
    assert line.startswith("method 'held_by_c'")
    assert "sum(range(steps))" in line


@timed()
async def test_failing_log_handler_does_not_end_the_watchdog(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(record.name)

    handler = Broken()
    logging.getLogger("jumpstarter.watchdog").addHandler(handler)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    try:
        async with client_of(Blocking(), tmp_path) as client:
            await client.call_async("first")
            await client.call_async("later")
    finally:
        logging.getLogger("jumpstarter.watchdog").removeHandler(handler)
    assert len(told()) <= 2


# ---------------------------------------------------------------------- what is not named


class Busy(Plain):
    """A driver that runs for long in short steps."""

    @export
    async def step(self) -> None:
        block(0.002)

    @export
    async def steps(self, count: int) -> None:
        for _ in range(count):
            block(0.002)
            await trio.lowlevel.checkpoint()

    @export
    async def items(self, count: int) -> AsyncGenerator[int, None]:
        for number in range(count):
            block(0.002)
            await trio.lowlevel.checkpoint()
            yield number


@timed(60)
async def test_a_loop_that_is_busy_with_many_short_calls_is_not_held(
    tmp_path: Path, told: Told
) -> None:
    """Run sequential calls, concurrent calls and generators for twenty times the limit."""
    async with client_of(Busy(), tmp_path, Limits(loop_hold=0.2)) as client:
        for _ in range(200):
            await client.call_async("step")
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(client.call_async, "step")
            for _ in range(10):
                nursery.start_soon(client.call_async, "steps", 50)
        async with client.streamingcall_async("items", 200) as items:
            assert len([item async for item in items]) == 200
    assert told() == []


@timed()
async def test_time_before_the_watch_does_not_count(told: Told) -> None:
    before = time.thread_time()
    while time.thread_time() < before + 0.3:
        await trio.lowlevel.checkpoint()
    for _ in range(20):
        with watched(0.2):
            block(0.01)
    assert told() == []


@timed()
async def test_blocking_in_a_thread_is_not_reported(tmp_path: Path, told: Told) -> None:
    class Threaded(Plain):
        @export
        def plain(self) -> None:
            block()

        @export
        async def apart(self) -> None:
            await trio.to_thread.run_sync(block)

    async with client_of(Threaded(), tmp_path) as client:
        await client.call_async("plain")
        await client.call_async("apart")
    assert told() == []


@timed()
async def test_starting_a_thread_is_not_reported_as_the_programs_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new thread runs late if others compute, and the loop waits for that in `threading`."""
    starting: list[threading.Thread] = []
    bootstrap = threading.Thread._bootstrap  # type: ignore[attr-defined]

    def start_late(thread: threading.Thread) -> None:
        starting.append(thread)
        time.sleep(HOLD)
        bootstrap(thread)

    async with client_of(Echo(), tmp_path) as client:
        monkeypatch.setattr(THREAD_CACHE, "_idle_workers", {})
        monkeypatch.setattr(threading.Thread, "_bootstrap", start_late)
        assert await client.call_async("echo", 1) == 1
    assert starting
    # On a busy machine it may also say that the loop had to wait for the interpreter's lock.
    messages = [each.getMessage() for each in caplog.records if each.name == "jumpstarter.watchdog"]
    assert [each for each in messages if "has held the event loop" in each] == []


STOPPED: Final = """
import time
from jumpstarter.driver import Driver, export

class Stopping(Driver):
    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

    @export
    async def quick(self):
        print("begun ", flush=True)
        time.sleep(0.3)

    @export
    async def slow(self):
        time.sleep(1.2)
"""


def test_stopped_process_is_not_reported(tmp_path: Path) -> None:
    (tmp_path / "stopping.py").write_text(STOPPED)
    with exporter(tmp_path, driver="stopping:Stopping", cwd=tmp_path) as server:
        with connect(server.address) as client, client.timeout(60):
            for _ in range(2):
                calling = threading.Thread(target=client.call, args=("quick",))
                calling.start()
                server.until_logged("begun ")
                server.send(signal.SIGSTOP)
                time.sleep(1.5)  # three times the limit
                server.send(signal.SIGCONT)
                calling.join()
            server.send(signal.SIGSTOP)  # while the loop is idle
            time.sleep(1.0)
            server.send(signal.SIGCONT)
            client.call("slow")
        server.send(signal.SIGTERM)
        log = server.rest_of_log()
    assert "'slow'" in log, "it is watched"
    assert log.count("has held the event loop") == 1, log


@timed()
async def test_an_idle_loop_is_not_woken() -> None:
    class Turns(trio.abc.Instrument):
        count = 0

        def before_io_wait(self, timeout: float) -> None:
            del timeout
            self.count += 1

    turns = Turns()
    with watched(0.01):
        trio.lowlevel.add_instrument(turns)
        await trio.sleep(0.5)
        trio.lowlevel.remove_instrument(turns)
    assert turns.count <= 3


# ------------------------------------------------------------------------------ the thread


def watching() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "jumpstarter-watchdog"]


@timed()
async def test_one_thread_watches_all_loops_and_ends_with_the_last(tmp_path: Path) -> None:
    assert watching() == []
    with watched(math.inf):
        assert watching() == [], "there is nothing to watch"
    async with client_of(Echo(), tmp_path) as client:
        [thread] = watching()
        assert thread.daemon
        assert await trio.to_thread.run_sync(serve_beside) == 1
        assert watching() == [thread]
        assert await client.call_async("echo", 1) == 1
    assert watching() == []


def serve_beside() -> int:
    with serve(Echo()) as client:
        client.call("echo")
        return len(watching())


@timed()
async def test_lowest_limit_of_a_loop_counts(told: Told) -> None:
    with watched(60.0):
        block(0.1)
        await trio.lowlevel.checkpoint()
        with watched(0.02):
            block()
            await trio.lowlevel.checkpoint()
        [_] = told()


@pytest.mark.parametrize("context", [SimpleNamespace(), SimpleNamespace(task=object()), None])
async def test_without_trios_private_names_it_is_off_and_warns_once(
    context: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trio_private, "_run_context", context)
    watchdog._is_supported.cache_clear()
    try:
        for _ in range(2):
            with watched(0.02):
                assert watching() == []
    finally:
        watchdog._is_supported.cache_clear()
    [record] = caplog.records
    assert "will not be noticed" in record.getMessage()


def test_the_package_works_without_trios_private_names() -> None:
    result = run(
        "with serve(Blocking(), limits=STRICT) as client:\n"
        "    client.call('first')\n"
        "    assert not watching()\n"
        "print('served')\n",
        before="import trio, types; trio._core._run = types.SimpleNamespace()\n",
    )
    assert (result.returncode, result.stdout) == (0, "served\n"), result.stderr
    [line] = result.stderr.splitlines()
    assert "will not be noticed" in line


@timed()
async def test_a_look_that_fails_is_logged_once_and_does_not_end_the_thread(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog._watchdog, "_failed", False)
    failures = 0

    def namer(_frame: object) -> Holder | None:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise RuntimeError("the namer failed")
        return None

    with watched(0.05, namer):
        block()
        await trio.lowlevel.checkpoint()
        assert failures == 3
        text = "could not look at a loop"
        assert sum(text in record.getMessage() for record in caplog.records) == 1
        block()
        await trio.lowlevel.checkpoint()
    assert any("has held the event loop" in record.getMessage() for record in caplog.records)


# ------------------------------------------------------------------- threads that compute


COMPUTE: Final = """
import threading
done = False
def compute():
    while not done:
        sum(range(1000))
def computing(number):
    threads = [threading.Thread(target=compute) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads
logging.basicConfig(format="%(message)s")
"""


def test_a_loop_that_waits_for_the_interpreters_lock_is_reported_once_without_a_name() -> None:
    script = (
        COMPUTE + "async def innocent():\n"
        "    end = time.monotonic() + 3\n"
        "    while time.monotonic() < end:\n"
        "        time.sleep(0)  # gives the lock up, as any system call does\n"
        "async def main():\n"
        "    global done\n"
        "    sys.setswitchinterval(0.1)\n"
        "    computing(3)\n"
        "    with watched(0.3):\n"
        "        await innocent()\n"
        "        await trio.lowlevel.checkpoint()\n"
        "        await innocent()\n"
        "    done = True\n"
        "trio.run(main)\n"
    )
    # The watchdog probes the lock. If other processes take the processors, a probe can find the
    # lock free between two threads that compute, so a busy machine gets three attempts.
    for _ in range(3):
        result = run(script)
        assert result.returncode == 0, result.stderr
        lines = result.stderr.splitlines()
        if len(lines) == 1:
            break
    assert len(lines) == 1, result.stderr
    assert "interpreter's lock, which other threads held" in lines[0]


def test_library_tasks_are_not_reported_while_plain_methods_compute() -> None:
    result = run(
        COMPUTE
        + "import anyio._backends._trio\n"  # else the loop imports it with the first plain method
        "class Computing(Plain):\n"
        "    @export\n"
        "    def compute(self) -> None:\n"
        "        end = time.monotonic() + 3\n"
        "        while time.monotonic() < end:\n"
        "            sum(range(1000))\n"
        "def call(client):\n"
        "    client.call('compute')\n"
        "with serve(Computing(), limits=Limits(loop_hold=0.05)) as client:\n"
        "    threads = [threading.Thread(target=call, args=(client,)) for _ in range(24)]\n"
        "    for thread in threads:\n"
        "        thread.start()\n"
        "    for thread in threads:\n"
        "        thread.join()\n"
    )
    assert result.returncode == 0, result.stderr
    assert "task jumpstarter" not in result.stderr, result.stderr
    assert all("interpreter's lock" in line for line in result.stderr.splitlines()), result.stderr
    assert len(result.stderr.splitlines()) <= 1


@timed()
async def test_a_blocking_call_is_named_although_other_threads_compute(told: Told) -> None:
    done = False

    def compute() -> None:
        while not done:
            sum(range(1000))

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with watched(0.1):
            block(1.0)
            await trio.lowlevel.checkpoint()
    finally:
        done = True
        for thread in threads:
            thread.join()
    [_] = told()


def run(script: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script that has the drivers of this file."""
    return subprocess.run(
        [sys.executable, "-c", before + "from test_watchdog import *\n" + script],
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_forked_child_has_a_watchdog_of_its_own_and_its_parent_keeps_it() -> None:
    result = run(
        "logging.basicConfig(format='%(process)d %(message).30s')\n"
        "with serve(Blocking(), limits=STRICT) as client:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        with serve(Blocking(), limits=STRICT) as own:\n"
        "            own.call('first')\n"
        "        print('child', os.getpid(), flush=True)\n"
        "        sys.exit()\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    client.call('first')\n"
        "print('parent', os.getpid())\n"
    )
    assert result.returncode == 0, result.stderr
    pids = [line.split()[1] for line in result.stdout.splitlines()]
    lines = [line for line in result.stderr.splitlines() if "method 'first'" in line]
    assert [line.split()[0] for line in lines] == pids, result.stderr


def test_a_child_that_is_forked_on_the_watched_loop_can_leave_its_block() -> None:
    result = run(
        "import warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)  # of forks, since Python 3.12\n"
        "async def main():\n"
        "    for _ in range(20):\n"
        "        with watched(60.0):\n"
        "            child = os.fork()\n"
        "            await trio.lowlevel.checkpoint() if child else None\n"
        "        if not child:\n"
        "            os._exit(7)\n"
        "        assert os.waitpid(child, 0)[1] >> 8 == 7\n"
        "trio.run(main)\n"
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_thread_keeps_no_process_alive() -> None:
    result = run(
        "block = serve(Echo(), limits=STRICT)\n"
        "block.__enter__().call('echo')\n"
        "assert watching()\n"
        "print('left open')\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "left open\n", "")


def test_the_command_line_takes_the_limit(tmp_path: Path) -> None:
    with exporter(
        tmp_path,
        "--limit",
        "loop_hold=0.05",
        driver="test_watchdog:Blocking",
        cwd=HERE,
        prefix=HELPERS,
    ) as server:
        with connect(server.address) as client:
            client.call("first")
        server.until_logged("method 'first' of driver 'root' (test_watchdog.Blocking) has held")
        server.until_logged("time.sleep(seconds)")


def test_blocked_exporter_drains_when_its_terminal_closes(tmp_path: Path) -> None:
    """The log then contains every hold, even if no process has read any of it."""
    with exporter(
        tmp_path,
        "--limit",
        "loop_hold=0.05",
        driver="test_watchdog:Blocking",
        cwd=HERE,
        prefix=HELPERS,
    ) as server:
        with connect(server.address) as client, client.timeout(60):
            for name in ("first", "later", "in_finally", "hidden", "by_a_task"):
                client.call(name)
        server.send(signal.SIGHUP)
        assert server.wait() == 0
        assert server.rest_of_log().count("of driver 'root' (test_watchdog.Blocking) has held") == 5
