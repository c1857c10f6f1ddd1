"""Test the end of sessions in exclusive use while threads of the exporter read connections."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from helpers import PATIENCE, ask, timed, until, wait_until
from jumpstarter import connect_async, serve_async
from jumpstarter._exporter import exclusive_session, worker
from jumpstarter._exporter.exclusive_session import _ExclusiveSession
from jumpstarter._exporter.led_connection import LedConnection
from jumpstarter._exporter.server import Server
from jumpstarter._exporter.session import caller_of
from jumpstarter._io.ownership import Reader
from jumpstarter._protocol.frames import Kind
from jumpstarter.client import DriverClient
from jumpstarter.client._outgoing_call import OutgoingCall, Request
from jumpstarter.driver import export
from jumpstarter.errors import DriverError
from noting_driver import Noting


@dataclass(kw_only=True)
class Board(Noting):
    """Can block a thread."""

    may_return: threading.Event = field(default_factory=threading.Event, repr=False)

    @export
    def block(self, text: str) -> None:
        self.running.set()
        assert self.may_return.wait(PATIENCE)
        self.ledger.append(text)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture(autouse=True)
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a thread wait for its next call, and a dismissal for calls, even in a slow test."""
    monkeypatch.setattr(worker, "_STAYS", 1_000_000)
    monkeypatch.setattr(exclusive_session, "_LAST_WORDS", PATIENCE)


class Place:
    """An exporter in exclusive use, whose clients run in the same loop."""

    def __init__(self, server: Server) -> None:
        self.server = server

    @asynccontextmanager
    async def client(self, name: str, **options: Any) -> AsyncIterator[DriverClient]:
        async with connect_async(self.server.address, name=name, **options) as client:
            yield client

    def session(self, name: str) -> _ExclusiveSession:
        """Return the exporter's side of a client's connection."""
        found = [
            session
            for session in self.server._sessions
            if (caller := caller_of(session)) is not None and caller.claimed.name == name
        ]
        [session] = found
        assert isinstance(session, _ExclusiveSession)
        return session

    def is_led(self, name: str) -> bool:
        """Return True while a thread reads what a client sends."""
        return self.session(name)._connection.ownership.reader is Reader.THREAD


@asynccontextmanager
async def exclusive(board: Board, tmp_path: Path) -> AsyncIterator[Place]:
    async with serve_async(board, f"unix:{tmp_path}/socket", exclusive=True) as server:
        try:
            yield Place(server)
        finally:
            board.may_return.set()


def send(client: DriverClient, *calls: tuple[str, str]) -> list[OutgoingCall]:
    """Send calls together, without a checkpoint: only threads can act on them before one."""
    channel = client.channel.channel
    made = [OutgoingCall(channel, ask(method, text)) for method, text in calls]
    with channel.connection.lock:
        for each in made:
            assert channel.start(each, math.inf)
        channel.connection.writer.flush_now()
    return made


async def kick(watcher: DriverClient, connection: int) -> None:
    request = Request(0, Kind.UNARY, "kick", (connection,), driver="the exporter")
    await watcher.channel.channel.call(request)


async def outcome(call: OutgoingCall) -> DriverError | None:
    await call.join()
    return call.failure


@timed()
async def test_a_thread_that_leads_begins_no_call_for_a_client_that_was_dismissed(
    board: Board, tmp_path: Path
) -> None:
    async with exclusive(board, tmp_path) as it:
        async with it.client("ada") as ada:
            await ada.call_async("note", "ada")
            assert it.is_led("ada")
            it.session("ada").dismiss("the session was ended by a test")
            [call] = send(ada, ("note", "too late"))  # before the client knows
            wait_until(lambda: not it.is_led("ada"))  # until the thread has read the call
            assert isinstance(await outcome(call), DriverError)
        async with it.client("bob") as bob:
            await bob.call_async("note", "bob")
    assert board.ledger == ["reset", "ada", "reset", "bob"]


@timed()
async def test_a_call_that_a_thread_begins_as_the_session_ends_has_ended_before_the_next(
    board: Board, tmp_path: Path
) -> None:
    """The thread of a member begins a call between the end and the letter that dismisses it."""
    async with exclusive(board, tmp_path) as it, trio.open_nursery() as nursery:
        entered = trio.Event()

        async def next_client() -> None:
            async with it.client("bob") as bob:
                entered.set()
                await bob.call_async("note", "bob")

        async with it.client("ada") as ada:
            session = ada.channel.channel.session
            async with it.client("member", session=session) as member:
                await member.call_async("note", "member")
                assert it.is_led("member")
                nursery.start_soon(next_client)
                await until(lambda: len(it.server.view().claims) == 2)
                it.session("ada")._connection.end(ConnectionError("pulled"))
                [call] = send(member, ("block", "finally"))
                assert board.running.wait(PATIENCE)  # the loop stands still meanwhile
                [running] = it.session("member").running
                assert not running.cancelled
                await until(lambda: running.cancelled)
                [title] = it.session("member").running_calls()
                assert title.startswith("'block' of")
                assert not entered.is_set()
                board.may_return.set()
                await outcome(call)
    assert board.ledger == ["reset", "member", "finally", "reset", "bob"]


@timed()
async def test_a_session_ends_with_its_holder_while_a_thread_reads_for_a_member(
    board: Board, tmp_path: Path
) -> None:
    async with exclusive(board, tmp_path) as it:
        async with it.client("ada") as ada:
            session = ada.channel.channel.session
            async with it.client("member", session=session) as member:
                await member.call_async("note", "member")
                send(ada, ("block", "ada"))
                await until(board.running.is_set)  # so that the holder's connection ends slowly
                assert it.is_led("member")
                it.session("ada")._connection.end(ConnectionError("pulled"))
                await until(lambda: member.channel.channel.connection.goaway is not None)
                with pytest.raises(DriverError, match="the connection that began it has ended"):
                    await member.call_async("note", "too late")
                board.may_return.set()
        async with it.client("bob") as bob:
            await bob.call_async("note", "bob")
    assert board.ledger == ["reset", "member", "ada", "reset", "bob"]


@timed()
async def test_a_kick_ends_a_session_whose_thread_holds_the_role(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that was read behind the one that runs has not begun, and is refused."""
    monkeypatch.setattr(worker, "_QUICK", math.inf)
    monkeypatch.setattr(LedConnection, "watch_time_of", lambda *_: None)  # never take it back
    async with (
        exclusive(board, tmp_path) as it,
        it.client("watcher", claim=False) as watcher,
        trio.open_nursery() as nursery,
    ):
        async with it.client("ada") as ada:
            session = it.session("ada")
            session.executor.quick.update((1, name) for name in ("block", "note"))
            await ada.call_async("note", "ada")
            assert it.is_led("ada")
            [holder] = it.server.view().claims
            running, behind = send(ada, ("block", "running"), ("note", "never"))
            wait_until(board.running.is_set)  # the loop stands still meanwhile
            assert session._connection.ownership.reader is Reader.HELD
            nursery.start_soon(kick, watcher, holder["connection"])
            await until(lambda: session._guard.ended != "")
            assert session._connection.ownership.reader is Reader.HELD
            board.may_return.set()
            await outcome(running)
            assert isinstance(await outcome(behind), DriverError)
        async with it.client("bob") as bob:
            await bob.call_async("note", "bob")
    assert board.ledger == ["reset", "ada", "running", "reset", "bob"]
