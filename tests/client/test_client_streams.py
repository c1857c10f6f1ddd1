"""Tests of `jumpstarter.client._streams`: generators and raw streams for blocking code.

The tests use `serve`, since each step is a call through the portal. Tests of Ctrl-C have their own
file.
"""

from __future__ import annotations

import gc
import traceback as tb
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio
import trio.testing

import jumpstarter
from drivers_for_tests import Echo, Lab, Plain
from helpers import PATIENCE, served, until
from jumpstarter._io.portal import BlockingPortal
from jumpstarter.client import BlockingGenerator, BlockingStream, DriverClient
from jumpstarter.driver import export, exportstream
from jumpstarter.errors import (
    ArgumentError,
    CallCancelled,
    CallOutcomeUnknown,
    DriverConnectionError,
    DriverError,
    DriverInvalidArgument,
    DriverOSError,
    DriverTimeoutError,
    EndOfStream,
)


class Failing:
    """A stream that returns a few bytes, and then fails."""

    def __init__(self) -> None:
        self._rest = [b"almost"]

    async def send_all(self, data: bytes) -> None:
        del data
        await trio.lowlevel.checkpoint()

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._rest:
            raise OSError("the cable came off")
        return self._rest.pop()


class Device(Plain):
    """A device whose streams behave as their names say."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.taken = bytearray()

    @exportstream
    @asynccontextmanager
    async def says_goodbye(self) -> AsyncIterator[trio.abc.Stream]:
        """Send a few bytes and an end, then read until the client ends its half."""
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(b"goodbye")
        await ours.send_eof()
        yield theirs
        async for data in ours:
            self.taken += data

    @exportstream
    @asynccontextmanager
    async def fails(self) -> AsyncIterator[Failing]:
        yield Failing()

    @exportstream
    @asynccontextmanager
    async def is_not_there(self) -> AsyncIterator[trio.abc.Stream]:
        raise FileNotFoundError("no such device: /dev/ttyUSB0")
        yield  # type: ignore[unreachable]  # makes it a generator

    @export
    async def endless(self) -> AsyncGenerator[int, None]:
        number = 0
        while True:
            yield number
            number += 1


# ------------------------------------------------------------------------------ generators


def test_generator_returns_the_drivers_return_value() -> None:
    def relay(client: DriverClient) -> Generator[int, None, None]:
        value = yield from client.streamingcall("count", 2)
        yield value

    with served(Echo()) as client:
        items = client.streamingcall("count", 2)
        assert isinstance(items, Generator)
        assert iter(items) is items
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(StopIteration) as caught:
            next(items)
        assert caught.value.value == "counted"
        assert next(items, "over") == "over"
        assert list(relay(client)) == [0, 1, "counted"]


def test_items_before_a_failure_are_yielded() -> None:
    with served(Lab()) as client:
        items = client.streamingcall("items_and_failure")
        assert [next(items), next(items)] == [1, 2]
        with pytest.raises(DriverInvalidArgument, match="no third"):
            next(items)
        assert list(items) == []


def test_a_driver_takes_no_values_and_the_generator_goes_on() -> None:
    with served(Lab()) as client:
        items = client.streamingcall("items", 3)
        assert items.send(None) == 0
        with pytest.raises(TypeError, match="takes no values, and was sent 'more'"):
            items.send("more")
        assert items.send(None) == 1


@pytest.mark.parametrize(
    "arguments",
    [(KeyError("here"),), (KeyError, "here"), (KeyError,), (KeyError, KeyError("here"))],
    ids=["instance", "class and value", "class", "class and instance"],
)
def test_throw_raises_after_the_drivers_code_has_ended(
    arguments: tuple[Any, ...],
) -> None:
    lab = Lab()
    with served(lab) as client:
        items = client.streamingcall("items", 3)
        next(items)
        with pytest.raises(KeyError) as caught:
            items.throw(*arguments)
        assert caught.value.args in {("here",), ()}
        assert lab.log == ["items started", "items ended"]
        assert list(items) == []


def test_throw_keeps_the_traceback() -> None:
    with served(Lab()) as client:
        items = client.streamingcall("items", 3)
        try:
            raise KeyError
        except KeyError as exc:
            traceback = exc.__traceback__
        with pytest.raises(KeyError) as caught:
            items.throw(KeyError, None, traceback)
        first = tb.extract_tb(caught.value.__traceback__)[-1]
        assert first.name == "test_throw_keeps_the_traceback"


def test_closing_ends_the_drivers_code_and_the_iteration() -> None:
    lab = Lab()
    with served(lab) as client:
        items = client.streamingcall("items", 3)
        next(items)
        items.close()
        assert lab.log == ["items started", "items ended"]
        items.close()
        assert list(items) == []


def test_generator_closed_before_its_first_step_never_starts() -> None:
    lab = Lab()
    with served(lab) as client:
        items = client.streamingcall("items", 3)
        items.close()
        assert list(items) == []
        with client.streamingcall("items", 3):
            pass
    assert lab.log == []


def test_leaving_the_block_ends_the_drivers_code_however_it_is_left() -> None:
    lab = Lab()
    with served(lab) as client:
        with client.streamingcall("items", 3) as items:
            for _ in items:
                break
        assert lab.log == ["items started", "items ended"]
        error = KeyError()
        with pytest.raises(KeyError) as caught, client.streamingcall("items", 3) as items:  # noqa: PT012
            next(items)
            raise error
        assert caught.value is error
        assert lab.log == ["items started", "items ended"] * 2


def test_dropped_generator_ends_the_drivers_code() -> None:
    lab = Lab()
    with served(lab) as client:
        for _ in client.streamingcall("items", 3):
            break
        gc.collect()
        assert lab.ended.wait(PATIENCE)
        assert lab.log == ["items started", "items ended"]


def test_collection_in_the_portals_thread_does_not_block() -> None:
    lab = Lab()

    def relay(client: DriverClient) -> Generator[int, None, None]:
        yield from client.streamingcall("items", 3)  # collecting this generator closes that one

    with served(lab) as client:
        holding: list[Any] = [relay(client)]
        next(holding[0])
        assert client.portal is not None
        client.portal.call(holding.clear)
        gc.collect()
        assert lab.ended.wait(PATIENCE)
        assert lab.log == ["items started", "items ended"]


def test_generator_that_outlives_its_client_is_dropped_quietly() -> None:
    def relay(client: DriverClient) -> Generator[int, None, None]:
        yield from client.streamingcall("items", 3)

    with served(Lab()) as client:
        items = relay(client)
        next(items)
    items.close()
    del items
    gc.collect()


def test_a_generator_goes_from_thread_to_thread_but_is_in_one_at_a_time() -> None:
    lab = Lab()
    with served(lab) as client, ThreadPoolExecutor(1) as pool:
        items = client.streamingcall("items", 2)
        assert pool.submit(next, items).result(PATIENCE) == 0
        assert next(items) == 1
        waiting = pool.submit(next, items, "over")
        assert client.portal is not None
        client.portal.call(until, lambda: items._remote._busy)
        with pytest.raises(trio.BusyResourceError):
            next(items)
        items.close()  # this ends the wait for an item
        with pytest.raises(CallCancelled):
            waiting.result(PATIENCE)


def test_endless_generator_may_be_left_early() -> None:
    with served(Device()) as client, client.streamingcall("endless") as items:
        assert [next(items) for _ in range(1000)] == list(range(1000))


# ----------------------------------------------------------------------------- raw streams


def test_bytes_go_both_ways_and_end_each_on_its_own() -> None:
    with served(Echo()) as client, client.stream() as stream:
        stream.send(b"hello")
        assert stream.receive() == b"hello"
        stream.send(bytearray(b"abc"))
        stream.send(memoryview(b"def"))
        stream.send_eof()
        stream.send_eof()
        assert b"".join(stream) == b"abcdef"
        for _ in range(2):
            with pytest.raises(EndOfStream, match="the driver has ended its half"):
                stream.receive()
        with pytest.raises(anyio.EndOfStream):
            stream.receive()
        assert list(stream) == []
        with pytest.raises(trio.ClosedResourceError, match="send_eof was called"):
            stream.send(b"more")


def test_receiving_takes_no_more_than_was_asked_for() -> None:
    with served(Echo()) as client, client.stream() as stream:
        stream.send(b"hello")
        assert stream.receive(2) == b"he"
        assert stream.receive(100) == b"llo"
        with pytest.raises(ValueError, match="at least 1"):
            stream.receive(0)


def test_one_thread_sends_as_another_receives() -> None:
    size = 8 * 1024 * 1024
    with served(Echo()) as client, client.stream() as stream, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(stream.send, bytes(size))
        received = 0
        while received < size:
            received += len(stream.receive())
        sending.result(PATIENCE)


def test_receiving_goes_on_where_a_timeout_has_interrupted_it() -> None:
    with served(Echo()) as client, client.stream() as stream:
        with pytest.raises(DriverTimeoutError), client.timeout(0.02):
            stream.receive()
        stream.send(b"hello")
        assert stream.receive() == b"hello"


def test_closing_delivers_what_was_sent_and_waits_for_the_drivers_end() -> None:
    lab = Lab()
    with served(lab) as client:
        stream = client.open_stream("sink")
        stream.send(b"12345")
        stream.close()
        assert lab.log == ["sink started", "took 5", "sink ended"]
        stream.close()
        for use in (stream.receive, stream.send_eof, lambda: stream.send(b"1")):
            with pytest.raises(trio.ClosedResourceError):
                use()


def test_bytes_can_be_sent_after_the_drivers_half_has_ended() -> None:
    device = Device()
    with served(device) as client:
        with client.stream("says_goodbye") as stream:
            assert list(stream) == [b"goodbye"]
            stream.send(b"so long")
        assert device.taken == b"so long"


def test_a_stream_that_cannot_be_opened_raises_what_the_driver_raised() -> None:
    with served(Device()) as client:
        with pytest.raises(DriverOSError) as caught, client.stream("is_not_there"):
            pass
        assert str(caught.value) == (
            "method 'is_not_there' of driver 'root' (jumpstarter.client.DriverClient): "
            "FileNotFoundError: no such device: /dev/ttyUSB0"
        )
        with pytest.raises(NotImplementedError, match="exports no such method"):
            client.open_stream("nothing")


def use_receive(stream: BlockingStream) -> None:
    while True:
        stream.receive()


def use_send(stream: BlockingStream) -> None:
    while True:
        stream.send(b"more")


@pytest.mark.parametrize("use", [use_receive, use_send, list])
def test_driver_failure_is_raised_by_every_use_of_the_stream(
    use: Callable[[BlockingStream], Any],
) -> None:
    with served(Device()) as client:
        with pytest.raises(DriverOSError) as caught, client.stream("fails") as stream:
            use(stream)
        assert str(caught.value) == (
            "method 'fails' of driver 'root' (jumpstarter.client.DriverClient): "
            "OSError: the cable came off"
        )


def test_all_bytes_from_before_a_failure_are_received() -> None:
    with served(Device()) as client:
        stream = client.open_stream("fails")
        assert stream.receive() == b"almost"
        with pytest.raises(DriverOSError):
            stream.receive()


def test_closing_raises_the_drivers_failure() -> None:
    lab = Lab()
    with served(lab) as client:
        with pytest.raises(DriverOSError, match="the device has gone"), client.stream("sink") as it:
            it.send(b"fail")
        stream = client.open_stream("sink")
        stream.send(b"fail")
        with pytest.raises(DriverOSError, match="the device has gone"):
            stream.close()
        stream.close()


def test_exception_of_the_body_precedes_the_drivers_failure() -> None:
    lab = Lab()
    error = KeyError()
    with served(lab) as client:
        with pytest.raises(KeyError) as caught, client.stream("sink") as stream:  # noqa: PT012
            stream.send(b"fail")
            raise error
        assert caught.value is error
        assert lab.log[-1] == "sink ended"


def test_lost_connection_ends_a_waiting_receive() -> None:
    with served(Echo()) as client:
        stream = client.open_stream()
        assert client.portal is not None
        connection = client.channel.channel.connection
        client.portal.call(connection.end, ConnectionError("the cable was cut"))
        for use in (stream.receive, lambda: stream.send(b"1"), stream.close):
            with pytest.raises(CallOutcomeUnknown, match="not answered: the cable was cut"):
                use()


def test_broken_stream_without_a_cause_is_a_connection_error() -> None:
    def broken(*_: object) -> None:
        raise trio.BrokenResourceError("the driver has closed this stream")

    with served(Echo()) as client, client.stream() as stream:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BlockingPortal, "call_in_trio", broken)
            with pytest.raises(DriverConnectionError, match="the driver has closed this stream"):
                stream.send(b"1")
        stream.send(b"1")


def test_dropped_stream_ends_the_drivers_code_without_blocking() -> None:
    lab = Lab()
    with served(lab) as client:
        holding = [client.open_stream("sink")]
        assert client.portal is not None
        client.portal.call(holding.clear)  # in the portal's thread, where blocking would deadlock
        gc.collect()
        assert lab.ended.wait(PATIENCE)
        assert lab.log == ["sink started", "sink ended"]


def test_stream_that_outlives_its_client_is_dropped_quietly() -> None:
    with served(Echo()) as client:
        stream = client.open_stream()
    del stream, client
    gc.collect()


def test_the_classes_are_what_the_package_shows() -> None:
    with served(Echo()) as client:
        assert type(client.streamingcall("count", 1)) is BlockingGenerator
        with client.stream() as stream:
            assert type(stream) is BlockingStream


# ------------------------------------------------------------------------- items in batches


class Meter(Plain):
    """A driver that counts the items that it was asked for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made = 0

    @export
    async def readings(self) -> AsyncGenerator[bytes, None]:
        while True:
            self.made += 1
            yield bytes(1000)


def test_fetched_but_untaken_items_return_no_credit() -> None:
    meter = Meter()
    with served(meter) as client, client.streamingcall("readings") as readings:
        next(readings)
        portal = client.portal
        assert portal is not None
        portal.call(trio.testing.wait_all_tasks_blocked, 0.05)
        window = jumpstarter.Limits().stream_window
        assert meter.made <= window // 1000 + 2
        for _ in range(3 * meter.made):  # items that are taken return credit
            next(readings)


def test_closing_drops_the_items_that_were_fetched() -> None:
    with served(Meter()) as client:
        readings = client.streamingcall("readings")
        next(readings)
        next(readings)
        readings.close()
        with pytest.raises(StopIteration):
            next(readings)


def test_an_item_that_cannot_be_decoded_ends_the_generator_when_its_turn_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with served(Lab()) as client:
        decode = client.channel.channel.decode
        bodies: list[bytes] = []

        def fail_at_the_third(body: bytes) -> Any:
            bodies.append(body)
            if len(bodies) == 3:
                raise ArgumentError("it makes no sense")
            return decode(body)

        monkeypatch.setattr(client.channel.channel, "decode", fail_at_the_third)
        items = client.streamingcall("items", 3)
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(DriverError, match="its item: it makes no sense"):
            next(items)
        with pytest.raises(StopIteration):
            next(items)
