"""Tests of `jumpstarter.client._base`: the client object, and subclasses of the client class."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
import trio.testing

from drivers_for_tests import Echo, Lab, Plain
from helpers import PATIENCE, served, timed
from jumpstarter.client import BlockingStream, DriverClient, StubDriverClient, _runner
from jumpstarter.driver import export
from jumpstarter.errors import (
    CallRefused,
    ClientImportError,
    Code,
    DriverInvalidArgument,
    DriverOSError,
    DriverTimeoutError,
)
from jumpstarter.testing import client_for_async


class ClosingClient(DriverClient):
    """A client whose `close` records the call before it calls the base class's `close`."""

    def close(self) -> None:
        self.labels["closed"] = self.labels.get("closed", "") + "once "
        super().close()


class Closing(Echo):
    @classmethod
    def client(cls) -> str:
        return f"{__name__}.ClosingClient"


class LabClient(DriverClient):
    """A client class as test authors write it: its methods do not handle timeouts."""

    def wait(self) -> Any:
        return self.call("wait")

    def items(self, count: int) -> Generator[Any, None, Any]:
        return (yield from self.streamingcall("items", count))


class Logging:
    """A mixin with its own `__post_init__`."""

    def __post_init__(self) -> None:
        self.calls = ["the mixin"]


@dataclass(kw_only=True)
class TunedClient(LabClient, Logging):
    volts: float = 3.3
    history: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.history.append(f"made for {self.volts} V")


class TunedLab(Lab):
    @classmethod
    def client(cls) -> str:
        return f"{__name__}.TunedClient"


class NoClientLab(Echo):
    @classmethod
    def client(cls) -> str:
        return "no_such_package.client.PowerClient"


class Meeting(Plain):
    """A driver whose methods return only once eight calls run concurrently."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.barrier = threading.Barrier(8)

    @export
    def meet(self, number: int) -> int:
        self.barrier.wait(PATIENCE)
        return number

    @export
    def meet_often(self, number: int) -> Generator[int, None, None]:
        for _ in range(3):
            self.barrier.wait(PATIENCE)
            yield number


@dataclass
class Clock:
    """A fake clock that replaces `time.monotonic` for the deadlines of blocking calls."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_runner, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


# --------------------------------------------------------------------- the client object


def test_children_are_attributes_and_in_a_dict() -> None:
    tree = Echo(children={"power": Echo(children={"meter": Echo()}), "call": Echo()})
    with served(tree) as client:
        assert client.power is client.children["power"]
        assert client.power.meter.call("echo", "hello") == "hello"
        assert list(client.children) == ["power", "call"]
        assert client.call("echo", 1) == 1, "a child never hides a method"
        assert client.children["call"].call("echo", 2) == 2


@pytest.mark.parametrize("name", ["__deepcopy__", "__wrapped__", "__array__", "__fspath__"])
def test_child_with_a_dunder_name_is_not_an_attribute(
    name: str,
) -> None:
    with served(Echo(children={name: Echo(), "__power": Echo()})) as client:
        assert not hasattr(client, name)
        assert client.children[name].call("echo", 1) == 1
        assert getattr(client, "__power") is client.children["__power"]


def test_unknown_attribute_error_lists_the_children() -> None:
    with served(Echo(children={"power": Echo(), "serial": Echo()})) as client:
        with pytest.raises(AttributeError) as caught:
            _ = client.pwoer
        text = (
            "DriverClient has no attribute 'pwoer'; its children: power, serial; its driver exports"
        )
        assert str(caught.value) == f"{text}: connect, count, count_async, echo, echo_async"
        assert (caught.value.name, caught.value.obj) == ("pwoer", client)
        assert not hasattr(client.power, "anything")
        with pytest.raises(AttributeError, match="its children: none"):
            _ = client.power.anything


def test_uuid_and_labels_are_the_drivers() -> None:
    uuid = uuid4()
    with served(Echo(uuid=uuid, labels={"board": "rpi4"})) as client:
        assert client.uuid == uuid
        assert client.labels["board"] == "rpi4"
        assert client.labels["jumpstarter.dev/client"] == "jumpstarter.client.DriverClient"


def test_a_subclass_may_have_fields_and_a_setup_of_its_own() -> None:
    with served(TunedLab()) as client:
        assert type(client) is TunedClient
        assert client.history == ["made for 3.3 V"]
        assert client.calls == ["the mixin"]
        assert client.logger is logging.getLogger("client.TunedClient")
        assert client.call("echo", 1) == 1


def test_repr_of_a_client() -> None:
    with served(Echo(children={"power": Echo()})) as client:
        assert "power" in repr(client)
        assert "channel" not in repr(client)
        unmade = DriverClient.__new__(DriverClient)
        assert not hasattr(unmade, "power")


# ------------------------------------------------------------------------ blocking calls


def test_the_three_ways_to_call() -> None:
    with served(Echo()) as client:
        assert client.call("echo", [1, None, b"\xff"]) == [1, None, b"\xff"]
        assert list(client.streamingcall("count", 3)) == [0, 1, 2]
        with client.stream() as stream:
            stream.send(b"hello")
            assert stream.receive() == b"hello"


def test_keyword_arguments_cross_the_wire() -> None:
    with served(Lab()) as client:
        assert client.call("echo", value={"a": 1}) == {"a": 1}
        assert list(client.streamingcall("count", stop=2)) == [0, 1]
        with client.stream("sink", pace=0) as stream:
            stream.send(b"12")
        with pytest.raises(DriverInvalidArgument, match="volume"):
            client.call("echo", volume=11)


def test_an_argument_that_cannot_be_sent_is_refused() -> None:
    with served(Echo()) as client:
        with pytest.raises(DriverInvalidArgument, match=r"'echo' of driver 'root' .* object"):
            client.call("echo", object())
        with pytest.raises(DriverInvalidArgument):
            client.streamingcall("count", object())


def meet(client: DriverClient, number: int) -> Any:
    return client.call("meet", number)


def meet_often(client: DriverClient, number: int) -> Any:
    (met,) = set(client.streamingcall("meet_often", number))
    return met


@pytest.mark.parametrize("function", [meet, meet_often])
def test_eight_threads_call_at_once(function: Callable[[DriverClient, int], Any]) -> None:
    with served(Meeting()) as client, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(function, client, number) for number in range(8)]
        assert [future.result(PATIENCE) for future in futures] == list(range(8))


def test_eight_threads_have_a_stream_each() -> None:
    everybody = threading.Barrier(8)

    def converse(client: DriverClient, number: int) -> bytes:
        with client.stream() as stream:
            everybody.wait(PATIENCE)
            stream.send(bytes([number]) * 1000)
            stream.send_eof()
            return b"".join(stream)

    with served(Echo()) as client, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(converse, client, number) for number in range(8)]
        for number, future in enumerate(futures):
            assert future.result(PATIENCE) == bytes([number]) * 1000


BLOCKING: dict[str, Callable[[DriverClient], Any]] = {
    "call": lambda client: client.call("echo"),
    "streamingcall": lambda client: client.streamingcall("count", 3),
    "stream": lambda client: client.open_stream(),
}
whichever_blocks = pytest.mark.parametrize(("name", "function"), BLOCKING.items(), ids=BLOCKING)


@whichever_blocks
@timed()
async def test_blocking_methods_are_refused_by_a_client_for_trio_code(
    name: str, function: Callable[[DriverClient], Any]
) -> None:
    async with client_for_async(Echo()) as client:
        text = f"DriverClient.*{name} blocks, and this client was .* use {name}_async instead"
        with pytest.raises(RuntimeError, match=text):
            function(client)


@whichever_blocks
def test_blocking_methods_are_refused_inside_a_trio_task(
    name: str, function: Callable[[DriverClient], Any]
) -> None:
    async def main(client: DriverClient) -> None:
        text = f"DriverClient.*{name} blocks, and would block the Trio loop .* use {name}_async of"
        with pytest.raises(RuntimeError, match=text):
            function(client)

    with served(Echo()) as client:
        trio.run(main, client)
        assert client.portal is not None
        client.portal.call(main, client)


def test_async_methods_are_refused_in_another_trio_loop() -> None:
    async def main(client: DriverClient) -> None:
        with pytest.raises(RuntimeError, match="call_async: this client belongs to another Trio"):
            await client.call_async("echo")
        with pytest.raises(RuntimeError, match="streamingcall_async: this client belongs"):
            client.streamingcall_async("count", 3)
        with pytest.raises(RuntimeError, match="stream_async: this client belongs"):
            async with client.stream_async():
                pass

    with served(Echo()) as client:
        trio.run(main, client)


# ------------------------------------------------------------------------------ in Trio code


@timed()
async def test_the_three_ways_to_call_from_trio_code() -> None:
    async with client_for_async(Lab()) as client:
        assert await client.call_async("echo", value=1) == 1
        async with client.streamingcall_async("count", 3) as items:
            assert [item async for item in items] == [0, 1, 2]
        async with client.stream_async() as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"


@timed()
async def test_leaving_a_stream_raises_the_drivers_failure() -> None:
    async with client_for_async(Lab()) as client:
        with pytest.raises(DriverOSError, match=r"'sink' of driver 'root' .* the device has gone"):
            async with client.stream_async("sink") as stream:
                await stream.send_all(b"fail")


@timed()
async def test_leaving_a_stream_raises_the_exception_of_its_body_first() -> None:
    async with client_for_async(Lab()) as client:
        error = KeyError()
        with pytest.raises(KeyError) as caught:  # noqa: PT012 - the test is about leaving the block
            async with client.stream_async("sink") as stream:
                await stream.send_all(b"fail")
                raise error
        assert caught.value is error


# --------------------------------------------------------------------------------- timeout


def test_a_timeout_ends_the_call_and_the_drivers_code() -> None:
    lab = Lab()
    with served(lab) as client:
        while not lab.log:  # on a busy machine, the time can run out before the driver begins
            with pytest.raises(DriverTimeoutError) as caught, client.timeout(0.05):
                client.call("wait")
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert str(caught.value) == (
            "method 'wait' of driver 'root' (jumpstarter.client.DriverClient): "
            "the surrounding timeout() of 0.05 s ran out during the call"
        )
        assert lab.log == ["wait started", "wait ended"]
        assert client.call("echo", "usable") == "usable"


@pytest.mark.parametrize(("outer", "inner"), [(0.05, 1000), (1000, 0.05)])
def test_nested_timeouts_end_with_the_earlier_one(outer: float, inner: float) -> None:
    with (
        served(Lab()) as client,
        pytest.raises(DriverTimeoutError),
        client.timeout(outer),
        client.timeout(inner),
    ):
        client.call("wait")


def test_a_timeout_bounds_the_calls_of_its_block_in_sum_and_no_others(clock: Clock) -> None:
    lab = Lab()
    with served(lab) as client:
        with client.timeout(5):
            clock.now += 4
            assert client.call("echo", 1) == 1
            with client.timeout(3):
                clock.now += 2
                with pytest.raises(DriverTimeoutError):
                    client.call("wait")
            with pytest.raises(DriverTimeoutError):
                client.call("wait")
        assert client.call("echo", 2) == 2
    assert lab.log == [], "out of time before it began, nothing was sent"


def test_a_timeout_holds_for_any_client_and_inside_methods_of_client_classes() -> None:
    with (
        served(Plain(children={"lab": TunedLab(), "other": TunedLab()})) as client,
        pytest.raises(DriverTimeoutError),
        client.other.timeout(0.05),
    ):
        client.lab.wait()


def test_a_timeout_holds_for_every_step_of_a_generator(clock: Clock) -> None:
    lab = TunedLab()
    with served(lab) as client:
        assert isinstance(client, LabClient)
        with client.timeout(5):
            items = client.items(3)
            assert next(items) == 0
            clock.now += 6
            with pytest.raises(DriverTimeoutError, match="'items' of driver 'root'"):
                next(items)
        assert list(items) == []
        assert lab.log == ["items started", "items ended"]


def test_a_timeout_holds_for_opening_a_stream_and_for_each_thing_done_with_it() -> None:
    with served(Lab()) as client:
        with pytest.raises(DriverTimeoutError, match="'nobody' of driver"), client.timeout(0.05):
            client.open_stream("nobody")
        with client.stream() as stream:
            with pytest.raises(DriverTimeoutError, match="'connect' of"), client.timeout(0.05):
                stream.receive()
            stream.send(b"usable")
            assert stream.receive() == b"usable"


def test_a_timeout_is_its_own_threads() -> None:
    with served(Echo()) as client, ThreadPoolExecutor(1) as pool, client.timeout(0):
        assert pool.submit(client.call, "echo", 1).result(PATIENCE) == 1
        with pytest.raises(DriverTimeoutError):
            client.call("echo", 1)


@timed()
async def test_a_timeout_of_a_client_for_trio_code_is_refused() -> None:
    async with client_for_async(Echo()) as client:
        with (
            pytest.raises(RuntimeError, match=r"use trio\.fail_after\(\) or trio\.move_on_after"),
            client.timeout(5),
        ):
            pytest.fail("it would not hold for what is awaited here")
        assert await client.call_async("echo", 1) == 1


# -------------------------------------------------------------------------- closed clients


def test_use_after_the_block_is_refused() -> None:
    with served(Lab()) as client:
        started = client.streamingcall("items", 3)
        next(started)
        waiting = client.streamingcall("items", 3)
        stream = client.open_stream()
    text = "method '.*' of driver 'root' .*: not sent: the client was closed"
    for use in (
        lambda: client.call("echo"),
        lambda: list(client.streamingcall("count", 3)),
        client.open_stream,
        lambda: next(started),
        lambda: next(waiting),
        stream.receive,
    ):
        with pytest.raises(CallRefused, match=text):
            use()
    started.close()
    waiting.close()
    stream.close()
    client.close()


def test_closing_closes_what_was_opened_through_the_client_and_its_children() -> None:
    closed: list[str] = []
    with served(Plain(children={"lab": Lab()})) as client:
        streams = [client.lab.open_stream(), client.lab.open_stream("sink")]
        client.stack.callback(closed.append, "root")
        client.lab.stack.callback(closed.append, "lab")
        client.close()
        for stream in streams:
            with pytest.raises(trio.ClosedResourceError):
                stream.send(b"1")
        assert sorted(closed) == ["lab", "root"]
        client.close()
        assert len(closed) == 2
        assert client.lab.call("echo", "usable") == "usable"


def test_each_client_of_a_tree_is_closed_once_whatever_its_own_close_does() -> None:
    tree = Closing(children={"child": Closing(children={"grandchild": Closing()})})
    closed: list[str] = []
    with served(tree) as client:
        clients = [client, client.child, client.child.grandchild]
        for each in clients:
            each.stack.callback(closed.append, "stack")
    assert [each.labels["closed"] for each in clients] == ["once "] * 3
    assert closed == ["stack"] * 3


def test_closing_a_deep_tree_visits_every_client_once() -> None:
    closed: list[int] = []
    driver = Plain()
    for _ in range(2000):  # deeper than Python's recursion limit
        driver = Plain(children={"below": driver})
    with served(driver) as client:
        below: DriverClient | None = client
        while below is not None:
            below.stack.callback(closed.append, id(below))
            below = below.children.get("below")
    assert len(closed) == len(set(closed)) == 2001


def test_left_open_streams_are_closed_concurrently() -> None:
    lab = Lab()
    with served(lab) as client:
        streams = [client.open_stream("sink") for _ in range(50)]
        client.close()
    assert all(stream.detach().closed for stream in streams)
    assert lab.log.count("sink ended") == 50


def test_a_stream_that_was_closed_is_forgotten() -> None:
    with served(Echo()) as client:
        with client.stream():
            pass
        client.open_stream().close()
        assert not client._jmp_open


def test_closing_continues_after_an_exception() -> None:
    lab = Lab()

    def fail() -> None:
        raise OSError("the log is full")

    with served(Plain(children={"first": lab, "second": lab})) as client:
        streams: list[BlockingStream] = []
        for child in client.children.values():
            streams.append(child.open_stream("sink"))
            child.stack.callback(fail)
        with pytest.raises(OSError, match="the log is full"):
            client.close()
        assert lab.log.count("sink ended") == 2
        client.close()


def test_failure_of_a_left_open_stream_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lab = Lab()
    with served(lab) as client:
        stream = client.open_stream("sink")
        stream.send(b"fail")
        assert lab.ended.wait(PATIENCE)
    (record,) = [record for record in caplog.records if record.name == "client.DriverClient"]
    assert record.levelno == logging.WARNING
    assert "left open, and has failed: method 'sink' of driver 'root'" in record.message
    assert "the device has gone" in record.message


# ------------------------------------------------------------------------------------ stubs


def test_missing_client_class_is_reported_and_call_works() -> None:
    with served(NoClientLab(children={"echo": Echo()})) as client:
        assert type(client) is StubDriverClient
        assert isinstance(client.uuid, UUID)
        assert client.labels["jumpstarter.dev/client"] == "no_such_package.client.PowerClient"
        assert "exports: connect, count," in repr(client)
        text = r"'NAME': .*'no_such_package'.*; install the .*pip install no_such_pack.*call\(\)"
        for name in ("count", "cycle", "echo_async"):
            with pytest.raises(ClientImportError, match=text.replace("NAME", name)):
                getattr(client, name)
            assert name not in dir(client)
        assert client.call("echo", 1) == 1
        assert client.call_as(int, "echo", 1) == 1
        assert list(client.streamingcall("count", 3)) == [0, 1, 2]
        with client.stream() as stream:
            stream.send(b"x")
            assert stream.receive() == b"x"
        assert "no_such_package" in (client.__doc__ or "")
        assert not hasattr(client, "_repr_html_")
        assert client.echo.call("echo", 1) == 1


@timed()
async def test_missing_client_class_does_not_prevent_async_calls() -> None:
    async with client_for_async(NoClientLab()) as client:
        assert await client.call_async("echo", 1) == 1
        async with client.streamingcall_async("count", 2) as items:
            assert [item async for item in items] == [0, 1]
        async with client.stream_async() as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        with pytest.raises(ClientImportError, match="no_such_package"):
            client.on()
