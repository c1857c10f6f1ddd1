"""Test `jumpstarter.testing`, which connects a driver and its client in memory."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drivers_for_tests import Echo, Plain, Recorder
from jumpstarter import Limits
from jumpstarter.client import DriverClient
from jumpstarter.driver import export
from jumpstarter.errors import ConfigurationError, DriverError, DriverInvalidArgument
from jumpstarter.testing import client_fixture, client_for, client_for_async

HERE = Path(__file__).parent

echo = client_fixture(Echo)


class Board(Plain):
    """A driver whose methods for the server are async, by mistake."""

    @export
    async def reset(self) -> str:  # type: ignore[override]
        return "by a client"

    async def close(self) -> None:  # type: ignore[override]
        raise AssertionError("not reached")


class Clock(Plain):
    """A driver with a method that sleeps and a method that fails."""

    @export
    async def wait(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "waited"

    @export
    def fail(self) -> None:
        raise ValueError("this is why")


# --- blocking ---


def test_a_client_calls_iterates_and_streams(echo: DriverClient) -> None:
    value = [2**53 + 1, -1, b"\xff", None, {"a": [1.5, "ü"]}]
    assert echo.call("echo", value) == value
    assert echo.call("echo_async", value) == value
    assert list(echo.streamingcall("count", 3)) == [0, 1, 2]
    with echo.stream() as stream:
        stream.send(b"hello")
        assert stream.receive() == b"hello"


def test_children_are_attributes() -> None:
    with client_for(Plain(children={"child": Echo()})) as client:
        assert client.child.call("echo", 1) == 1


def test_drivers_are_reset_first_and_closed_last() -> None:
    log: list[str] = []
    child = Recorder(name="child", log=log)
    with client_for(Recorder(name="root", log=log, children={"child": child})):
        assert log == ["reset root", "reset child"]
    assert log[2:] == ["close root", "close child"]


def test_an_async_reset_or_close_is_logged_and_can_be_exported(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    with client_for(Board()) as board:
        assert board.call("reset") == "by a client"
    texts = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert texts == [
        f"{verb}() of Board is async, and did not run: write a plain method; it may use "
        "anyio.from_thread"
        for verb in ("reset", "close")
    ]
    assert not recwarn.list  # of a coroutine that was never awaited


def test_exception_of_the_body_is_not_changed_and_raised_after_the_close() -> None:
    log: list[str] = []
    with (
        pytest.raises(AssertionError, match="the test failed"),
        client_for(Recorder(name="root", log=log)),
    ):
        raise AssertionError("the test failed")
    assert log[-1] == "close root"


def test_errors_are_those_of_a_connection_and_show_where_the_driver_raised() -> None:
    with client_for(Clock()) as client:
        with pytest.raises(DriverInvalidArgument, match="this is why") as info:
            client.call("fail")
        assert info.value.remote_traceback is not None
        assert 'raise ValueError("this is why")' in info.value.remote_traceback
        with pytest.raises(DriverInvalidArgument):
            client.call("fail", object())


def test_a_tree_that_cannot_be_served_is_refused() -> None:
    driver = Echo(children={"wrong": "no driver"})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="an instance of Driver, not"), client_for(driver):
        raise AssertionError("unreachable")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Echo,
            r"the driver to serve must be an .* of Driver, such as Echo\(\), not the class Echo",
        ),
        (
            lambda: Plain(children={"a": Echo}),  # type: ignore[dict-item]
            r"child 'a' of Plain must be an .* of Driver, such as Echo\(\), not the class Echo",
        ),
        (lambda: 5, r"the driver to serve must be an instance of Driver, not 5 \(int\)"),
    ],
)
def test_class_instead_of_an_instance_is_refused_with_a_hint(make: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told), client_for(make()):
        raise AssertionError("unreachable")


def test_limits_apply_to_both_sides() -> None:
    limits = Limits(max_message=100_000, max_frame=10_000, max_pending=100_000)
    with client_for(Echo(), limits=limits) as client:
        with pytest.raises(DriverError):
            client.call("echo", b"x" * 100_001)
        assert client.call("echo", b"x" * 90_000) == b"x" * 90_000


# --- Trio ---


async def test_async_client_runs_in_the_callers_loop() -> None:
    with trio.fail_after(30):
        async with client_for_async(Plain(children={"child": Echo()})) as client:
            assert await client.child.call_async("echo_async", 1) == 1
            async with client.child.streamingcall_async("count_async", 3) as items:
                assert [item async for item in items] == [0, 1, 2]
            async with client.child.stream_async() as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"


async def test_an_hour_takes_no_time_under_a_mock_clock(
    autojump_clock: trio.testing.MockClock,
) -> None:
    started = autojump_clock.current_time()
    async with client_for_async(Clock()) as client:
        assert await client.call_async("wait", 3600) == "waited"
        with trio.move_on_after(60) as scope:
            await client.call_async("wait", 3600)
    assert scope.cancelled_caught
    assert autojump_clock.current_time() == started + 3660


async def test_mock_clock_does_not_interrupt_the_close_of_a_driver(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - only its presence matters
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []
    async with client_for_async(Recorder(name="root", log=log)):
        pass
    assert log == ["reset root", "close root"]
    assert caplog.records == []


async def test_a_cancelled_test_still_closes_its_driver() -> None:
    log: list[str] = []
    with trio.CancelScope() as scope:
        async with client_for_async(Recorder(name="root", log=log)):
            scope.cancel()
            await trio.sleep_forever()
    assert log[-1] == "close root"


# --- the fixture ---


def test_module_works_without_pytest() -> None:
    script = """
import sys
sys.modules["pytest"] = None
from drivers_for_tests import Echo
from jumpstarter.testing import client_for
with client_for(Echo()) as client:
    assert client.call("echo", 1) == 1
"""
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=HERE, timeout=60, check=False).returncode == 0


TESTS = """
from drivers_for_tests import Recorder
from jumpstarter.testing import client_fixture

log = []
client = client_fixture(lambda: Recorder(name="driver", log=log){scope})

def test_one(client):
    assert log == ["reset driver"]
    client.close()

def test_two(client):
    assert log == {then}
"""


@pytest.mark.parametrize(
    ("scope", "then"),
    [
        ("", ["reset driver", "close driver", "reset driver"]),
        (', scope="module"', ["reset driver"]),
    ],
    ids=["function", "module"],
)
def test_a_fixture_keeps_its_driver_for_its_scope(
    tmp_path: Path, scope: str, then: list[str]
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(scope=scope, then=then))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "2 passed" in result.stdout, result.stdout


def test_client_for_explains_a_forgotten_with() -> None:
    text = r"client_for\(\) gives .* 'on': with client_for\(\.\.\.\) as client:"
    with pytest.raises(AttributeError, match=text):
        client_for(Echo()).on()  # type: ignore[attr-defined]
    text = r"client_for_async\(\) gives .* 'on': async with client_for_async\(\.\.\.\) as client:"
    with pytest.raises(AttributeError, match=text):
        client_for_async(Echo()).on()  # type: ignore[attr-defined]
