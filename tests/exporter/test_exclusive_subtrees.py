"""Test exporters whose boards are used independently: a queue for each of several subtrees."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drivers_for_tests import Plain
from helpers import PATIENCE, timed, until
from jumpstarter import connect_async, serve_async
from jumpstarter._api.connecting import _connected
from jumpstarter._api.serving import serve_leased
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter._protocol.frames import Kind
from jumpstarter.client import DriverClient
from jumpstarter.client._claim import Terms, join, wait_for_turn
from jumpstarter.client._generators import RemoteGenerator
from jumpstarter.client._outgoing_call import Request
from jumpstarter.client._raw_streams import open_stream
from jumpstarter.driver import export
from jumpstarter.drivers.composite import Proxy
from jumpstarter.errors import (
    ArgumentError,
    CallRefused,
    ConfigurationError,
    DriverError,
    DriverInvalidArgument,
    HandshakeError,
)
from jumpstarter.observe import Metrics
from noting_driver import Noting


@dataclass(kw_only=True)
class Board(Noting):
    """Can be held up in its reset."""

    may_reset: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.may_reset.set()

    def reset(self) -> None:
        super().reset()
        assert self.may_reset.wait(PATIENCE)

    @export(read_only=True)
    def size(self) -> int:
        return len(self.ledger)


class Bench(Plain):
    """Has two boards with a part each, and a lamp that all may switch."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.lamp = Board(), Board(), Board()
        self.left.children["part"] = Board()
        self.children = {"left": self.left, "right": self.right, "lamp": self.lamp}


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/socket"


@asynccontextmanager
async def served(bench: Bench, address: str, **options: Any) -> AsyncIterator[DriverClient]:
    """Serve the bench, and yield a client without a claim."""
    async with (
        serve_async(bench, address, exclusive=["left", "right"], **options),
        connect_async(address, claim=False, name="watcher") as watcher,
    ):
        yield watcher


async def service(client: DriverClient, method: str, *args: Any) -> Any:
    request = Request(0, Kind.UNARY, method, args, driver="the exporter")
    return await client.channel.channel.call(request)


async def note(client: DriverClient, text: str) -> None:
    await client.call_async("note", text)


async def claim_again(client: DriverClient, path: str) -> None:
    request = Request(0, Kind.GENERATOR, "claim_subtree", (path, True), driver="the exporter")
    async with RemoteGenerator[Any](client.channel.channel, request) as items:
        async for _ in items:
            pass


async def holders(client: DriverClient) -> dict[str, str]:
    rows = await service(client, "who")
    return {row["subtree"]: row["claimed"] for row in rows if row["state"] == "holds"}


@timed()
async def test_two_clients_hold_two_boards_at_the_same_time(bench: Bench, address: str) -> None:
    async with served(bench, address) as watcher:
        async with (
            connect_async(address, claim="left", name="ada") as ada,
            connect_async(address, claim="right", name="bob") as bob,
        ):
            await note(ada.children["left"], "ada")
            await note(ada.children["left"].children["part"], "ada")
            await note(bob.children["right"], "bob")
            for each in (watcher, ada, bob):
                await note(each.children["lamp"], "anyone")
                assert await each.children["left"].call_async("size") == 2
            assert await holders(watcher) == {"left": "ada", "right": "bob"}
        async with connect_async(address, claim="left.part"):
            pass
    assert bench.left.ledger == ["reset", "ada", "reset"]
    assert bench.left.children["part"].ledger == ["reset", "ada", "reset"]  # type: ignore[attr-defined]
    assert bench.right.ledger == ["reset", "bob"]
    assert bench.lamp.ledger == ["reset", "anyone", "anyone", "anyone"]


@timed()
async def test_a_board_of_another_client_is_out_of_reach(bench: Bench, address: str) -> None:
    async with served(bench, address), connect_async(address, claim="left", name="ada") as ada:
        right = ada.children["right"]
        text = "right is for one client at a time, .*; nobody holds it now. Connect with --claim r"
        with pytest.raises(CallRefused, match=text):
            await note(right, "ada")
        async with connect_async(address, claim="right", name="bob"):
            with pytest.raises(CallRefused, match=r"right is held by .*'bob'"):
                await note(right, "ada")
            channel = ada.channel.channel
            request = Request(
                0, Kind.STREAM, "lend", (right.channel.target, "r", "utf-8"), driver="the exporter"
            )
            with pytest.raises(CallRefused, match="right is for one client at a time"):
                await open_stream(channel, request)
    assert bench.right.ledger == ["reset"]


@timed()
async def test_a_kick_at_one_board_leaves_the_other_alone(bench: Bench, address: str) -> None:
    outcomes: list[str] = []
    async with served(bench, address) as watcher, AsyncExitStack() as stack:
        ada = await stack.enter_async_context(connect_async(address, claim="left", name="ada"))
        bob = await stack.enter_async_context(connect_async(address, claim="right", name="bob"))
        rows = await service(watcher, "who")

        async def sleep() -> None:
            try:
                await ada.children["left"].call_async("sleep", "finally")
            except DriverError as exc:
                outcomes.append(str(exc))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            await until(bench.left.running.is_set)
            with pytest.raises(CallRefused, match="name the board whose session"):
                await service(watcher, "kick", None)
            await service(watcher, "kick", rows[0]["connection"])
        assert await holders(watcher) == {"right": "bob"}
        await note(bob.children["right"], "bob")
        key = ada.channel.channel.session
        async with connect_async(address, claim=False) as late:
            with pytest.raises(CallRefused, match="has ended: the session was ended by uid"):
                await service(late, "join", key)
            await join(late.channel.channel, bob.channel.channel.session or "")
            await note(late.children["right"], "joined")
    assert bench.left.ledger == ["reset", "finally"]
    assert bench.right.ledger == ["reset", "bob", "joined"]
    assert "the session was ended by uid" in outcomes[0]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("lefft", "there is no board 'lefft'; the boards are left, right"),
        ("left.part", "there is no board 'left.part'; the boards are left, right"),
        ("lamp", "there is no board 'lamp'; the boards are left, right"),
        (None, "name the board whose session is to end; the boards are left, right .left is held"),
        (7, "the name of a board must be a str"),
    ],
)
@timed()
async def test_a_session_is_ended_at_a_board_that_is_named(
    bench: Bench, address: str, name: object, error: str
) -> None:
    async with served(bench, address) as watcher:
        with pytest.raises(CallRefused, match="nobody holds any of them"):
            await service(watcher, "board", None)
        async with connect_async(address, claim="left", name="ada"):
            with pytest.raises((CallRefused, DriverInvalidArgument), match=error):
                await service(watcher, "board", name)
            with pytest.raises(CallRefused, match="name the board"):  # though one alone is held
                await service(watcher, "kick", None)
            assert await service(watcher, "board", "left") == "left"
            assert await holders(watcher) == {"left": "ada"}


@timed()
async def test_a_reset_of_one_board_keeps_nobody_from_the_other(bench: Bench, address: str) -> None:
    async with served(bench, address) as watcher:
        async with connect_async(address, claim="left"):
            pass
        bench.left.may_reset.clear()

        async def enter() -> None:
            async with connect_async(address, claim="left", name="ada") as client:
                await note(client.children["left"], "ada")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            await until(lambda: bench.left.ledger == ["reset", "reset"])
            for name in ("bob", "cleo"):  # the second one after a reset
                async with connect_async(address, claim="right", name=name) as client:
                    await note(client.children["right"], name)
            rows = await service(watcher, "who")
            assert ("left", "enters") in [(row["subtree"], row["state"]) for row in rows]
            bench.left.may_reset.set()
    assert bench.left.ledger == ["reset", "reset", "ada"]
    assert bench.right.ledger == ["reset", "bob", "reset", "cleo"]


@pytest.mark.parametrize(
    ("claim", "error"),
    [
        (True, "name one of left, right, by --claim NAME"),  # as a client of an earlier version
        ("lefft", "there is no driver 'lefft'; the boards that can be claimed are left, right"),
        ("lamp.nothing", "there is no driver 'lamp.nothing'"),
        ("left.nothing.on", "there is no driver 'left.nothing.on'"),
        ("left.", "there is no driver 'left.'"),
    ],
)
@timed()
async def test_a_claim_must_name_a_board(
    bench: Bench, address: str, claim: bool | str, error: str
) -> None:
    async with served(bench, address) as watcher:
        with pytest.raises(HandshakeError, match=error):
            async with connect_async(address, claim=claim):
                pytest.fail("it is connected")
        assert await service(watcher, "who") == []


@timed()
async def test_a_connection_claims_one_board_once(bench: Bench, address: str) -> None:
    async with served(bench, address), connect_async(address, claim="left.note") as ada:
        for path in ("left", "right"):
            with pytest.raises(CallRefused, match="this connection has claimed left already"):
                await claim_again(ada, path)
        with pytest.raises(CallRefused, match="has claimed left, or joined, already"):
            await service(ada, "join", "key")
        await note(ada.children["left"], "ada")


@pytest.mark.parametrize("path", ["lamp", "lamp.note", "."])
@timed()
async def test_a_free_driver_needs_no_claim(bench: Bench, address: str, path: str) -> None:
    async with served(bench, address), connect_async(address, claim=path) as client:
        assert client.channel.channel.session is None
        await note(client.children["lamp"], "free")
        with pytest.raises(CallRefused):
            await note(client.children["left"], "not free")


@timed()
async def test_a_board_is_claimed_in_each_place_of_its_drivers(bench: Bench, address: str) -> None:
    bench.children["mirror"] = Proxy(ref="left")
    bench.left.children["light"] = Proxy(ref="lamp")
    async with served(bench, address) as watcher:
        for path in ("mirror", "mirror.note", "mirror.part", "lamp", "left.light.note"):
            async with connect_async(address, claim=path, name=path) as client:
                assert await holders(watcher) == {"left": path}
                await note(client.children["mirror"], path)
                await note(client.children["lamp"], path)


@timed()
async def test_a_name_with_dots_is_not_taken_for_a_path(bench: Bench, address: str) -> None:
    bench.children["left.2"] = second = Board()
    async with (
        serve_async(bench, address, exclusive=["left", "left.2"]),
        connect_async(address, claim="left.2") as client,
    ):
        await note(client.children["left.2"], "second")
        assert second.ledger == ["reset", "second"]
        with pytest.raises(CallRefused, match="left is for one client at a time"):
            await note(client.children["left"], "first")


@pytest.mark.parametrize("path", [None, 3, ["left"], b"left"])
@timed()
async def test_a_path_that_is_no_text_is_an_invalid_argument(
    bench: Bench, address: str, path: Any
) -> None:
    async with served(bench, address) as watcher:
        with pytest.raises(DriverInvalidArgument, match="the path of a driver must be a str"):
            await claim_again(watcher, path)


@pytest.mark.parametrize("exclusive", [True, ["left", "right"]])
@timed()
async def test_a_claim_waits_until_the_exporter_has_started(
    bench: Bench, address: str, exclusive: Any
) -> None:
    bench.left.may_reset.clear()
    seen: list[list[str]] = []

    async def claim_without_the_report() -> None:
        # As a peer might do; our clients ask for the report first, which waits too.
        async with _connected(address, DEFAULT_LIMITS, None, None, None) as channel:
            await wait_for_turn(channel, Terms(path="left"))
            seen.append(list(bench.left.ledger))

    async def start(task_status: trio.TaskStatus[None]) -> None:
        async with serve_async(bench, address, exclusive=exclusive):
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            starting.start_soon(nursery.start, start)
            await until(lambda: bench.left.ledger == ["reset"])
            starting.start_soon(claim_without_the_report)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert seen == []
            bench.left.may_reset.set()
        assert seen == [["reset"]]
        for name in ("ada", "bob"):
            claim = True if exclusive is True else "left"
            async with connect_async(address, claim=claim) as client:
                await note(client.children["left"], name)
        assert bench.left.ledger == ["reset", "reset", "ada", "reset", "bob"]
        nursery.cancel_scope.cancel()


@timed()
async def test_a_path_at_an_exporter_with_one_queue_claims_that(address: str) -> None:
    for exclusive in (True, ["left"], ["."]):
        bench = Bench()
        async with serve_async(bench, address, exclusive=exclusive):
            for claim in (True, "left"):
                async with connect_async(address, claim=claim) as client:
                    await note(client.children["left"], "held")
            with pytest.raises(HandshakeError, match="held by"):
                async with (
                    connect_async(address, claim="left"),
                    connect_async(address, claim="left", wait=False),
                ):
                    pytest.fail("both hold it")


@timed()
async def test_metrics_tell_the_boards_apart(bench: Bench, address: str) -> None:
    metrics = Metrics()
    async with served(bench, address, metrics=metrics), connect_async(address, claim="left"):
        found = {each.name: each for each in metrics.snapshot().readings}
        assert found["waiting_clients"].labels == ("subtree",)
        assert found["waiting_clients"].values == {("left",): 0, ("right",): 0}
        assert found["held_seconds"].values["right",] == 0


@pytest.mark.parametrize(
    ("exclusive", "error", "text"),
    [
        (
            ["lefft"],
            ConfigurationError,
            "'lefft', which is not a driver of this tree; it has: left,",
        ),
        (["left", "left"], ConfigurationError, "'left' and 'left', which share 'left'"),
        (["left.part", "left"], ConfigurationError, "which share 'left.part'"),
        ([".", "right"], ConfigurationError, r"'\.' and 'right', which share 'right'"),
        ([], ArgumentError, "or the paths of drivers"),
        ("left", ArgumentError, "or the paths of drivers"),
        ([1], ArgumentError, "a driver's path"),
    ],
)
async def test_boards_that_are_no_boards_are_refused_at_start(
    bench: Bench, address: str, exclusive: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        async with serve_async(bench, address, exclusive=exclusive):
            pytest.fail("it is served")


async def test_boards_that_share_a_driver_in_two_places_are_refused(
    bench: Bench, address: str
) -> None:
    bench.right.children["same"] = bench.left.children["part"]
    with pytest.raises(ConfigurationError, match=r"which share 'left\.part'"):
        async with serve_async(bench, address, exclusive=["left", "right"]):
            pytest.fail("it is served")


async def test_boards_that_share_a_driver_that_is_not_reported_are_refused(
    bench: Bench, address: str
) -> None:
    class Bus(Board):
        def enumerate(self, **_: Any) -> list[Any]:
            return []

    bench.left.children["bus"] = bench.right.children["bus"] = Bus()
    with pytest.raises(ConfigurationError, match="which share a hidden Bus"):
        async with serve_async(bench, address, exclusive=["left", "right"]):
            pytest.fail("it is served")


async def test_hooks_are_for_the_whole_exporter(bench: Bench, address: str) -> None:
    class Hooks:
        async def begin(self, _host: str, _client: str) -> str:
            return ""

        async def end(self, _host: str, _client: str) -> None: ...

    with pytest.raises(ConfigurationError, match="hooks and exitOnLeaseEnd are for sessions"):
        async with serve_leased(bench, address, Hooks(), exclusive=["left"]):
            pytest.fail("it is served")


@pytest.mark.parametrize("claim", ["", 1])
def test_a_claim_is_a_bool_or_a_path(claim: Any) -> None:
    with pytest.raises(ArgumentError, match="the path of a driver"):
        connect_async("unix:/nowhere", claim=claim)
