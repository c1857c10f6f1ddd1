"""Tests of `anyio.from_thread` and `trio.from_thread` in a driver's plain methods and generators.

The tests cover a thread that leads its connection, and a thread that runs a single call for the
loop.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
import trio

from helpers import PATIENCE, served
from jumpstarter._exporter import anyio_threads
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export
from jumpstarter.errors import DriverError


@dataclass(kw_only=True)
class Mixed(Driver):
    """A driver whose plain code calls into the loop, with anyio's functions and with Trio's."""

    cleaned: list[str] = field(default_factory=list)

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def ask(self, how: str) -> str:
        return CALLS[how](f"asked by {how}")

    @export
    def count(self, how: str) -> Iterator[str]:
        try:
            for number in range(3):
                yield CALLS[how](f"{number} by {how}")
        finally:
            self.cleaned.append(CALLS[how]("cleaned"))

    @export
    def wait(self) -> None:
        anyio.from_thread.run(anyio.sleep_forever)

    @export
    def poll(self) -> None:
        while True:
            anyio.from_thread.check_cancelled()

    @export
    async def hold(self) -> AsyncIterator[None]:
        yield
        await trio.sleep_forever()


async def _awaited(text: str) -> str:
    await anyio.lowlevel.checkpoint()
    assert trio.lowlevel.in_trio_task()
    return text


def _at_once(text: str) -> str:
    assert trio.lowlevel.in_trio_run()
    return text


CALLS: Final[dict[str, Callable[[str], str]]] = {
    "anyio run": lambda text: anyio.from_thread.run(_awaited, text),
    "anyio run_sync": lambda text: anyio.from_thread.run_sync(_at_once, text),
    "trio run": lambda text: trio.from_thread.run(_awaited, text),
    "trio run_sync": lambda text: trio.from_thread.run_sync(_at_once, text),
}
in_each_way = pytest.mark.parametrize("how", CALLS)
led_or_not = pytest.mark.parametrize("led", [True, False])


@contextmanager
def mixed(*, led: bool) -> Iterator[tuple[Mixed, DriverClient]]:
    """Yield a driver and its client; without `led`, another call keeps threads from leading."""
    driver = Mixed()
    with served(driver) as client, ExitStack() as stack:
        if not led:
            stack.enter_context(client.streamingcall("hold"))
        yield driver, client


@in_each_way
@led_or_not
def test_a_plain_method_calls_into_the_loop(how: str, led: bool) -> None:
    with mixed(led=led) as (_, client):
        for _ in range(3):
            assert client.call("ask", how) == f"asked by {how}"


@in_each_way
@led_or_not
def test_a_plain_generator_calls_into_the_loop_from_its_first_line_to_its_last(
    how: str, led: bool
) -> None:
    with mixed(led=led) as (driver, client):
        assert list(client.streamingcall("count", how)) == [f"{n} by {how}" for n in range(3)]
    assert driver.cleaned == ["cleaned"]


@led_or_not
@pytest.mark.parametrize("method", ["wait", "poll"])
def test_a_call_into_the_loop_ends_with_the_call_that_made_it(method: str, led: bool) -> None:
    with mixed(led=led) as (_, client):
        with pytest.raises(TimeoutError), client.timeout(0.1):
            client.call(method)
        assert client.call("ask", "anyio run") == "asked by anyio run"


def test_calls_work_with_an_anyio_that_lacks_the_private_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("anyio._core._eventloop.claim_worker_thread")
    anyio_threads._anyio_claim.cache_clear()
    try:
        with mixed(led=True) as (_, client):
            assert client.call("ask", "trio run") == "asked by trio run"
            with pytest.raises(DriverError, match=r"(?i)anyio worker thread"):
                client.call("ask", "anyio run")
    finally:
        anyio_threads._anyio_claim.cache_clear()


tried: list[str] = []


def takes_more(backend: object, token: object, name: str) -> Any:
    raise AssertionError(backend, token, name)


class FailsToEnter:
    def __init__(self, *_: object) -> None:
        tried.append("enter")

    def __enter__(self) -> None:
        raise LookupError("no such loop")

    def __exit__(self, *_: object) -> None: ...


class FailsToLeave(FailsToEnter):
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        raise LookupError("no such loop")


@pytest.mark.parametrize("other", [takes_more, FailsToEnter, FailsToLeave])
def test_an_anyio_whose_private_function_has_changed_fails_no_call(
    other: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried.clear()
    monkeypatch.setattr("anyio._core._eventloop.claim_worker_thread", other)
    monkeypatch.setattr(anyio_threads, "_no_anyio", [])
    anyio_threads._anyio_claim.cache_clear()
    try:
        with mixed(led=True) as (_, client):
            for _ in range(3):
                assert client.call("ask", "trio run") == "asked by trio run"
            with pytest.raises(DriverError, match=r"(?i)anyio worker thread"):
                client.call("ask", "anyio run")
    finally:
        anyio_threads._anyio_claim.cache_clear()
    assert len(tried) <= 1
    assert caplog.text.count("anyio.from_thread does not work in drivers' threads") == 1


def test_no_call_imports_anyio() -> None:
    script = """
import sys
from jumpstarter import serve
from jumpstarter.driver import Driver, export

class Plain(Driver):
    @classmethod
    def client(cls): return "jumpstarter.client.DriverClient"
    @export
    def ask(self): return "well"

with serve(Plain()) as client:
    assert client.ask() == "well"
assert "anyio" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE)
