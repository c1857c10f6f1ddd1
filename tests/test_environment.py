"""Test that an exporter survives exhausted resources, signals and clock changes.

Connected clients must still be served, and everything must recover. The tests apply the system's
real limits to an exporter in its own process, and set the clocks.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import jumpstarter
from drivers_for_tests import Echo, Lab
from exporter_process import PATIENCE, TESTS, ExporterProcess, exporter
from helpers import ask, begin, channel_to, timed, until
from jumpstarter import connect_async, serve_async
from jumpstarter._exporter.session import Session
from jumpstarter._io.addresses import parse_address
from jumpstarter._io.sockets import open_stream
from jumpstarter.errors import CallRefused, Code
from processes import running

ANY_TCP = "tcp://127.0.0.1:0"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="root has no limit, and can give it up")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory that has a short name and that every user can enter."""
    path = Path(tempfile.mkdtemp(prefix="environment-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def launched(script: str, *options: str) -> Iterator[ExporterProcess]:
    """Run an exporter from the given script."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", script, "serve", *options]
    with running(command, seconds=PATIENCE, cwd=TESTS, stdout=pipe, stderr=pipe) as process:
        yield ExporterProcess(process)


# ------------------------------------------------------------------------------ descriptors


def test_without_descriptors_clients_are_served_and_newcomers_wait(directory: Path) -> None:
    limited = ("/bin/sh", "-c", 'ulimit -n 40; exec "$@"', "sh")
    with (
        exporter(directory, prefix=limited) as server,
        jumpstarter.connect(server.address) as client,
        client.timeout(PATIENCE),
    ):
        path = server.address.removeprefix("unix:")
        with contextlib.ExitStack() as crowd:
            for _ in range(60):
                sock = crowd.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(path)
            server.until_logged("cannot accept connections: [Errno 24] Too many open files")
            for number in range(100):
                assert client.call("echo", number) == number
        with jumpstarter.connect(server.address) as newcomer, newcomer.timeout(PATIENCE):
            assert newcomer.call("echo", 1) == 1
        server.send(signal.SIGTERM)
        assert "cannot accept connections" not in server.rest_of_log()
        assert server.wait() == 0


# ---------------------------------------------------------------------------------- threads

NO_THREADS = """
import os, resource, sys, threading
import jumpstarter.cli
import jumpstarter.cli._serve  # another user may not be able to read it
from drivers_for_tests import Echo
from jumpstarter.driver import export

class Blocking(Echo):
    released = threading.Event()

    @export
    def block(self):
        self.released.wait()
        return "let go"

    @export
    async def release(self):
        self.released.set()

uid = UID
resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
sys.exit(jumpstarter.cli.main(sys.argv[1:]))
"""


@AS_ROOT
def test_without_threads_calls_are_refused_and_later_ones_run(directory: Path) -> None:
    uid = 40_000 + os.getpid() % 20_000  # unused, so that all of its threads are the exporter's
    os.chown(directory, uid, uid)
    script = NO_THREADS.replace("UID", str(uid), 1)
    address = f"unix:{directory}/socket"
    with (
        launched(script, "__main__:Blocking", "--address", address) as server,
        jumpstarter.connect(server.address) as client,
        client.timeout(PATIENCE),
        ThreadPoolExecutor(20) as pool,
    ):
        calls = [pool.submit(client.call, "block") for _ in range(20)]
        wait(calls, PATIENCE, FIRST_COMPLETED)
        assert client.call("echo_async", 1) == 1, "what needs no thread goes on"
        with pytest.raises(CallRefused, match="starts no more threads") as caught:
            client.call("echo", 1)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        with pytest.raises(CallRefused, match="starts no more threads"):
            list(client.streamingcall("count", 3))
        client.call("release")
        outcomes = [call.exception(PATIENCE) or call.result() for call in calls]
        let_go = outcomes.count("let go")
        assert 1 <= let_go < 20
        assert sum(isinstance(outcome, CallRefused) for outcome in outcomes) == 20 - let_go
        assert client.call("echo", 2) == 2, "and so does the rest, once threads are free"
        assert list(client.streamingcall("count", 3)) == [0, 1, 2]
        server.send(signal.SIGTERM)
        assert "was refused: the exporter's system starts no more threads" in server.rest_of_log()
        assert server.wait() == 0


# ---------------------------------------------------------------------------------- signals

STORM = """
import signal, sys
import jumpstarter.cli
from drivers_for_tests import Echo
from jumpstarter.driver import export

class Stormy(Echo):
    caught = 0

    @export
    def count_signals(self):
        return Stormy.caught

def handle(*_):
    Stormy.caught += 1

for number in (signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1):
    signal.signal(number, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
code = jumpstarter.cli.main(sys.argv[1:])
signal.setitimer(signal.ITIMER_REAL, 0)  # Python forgets its handlers before it ends
sys.exit(code)
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGCHLD])
def test_a_storm_of_signals_harms_no_call(directory: Path, number: signal.Signals) -> None:
    """The process's timer sends a thousand signals per second, and the test as many as it can."""
    over = threading.Event()
    address = f"unix:{directory}/socket"
    with launched(STORM, "__main__:Stormy", "--address", address) as server:

        def storm() -> None:
            while not over.wait(0.0005):
                server.send(number)

        thread = threading.Thread(target=storm)
        thread.start()
        try:
            with jumpstarter.connect(server.address) as client, client.timeout(PATIENCE):
                large = bytes(range(256)) * 4096
                for turn in range(200):
                    assert client.call("echo", turn) == turn
                    assert client.call("echo_async", turn) == turn
                for _ in range(5):
                    assert client.call("echo", large) == large
                assert list(client.streamingcall("count_async", 500)) == list(range(500))
                with client.stream() as stream:
                    stream.send(large[:30_000])
                    received = b""
                    while len(received) < 30_000:
                        received += stream.receive()
                    assert received == large[:30_000]
                while client.call("count_signals") < 300:
                    pass
        finally:
            over.set()
            thread.join()
        server.send(signal.SIGTERM)
        assert server.wait() == 0


# ------------------------------------------------------------------------------------ clocks


# They record when a line was written, or a client came, for people to read, and measure nothing
# with it.
TIMESTAMPS: Final = {"_log_stream.py", "_recorder.py", "exclusive_use.py", "recording.py"}


def test_no_clock_that_can_be_set_measures_a_time() -> None:
    """Deadlines, rates and idle times are measured with monotonic clocks."""
    wall = re.compile(
        r"\btime\.(time|time_ns|localtime|gmtime)\b|\b(datetime|date)\.(now|utcnow|today)\b"
        r"|\bfrom time import"
    )
    sources = list(Path(jumpstarter.__file__).parent.rglob("*.py*"))
    assert len(sources) > 30
    seen = {
        path.name
        for path in sources
        if path.suffix in {".py", ".pyx"} and wall.search(path.read_text())
    }
    assert seen == TIMESTAMPS


@pytest.mark.parametrize("jump", [-(10**9), 10**9], ids=["back", "ahead"])
@timed()
async def test_a_clock_that_is_set_changes_nothing(
    jump: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock jumps by thirty years while calls run, one of them with a deadline."""
    lab, really = Lab(), time.time
    async with channel_to(lab) as channel, trio.open_nursery() as nursery:
        with trio.fail_after(60):
            waiting = await begin(nursery, channel.call, ask("wait"))
            monkeypatch.setattr(time, "time", lambda: really() + jump)
            assert await channel.call(ask("echo", 1)) == 1
            assert not waiting.ended
            lab.let_go.set()
            await until(lambda: waiting.ended)
        assert waiting.error is None


# ---------------------------------------------------------------------- exceptions in handlers


def recurse() -> None:
    recurse()


def deep() -> BaseException:
    try:
        recurse()
    except RecursionError as exc:
        return exc
    raise AssertionError


FAULTS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: ValueError("a bug"),
    "group": lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    "base group": lambda: BaseExceptionGroup("several", [SystemExit(1), KeyError("b")]),
    "generator exit": GeneratorExit,
    "system exit": lambda: SystemExit(3),
    "recursion": deep,
    "memory": MemoryError,
    "stop": StopAsyncIteration,
    "broken": lambda: trio.BrokenResourceError("gone"),
}


@pytest.mark.parametrize("make", FAULTS.values(), ids=FAULTS)
@timed()
async def test_nothing_that_a_session_raises_ends_the_exporter(
    make: Callable[[], BaseException],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_: object) -> None:
        raise make()

    async with serve_async(Echo(), ANY_TCP) as server, connect_async(server.address) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Session, "run", fail)
            for _ in range(3):
                async with await open_stream(parse_address(server.address)) as stream:
                    with contextlib.suppress(trio.BrokenResourceError):
                        assert await stream.receive_some() == b""
        assert await client.call_async("echo", 1) == 1
        async with connect_async(server.address) as other:
            assert await other.call_async("echo", 2) == 2
    assert caplog.messages == ["internal error in a session; the exporter goes on"] * 3


@timed()
async def test_ctrl_c_that_meets_a_session_ends_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def interrupt(_: object) -> None:
        raise BaseExceptionGroup("", [KeyboardInterrupt(), ValueError("beside it")])

    async def serve_one() -> None:
        async with serve_async(Echo(), ANY_TCP) as server:
            monkeypatch.setattr(Session, "run", interrupt)
            async with await open_stream(parse_address(server.address)):
                await trio.sleep_forever()

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - in nested groups
        await serve_one()
    exc: Any = caught.value
    while isinstance(exc, BaseExceptionGroup):
        (exc,) = exc.exceptions
    assert isinstance(exc, KeyboardInterrupt)
