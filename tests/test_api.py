"""Test `_api` and `Server` over real sockets, including the order of the shutdown."""

from __future__ import annotations

import http.client
import http.server
import logging
import math
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing
import trustme

from drivers_for_tests import Echo, Lab, Plain, Recorder
from helpers import PATIENCE, ScriptedExporter, timed, until
from jumpstarter import Limits, Server, connect, connect_async, serve, serve_async
from jumpstarter._exporter.session import Session
from jumpstarter._io.addresses import parse_address
from jumpstarter._io.sockets import open_listeners, open_stream
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.frames import FrameType
from jumpstarter.client import DriverClient, StubDriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.errors import (
    ArgumentError,
    CallCancelled,
    CallOutcomeUnknown,
    CallRefused,
    Code,
    ConfigurationError,
    DriverError,
    HandshakeError,
)
from jumpstarter.portal import start_blocking_portal
from jumpstarter.testing import client_for, client_for_async
from wire import frame

ANY_TCP = "tcp://127.0.0.1:0"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory whose path, unlike that of tmp_path, is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="serve-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, directory: Path) -> str:
    return f"unix:{directory}/socket" if request.param == "unix" else ANY_TCP


@pytest.fixture
def private(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory in which `serve` creates its private directory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


@contextmanager
def serving(driver: Driver, address: str = ANY_TCP, **options: Any) -> Iterator[Server]:
    """Serve a driver in a separate thread."""
    served = serve_async(driver, address, **options)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(served) as server:
        yield server


@dataclass(kw_only=True)
class Chronicle(Recorder, Lab):
    """A driver that records each `reset`, `close` and call."""


@dataclass(kw_only=True)
class FailingAtTheEnd(Chronicle):
    """A driver whose `close` may raise."""

    at_the_end: BaseException | None = None

    def close(self) -> None:
        super().close()
        if self.at_the_end is not None:
            raise self.at_the_end


class OddClient(DriverClient):
    """A client class that is on no allow-list."""


class Odd(Echo):
    @classmethod
    def client(cls) -> str:
        return f"{__name__}.OddClient"


class FailingClient(DriverClient):
    def __post_init__(self) -> None:
        super().__post_init__()
        raise LookupError("no licence for this client")


class FailingLab(Echo):
    @classmethod
    def client(cls) -> str:
        return f"{__name__}.FailingClient"


# --------------------------------------------------------------------------- the four verbs


@timed()
async def test_trio_code_serves_and_connects(address: str) -> None:
    async with serve_async(Echo(children={"power": Echo()}), address) as server:
        if address == ANY_TCP:
            assert not server.address.endswith(":0")
        else:
            assert server.address == address
        async with connect_async(server.address) as client:
            assert await client.call_async("echo", 1) == 1
            assert await client.power.call_async("echo_async", 2) == 2


def test_blocking_code_connects(address: str) -> None:
    with serving(Echo(children={"power": Echo()}), address) as server:
        with connect(server.address) as client:
            assert client.call("echo", 1) == 1
            assert list(client.power.streamingcall("count", 3)) == [0, 1, 2]
        with connect(server.address) as client:
            assert client.call("echo", "again") == "again"


def test_blocking_code_serves_itself() -> None:
    with serve(Odd(children={"power": Echo()})) as client:
        assert type(client) is OddClient
        assert client.call("echo", 1) == 1
        assert client.power.call("echo", 2) == 2


@timed()
async def test_tls_addresses_use_tls() -> None:
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with serve_async(Echo(), "tls://localhost:0", ssl_context=theirs) as server:
        async with connect_async(server.address, ssl_context=ours) as client:
            assert await client.call_async("echo", bytes(1_000_000)) == bytes(1_000_000)
        with pytest.raises(HandshakeError, match="trust its authority"):
            async with connect_async(server.address):
                pass


@timed()
async def test_options_of_serve_async_take_effect() -> None:
    limits = Limits(max_calls=7)
    async with (
        serve_async(Lab(), ANY_TCP, limits=limits, threads=3, send_tracebacks=True) as server,
        connect_async(server.address) as client,
    ):
        assert server._exporter.executor.limiter.total_tokens == 3
        assert client.channel.channel._rules.free_slots == 7
        with pytest.raises(DriverError) as caught:
            await client.call_async("fail")
        assert "Traceback on the exporter" in "".join(caught.value.__notes__)


@timed()
async def test_server_sends_no_tracebacks_by_default() -> None:
    async with (
        serve_async(Lab(), ANY_TCP) as server,
        connect_async(server.address) as client,
    ):
        with pytest.raises(DriverError) as caught:
            await client.call_async("fail")
        assert not hasattr(caught.value, "__notes__")


@timed()
async def test_client_without_the_token_is_not_admitted() -> None:
    async with serve_async(Echo(), ANY_TCP, token="secret") as server:  # noqa: S106 - a test's
        async with connect_async(server.address, token="secret") as client:  # noqa: S106
            assert await client.call_async("echo", 1) == 1
        for token in ("", "Secret", "secret\0"):
            with pytest.raises(HandshakeError, match=r"tcp://127.* refused .*: 'not admitted'"):
                async with connect_async(server.address, token=token):
                    pass


def test_serve_sends_tracebacks() -> None:
    with serve(Lab()) as client:
        with pytest.raises(DriverError) as caught:
            client.call("fail")
        assert "Traceback on the exporter" in "".join(caught.value.__notes__)


@timed()
async def test_other_machines_are_admitted_only_with_insecure() -> None:
    with pytest.raises(ConfigurationError, match="insecure=True"):
        async with serve_async(Echo(), "tcp://0.0.0.0:0"):
            pass
    async with (
        serve_async(Echo(), "tcp://0.0.0.0:0", insecure=True) as server,
        connect_async(server.address) as client,
    ):
        assert await client.call_async("echo", 1) == 1


@timed()
async def test_client_has_its_own_limits() -> None:
    limits = Limits(max_calls=5)
    async with (
        serve_async(Echo(), ANY_TCP) as server,
        connect_async(server.address, limits=limits) as client,
    ):
        assert client.channel.channel._rules.free_slots == 5


@timed()
async def test_several_clients_are_served_concurrently(address: str) -> None:
    met = 0
    everybody = trio.Event()

    class Meeting(Plain):
        @export
        async def meet(self) -> int:
            nonlocal met
            met += 1
            if met == 5:
                everybody.set()
            await everybody.wait()
            return met

    async def attend(address: str) -> None:
        async with connect_async(address) as client:
            assert await client.call_async("meet") == 5

    async with serve_async(Meeting(), address) as server, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(attend, server.address)


# ----------------------------------------------------------------------------- allowed imports


class Loop(Echo):
    """A driver whose raw stream echoes its input without a separate task."""

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        yield trio.StapledStream(*trio.testing.memory_stream_one_way_pair())


@timed()
async def test_an_idle_connection_and_an_idle_stream_cost_few_tasks(address: str) -> None:
    async def tasks(at_most: float) -> int:
        while True:
            await trio.testing.wait_all_tasks_blocked()
            living = trio.lowlevel.current_statistics().tasks_living
            if living <= at_most:
                return living
            await trio.sleep(0.01)  # the thread that has answered `echo` still returns to its task

    def use(address: str) -> list[int]:
        seen = [trio.from_thread.run(tasks, math.inf)]
        with connect(address) as client:
            assert client.call("echo", 1) == client.call("echo_async", 1)
            seen.append(trio.from_thread.run(tasks, seen[0] + 2))
            with client.stream() as first, client.stream() as second:
                for stream in (first, second):
                    stream.send(b"once")
                    assert stream.receive() == b"once"
                seen.append(trio.from_thread.run(tasks, seen[1] + 3))
        return seen

    async with serve_async(Loop(), address) as server:
        before, connected, streaming = await trio.to_thread.run_sync(use, server.address)
    # The reader task, and the session task that detects a silent peer.
    assert connected - before == 2
    # One task for each stream. With two calls in flight, the writer task sends their frames.
    assert streaming - connected == 2 + 1


@timed()
async def test_connecting_imports_only_what_is_allowed() -> None:
    path = Odd.client()
    async with serve_async(Odd(), ANY_TCP) as server:
        async with connect_async(server.address) as client:
            assert type(client) is StubDriverClient
            assert f"connect with allow=['{path}']" in client.missing
        async with connect_async(server.address, allow=[path]) as client:
            assert type(client) is OddClient


def test_connecting_from_blocking_code_imports_only_what_is_allowed() -> None:
    with serving(Odd()) as server:
        with connect(server.address) as client:
            assert type(client) is StubDriverClient
        with connect(server.address, allow=["test_*"]) as client:
            assert type(client) is OddClient


# ----------------------------------------------------------- exceptions and cleanup of a block

RAISED: list[BaseException] = [
    ValueError("mine"),
    KeyboardInterrupt(),
    SystemExit(3),
    ExceptionGroup("mine", [ValueError(), OSError()]),
    StopIteration(),
    StopAsyncIteration(),
    TimeoutError(),
    trio.TooSlowError(),
]
whatever_is_raised = pytest.mark.parametrize(
    "error", RAISED, ids=[type(error).__name__ for error in RAISED]
)


@whatever_is_raised
@timed()
async def test_exception_of_an_async_block_is_not_changed(error: BaseException) -> None:
    with pytest.raises(type(error)) as serving:
        async with serve_async(Echo(), ANY_TCP):
            raise error
    assert serving.value is error
    async with serve_async(Echo(), ANY_TCP) as server:
        with pytest.raises(type(error)) as connecting:
            async with connect_async(server.address):
                raise error
    assert connecting.value is error


@whatever_is_raised
def test_exception_of_a_blocking_block_is_not_changed(error: BaseException, private: Path) -> None:
    with pytest.raises(type(error)) as serving_it, serve(Echo()):
        raise error
    assert serving_it.value is error
    assert list(private.iterdir()) == []
    with (
        serving(Echo()) as server,
        pytest.raises(type(error)) as connecting,
        connect(server.address),
    ):
        raise error
    assert connecting.value is error
    assert "jumpstarter-portal" not in {thread.name for thread in threading.enumerate()}


@timed()
async def test_exception_of_a_cancelled_block_is_not_lost() -> None:
    async with serve_async(Echo(), ANY_TCP) as server:
        error = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught, trio.CancelScope() as scope:  # noqa: PT012
            async with connect_async(server.address):
                scope.cancel()
                raise error
        assert caught.value is error
        with trio.CancelScope() as scope:
            async with connect_async(server.address), serve_async(Echo(), ANY_TCP):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


def leave_by_an_error(_: DriverClient) -> None:
    raise ValueError("mine")


def leave_a_stream_open(client: DriverClient) -> None:
    client.open_stream()


def leave_a_generator_open(client: DriverClient) -> None:
    next(client.streamingcall("count", 3))


def leave_by_a_failed_call(client: DriverClient) -> None:
    client.call("fail")


@pytest.mark.parametrize(
    "leave",
    [leave_by_an_error, leave_a_stream_open, leave_a_generator_open, leave_by_a_failed_call],
)
@pytest.mark.parametrize("failure", [None, OSError("the relay is stuck"), SystemExit(3)])
def test_serve_cleans_up_however_its_block_ends(
    leave: Callable[[DriverClient], None], failure: BaseException | None, private: Path
) -> None:
    driver = FailingAtTheEnd(name="root", at_the_end=failure)
    with ExitStack() as stack:
        if leave in {leave_by_an_error, leave_by_a_failed_call}:
            stack.enter_context(pytest.raises((ValueError, DriverError)))
        client = stack.enter_context(serve(driver))
        (own,) = private.iterdir()
        assert own.stat().st_mode & 0o777 == 0o700
        (path,) = own.iterdir()
        assert path.is_socket()
        assert path.stat().st_mode & 0o777 == 0o600
        leave(client)
    assert list(private.iterdir()) == []
    assert driver.log == ["reset root", "close root"]


@pytest.mark.parametrize(
    ("driver", "error", "text"),
    [
        (FailingLab(), LookupError, "no licence for this client"),
        (Echo(children={"not a driver": object()}), ConfigurationError, "not a driver"),  # type: ignore[dict-item]
    ],
    ids=["client", "driver"],
)
def test_serve_cleans_up_when_it_cannot_start(
    driver: Driver, error: type[Exception], text: str, private: Path
) -> None:
    with pytest.raises(error, match=text), serve(driver):
        pass
    assert list(private.iterdir()) == []
    assert "jumpstarter-portal" not in {thread.name for thread in threading.enumerate()}


def test_blocking_functions_are_refused_in_trio_code(private: Path) -> None:
    async def main() -> None:
        for verb in (serve(Echo()), connect(ANY_TCP)):
            with (
                pytest.raises(RuntimeError, match=r"block, .* use `async with connect_async"),
                verb,
            ):
                pass

    trio.run(main)
    assert list(private.iterdir()) == []


@pytest.mark.parametrize("verb", [serve_async, connect_async])
@timed()
async def test_invalid_address_is_refused(verb: Any) -> None:
    args = (Echo(),) if verb is serve_async else ()
    with pytest.raises(ArgumentError, match="cannot use the address 'localhost:80'"):
        async with verb(*args, "localhost:80"):
            pass


@timed()
async def test_address_in_use_is_refused_without_touching_the_driver() -> None:
    driver = Chronicle(name="root")
    async with serve_async(Echo(), ANY_TCP) as server:
        with pytest.raises(ConfigurationError, match="cannot listen at tcp://127"):
            async with serve_async(driver, server.address):
                pass
    assert driver.log == []


@timed()
async def test_client_is_closed_at_the_end_of_its_block() -> None:
    closed: list[str] = []
    async with serve_async(Echo(), ANY_TCP) as server:
        async with connect_async(server.address) as client:
            client.stack.callback(closed.append, "in Trio code")
        await trio.to_thread.run_sync(connect_and_leave, server.address, closed)
    assert closed == ["in Trio code", "in blocking code"]


def connect_and_leave(address: str, closed: list[str]) -> None:
    with connect(address) as client:
        client.stack.callback(closed.append, "in blocking code")


# ------------------------------------------------------------------- the order of the shutdown


def tree(log: list[str], **options: Any) -> Chronicle:
    child = Chronicle(name="child", log=log, **options)
    return Chronicle(name="root", log=log, children={"child": child}, **options)


IN_ORDER = [
    "reset root",
    "reset child",
    "wait started",
    "wait ended",
    "close root",
    "close child",
]


@timed()
async def test_calls_end_before_drivers_are_closed(
    address: str,
) -> None:
    log: list[str] = []

    async def call(address: str) -> None:
        async with connect_async(address) as client:
            with pytest.raises((CallOutcomeUnknown, CallCancelled)):
                await client.child.call_async("wait", "wait", 0.05)

    async with trio.open_nursery() as nursery:
        async with serve_async(tree(log), address) as server:
            nursery.start_soon(call, server.address)
            await until(lambda: "wait started" in log)
        assert log == IN_ORDER


@timed()
async def test_cancelled_server_ends_in_the_same_order(directory: Path) -> None:
    log: list[str] = []
    with trio.CancelScope() as scope:
        address = f"unix:{directory}/socket"
        async with serve_async(tree(log), address), connect_async(address):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert log == [line for line in IN_ORDER if "wait" not in line]
    assert not await trio.Path(directory, "socket").exists()


def test_calls_of_other_threads_end_before_serve_does() -> None:
    log: list[str] = []
    driver = tree(log)
    with ThreadPoolExecutor(1) as pool:
        with serve(driver) as client:
            calling = pool.submit(client.child.call, "wait", "wait", 0.05)
            assert client.portal is not None
            client.portal.call(until, lambda: "wait started" in log)
        assert isinstance(calling.exception(PATIENCE), CallCancelled)
    assert log == IN_ORDER


@timed()
async def test_driver_that_fails_to_close_is_logged_and_the_others_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []
    stuck = OSError("the relay is stuck")
    child = FailingAtTheEnd(name="child", log=log, at_the_end=stuck)
    root = FailingAtTheEnd(name="root", log=log, at_the_end=stuck, children={"child": child})
    async with serve_async(root, ANY_TCP):
        pass
    assert log == [line for line in IN_ORDER if "wait" not in line]
    texts = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(texts) == 2
    assert all("the relay is stuck" in str(record.exc_info) for record in caplog.records)


STUCK: Final = "the relay is stuck"


def enter_serve(driver: Driver, directory: Path) -> None:
    del directory
    with serve(driver):
        pass


def enter_client_for(driver: Driver, directory: Path) -> None:
    del directory
    with client_for(driver):
        pass


def enter_serve_async(driver: Driver, directory: Path) -> None:
    async def main() -> None:
        async with serve_async(driver, f"unix:{directory}/socket"):
            pass

    trio.run(main)


def enter_client_for_async(driver: Driver, directory: Path) -> None:
    del directory

    async def main() -> None:
        async with client_for_async(driver):
            pass

    trio.run(main)


@pytest.mark.parametrize(
    "enter", [enter_serve, enter_serve_async, enter_client_for, enter_client_for_async]
)
@pytest.mark.parametrize("kind", [OSError, ConfigurationError, SystemExit])
def test_a_reset_that_fails_ends_serving_with_its_error(
    enter: Callable[[Driver, Path], None], kind: type[BaseException], directory: Path
) -> None:
    log: list[str] = []
    failing = Chronicle(name="failing", log=log, failure=None)
    after = Chronicle(name="after", log=log)
    root = Chronicle(name="root", log=log, children={"failing": failing, "after": after})
    failure = failing.failure = kind(STUCK)

    with pytest.raises(kind) as caught:
        enter(root, directory)
    assert caught.value is failure
    assert caught.value.__notes__ == [
        "reset() of driver 'failing' (test_api.Chronicle) failed, so nothing is served"
    ]
    assert log == [
        "reset root",
        "reset failing",  # and not the one after it
        "close root",
        "close failing",
        "close after",
    ]
    assert list(directory.iterdir()) == []
    failing.failure = None
    enter(root, directory)  # which shows that nothing is claimed
    assert log[5:] == [f"{verb} {name}" for verb in ("reset", "close") for name in IN_TREE]


IN_TREE: Final = ("root", "failing", "after")


@timed()
async def test_a_client_that_waits_for_a_reset_that_fails_is_told(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jumpstarter.exporter")
    address = f"unix:{directory}/socket"
    may_fail = threading.Event()

    class Failing(Echo):
        def reset(self) -> None:
            assert may_fail.wait(PATIENCE)
            raise OSError(STUCK)

    async def wait() -> None:
        await until((directory / "socket").exists)
        with pytest.raises((HandshakeError, CallOutcomeUnknown, CallRefused, CallCancelled)):
            async with connect_async(address):
                pass

    async def wait_and_fail() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: "has connected" in caplog.text)
            may_fail.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_and_fail)
        with pytest.raises(OSError, match=STUCK):
            async with serve_async(Failing(), address):
                pass


@timed()
async def test_end_of_the_server_fails_only_the_calls_of_a_client() -> None:
    async with trio.open_nursery() as nursery:
        leave, lab = trio.Event(), Lab()
        server = await nursery.start(serve_until, leave, lab)
        async with connect_async(server.address) as client:
            outcome: list[Exception] = []
            nursery.start_soon(call_and_keep, client, outcome)
            await until(lambda: bool(lab.log))  # else the exporter may refuse the call
            leave.set()
            await until(lambda: client.channel.channel.ended is not None)
            # The body continues; only its calls fail, each with the error for its state.
            await trio.lowlevel.checkpoint()
            with pytest.raises(CallRefused, match=f"not sent: {server.address} closed"):
                await client.call_async("echo")
            await until(lambda: bool(outcome))
        assert isinstance(outcome[0], CallOutcomeUnknown | CallCancelled)


async def serve_until(
    leave: trio.Event, lab: Lab, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
) -> None:
    async with serve_async(lab, ANY_TCP) as server:
        task_status.started(server)
        await leave.wait()


async def call_and_keep(client: DriverClient, outcome: list[Exception]) -> None:
    try:
        await client.call_async("wait")
    except DriverError as exc:
        outcome.append(exc)


def test_blocking_body_continues_when_the_server_ends() -> None:
    lab = Lab()
    with ExitStack() as server_stack:
        server = server_stack.enter_context(serving(lab))
        with ThreadPoolExecutor(1) as pool, connect(server.address) as client:
            assert client.call("echo", 1) == 1
            waiting = pool.submit(client.call, "wait")
            assert client.portal is not None
            # Else the exporter may refuse the call.
            client.portal.call(until, lambda: bool(lab.log))
            server_stack.close()
            assert isinstance(waiting.exception(PATIENCE), CallOutcomeUnknown | CallCancelled)
            with pytest.raises(CallRefused, match="not sent"):
                client.call("echo", 2)


# ------------------------------------------------------------------------- misbehaving clients


async def raw(address: str) -> trio.SocketStream:
    stream = await open_stream(parse_address(address))
    assert isinstance(stream, trio.SocketStream)
    return stream


async def read_to_the_end(stream: trio.SocketStream) -> bytes:
    data = b""
    try:
        async for chunk in stream:
            data += chunk
    except trio.BrokenResourceError:
        pass
    return data


async def says_nothing(address: str) -> None:
    """Send nothing, and expect to be disconnected after the HELLO timeout."""
    async with await raw(address) as stream:
        await read_to_the_end(stream)


async def says_garbage(address: str) -> None:
    """Send garbage, and expect the reason and a disconnection."""
    async with await raw(address) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        assert b"is too large. The peer may not speak this protocol" in await read_to_the_end(
            stream
        )


async def hangs_up_within_hello(address: str) -> None:
    async with await raw(address) as stream:
        await stream.send_all(frame(FrameType.HELLO, 0, bytes(100))[:20])


async def resets_before_it_is_accepted(address: str) -> None:
    """Make the system send RST before the server's loop runs again."""
    if not address.startswith("tcp:"):
        return
    host, _, port = address.removeprefix("tcp://").partition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def breaks_the_rules_within_a_call(address: str) -> None:
    async with connect_async(address) as client, trio.open_nursery() as nursery:
        outcome: list[Exception] = []
        nursery.start_soon(call_and_keep, client, outcome)
        await client.call_async("echo")
        connection = client.channel.channel.connection
        connection.rules.send_queue.add_frame(FrameType.RESULT, 1, b"")
        connection.writer.flush()
        await until(lambda: bool(outcome))
        assert isinstance(outcome[0], CallOutcomeUnknown)
        assert "ended the connection: " in str(outcome[0])


@pytest.mark.parametrize(
    "trouble",
    [
        says_nothing,
        says_garbage,
        hangs_up_within_hello,
        resets_before_it_is_accepted,
        breaks_the_rules_within_a_call,
    ],
)
@timed()
async def test_failure_of_one_client_does_not_affect_the_others(
    trouble: Callable[[str], Awaitable[None]], address: str
) -> None:
    lab = Lab()
    limits = Limits(hello_timeout=2) if trouble is says_nothing else DEFAULT_LIMITS
    async with (
        serve_async(lab, address, limits=limits) as server,
        connect_async(server.address) as before,
    ):
        async with before.stream_async() as stream:
            await trouble(server.address)
            async with connect_async(server.address) as after:
                assert await after.call_async("echo", 2) == 2
            await stream.send_all(b"still here")
            assert await stream.receive_some() == b"still here"
        await until(lambda: len(server._sessions) == 1)
        assert lab.log in ([], ["wait started", "wait ended"])


@timed()
async def test_internal_error_in_one_session_does_not_affect_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: object) -> None:
        raise AssertionError("a bug")

    async with (
        serve_async(Echo(), ANY_TCP) as server,
        connect_async(server.address) as client,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Session, "run", fail)
            async with await raw(server.address) as stream:
                assert await read_to_the_end(stream) == b""
        assert await client.call_async("echo", 1) == 1
    assert caplog.messages == ["internal error in a session; the exporter goes on"]


def test_an_http_client_gets_no_answer_and_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Echo()) as server:
        host, _, port = server.address.removeprefix("tcp://").partition(":")
        asking = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        asking.request("GET", "/")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            asking.getresponse()
        asking.close()
        with connect(server.address) as client:
            assert client.call("echo", 1) == 1
    (message,) = caplog.messages
    assert "client 127.0.0.1:" in message
    assert "its stream begins with b'GET / HTTP/1.1" in message


# --------------------------------------------------------------------------- missing exporters


@asynccontextmanager
async def answering(
    answer: Callable[[trio.abc.Stream], Awaitable[None]],
) -> AsyncIterator[str]:
    """Listen, handle each connection with a function, and yield the address."""
    listeners = await open_listeners(parse_address(ANY_TCP))
    async with listeners, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, list(listeners.listeners))
        yield str(listeners.address)
        nursery.cancel_scope.cancel()


async def never(_: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def by_hanging_up(stream: trio.abc.Stream) -> None:
    await stream.receive_some()


async def in_another_protocol(stream: trio.abc.Stream) -> None:
    await stream.receive_some()
    await stream.send_all(b"220 mail.example ESMTP\r\n")
    await trio.sleep_forever()


async def with_no_report(stream: trio.abc.Stream) -> None:
    exporter = ScriptedExporter(stream)
    await exporter.greet()
    await exporter.error((await exporter.event(ev.CallReceived)).slot, Code.INTERNAL, "no disk")
    await trio.sleep_forever()


async def with_a_report_that_is_none(stream: trio.abc.Stream) -> None:
    exporter = ScriptedExporter(stream)
    await exporter.greet()
    await exporter.result((await exporter.event(ev.CallReceived)).slot, [{"target": "one"}])
    await trio.sleep_forever()


async def with_a_report_that_never_comes(stream: trio.abc.Stream) -> None:
    await ScriptedExporter(stream).greet()
    await trio.sleep_forever()


async def by_hanging_up_after_hello(stream: trio.abc.Stream) -> None:
    exporter = ScriptedExporter(stream)
    await exporter.greet()
    await exporter.event(ev.CallReceived)


SILENT = "did not answer within 0.2 s; is a jumpstarter exporter there"
IMPATIENT = Limits(hello_timeout=0.2, cancel_grace=0)
IMPATIENT_AT_START = Limits(start_timeout=0.2, cancel_grace=0)


@pytest.mark.parametrize(
    ("answer", "text", "limits"),
    [
        (never, SILENT, IMPATIENT),
        (by_hanging_up, "closed the connection", DEFAULT_LIMITS),
        (
            in_another_protocol,
            "does not speak jumpstarter's protocol: .*b'220 mail.example",
            DEFAULT_LIMITS,
        ),
        (with_no_report, "gave no device tree: .*: no disk", DEFAULT_LIMITS),
        (
            with_a_report_that_is_none,
            "gave no device tree: .*the exporter's report cannot be read",
            DEFAULT_LIMITS,
        ),
        (
            with_a_report_that_never_comes,
            "is still starting, or hangs: .* within 0.2 s",
            IMPATIENT_AT_START,
        ),
        (
            by_hanging_up_after_hello,
            "gave no device tree: .* sent, but not answered",
            DEFAULT_LIMITS,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@timed()
async def test_peer_that_is_not_an_exporter_is_named_with_the_reason(
    answer: Callable[[trio.abc.Stream], Awaitable[None]], text: str, limits: Limits
) -> None:
    async with answering(answer) as address:
        with pytest.raises(HandshakeError, match=f"{address}.*{text}"):
            async with connect_async(address, limits=limits):
                pass
        with pytest.raises(HandshakeError, match=f"{address}.*{text}"):
            await trio.to_thread.run_sync(enter, connect(address, limits=limits))


def enter(context: AbstractContextManager[DriverClient]) -> None:
    with context:
        pass


@timed()
async def test_missing_exporter_error_names_the_address_and_what_to_do(directory: Path) -> None:
    for address in (f"unix:{directory}/socket", "tcp://127.0.0.1:1"):
        with pytest.raises(HandshakeError, match=f"cannot connect to {address}: .*starts one"):
            async with connect_async(address):
                pass


def test_http_server_is_not_an_exporter() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        address = f"tcp://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(HandshakeError, match=address):
            enter(connect(address))
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


@timed()
async def test_connecting_can_be_cancelled() -> None:
    async with answering(never) as address:
        with trio.move_on_after(0.05) as scope:
            async with connect_async(address):
                pass
        assert scope.cancelled_caught


# --- invalid arguments ---


@pytest.mark.parametrize("allow", ["mylab.*", "*", None, [None], [b"mylab.*"], 5, {"mylab.*": 1}])
async def test_allow_must_be_a_list_of_patterns(allow: Any) -> None:
    """A single string would otherwise become one pattern per letter, including `*`."""
    with pytest.raises(ConfigurationError, match=r'must be a list of patterns, like \["mylab'):
        connect("unix:/nowhere", allow=allow)
    with pytest.raises(ConfigurationError, match=r'must be a list of patterns, like \["mylab'):
        async with connect_async("unix:/nowhere", allow=allow):
            pass


async def test_token_or_context_of_the_wrong_type_is_named() -> None:
    token: Any = b"secret"
    context: Any = "cert.pem"
    with pytest.raises(ArgumentError, match=r"token must be a str .* not an object of type bytes"):
        async with connect_async("unix:/nowhere", token=token):
            pass
    with pytest.raises(ArgumentError, match=r"ssl_context must be an ssl\.SSLContext"):
        async with connect_async("tls://localhost:1", ssl_context=context):
            pass


async def test_cleartext_client_of_a_tls_port_gets_a_hint() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with trio.fail_after(PATIENCE):
        async with serve_async(Echo(), "tls://127.0.0.1:0", ssl_context=context) as server:
            address = server.address.replace("tls:", "tcp:")
            with pytest.raises(HandshakeError, match=r"does it listen with tls://\?"):
                async with connect_async(address):
                    pass


# --- a forgotten `with` ---


def test_connect_and_serve_explain_a_forgotten_with() -> None:
    with pytest.raises(
        AttributeError, match=r"connect\(\) gives .* 'on': with connect\(\.\.\.\) as"
    ):
        connect("unix:/nowhere").on()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"serve\(\) gives .* 'get': with serve\(\.\.\.\) as"):
        serve(Echo()).get()  # type: ignore[attr-defined]
    for context in (connect("unix:/nowhere"), serve(Echo())):
        assert not hasattr(context, "_private")
        assert not hasattr(context, "__fspath__")


def test_methods_of_a_client_explain_a_forgotten_with() -> None:
    with serve(Echo()) as client:
        stream = client.stream("pipe")
        with pytest.raises(AttributeError, match=r"stream\(\) gives .* 'receive': with stream\("):
            stream.receive()  # type: ignore[attr-defined]
        assert repr(stream) == "<a context manager: with stream(...) as ...:>"
    assert repr(serve(Echo())) == "<a context manager: with serve(...) as client:>"


async def test_the_async_forms_explain_a_forgotten_async_with() -> None:
    text = r"connect_async\(\) gives .* 'on': async with connect_async\(\.\.\.\) as client:"
    with pytest.raises(AttributeError, match=text):
        connect_async("unix:/nowhere").on()  # type: ignore[attr-defined]
    text = r"serve_async\(\) gives .* 'drain': async with serve_async\(\.\.\.\) as server:"
    with pytest.raises(AttributeError, match=text):
        serve_async(Echo(), ANY_TCP).drain(1)  # type: ignore[attr-defined]
