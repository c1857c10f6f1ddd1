"""Test `_io.hangup`, and forwards whose programs hang up, over real sockets.

Most devices here are silent: no write fails that would reveal that the program has gone.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from helpers import PATIENCE, timed
from jumpstarter._io import forward
from jumpstarter._io.forward import forward_to, listen_tcp, listen_unix
from jumpstarter._io.hangup import at_end, is_gone
from jumpstarter.errors import ArgumentError

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's table is Linux's")
KINDS = ["unix", "tcp", "tcp6", "tcp6 to tcp"]


@contextmanager
def connected(kind: str, directory: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the two ends of a connection: the program's and ours."""
    family = {"unix": socket.AF_UNIX, "tcp6": socket.AF_INET6}.get(kind, socket.AF_INET)
    names: dict[str, Any] = {"unix": str(directory / "listening"), "tcp6": ("::1", 0)}
    where = names.get(kind, ("127.0.0.1", 0))
    with socket.socket(family) as listening:
        try:
            listening.bind(where)
        except OSError:
            pytest.skip("there is no IPv6 here")
        listening.listen()
        name = listening.getsockname()
        if kind == "tcp6 to tcp":  # like a program that uses only IPv6 sockets
            family, name = socket.AF_INET6, ("::ffff:127.0.0.1", name[1])
        with socket.socket(family) as program:
            program.connect(name)
            ours, _ = listening.accept()
            with ours:
                yield program, ours


@linux
@pytest.mark.parametrize("kind", KINDS)
def test_kernel_distinguishes_a_hang_up_from_a_half_close(kind: str, tmp_path: Path) -> None:
    with connected(kind, tmp_path) as (program, ours):
        assert not at_end(ours)
        assert is_gone(ours) is False
        program.shutdown(socket.SHUT_WR)
        assert at_end(ours)
        assert is_gone(ours) is False
        copy = program.dup()  # like a child of the program
        program.close()
        assert is_gone(ours) is False
        copy.close()
        assert is_gone(ours) is True


@pytest.mark.parametrize("kind", KINDS)
def test_unread_bytes_come_before_the_end(kind: str, tmp_path: Path) -> None:
    with connected(kind, tmp_path) as (program, ours):
        program.sendall(b"x")
        program.close()
        assert not at_end(ours)
        assert ours.recv(2) == b"x"
        assert at_end(ours)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_reset_connection_is_at_its_end_and_its_peer_gone(kind: str, tmp_path: Path) -> None:
    with connected(kind, tmp_path) as (program, ours):
        program.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        program.close()
        assert is_gone(ours) is True
        assert at_end(ours)


def test_hang_up_is_unknown_if_the_kernel_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with connected("tcp", tmp_path) as (program, ours):
        program.close()
        unused_protocol = 31
        monkeypatch.setattr("jumpstarter._io.hangup._NETLINK_SOCK_DIAG", unused_protocol)
        assert is_gone(ours) is None


# -------------------------------------------------------------------------------- the forwards


class Device:
    """A device that sends the given bytes, and records the bytes that it receives.

    Attributes:
        open: The number of open streams.
        ended: The number of closed streams.
        heard: The bytes received on all streams.
    """

    def __init__(self, *, takes: bool = True) -> None:
        self.open = self.ended = 0
        self.heard = b""
        self._takes = takes
        self._far: trio.StapledStream[Any, Any]
        self._changed = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.HalfCloseableStream]:
        pair = trio.testing.memory_stream_pair if self._takes else trio.testing.lockstep_stream_pair
        near, self._far = pair()
        async with trio.open_nursery() as nursery:
            if self._takes:
                nursery.start_soon(self._listen)
            self.open += 1
            self._changed.unpark_all()
            try:
                yield near
            finally:
                self.open -= 1
                self.ended += 1
                self._changed.unpark_all()
                nursery.cancel_scope.cancel()

    async def _listen(self) -> None:
        async for data in self._far:  # stays open after the end, like a serial line
            self.heard += data
            self._changed.unpark_all()

    async def say(self, data: bytes) -> None:
        await self._far.send_all(data)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true."""
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._changed.park()


@asynccontextmanager
async def forwarded(
    device: Device, kind: str, quiet_limit: float = 30
) -> AsyncIterator[tuple[int, Any]]:
    """Forward to the device; yield the address and its family."""
    handler = forward_to(device.connect, quiet_limit=quiet_limit)
    if kind == "unix":
        async with listen_unix(handler) as path:
            yield socket.AF_UNIX, path
    else:
        async with listen_tcp(handler) as address:
            yield socket.AF_INET, address


async def program_at(where: tuple[int, Any]) -> trio.SocketStream:
    family, name = where
    sock = trio.socket.socket(family)
    await sock.connect(name)
    return trio.SocketStream(sock)


over_both = pytest.mark.parametrize("kind", ["unix", "tcp"])


@linux
@over_both
@timed()
async def test_program_that_quits_frees_a_silent_device(kind: str) -> None:
    device = Device()
    async with forwarded(device, kind) as where:
        async with await program_at(where) as program:
            await program.send_all(b"hello")
            await device.until(lambda: device.heard == b"hello")
            assert device.open == 1
        await device.until(lambda: device.open == 0)


@linux
@over_both
@timed()
async def test_half_close_waits_for_the_answer_and_frees_the_device_when_the_program_quits(
    kind: str,
) -> None:
    device = Device()
    async with forwarded(device, kind, quiet_limit=0.5) as where:
        async with await program_at(where) as program:
            await program.send_all(b"hello")
            await program.send_eof()
            await trio.sleep(2.5)  # several looks, and five times the quiet limit
            assert device.open == 1
            await device.say(b"an answer")
            assert await program.receive_some() == b"an answer"
        await device.until(lambda: device.open == 0)


@linux
@over_both
@pytest.mark.parametrize("half", [False, True])
@timed()
async def test_a_program_that_is_killed_frees_the_device(kind: str, half: bool) -> None:
    device = Device()
    async with forwarded(device, kind) as (family, name):
        script = (
            "import socket, time\n"
            f"s = socket.socket({int(family)}); s.connect({name!r}); s.sendall(b'hello')\n"
            f"{'s.shutdown(1)' if half else ''}\n"
            "time.sleep(60)"
        )
        program = await trio.to_thread.run_sync(subprocess.Popen, [sys.executable, "-c", script])
        try:
            await device.until(lambda: device.heard == b"hello")
            assert device.open == 1
        finally:
            program.send_signal(signal.SIGKILL)
            await trio.to_thread.run_sync(program.wait)
        await device.until(lambda: device.open == 0)


@over_both
@timed()
async def test_bytes_sent_before_a_program_quits_are_delivered(kind: str) -> None:
    device = Device()
    data = os.urandom(500_000)
    async with forwarded(device, kind) as where:
        async with await program_at(where) as program:
            await program.send_all(data)
        await device.until(lambda: device.open == 0 and device.ended > 0)
        assert device.heard == data


@over_both
@timed()
async def test_device_that_keeps_sending_is_freed_and_receives_everything(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device()
    async with forwarded(device, kind) as where, trio.open_nursery() as nursery:

        async def talk() -> None:
            while device.ended == 0:
                await device.say(b"y\n" * 1000)
                await trio.sleep(0.001)

        async with await program_at(where) as program:
            await device.until(lambda: device.open == 1)
            nursery.start_soon(talk)
            await program.receive_some()  # and not the rest
            await program.send_all(b"q")
            await device.until(lambda: device.heard == b"q")
        await device.until(lambda: device.open == 0)
    assert caplog.text == ""  # the normal end of a session


@linux
@over_both
@timed()
async def test_bytes_that_a_device_does_not_accept_are_dropped_after_the_program_has_gone(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forward, "STALL", 0.3)
    device = Device(takes=False)
    async with forwarded(device, kind) as where:
        async with await program_at(where) as program:
            await program.send_all(b"hello")
            await device.until(lambda: device.open == 1)
            await trio.sleep(1)
            assert device.open == 1  # the program may wait as long as it runs
        await device.until(lambda: device.open == 0)
    assert "its program has gone, and the driver has taken none of its bytes" in caplog.text


@linux
@over_both
@timed()
async def test_program_that_quits_before_its_stream_opens_cancels_the_opening(kind: str) -> None:
    opening, ended = trio.Event(), trio.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[trio.abc.HalfCloseableStream]:
        opening.set()
        try:
            await trio.sleep(math.inf)
            yield trio.testing.memory_stream_pair()[0]
        finally:
            ended.set()

    device = Device()
    device.connect = slow  # type: ignore[method-assign]
    async with forwarded(device, kind) as where:
        async with await program_at(where):
            await opening.wait()
        with trio.fail_after(PATIENCE):
            await ended.wait()


@linux
@over_both
@timed(4 * PATIENCE)
async def test_ten_thousand_connections_that_hang_up_leave_nothing_behind(kind: str) -> None:
    device = Device()
    async with forwarded(device, kind) as (family, name):

        def knock() -> None:
            for _ in range(10_000):
                with socket.socket(family) as one:
                    one.connect(name)

        await trio.to_thread.run_sync(knock)
        async with await program_at((family, name)) as program:
            await program.send_all(b"hello")
            await device.until(lambda: device.heard == b"hello")
            await device.until(lambda: device.open == 1)
            await device.say(b"well")
            assert await program.receive_some() == b"well"
        await device.until(lambda: device.open == 0)


async def test_quiet_limit_ends_the_forward_if_a_hang_up_is_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    monkeypatch.setattr(forward, "is_gone", lambda _: None)  # as for a program on another machine
    device = Device()
    async with (
        forwarded(device, "tcp", quiet_limit=1) as where,
        await program_at(where) as program,
    ):
        await program.send_eof()
        await device.until(lambda: device.open == 1)
        for _ in range(8):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.5)
            await device.say(b"tick")
            assert await program.receive_some() == b"tick"
        assert device.open == 1
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.5)
        await device.until(lambda: device.open == 0)
        assert await program.receive_some() == b""
    assert "quiet_limit" in caplog.text


@timed()
async def test_infinite_quiet_limit_never_ends_the_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "is_gone", lambda _: None)
    device = Device()
    async with (
        forwarded(device, "tcp", quiet_limit=math.inf) as where,
        await program_at(where) as program,
    ):
        await program.send_eof()
        await trio.sleep(2)
        await device.say(b"at last")
        assert await program.receive_some() == b"at last"


@pytest.mark.parametrize("limit", [-1, math.nan, None, "30", True])
def test_quiet_limit_must_be_a_number_of_seconds(limit: float) -> None:
    with pytest.raises(ArgumentError, match="quiet_limit must be a number of seconds"):
        forward_to(Device().connect, quiet_limit=limit)


@timed()
async def test_tcp_keepalive_is_set_on_forwarded_connections() -> None:
    options: list[int] = []

    async def handler(connection: trio.SocketStream) -> None:
        await forward_to(Device().connect)(connection)

    async def look(connection: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handler, connection)
            await trio.testing.wait_all_tasks_blocked()
            options.append(connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            nursery.cancel_scope.cancel()

    async with listen_tcp(look) as where, await trio.open_tcp_stream(*where) as program:
        with pytest.raises(trio.BrokenResourceError):
            await program.receive_some()
    assert options == [1]
