"""Test the leases of an exporter: code around the time in which it has clients."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from drivers_for_tests import Echo
from helpers import PATIENCE
from jumpstarter import connect_async
from jumpstarter._api.serving import serve_leased
from jumpstarter._exporter.server import Server
from jumpstarter.errors import CallRefused, JumpstarterException


class Runner:
    """Records what happens, and lets a test decide when each function returns."""

    def __init__(self, *, refusal: str = "") -> None:
        self.log: list[str] = []
        self.refusal = refusal
        self.began = trio.Event()
        self.ended = trio.Event()
        self.may_begin = trio.Event()
        self.may_end = trio.Event()
        self.may_begin.set()
        self.may_end.set()

    async def begin(self, host: str, client: str) -> str:
        self.log.append(f"begin {client.partition(' ')[0]}")
        self.began.set()
        await self.may_begin.wait()
        async with connect_async(f"unix:{host}") as own:  # although nobody else can call yet
            self.log.append(str(await own.call_async("echo", "begin")))
        return self.refusal

    async def end(self, host: str, client: str) -> None:
        del client
        self.ended.set()
        await self.may_end.wait()
        async with connect_async(f"unix:{host}") as own:
            self.log.append(str(await own.call_async("echo", "end")))


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/socket"


async def call(server: Server) -> object:
    with trio.fail_after(PATIENCE):
        async with connect_async(server.address) as client:
            return await client.call_async("echo", "called")


async def test_the_runner_acts_before_the_first_call_and_after_the_last_client(
    address: str,
) -> None:
    runner = Runner()
    runner.may_begin = trio.Event()
    answers: list[object] = []
    with trio.fail_after(PATIENCE):
        async with serve_leased(Echo(), address, runner) as server, trio.open_nursery() as nursery:

            async def use() -> None:
                answers.append(await call(server))

            nursery.start_soon(use)
            await runner.began.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert answers == []
            runner.may_begin.set()
            await runner.ended.wait()
            assert answers == ["called"]
    assert runner.log == ["begin uid", "begin", "end"]


async def test_clients_that_are_there_at_the_same_time_share_a_lease(address: str) -> None:
    runner = Runner()
    with trio.fail_after(PATIENCE):
        async with serve_leased(Echo(), address, runner) as server:
            async with AsyncExitStack() as stack:
                for _ in range(3):
                    await stack.enter_async_context(connect_async(server.address))
                assert await call(server) == "called"
            await runner.ended.wait()
            assert await call(server) == "called"
    assert runner.log == ["begin uid", "begin", "end"] * 2


async def test_a_client_that_comes_while_a_lease_ends_waits_for_the_next(address: str) -> None:
    runner = Runner()
    runner.may_end = trio.Event()
    answers: list[object] = []
    with trio.fail_after(PATIENCE):
        async with serve_leased(Echo(), address, runner) as server, trio.open_nursery() as nursery:
            await call(server)
            await runner.ended.wait()

            async def use() -> None:
                answers.append(await call(server))

            nursery.start_soon(use)
            await trio.testing.wait_all_tasks_blocked()
            assert answers == []
            runner.may_end.set()
    assert answers == ["called"]
    assert runner.log == ["begin uid", "begin", "end"] * 2


async def test_a_refusal_reaches_the_clients_and_ends_nothing_else(address: str) -> None:
    runner = Runner(refusal="the board is on fire")
    async with serve_leased(Echo(), address, runner) as server:
        with pytest.raises(JumpstarterException, match="the board is on fire"):
            await call(server)
        with pytest.raises(CallRefused, match="the board is on fire"):
            async with server.hold("a shell"):
                raise AssertionError
        runner.refusal = ""
        assert await call(server) == "called"
    assert runner.log == [
        "begin uid",
        "begin",
        "begin a",
        "begin",
        "begin uid",
        "begin",
        "end",
    ]


async def test_an_exception_of_the_runner_is_logged_and_refuses(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Runner):
        async def begin(self, host: str, client: str) -> str:
            del host, client
            raise ValueError("no idea")

    async with serve_leased(Echo(), address, Broken()) as server:
        with pytest.raises(JumpstarterException, match="ValueError: no idea"):
            await call(server)
    assert "internal error at the beginning" in caplog.text


async def test_code_of_the_exporter_can_hold_a_lease(address: str) -> None:
    runner = Runner()
    async with serve_leased(Echo(), address, runner) as server:
        async with server.hold("a shell"):
            await call(server)
            await call(server)
        with trio.fail_after(PATIENCE):
            await runner.ended.wait()
    assert runner.log == ["begin a", "begin", "end"]
    async with serve_leased(Echo(), address, None) as server, server.hold("a shell"):
        assert await call(server) == "called"


async def test_a_lease_ends_before_the_drivers_are_closed_even_if_serving_is_cancelled(
    address: str,
) -> None:
    runner = Runner()

    class Closing(Echo):
        def close(self) -> None:
            runner.log.append("close")
            super().close()

    with trio.CancelScope() as scope:
        async with (
            serve_leased(Closing(), address, runner) as server,
            connect_async(server.address) as client,
        ):
            await client.call_async("echo", 1)
            scope.cancel()
    assert runner.log == ["begin uid", "begin", "end", "close"]


async def test_a_drain_waits_for_the_end_of_the_lease(address: str) -> None:
    runner = Runner()
    async with (
        serve_leased(Echo(), address, runner) as server,
        connect_async(server.address) as client,
    ):
        await client.call_async("echo", 1)
        with trio.fail_after(PATIENCE):
            await server.drain(0)
        assert runner.log[-1] == "end"


async def test_a_drain_that_is_cancelled_cancels_the_end_of_the_lease(address: str) -> None:
    runner = Runner()
    runner.may_end = trio.Event()
    with trio.fail_after(PATIENCE):
        async with serve_leased(Echo(), address, runner) as server:
            await call(server)
            await runner.ended.wait()
            with trio.CancelScope() as hurry:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.drain, 0)
                    await trio.testing.wait_all_tasks_blocked()
                    hurry.cancel()
    assert runner.log == ["begin uid", "begin"]


async def test_a_drain_cancels_the_beginning_of_a_lease(address: str) -> None:
    runner = Runner()
    runner.may_begin = trio.Event()
    failures: list[str] = []
    with trio.fail_after(PATIENCE):
        async with serve_leased(Echo(), address, runner) as server, trio.open_nursery() as nursery:

            async def use() -> None:
                try:
                    await call(server)
                except JumpstarterException as exc:
                    failures.append(str(exc))

            nursery.start_soon(use)
            await runner.began.wait()
            await server.drain(PATIENCE)
            with pytest.raises(CallRefused, match="shutting down"):
                async with server.hold("a shell"):
                    raise AssertionError
    assert len(failures) == 1
    assert "shutting down" in failures[0]
    assert runner.log == ["begin uid"]


async def test_calls_of_leased_sessions_are_logged_as_others(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "jumpstarter.exporter")
    async with serve_leased(Echo(), address, Runner()) as server:
        await call(server)
    assert "'echo' of driver" in caplog.text
    assert "returned after" in caplog.text
