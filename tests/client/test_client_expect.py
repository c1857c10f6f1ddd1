"""Tests that a pexpect session sends everything or raises: signals, timeouts, driver failures."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pexpect
import pytest
import trio

from exporter_process import exporter
from helpers import PATIENCE, served
from jumpstarter import connect
from jumpstarter.client.adapters import PexpectAdapter
from jumpstarter.driver import Driver, exportstream
from jumpstarter.errors import CallOutcomeUnknown, DriverOSError

MUCH = 3_000_000  # bytes: more than all the buffers and windows on the path can hold


class Slow(trio.abc.Stream):
    """A board that accepts its first bytes only after a delay."""

    def __init__(self, patience: float, failing_at: int | None) -> None:
        self.got = 0
        self._patience = patience
        self._failing_at = failing_at
        self._end = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.got:
            await trio.sleep(self._patience)
        self.got += len(data)
        if self._failing_at is not None and self.got >= self._failing_at:
            raise OSError("the board has gone")

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        await self._end.wait()
        return b""

    async def aclose(self) -> None:
        self._end.set()


@dataclass(kw_only=True)
class Board(Driver):
    patience: float = 0.3
    failing_at: int | None = None
    streams: list[Slow] = field(default_factory=list)

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Slow]:
        stream = Slow(self.patience, self.failing_at)
        self.streams.append(stream)
        yield stream


@contextmanager
def handling(
    number: signal.Signals, handler: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    """Fail a test that hangs: an alarm interrupts the blocked write."""

    def fail(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the test hangs")

    with handling(signal.SIGALRM, fail):
        signal.setitimer(signal.ITIMER_REAL, 3 * PATIENCE)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def session(board: Board, **options: Any) -> Iterator[Any]:
    with served(board) as client, PexpectAdapter(client=client, timeout=PATIENCE, **options) as it:
        yield it


@contextmanager
def signals_meanwhile() -> Iterator[list[int]]:
    """Send this process a signal every 20 ms, whose handler only records it."""
    caught: list[int] = []
    done = threading.Event()

    def pester() -> None:
        while not done.wait(0.02):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=pester)
    with handling(signal.SIGUSR1, lambda number, _frame: caught.append(number)):
        thread.start()
        try:
            yield caught
        finally:
            done.set()
            thread.join()


@pytest.fixture
def default_timeout() -> Iterator[None]:
    socket.setdefaulttimeout(0.05)
    yield
    socket.setdefaulttimeout(None)


WAYS = {
    "send": lambda it, data: it.send(data),
    "sendline": lambda it, data: it.sendline(data[:-1]),
    "write": lambda it, data: it.write(data),
    "writelines": lambda it, data: it.writelines([data[:-1000], data[-1000:]]),
}


@pytest.mark.parametrize("way", WAYS)
def test_everything_is_sent_despite_signals(way: str) -> None:
    board = Board()
    with signals_meanwhile() as caught, session(board) as it:
        count = WAYS[way](it, b"x" * MUCH)
    assert len(caught) > 3
    assert count in (None, MUCH)
    assert board.streams[0].got == MUCH


@pytest.mark.usefixtures("default_timeout")
@pytest.mark.parametrize("way", WAYS)
def test_everything_is_sent_despite_a_default_socket_timeout(way: str) -> None:
    board = Board()
    with session(board) as it:
        WAYS[way](it, b"x" * MUCH)
    assert board.streams[0].got == MUCH


def test_everything_is_sent_on_a_nonblocking_descriptor() -> None:
    board = Board()
    with session(board) as it:
        os.set_blocking(it.child_fd, False)  # as expect(async_=True) does
        assert it.send(b"x" * MUCH) == MUCH
    assert board.streams[0].got == MUCH


def test_text_is_counted_in_bytes_and_sent_whole() -> None:
    board = Board()
    with session(board, encoding="utf-8") as it:
        assert it.send("ü" * MUCH) == 2 * MUCH
    assert board.streams[0].got == 2 * MUCH


@pytest.mark.parametrize("failing_at", [1, 1_000_000])
def test_send_raises_the_failure_of_the_driver(
    failing_at: int,
) -> None:
    board = Board(failing_at=failing_at)
    with pytest.raises(DriverOSError, match="the board has gone") as caught, session(board) as it:
        it.send(b"x" * MUCH)
    assert "the driver's stream has ended" in str(caught.value.__context__)


def test_leaving_after_a_caught_send_error_raises_the_failure() -> None:
    board = Board(failing_at=1)
    with pytest.raises(DriverOSError, match="the board has gone"), session(board) as it:  # noqa: PT012
        with pytest.raises(BrokenPipeError, match=rf"of {MUCH} bytes"):
            it.send(b"x" * MUCH)
        it.close()


def use_until_the_end(it: Any, why: str) -> None:
    """Use a session whose stream has failed: EOF reports the cause, and sending raises."""
    with pytest.raises(pexpect.EOF, match=rf"the driver's stream has ended: .*{why}"):
        it.expect("login: ")
    text = rf"the driver's stream has ended \(.*{why}.*\); 0 of 5 bytes were sent"
    with pytest.raises(BrokenPipeError, match=text):
        it.sendline("root")
    assert it.expect(["login: ", pexpect.EOF]) == 1


def test_after_the_exporter_has_gone_eof_says_why_and_sending_raises(tmp_path: Path) -> None:
    with exporter(tmp_path) as process, connect(process.address) as client:
        block = PexpectAdapter(client=client, timeout=PATIENCE)
        with pytest.raises(CallOutcomeUnknown), block as it:  # noqa: PT012 - how it exits
            process.send(signal.SIGKILL)
            use_until_the_end(it, "not answered")


def test_after_the_driver_has_failed_eof_says_why_and_sending_raises() -> None:
    board = Board(failing_at=1)
    with pytest.raises(DriverOSError, match="the board has gone"), session(board) as it:  # noqa: PT012 - as above
        it.send(b"x")
        use_until_the_end(it, "the board has gone")


def test_ctrl_c_ends_a_send_that_waits() -> None:
    board = Board(patience=2 * PATIENCE)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), session(board) as it:
        it.send(b"x" * MUCH)


def test_send_on_a_closed_session_raises() -> None:
    with session(Board()) as it:
        it.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            it.send(b"x")
