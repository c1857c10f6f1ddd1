"""Test exporters in exclusive use: one client at a time, in order, each after a reset."""

from __future__ import annotations

import asyncio
import re
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from helpers import PATIENCE, timed, until
from jumpstarter import connect, connect_async, serve_async
from jumpstarter._api.serving import serve_leased
from jumpstarter._exporter.exclusive_session import _GuardedDispatcher
from jumpstarter._exporter.exclusive_use import Claim, ExclusiveUse
from jumpstarter._exporter.lease_queue import LeaseQueue, ResettingRunner
from jumpstarter._exporter.server import Server
from jumpstarter._protocol.frames import CallHead, Kind
from jumpstarter.client import DriverClient
from jumpstarter.client._claim import join, warn
from jumpstarter.client._outgoing_call import Request
from jumpstarter.client._raw_streams import open_stream
from jumpstarter.driver import Caller, caller, export, exportstream, on_disconnect
from jumpstarter.driver._export import exports_of
from jumpstarter.drivers.console import RecordedConsole
from jumpstarter.drivers.network import TcpNetwork
from jumpstarter.drivers.power import MockPower
from jumpstarter.drivers.process import Process
from jumpstarter.errors import (
    ArgumentError,
    CallOutcomeUnknown,
    CallRefused,
    ConfigurationError,
    DriverError,
    DriverMethodNotImplemented,
    HandshakeError,
    JumpstarterException,
)
from jumpstarter.observe import Metrics
from jumpstarter.observe._exposition import exposition
from noting_driver import Noting


@dataclass(kw_only=True)
class Board(Noting):
    """Can fail, block, and be looked at.

    Attributes:
        broken: What `reset` raises, if anything.
    """

    broken: BaseException | None = None
    may_return: threading.Event = field(default_factory=threading.Event, repr=False)

    def reset(self) -> None:
        super().reset()
        if self.broken is not None:
            raise self.broken

    @export
    def register(self, text: str) -> None:
        """Write a text when the caller's connection has ended."""
        on_disconnect(lambda: self.ledger.append(text))

    @export
    def block(self, text: str) -> None:
        """Block a thread, and take a while to clean up."""
        self.running.set()
        try:
            assert self.may_return.wait(PATIENCE)
        finally:
            self.ledger.append(text)

    @export
    async def whom(self) -> str:
        return caller().claimed.name

    @export(read_only=True)
    def whose(self) -> str:
        return caller().claimed.name

    @export(read_only=True)
    async def lines(self) -> AsyncIterator[str]:
        for each in self.ledger:
            yield each

    @exportstream(read_only=True)
    @asynccontextmanager
    async def watch(self) -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all("\n".join(self.ledger).encode())
        await ours.send_eof()
        yield theirs

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        yield trio.testing.memory_stream_pair()[0]


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/socket"


@pytest.fixture
def board() -> Board:
    return Board()


async def service(client: DriverClient, method: str, *args: Any) -> Any:
    channel = client.channel.channel
    return await channel.call(Request(0, Kind.UNARY, method, args, driver="the exporter"))


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition of the exporter's queue, which clients can only ask for."""
    with trio.fail_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - as above
            await trio.sleep(0.001)


class Queue:
    """Clients of one exporter, each in a task of its own.

    Attributes:
        entered: The names of those that had a turn, in order.
    """

    def __init__(self, server: Server, nursery: trio.Nursery) -> None:
        self._server = server
        self._nursery = nursery
        self._may_leave: dict[str, trio.Event] = {}
        self._clients: dict[str, DriverClient] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self.entered: list[str] = []
        self.watcher: DriverClient | None = None

    async def add(self, name: str, **options: Any) -> None:
        """Start a client, and wait until it has a turn or waits for it."""
        count = len(await self.who())
        self._may_leave[name] = trio.Event()
        self._nursery.start_soon(self._run, name, options)
        await self.until_count_is(count + 1)

    async def _run(self, name: str, options: dict[str, Any]) -> None:
        with trio.CancelScope() as self._scopes[name]:
            async with connect_async(self._server.address, name=name, **options) as client:
                self.entered.append(name)
                await client.call_async("note", name)
                self._clients[name] = client
                await self._may_leave[name].wait()

    async def who(self) -> list[dict[str, Any]]:
        assert self.watcher is not None
        rows: list[dict[str, Any]] = await service(self.watcher, "who")
        return rows

    async def until_holds(self, name: str) -> DriverClient:
        await until(lambda: name in self._clients)
        return self._clients[name]

    def leave(self, name: str) -> None:
        self._may_leave[name].set()

    def cancel(self, name: str) -> None:
        self._scopes[name].cancel()

    async def until_count_is(self, count: int) -> None:
        async def is_so() -> bool:
            return len(await self.who()) == count

        await eventually(is_so)

    async def until_state(self, name: str, state: str) -> None:
        async def is_so() -> bool:
            return (name, state) in await self.states()

        await eventually(is_so)

    async def until_not(self, row: tuple[str, str]) -> None:
        async def is_so() -> bool:
            return row not in await self.states()

        await eventually(is_so)

    async def states(self) -> list[tuple[str, str]]:
        return [(row["claimed"], row["state"]) for row in await self.who()]


@asynccontextmanager
async def queue_at(board: Board, address: str, **options: Any) -> AsyncIterator[Queue]:
    """Serve a board exclusively, with a client beside it that only watches."""
    async with (
        serve_async(board, address, exclusive=True, **options) as server,
        connect_async(server.address, claim=False, name="watcher") as watcher,
        trio.open_nursery() as nursery,
    ):
        queue = Queue(server, nursery)
        queue.watcher = watcher
        yield queue
        nursery.cancel_scope.cancel()


@timed()
async def test_a_second_client_waits_until_the_first_has_left(board: Board, address: str) -> None:
    async with queue_at(board, address) as queue:
        await queue.add("ada")
        await queue.until_holds("ada")
        await queue.add("bob")
        assert await queue.states() == [("ada", "holds"), ("bob", "waits")]
        assert queue.entered == ["ada"]
        queue.leave("ada")
        await queue.until_holds("bob")
    assert board.ledger == ["reset", "ada", "reset", "bob"]


@timed()
async def test_twenty_clients_enter_in_the_order_in_which_they_came(
    board: Board, address: str
) -> None:
    names = [f"client {number}" for number in range(20)]
    async with queue_at(board, address) as queue:
        for name in names:
            await queue.add(name)
        assert len(await queue.who()) == 20
        for name in names:
            await queue.until_holds(name)
            queue.leave(name)
        assert queue.entered == names
    assert [each for each in board.ledger if each != "reset"] == names
    assert board.ledger.count("reset") == 20


@timed()
async def test_one_that_gives_up_is_skipped(board: Board, address: str) -> None:
    async with queue_at(board, address) as queue:
        for name in ("ada", "bob", "cleo"):
            await queue.add(name)
        queue.cancel("bob")
        await queue.until_count_is(2)
        queue.leave("ada")
        await queue.until_holds("cleo")
        assert await queue.states() == [("cleo", "holds")]
    assert "bob" not in board.ledger


@timed()
async def test_waiters_see_their_place_and_the_holder(
    board: Board, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with queue_at(board, address) as queue:
        for name in ("ada", "bob", "cleo"):
            await queue.add(name)
        await queue.until_holds("ada")
        queue.leave("ada")
        await queue.until_holds("bob")
        rows = await queue.who()
    places = [each.getMessage() for each in caplog.records if each.name.endswith(".queue")]
    assert all(each.startswith(f"waiting for {address}: ") for each in places)
    text = "\n".join(places)
    assert f"held by uid {rows[0]['verified']['uid']}, pid " in text
    assert "says 'ada' since " in text
    assert ", you are next" in text
    assert ", 1 before you" in text
    assert rows[0]["verified"]["pid"] > 0
    assert (rows[0]["claimed"], rows[0]["agent"][:12]) == ("bob", "jumpstarter/")
    assert 0 <= rows[0]["seconds"] < 3600


@timed()
async def test_a_client_that_must_not_wait_learns_who_holds(board: Board, address: str) -> None:
    async with queue_at(board, address) as queue:
        await queue.add("ada")
        await queue.until_holds("ada")
        await queue.add("bob")
        with pytest.raises(HandshakeError) as caught:
            async with connect_async(address, wait=False):
                pytest.fail("it has a turn")
        assert len(await queue.who()) == 2
    text = str(caught.value)
    assert text.startswith(f"{address}: held by uid ")
    assert "says 'ada' since " in text
    assert "and 1 client waits for it; to wait for it, connect without --no-wait, " in text
    assert "--jumpstarter-no-wait or JMP_NO_WAIT (in Python, wait=True)" in text
    async with (
        serve_async(Board(), f"{address}.2", exclusive=True) as server,
        connect_async(server.address, wait=False) as client,
    ):
        await client.call_async("note", "a turn")


@timed()
async def test_only_what_is_read_only_can_be_used_without_a_turn(
    board: Board, address: str
) -> None:
    async with queue_at(board, address) as queue:
        watcher = queue.watcher
        assert watcher is not None
        with pytest.raises(CallRefused, match=r"nobody holds it now.*claim=True"):
            await watcher.call_async("note", "intruder")
        await queue.add("ada")
        await queue.until_holds("ada")
        with pytest.raises(CallRefused, match=r"held by uid .* says 'ada' since"):
            await watcher.call_async("note", "intruder")
        with pytest.raises(CallRefused, match="held by"):
            await watcher.call_async("sleep", "intruder")
        with pytest.raises(CallRefused, match="held by"):
            async with watcher.stream_async("connect"):
                pytest.fail("it is open")
        with pytest.raises(DriverMethodNotImplemented):
            await watcher.call_async("missing")
        assert await watcher.call_async("whose") == "watcher"
        assert [line async for line in watcher.streamingcall_async("lines")] == ["reset", "ada"]
        async with watcher.stream_async("watch") as stream:
            assert b"".join([data async for data in stream]) == b"reset\nada"
    assert board.ledger == ["reset", "ada"]


def test_ready_made_drivers_let_others_look_on_and_nothing_more() -> None:
    def read_only(cls: type) -> set[str]:
        return {export.name for export in exports_of(cls).values() if export.read_only}

    assert read_only(RecordedConsole) == {"mark", "status", "watch"}
    assert read_only(MockPower) == {"read"}
    assert read_only(Process) == {"follow", "read_output", "status", "wait_for"}
    assert read_only(TcpNetwork) == {"address"}


@timed()
async def test_nothing_is_lent_without_a_turn(board: Board, address: str) -> None:
    async with queue_at(board, address) as queue:
        assert queue.watcher is not None
        request = Request(0, Kind.STREAM, "lend", (1, "read", ""), driver="the exporter")
        with pytest.raises(CallRefused, match="has not claimed it"):
            await open_stream(queue.watcher.channel.channel, request)


@timed()
async def test_all_calls_have_ended_before_the_next_client_enters(
    board: Board, address: str
) -> None:
    async with queue_at(board, address) as queue:
        await queue.add("ada")
        ada = await queue.until_holds("ada")
        await ada.call_async("register", "ada's end")
        await queue.add("bob")
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(CallOutcomeUnknown, match="the cable was pulled"):
                    await ada.call_async("block", "finally")

            nursery.start_soon(call)
            await until(board.running.is_set)
            ada.channel.channel.connection.end(ConnectionError("the cable was pulled"))
            await queue.until_state("ada", "leaves")
            [holder, _] = await queue.who()
            assert holder["calls"] == ["'block' of driver 'root' (test_exclusive_use.Board)"]
            assert queue.entered == ["ada"]
            board.may_return.set()
        await queue.until_holds("bob")
    assert board.ledger == ["reset", "ada", "finally", "ada's end", "reset", "bob"]


async def kick(queue: Queue, connection: int | None = None) -> None:
    assert queue.watcher is not None
    await service(queue.watcher, "kick", connection)


@pytest.mark.parametrize("method", ["sleep", "block"])
@timed()
async def test_a_kicked_holder_s_calls_have_ended_before_the_next_enters(
    board: Board, address: str, method: str
) -> None:
    async with queue_at(board, address) as queue:
        await queue.add("ada")
        ada = await queue.until_holds("ada")
        await queue.add("bob")
        outcomes: list[DriverError | None] = []

        async def call() -> None:
            try:
                await ada.call_async(method, "finally")
            except DriverError as exc:
                outcomes.append(exc)
            else:  # a plain method that returns soon enough
                outcomes.append(None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await until(board.running.is_set)
            [holder, _] = await queue.who()
            nursery.start_soon(kick, queue, holder["connection"])
            await queue.until_not(("ada", "holds"))
            board.may_return.set()
        with pytest.raises(CallRefused, match="the session was ended by uid"):
            await ada.call_async("note", "after the kick")
        await queue.until_holds("bob")
        queue.leave("ada")
    assert board.ledger == ["reset", "ada", "finally", "reset", "bob"]
    assert len(outcomes) == 1
    if method == "sleep":
        assert "the session was ended by uid" in str(outcomes[0])


@timed()
async def test_a_call_that_a_kick_overtakes_is_told_of_it(
    board: Board, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that is to answer it may begin after the session has ended."""
    arrived, may_go_on = threading.Event(), threading.Event()
    find = _GuardedDispatcher._find

    def find_late(guard: _GuardedDispatcher, head: CallHead) -> Any:
        if head.method == "note":
            arrived.set()
            assert may_go_on.wait(PATIENCE)
        return find(guard, head)

    async with queue_at(board, address) as queue, trio.open_nursery() as nursery:
        await queue.add("ada")
        ada = await queue.until_holds("ada")
        monkeypatch.setattr(_GuardedDispatcher, "_find", find_late)

        async def call() -> None:
            with pytest.raises(DriverError, match="the session was ended by uid"):
                await ada.call_async("note", "too late")

        nursery.start_soon(call)
        await until(arrived.is_set)
        nursery.start_soon(kick, queue)
        await queue.until_not(("ada", "holds"))
        may_go_on.set()
    assert board.ledger == ["reset", "ada"]


@timed()
async def test_a_client_that_always_calls_is_told_that_it_was_kicked(
    board: Board, address: str
) -> None:
    """Its last call may arrive before the kick, with it or after it."""
    errors: list[str] = []

    def call(name: str) -> None:
        with connect(address, name=name) as ada:
            try:
                while True:
                    ada.call("whom")
            except DriverError as exc:
                errors.append(str(exc))

    async with queue_at(board, address) as queue, trio.open_nursery() as nursery:
        for name in [f"ada {number}" for number in range(20)]:
            nursery.start_soon(trio.to_thread.run_sync, call, name)
            await queue.until_state(name, "holds")
            await kick(queue)
            await queue.until_count_is(0)
    assert len(errors) == 20
    assert [each for each in errors if "the session was ended by uid" not in each] == []


@timed()
async def test_metrics_have_the_clients_that_wait_and_how_long_one_holds(
    board: Board, address: str
) -> None:
    metrics = Metrics()

    def now() -> dict[str, float]:
        readings = metrics.snapshot().readings
        return {each.name: each.values[()] for each in readings if not each.labels}

    async with queue_at(board, address, metrics=metrics) as queue:
        assert now() == {"waiting_clients": 0, "held_seconds": 0}
        await queue.add("ada")
        await queue.until_holds("ada")
        await queue.add("bob")
        await queue.add("cleo")
        [holder, _, _] = await queue.who()
        found = now()
        assert found["waiting_clients"] == 2
        assert found["held_seconds"] >= holder["seconds"]
        for name in ("ada", "bob", "cleo"):
            queue.leave(name)
        await queue.until_count_is(0)
        assert now() == {"waiting_clients": 0, "held_seconds": 0}
    text = exposition(metrics).decode()
    assert "jumpstarter_held_seconds" not in text  # the exporter has ended


@timed()
async def test_metrics_of_a_shared_exporter_have_no_queue(board: Board, address: str) -> None:
    metrics = Metrics()
    async with serve_async(board, address, metrics=metrics):
        assert "jumpstarter_waiting_clients" not in exposition(metrics).decode()


@timed()
async def test_a_kick_for_an_earlier_holder_does_not_hit_the_next(
    board: Board, address: str
) -> None:
    async with queue_at(board, address) as queue:
        with pytest.raises(CallRefused, match="nobody holds"):
            await kick(queue)
        await queue.add("ada")
        await queue.until_holds("ada")
        with pytest.raises(CallRefused, match="another client holds it by now: held by"):
            await kick(queue, 10_000)
        assert await queue.states() == [("ada", "holds")]


@timed()
async def test_a_session_ends_after_its_time(
    board: Board, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with queue_at(board, address, max_session=2):
        async with connect_async(address, name="ada") as ada:
            with pytest.raises(DriverError, match=r"none on this exporter lasts more than 2 s"):
                await ada.call_async("sleep", "finally")
            with pytest.raises(CallRefused, match=r"lasts more than 2 s"):
                await ada.call_async("note", "too late")
        async with connect_async(address, name="bob"):
            pass
    assert [each for each in board.ledger if each != "finally"] == ["reset", "reset"]
    said = [each.getMessage() for each in caplog.records]
    warning = r"the session of uid .* says 'ada' ends in 0\.2 s: no session lasts longer than 2 s"
    assert any(re.fullmatch(warning, each) for each in said)


class Silent:
    """A connection whose client claims the exporter, and then reads nothing."""

    caller = Caller(connection=1)

    def __init__(self, nursery: trio.Nursery) -> None:
        self.claim: Claim | None = None
        self.may_call = False
        self.told = ""
        self.dismissed = trio.Event()
        self._nursery = nursery

    def running_calls(self) -> list[str]:
        return []

    def dismiss(self, text: str) -> None:
        self.told = self.told or text
        self.dismissed.set()

    def run_beside(self, function: Callable[[Claim], Awaitable[None]], claim: Claim) -> None:
        self._nursery.start_soon(function, claim)


@timed()
async def test_a_session_ends_after_its_time_though_its_client_reads_nothing() -> None:
    leases = LeaseQueue(ResettingRunner(None, trio.lowlevel.checkpoint), "no socket")
    use = ExclusiveUse(leases, max_session=0.01)
    async with trio.open_nursery() as nursery:
        visitor = Silent(nursery)
        nursery.start_soon(leases.run)
        async with aclosing(use.claim(visitor, wait=True)) as items:
            assert (await anext(items))["left"] == 0.01
            await visitor.dismissed.wait()  # though the generator was not asked for more
        nursery.cancel_scope.cancel()
    assert "none on this exporter lasts more than 0.01 s" in visitor.told


@timed()
async def test_a_client_that_gives_up_leaves_nothing_in_the_queue() -> None:
    leases = LeaseQueue(ResettingRunner(None, trio.lowlevel.checkpoint), "no socket")
    holder, waiting = leases.arrive("ada"), leases.arrive("bob")
    gone = weakref.ref(waiting)
    leases.depart(waiting)
    del waiting
    assert gone() is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leases.run)
        assert not await holder.decided()
        leases.depart(holder)
        await leases.finish()


class Hostile:
    """Answers a claim with wrong values, as an exporter that is not ours might."""

    def __init__(self, *items: Any) -> None:
        self._items = items

    async def claim(self, *_: object) -> AsyncIterator[Any]:
        for item in self._items:
            yield item


@pytest.mark.parametrize(
    ("items", "error"),
    [
        ([], "it has sent no session"),
        ([{"session": 1}, "text", {"text": 7}, None], "it has sent no session"),
        ([{"session": "key", "left": -1}], ""),
        ([{"session": "key", "left": float("nan")}], ""),
        ([{"session": "key", "left": "soon"}], ""),
        ([{"text": "a\x1b[2J"}, {"text": "a\x1b[2J"}, {"session": "key", "left": None}], ""),
    ],
)
@timed()
async def test_a_client_survives_any_answer_to_its_claim(
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    items: list[Any],
    error: str,
) -> None:
    monkeypatch.setattr(ExclusiveUse, "claim", Hostile(*items).claim)
    async with serve_async(Board(), address, exclusive=True):
        if error:
            with pytest.raises(HandshakeError, match=error):
                async with connect_async(address):
                    pytest.fail("it is connected")
            return
        async with connect_async(address) as client:
            assert client.channel.channel.session == "key"
    places = [each.getMessage() for each in caplog.records if each.name.endswith(".queue")]
    assert places in ([], [f"waiting for {address}: a\\x1b[2J"])


@timed()
async def test_a_client_warns_of_the_end_of_its_session(
    board: Board, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with queue_at(board, address, max_session=100) as queue:
        assert queue.watcher is not None
        channel = queue.watcher.channel.channel
        await warn(channel, 0)
    assert f"the exporter at {address} ends this session in 0 s" in caplog.text


@timed()
async def test_a_client_does_not_warn_of_the_end_of_a_session_that_has_ended(
    board: Board, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with queue_at(board, address, max_session=100) as queue:
        await queue.add("ada")
        ada = (await queue.until_holds("ada")).channel.channel
        [holder] = await queue.who()
        await kick(queue, holder["connection"])
        await ada.connection.finished.wait()
        await warn(ada, 3600)  # it returns now
        await warn(ada, 0)
        queue.leave("ada")
    assert "ends this session" not in caplog.text


@timed()
async def test_further_connections_join_a_session_and_end_with_it(
    board: Board, address: str
) -> None:
    async with queue_at(board, address) as queue:
        await queue.add("ada")
        ada = await queue.until_holds("ada")
        session = ada.channel.channel.session
        async with connect_async(address, session=session, name="child") as child:
            await child.call_async("note", "child")
            with pytest.raises(CallRefused, match="or joined, already"):
                await join(child.channel.channel, session or "")
            [row] = await queue.who()
            assert (row["claimed"], row["joined"]) == ("ada", 1)
            await queue.add("bob")
            queue.leave("ada")
            await queue.until_holds("bob")
            with pytest.raises(CallRefused, match="the connection that began it has ended"):
                await child.call_async("note", "too late")
        with pytest.raises(HandshakeError, match="the session to join has ended"):
            async with connect_async(address, session=session):
                pytest.fail("it has joined")
    assert board.ledger == ["reset", "ada", "child", "reset", "bob"]


@timed()
async def test_the_log_stream_belongs_to_the_session(board: Board, address: str) -> None:
    async with queue_at(board, address) as queue:
        await queue.add("ada")
        ada = await queue.until_holds("ada")
        async with ada.log_stream_async():
            [row] = await queue.who()
            assert (row["claimed"], row["joined"]) == ("ada", 1)
            await ada.call_async("note", "with the log")

        async def is_alone() -> bool:
            return [row["joined"] for row in await queue.who()] == [0]

        await eventually(is_alone)
    assert board.ledger == ["reset", "ada", "with the log"]


class Runner:
    """Notes when a lease begins and ends, and calls the board meanwhile."""

    def __init__(self, ledger: list[str]) -> None:
        self._ledger = ledger

    async def _call(self, host: str, text: str) -> None:
        async with connect_async(f"unix:{host}") as own:
            await own.call_async("note", text)
            with pytest.raises(DriverMethodNotImplemented, match="no claim is needed"):
                await service(own, "join", "any")

    async def begin(self, host: str, client: str) -> str:
        assert client.startswith("uid ")
        await self._call(host, "begin")
        return ""

    async def end(self, host: str, client: str) -> None:
        assert client.startswith("uid ")
        await self._call(host, "end")


@timed()
async def test_hooks_run_around_each_client_s_session(board: Board, address: str) -> None:
    runner = Runner(board.ledger)
    async with (
        serve_leased(board, address, runner, exclusive=True) as server,
        trio.open_nursery() as nursery,
    ):

        async def use(name: str) -> None:
            async with connect_async(server.address, name=name) as client:
                await client.call_async("note", name)

        nursery.start_soon(use, "ada")
        nursery.start_soon(use, "bob")
    first, second = sorted(("ada", "bob"), key=board.ledger.index)
    assert board.ledger == ["reset", "begin", first, "end", "reset", "begin", second, "end"]


@pytest.mark.parametrize(
    "failure", [OSError("no relay"), SystemExit(3), asyncio.CancelledError()], ids=repr
)
@timed()
async def test_a_client_is_refused_whose_reset_fails_and_the_next_resets_again(
    board: Board, address: str, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    async with queue_at(board, address) as queue:
        await queue.add("ada")
        await queue.until_holds("ada")
        queue.leave("ada")
        await queue.until_count_is(0)
        board.broken = failure
        text = rf"reset\(\) of driver 'root' .* failed: {type(failure).__name__}: .*connect again"
        with pytest.raises(HandshakeError, match=text):
            async with connect_async(address):
                pytest.fail("it has a turn")
        board.broken = None
        await queue.add("bob")
        await queue.until_holds("bob")
    assert board.ledger == ["reset", "ada", "reset", "reset", "bob"]
    assert "is not let in" in caplog.text


@timed()
async def test_an_exporter_that_shuts_down_refuses_those_that_wait(
    board: Board, address: str
) -> None:
    errors: list[JumpstarterException] = []

    async def wait() -> None:
        with pytest.raises(JumpstarterException) as caught:
            async with connect_async(address):
                pytest.fail("it has a turn")
        errors.append(caught.value)

    async with (
        serve_async(board, address, exclusive=True) as server,
        trio.open_nursery() as nursery,
        connect_async(address) as holder,
    ):
        await holder.call_async("note", "ada")
        nursery.start_soon(wait)

        async def is_waiting() -> bool:
            return len(await service(holder, "who")) == 2

        await eventually(is_waiting)
        nursery.start_soon(server.drain, PATIENCE)
    assert "shutting down" in str(errors[0])
    assert board.ledger == ["reset", "ada"]


@timed()
async def test_an_exporter_that_is_shared_has_no_queue(board: Board, address: str) -> None:
    async with serve_async(board, address), connect_async(address) as client:
        for method, args in [("who", ()), ("kick", (None,)), ("join", ("key",))]:
            with pytest.raises(DriverMethodNotImplemented, match="not in exclusive use"):
                await service(client, method, *args)
        assert client.channel.channel.session is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_session": 0, "exclusive": True}, ArgumentError),
        ({"max_session": 60}, ConfigurationError),
        ({"operators": ["ops"]}, ConfigurationError),
        ({"operators": "ops", "exclusive": True}, ArgumentError),
        ({"operators": [""], "exclusive": True}, ArgumentError),
        ({"exclusive": "yes"}, ArgumentError),
    ],
)
async def test_wrong_terms_are_refused(
    board: Board, address: str, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        async with serve_async(board, address, **options):
            pytest.fail("it is served")


@pytest.mark.parametrize("wrong", [{"claim": 1}, {"wait": "no"}, {"session": b"key"}])
def test_wrong_terms_of_a_client_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        connect_async("unix:/nowhere", **wrong)
