"""Tests of the advice in the error messages for common mistakes of test authors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drivers_for_tests import Echo, Lab
from helpers import served, timed
from jumpstarter import connect, connect_async, serve, serve_async
from jumpstarter.client import DriverClient
from jumpstarter.driver import export, exportstream
from jumpstarter.drivers.mixins import ResourceMixin, StreamMixin
from jumpstarter.errors import ArgumentTypeError, DriverInvalidArgument, DriverTimeoutError
from jumpstarter.testing import client_fixture, client_for, client_for_async


class BoardClient(StreamMixin, ResourceMixin, DriverClient):
    """A client class with the methods of both mixins."""


class Board(Lab):
    @classmethod
    def client(cls) -> str:
        return "test_client_advice.BoardClient"

    @export
    def wait_for(self, timeout: float) -> float:
        return timeout

    @exportstream
    @asynccontextmanager
    async def slow(self) -> AsyncIterator[trio.abc.Stream]:
        """Send "late" once the test sets `let_go`."""
        ours, theirs = trio.testing.memory_stream_pair()

        async def send() -> None:
            await self.let_go.wait()
            await ours.send_all(b"late")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            yield theirs
            nursery.cancel_scope.cancel()

    @export
    async def go(self) -> None:
        self.let_go.set()


@pytest.fixture
def client() -> Iterator[Any]:
    with served(Board()) as client:
        yield client


fixture = client_fixture(Board)


# --------------------------------------------------------------------------------- asyncio


async def enter(block: Any) -> None:
    async with block:
        raise AssertionError("it was entered")


ASYNC_METHODS: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "call_async": lambda client: client.call_async("echo", 1),
    "call_as_async": lambda client: client.call_as_async(int, "echo", 1),
    "stream_async": lambda client: enter(client.stream_async()),
    "resource_async": lambda client: enter(client.local_file_async("file")),
}


@pytest.mark.parametrize("method", ASYNC_METHODS)
def test_async_methods_say_in_asyncio_that_they_need_trio(method: str, client: Any) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            await ASYNC_METHODS[method](client)
        text = str(caught.value)
        assert text.startswith(f"BoardClient.{method}() runs in a Trio loop only, and an asyncio")
        assert "await asyncio.to_thread(client.call, ...)" in text

    asyncio.run(main())


def test_async_methods_say_without_any_loop_that_they_need_trio(client: Any) -> None:
    with pytest.raises(RuntimeError, match=r"no Trio loop runs here.* by trio\.run\(\)"):
        client.streamingcall_async("count", 1)
    with pytest.raises(RuntimeError, match=r"no Trio loop runs here.* by trio\.run\(\)"):
        client.call_async("echo", 1).send(None)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("connect_async", connect_async),
        ("serve_async", lambda address: serve_async(Echo(), address)),
        ("client_for_async", lambda _: client_for_async(Echo())),
    ],
)
def test_async_blocks_say_in_asyncio_that_they_need_trio(
    name: str, block: Callable[[str], Any], tmp_path: Path
) -> None:
    async def main() -> None:
        text = rf"{name}\(\) runs in a Trio loop only, and an asyncio loop runs in this thread"
        with pytest.raises(RuntimeError, match=text):
            await enter(block(f"unix:{tmp_path}/socket"))

    asyncio.run(main())


def test_blocking_methods_work_in_asyncio_itself_and_in_its_threads() -> None:
    async def main() -> None:
        with serve(Echo()) as client:
            assert client.call("echo", 1) == 1
            calls = (asyncio.to_thread(client.call, "echo", number) for number in range(8))
            assert await asyncio.gather(*calls) == list(range(8))

    asyncio.run(main())


# ------------------------------------------------------------- a blocking client in Trio code

ASYNC_WAYS = r"connect_async\(\) or, in tests, client_for_async\(\)"


@timed()
async def test_a_blocking_client_in_an_async_test_names_the_async_ways(fixture: Any) -> None:
    with pytest.raises(RuntimeError, match=rf"blocks, .*{ASYNC_WAYS}"):
        fixture.call("echo", 1)
    with pytest.raises(RuntimeError, match=rf"another Trio loop; .*{ASYNC_WAYS}"):
        await fixture.call_async("echo", 1)
    with pytest.raises(RuntimeError, match="client_for_async"), client_for(Board()):
        raise AssertionError("it was entered")


# --------------------------------------------------------------------------------- timeouts


@pytest.mark.parametrize(
    ("step", "use"),
    [
        ("the call", lambda client: client.call("wait")),
        ("the call", lambda client: client.call_as(str, "wait")),
        ("the wait for an item", lambda client: next(client.streamingcall("items", 0))),
        ("opening the stream", lambda client: client.open_stream("nobody")),
    ],
)
def test_a_timeout_says_which_step_it_ran_out_in(
    step: str, use: Callable[[Any], Any], client: Any
) -> None:
    with pytest.raises(DriverTimeoutError) as caught, client.timeout(0.05):
        use(client)
    text = f": the surrounding timeout() of 0.05 s ran out during {step}"
    assert str(caught.value).endswith(text)


def test_a_stream_can_be_used_after_a_receive_that_timed_out(client: Any) -> None:
    text = r"of 0.05 s ran out during receive\(\) on stream 'slow'"
    with client.stream("slow") as stream:
        for _ in range(2):
            with pytest.raises(DriverTimeoutError, match=text), client.timeout(0.05):
                stream.receive()
        client.call("go")
        assert stream.receive() == b"late"


def test_of_nested_timeouts_the_error_names_the_one_that_ran_out(client: Any) -> None:
    with (
        pytest.raises(DriverTimeoutError, match=r"timeout\(\) of 0.05 s"),
        client.timeout(0.05),
        client.timeout(30),
    ):
        client.call("wait")


def test_a_timeout_argument_of_a_call_is_refused_with_the_way_to_set_one(client: Any) -> None:
    text = r"'timeout'.*`with client\.timeout\(seconds\):` around it"
    with pytest.raises(DriverInvalidArgument, match=text):
        client.call("echo", timeout=5)
    with pytest.raises(DriverInvalidArgument, match=text):
        client.echo(timeout=5)
    assert client.call("wait_for", timeout=5) == 5
    with pytest.raises(DriverInvalidArgument) as caught:
        client.call("echo", pace=5)
    assert "client.timeout" not in str(caught.value)


def test_a_timeout_argument_of_a_stream_is_refused_with_the_way_to_set_one(client: Any) -> None:
    text = r"timeout: .*client\.timeout\(seconds\)"
    with client.stream() as stream:
        with pytest.raises(ArgumentTypeError, match=text):
            stream.receive(timeout=3)
        with pytest.raises(ArgumentTypeError, match=text):
            stream.send(b"x", timeout=3)
        stream.send(b"usable")
        assert stream.receive() == b"usable"


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.connect(timeout=3),
        lambda client: client.resource(None, timeout=3).__enter__(),
        lambda client: client.local_file("file", timeout=3).__enter__(),
    ],
)
def test_a_timeout_argument_of_a_mixin_is_refused_with_the_way_to_set_one(
    use: Callable[[Any], Any], client: Any
) -> None:
    with pytest.raises(TypeError, match=r"timeout.*client\.timeout\(seconds\)"):
        use(client)


def test_connecting_with_a_timeout_argument_names_the_limits() -> None:
    wrong: dict[str, Any] = {"timeout": 3}
    with pytest.raises(ArgumentTypeError, match=r"Limits\(hello_timeout=.*client\.timeout\("):
        connect("unix:/nowhere", **wrong)
    with pytest.raises(ArgumentTypeError, match="fail_after"):
        connect_async("unix:/nowhere", **wrong)


def test_unknown_options_of_a_loan_are_refused_with_the_known_ones(client: Any) -> None:
    text = "unexpected keyword argument 'compres'; it takes write, size, compress, progress, max"
    with pytest.raises(TypeError, match=text), client.local_file("file", compres=True):
        raise AssertionError("it was entered")


# ----------------------------------------------------------------------------- method names


@pytest.mark.parametrize("name", [5, None, b"echo"])
@pytest.mark.parametrize(
    "use",
    [
        lambda client, name: client.call(name),
        lambda client, name: client.call_as(int, name),
        lambda client, name: client.streamingcall(name),
        lambda client, name: client.open_stream(name),
    ],
)
def test_a_method_name_that_is_not_a_str_is_refused(
    use: Callable[[Any, Any], Any], name: Any, client: Any
) -> None:
    with pytest.raises(ArgumentTypeError, match="method must be the name of an exported method"):
        use(client, name)
