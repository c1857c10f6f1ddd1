"""Test that `leaks` fails a test for the leaks of that test, and for no others."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from drivers_for_tests import Lab
from helpers import ask, channel_to, until
from leaks import leaked_since, look, nothing_leaks


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leaks.SETTLE", 0.05)


def leaking(leave: Callable[[], object]) -> None:
    with nothing_leaks():
        leave()


def test_an_open_file_is_a_leak(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"file descriptor \d+: .*/the file"), nothing_leaks():
        file = (tmp_path / "the file").open("w")
    file.close()


def test_an_open_socket_is_a_leak_even_under_a_number_that_was_in_use() -> None:
    sockets = [socket.socket()]
    number = sockets[0].fileno()

    def replace() -> None:
        sockets.pop().close()
        sockets.append(socket.socket())

    with pytest.raises(AssertionError, match=f"{number}: socket:"):
        leaking(replace)
    assert sockets[0].fileno() == number
    sockets[0].close()


def test_what_is_only_waiting_to_be_collected_is_no_leak(tmp_path: Path) -> None:
    class Holder:
        def __init__(self, descriptor: int) -> None:
            self.descriptor = descriptor
            self.myself = self  # a cycle, for the garbage collector

        def __del__(self) -> None:
            os.close(self.descriptor)

    with nothing_leaks():
        before = look()
        Holder(os.open(tmp_path, os.O_RDONLY))
        assert leaked_since(before)


def test_a_thread_that_goes_on_is_a_leak() -> None:
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait, name="the tireless one")
    with pytest.raises(AssertionError, match="thread 'the tireless one'"), nothing_leaks():
        thread.start()
    may_end.set()
    thread.join()


def test_a_busy_worker_thread_is_a_leak_and_an_idle_one_is_none() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait()

    async def begin_and_abandon() -> None:
        async with trio.open_nursery() as nursery:
            in_thread = partial(trio.to_thread.run_sync, work, abandon_on_cancel=True)
            nursery.start_soon(partial(in_thread, thread_name="the busy one"))
            await until(begun.is_set)
            nursery.cancel_scope.cancel()

    async def use_a_thread() -> None:
        await trio.to_thread.run_sync(int)

    with nothing_leaks():
        trio.run(use_a_thread)
    with pytest.raises(AssertionError, match="thread 'the busy one'"), nothing_leaks():
        trio.run(begin_and_abandon)
    may_end.set()


async def test_a_call_that_is_under_way_on_a_living_connection_is_a_leak() -> None:
    async with channel_to(Lab()) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(channel.call, ask("wait"))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(AssertionError, match="is open, with 1 slots in use"):
            leaking(int)
        nursery.cancel_scope.cancel()
    leaking(int)


async def test_a_call_that_was_never_told_of_the_end_is_a_leak() -> None:
    async with channel_to(Lab()) as channel:
        pass
    channel.connection.handlers[1] = None  # type: ignore[assignment]  # without an owner
    with pytest.raises(AssertionError, match="has ended, and 1 calls have not"):
        leaking(int)
    channel.connection.handlers.clear()


TESTS = """
    import os
    import leaks
    import pytest
    from leaks import nothing_leaks

    leaks.SETTLE = 0.05

    @pytest.fixture(autouse=True)
    def _no_leaks():
        with nothing_leaks():
            yield

    kept = []

    def test_leaves_a_file_open():
        kept.append(os.open(__file__, os.O_RDONLY))

    def test_awaits_no_coroutine():
        async def nobody_waits(): pass
        nobody_waits()

    def test_fails_where_nobody_can_catch_it():
        class Failing:
            def __del__(self): raise ValueError("from a finalizer")
        Failing()

    def test_leaves_nothing():
        os.close(kept.pop())
"""


def test_pytest_fails_the_test_that_leaks_and_no_other(pytester: pytest.Pytester) -> None:
    settings = f'filterwarnings = ["error"]\npythonpath = ["{Path(__file__).parent}"]\n'
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n" + settings)
    pytester.makepyfile(TESTS)
    # Without its settings, pytest-asyncio warns, and the warning would be an error here.
    plugins = ("-p", "no:cacheprovider", "-p", "no:asyncio")
    result = pytester.runpytest_subprocess(*plugins)
    result.assert_outcomes(passed=2, failed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR*test_leaves_a_file_open*",
            "FAILED*test_awaits_no_coroutine*",
            "FAILED*test_fails_where_nobody_can_catch_it*",
        ]
    )
