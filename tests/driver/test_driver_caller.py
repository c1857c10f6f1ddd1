"""Tests of `caller()`: verified facts, the client's own claims, and the exporter's log."""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
import ssl
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing
import trustme

from drivers_for_tests import Plain
from helpers import timed, until
from jumpstarter import connect, connect_async, serve_async
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter._protocol.codec import encode_hello
from jumpstarter._protocol.frames import FrameType, Hello
from jumpstarter.driver import (
    Caller,
    ClaimedIdentity,
    VerifiedIdentity,
    caller,
    export,
    exportstream,
)
from jumpstarter.errors import ArgumentError, DriverError
from wire import frame

AS_SHOWN: Final = os.geteuid(), os.getegid(), os.getpid()


class Nosy(Plain):
    """A driver that records its caller in each kind of method."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Caller] = []
        self.asleep = trio.Event()

    @export
    def plain(self) -> None:
        self.seen.append(caller())

    @export
    async def asynchronous(self) -> None:
        self.seen.append(caller())
        await trio.lowlevel.checkpoint()
        self.seen.append(await trio.to_thread.run_sync(caller))

    @export
    def generator(self) -> Iterator[int]:
        self.seen.append(caller())
        yield 1
        self.seen.append(caller())

    @export
    async def async_generator(self) -> AsyncGenerator[int, None]:
        self.seen.append(caller())
        yield 1
        self.seen.append(caller())

    @exportstream
    @asynccontextmanager
    async def stream(self) -> AsyncIterator[trio.abc.Stream]:
        self.seen.append(caller())
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.aclose()
        yield theirs
        self.seen.append(caller())

    @export
    def in_a_thread_of_its_own(self) -> None:
        failures: list[RuntimeError] = []

        def ask() -> None:
            try:
                caller()
            except RuntimeError as exc:
                failures.append(exc)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        raise failures[0]

    @export
    async def fail(self) -> None:
        raise FileNotFoundError(2, "No such port", "/dev/nowhere")

    @export
    async def sleep(self) -> None:
        self.asleep.set()
        await trio.sleep_forever()


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"unix:{tmp_path}/socket" if request.param == "unix" else "tcp://127.0.0.1:0"


async def use_all(address: str, **options: Any) -> None:
    """Call a `Nosy` in each way: 3 times alone, so that one is led, and each other way once."""

    def use() -> None:
        with connect(address, **options) as client, client.timeout(10):
            for _ in range(3):
                client.call("plain")
            client.call("asynchronous")
            assert list(client.streamingcall("generator")) == [1]
            assert list(client.streamingcall("async_generator")) == [1]
            with client.stream("stream") as stream:
                assert list(stream) == []

    await trio.to_thread.run_sync(use)


@timed(30)
async def test_each_kind_of_method_learns_its_caller(address: str) -> None:
    driver = Nosy()
    async with serve_async(driver, address) as server:
        await use_all(server.address)
        assert len(driver.seen) == 3 + 2 + 2 + 2 + 2
        [first] = set(driver.seen)
        await use_all(server.address, name="the second")
    second = driver.seen[-1]
    assert {each.connection for each in driver.seen} == {1, 2}
    assert first != second
    assert (first.connection, second.connection) == (1, 2)
    shown = first.verified
    if address.startswith("unix"):
        assert (shown.uid, shown.gid, shown.pid) == AS_SHOWN
        assert (shown.host, shown.port) == ("", 0)
        assert str(second) == f"uid {os.geteuid()}, pid {os.getpid()}, says 'the second'"
    else:
        assert (shown.uid, shown.gid, shown.pid) == (None, None, None)
        assert shown.host == "127.0.0.1"
        assert str(second) == f"127.0.0.1:{second.verified.port}, says 'the second'"
    assert shown.subject == ()
    program = Path(sys.argv[0]).name
    assert first.claimed.name.startswith(f"{getpass.getuser()}@{socket.gethostname()}: ")
    assert program in (first.claimed.name.partition(": ")[2], "__main__.py")
    assert first.claimed.agent.startswith("jumpstarter/")


@timed()
async def test_a_name_can_be_given_or_withheld(tmp_path: Path) -> None:
    driver = Nosy()
    async with serve_async(driver, f"unix:{tmp_path}/socket") as server:
        for name in ("nightly #7", "", "x" * 255, "gr\u00fc\u00df"):
            async with connect_async(server.address, name=name) as client:
                await client.call_async("asynchronous")
            assert driver.seen[-1].claimed.name == name
    assert str(Caller(connection=1)) == "a client"


@pytest.mark.parametrize("name", [b"bytes", 5, "x" * 256, Path("p")], ids=repr)
@pytest.mark.parametrize("function", [connect, connect_async])
def test_a_name_that_cannot_be_is_refused_where_it_is_passed(function: Any, name: Any) -> None:
    with pytest.raises(ArgumentError, match=r"name must be a str of at most 255 characters, or"):
        function("unix:/nowhere/socket", name=name)


def mutual(authority: trustme.CA, common_name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server context that requires client certificates, and a client context with one."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    server.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    authority.issue_cert("a@lab.example", common_name=common_name).configure_cert(client)
    return server, client


@pytest.mark.parametrize("common_name", ["alice", "alice, commonName=root\n"], ids=repr)
@timed()
async def test_a_certificate_s_subject_is_what_it_is(
    common_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jumpstarter")
    theirs, ours = mutual(trustme.CA(), common_name)
    driver = Nosy()
    async with (
        serve_async(driver, "tls://localhost:0", ssl_context=theirs) as server,
        connect_async(server.address, ssl_context=ours, name="mallory") as client,
    ):
        await client.call_async("asynchronous")
    verified = driver.seen[0].verified
    assert verified.common_name == common_name
    assert ("commonName", common_name) in verified.subject
    assert verified.host in ("127.0.0.1", "::1")
    assert driver.seen[0].claimed.name == "mallory"
    [line] = [text for text in caplog.messages if "has connected" in text]
    assert "\n" not in line
    assert repr(f"commonName={common_name}")[1:-1] in line
    assert line.endswith(", says 'mallory'")


def test_a_subject_with_two_common_names_has_none() -> None:
    assert VerifiedIdentity(subject=(("commonName", "a"), ("commonName", "b"))).common_name == ""


@timed()
async def test_the_name_of_a_peer_is_cut_and_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jumpstarter")
    driver = Nosy()
    nasty = "x\n2026-01-01 ERROR all is lost \x1b[2J\u202e" + "y" * 3000
    async with serve_async(driver, f"unix:{tmp_path}/socket"):
        stream = await trio.open_unix_socket(str(tmp_path / "socket"))
        payload = encode_hello(Hello.of(DEFAULT_LIMITS))[:28]
        about = msgspec.msgpack.encode({"agent": "\x1b[2J", "name": nasty})
        await stream.send_all(frame(FrameType.HELLO, 0, payload + about))
        await until(lambda: any("has connected" in text for text in caplog.messages))
        await stream.aclose()
    [line] = [text for text in caplog.messages if "has connected" in text]
    assert line.isprintable()
    assert len(line) < 600
    assert "all is lost" in line


async def test_outside_of_a_call_there_is_no_caller() -> None:
    with pytest.raises(RuntimeError, match="no client's call is being answered here; ask in an"):
        caller()


@timed()
async def test_a_thread_that_the_driver_has_started_is_not_answering(tmp_path: Path) -> None:
    async with (
        serve_async(Nosy(), f"unix:{tmp_path}/socket") as server,
        connect_async(server.address) as client,
    ):
        with pytest.raises(DriverError, match="pass the answer to threads that the driver starts"):
            await client.call_async("in_a_thread_of_its_own")


def test_callers_are_values() -> None:
    one = Caller(connection=1, verified=VerifiedIdentity(uid=1), claimed=ClaimedIdentity(name="a"))
    assert one == Caller(
        connection=1, verified=VerifiedIdentity(uid=1), claimed=ClaimedIdentity(name="a")
    )
    assert len({one, Caller(connection=2)}) == 2
    with pytest.raises(AttributeError):
        one.connection = 2  # type: ignore[misc]  # `Caller` is frozen


# ---------------------------------------------------------------------------- the log of calls

LINE: Final = re.compile(r"'(\w+)' of driver 'root' \(.*\) for (.*): (.+) after (\d+\.\d{3}) ms")


def diary(messages: list[str]) -> list[tuple[str, str, str]]:
    """Return the method, the caller and the outcome of each logged call to a driver."""
    found = [LINE.fullmatch(text) for text in messages]
    return [(match[1], match[2], match[3]) for match in found if match is not None]


@timed(30)
async def test_each_call_is_logged_at_debug_level(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "jumpstarter.exporter")
    driver = Nosy()
    async with serve_async(driver, address) as server:
        await use_all(server.address, name="tester")
        async with connect_async(server.address, name="another") as client:
            with pytest.raises(FileNotFoundError):
                await client.call_async("fail")
            with pytest.raises(DriverError):
                await client.call_async("missing")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call_async, "sleep")
                await driver.asleep.wait()
                nursery.cancel_scope.cancel()
    logged = diary(caplog.messages)
    kinds = ["plain"] * 3 + ["asynchronous", "generator", "async_generator", "stream"]
    assert [method for method, _, _ in logged] == [*kinds, "fail", "missing", "sleep"]
    assert all(who.endswith("says 'tester'") for _, who, _ in logged[: len(kinds)])
    outcomes = [outcome for _, _, outcome in logged]
    assert outcomes[:-1] == ["returned"] * 7 + [
        "raised FileNotFoundError",
        "refused (UNIMPLEMENTED)",
    ]
    assert outcomes[-1] == "cancelled"


@timed()
async def test_no_call_is_logged_at_info_level(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jumpstarter.exporter")
    async with serve_async(Nosy(), address) as server:
        await use_all(server.address)
    assert diary(caplog.messages) == []
