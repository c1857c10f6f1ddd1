"""Tests of `_exporter.item_batcher`: it sends items while the generator's thread continues."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from drivers_for_tests import Plain
from helpers import PATIENCE, answered, channel_to, generator, timed, until
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.item_batcher import ItemBatcher
from jumpstarter._limits import Limits
from jumpstarter._protocol.frames import Kind
from jumpstarter._protocol.large_message import Message, head_of
from jumpstarter.driver import export
from jumpstarter.errors import DriverError
from transports import lockstep_pair

COST = 10  # room that each item takes in these tests


class Client:
    """A client that records the items that found room, and the items that it had to wait for."""

    def __init__(self, room: int) -> None:
        self.space = room
        self.put_items: list[bytes] = []
        self.sent: list[int] = []
        self.received_bytes = trio.Event()
        self.batcher = ItemBatcher(lambda: self.space, self.pack, self.put)

    def pack(self, item: object) -> tuple[Message, int]:
        if item == "unpackable":
            raise ValueError("it cannot be packed")
        return bytearray(str(item).encode()), COST

    def put(self, buffers: deque[Message]) -> None:
        while buffers:
            buffer = head_of(buffers.popleft())
            if buffer == b"unputtable":
                raise ValueError("it cannot be put")
            self.put_items.append(bytes(buffer))
            self.space -= COST
        self.received_bytes.set()

    async def send(self, item: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(item)

    async def iterate(self, method: Callable[[], Iterator[Any]]) -> Any:
        with trio.fail_after(PATIENCE):
            return await DriverExecutor().iterate(method, [], {}, self.send, self.batcher)


async def test_what_there_is_room_for_is_put_and_the_next_item_is_sent() -> None:
    client = Client(room=3 * COST)

    def count() -> Generator[int, None, str]:
        yield from range(6)
        return "counted"

    assert await client.iterate(count) == "counted"
    assert client.put_items == [b"0", b"1", b"2"]
    assert client.sent == [3, 4, 5]


async def test_many_items_are_all_put_in_order() -> None:
    client = Client(room=1_000_000)
    assert await client.iterate(lambda: iter(range(1000))) is None
    assert client.put_items == [str(number).encode() for number in range(1000)]
    assert not client.sent


async def test_an_item_is_put_while_the_generator_works_on_the_next() -> None:
    client = Client(room=100 * COST)
    go_on = threading.Event()

    def slow() -> Iterator[str]:
        yield "first"
        assert go_on.wait(PATIENCE)
        yield "second"

    async def see_the_first() -> None:
        await client.received_bytes.wait()
        assert client.put_items == [b"first"]
        go_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(see_the_first)
        await client.iterate(slow)
    assert client.put_items == [b"first", b"second"]


@pytest.mark.parametrize(
    ("bad", "text"), [("unpackable", "it cannot be packed"), ("unputtable", "it cannot be put")]
)
async def test_an_item_that_cannot_be_sent_ends_the_generator(bad: str, text: str) -> None:
    client = Client(room=2 * COST)
    ended: list[bool] = []

    def method() -> Iterator[str]:
        try:
            yield "good"
            yield bad
            yield "sent"
            yield "never"
        finally:
            ended.append(True)

    with pytest.raises(ValueError, match=text):
        await client.iterate(method)
    assert ended == [True]
    assert client.put_items == [b"good"]


async def test_a_generator_goes_no_further_once_its_call_is_cancelled() -> None:
    client = Client(room=1_000_000)
    made: list[int] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                made.append(len(made))
                yield made[-1]
        finally:
            made.append(-1)

    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.iterate, endless)
            await client.received_bytes.wait()
            scope.cancel()
    assert scope.cancelled_caught
    assert made[-1] == -1


class Counter(Plain):
    """A driver that counts as far as the client lets it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made = 0

    @export
    def endless(self) -> Generator[bytes, None, None]:
        while True:
            self.made += 1
            yield bytes(1000)

    @export
    def bad_item(self) -> Generator[object, None, None]:
        yield 1
        yield object()


@timed()
async def test_it_never_runs_further_ahead_than_the_credit_allows() -> None:
    driver = Counter()
    limits = Limits(stream_window=10_000, max_window=10_000)
    async with (
        channel_to(driver, limits=limits) as channel,
        generator(channel, "endless") as items,
    ):
        await anext(items)
        await trio.testing.wait_all_tasks_blocked(0.05)
        # Add the item that overshoots the credit, and the item that waits for credit.
        assert driver.made <= 10_000 // 1000 + 2


@timed()
async def test_all_items_from_before_a_bad_one_arrive() -> None:
    async with channel_to(Counter()) as channel:
        items = generator(channel, "bad_item")
        assert await anext(items) == 1
        with pytest.raises(DriverError, match="its item cannot be sent"):
            await anext(items)
        assert channel.ended is None


@timed()
async def test_a_client_with_endless_credit_that_reads_nothing_stops_it_all_the_same() -> None:
    driver = Counter()
    generous = Limits(stream_window=2**30, max_window=2**30, max_total_window=2**30)
    limits = Limits(max_unsent=20_000)
    async with answered(
        driver, exporter_limits=limits, limits=generous, make_pair=lockstep_pair
    ) as client:
        await client.greet()
        client.queue("endless", kind=Kind.GENERATOR)
        await client.send()
        await until(lambda: driver.made > 20)
        await trio.testing.wait_all_tasks_blocked(0.05)
        # The bound adds up the bytes that the writer takes before the loop looks (one turn of the
        # thread, if that is faster than the loop), the bytes that may wait behind them, one more
        # turn, and an item at each end.
        assert driver.made <= (20_000 + 2 * 64 * 1024) // 1000 + 2
