"""Test that each step of an async client is a checkpoint, even if a thread reads for its task.

A thread of the same client may read the socket at any time. Here one reads between the sending of
a call and the task's wait for its answer.
"""

from __future__ import annotations

import math
import select
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trio

from drivers_for_tests import Lab
from exporter_thread import served_at
from helpers import PATIENCE, ask, generator, in_time, stream, until
from jumpstarter import connect_async
from jumpstarter._io import leading
from jumpstarter._io.connection import Connection
from jumpstarter._io.transport import SocketTransport
from jumpstarter.client._channel import Channel
from jumpstarter.client._outgoing_call import OutgoingCall
from jumpstarter.driver import export
from jumpstarter.errors import DriverError


@dataclass(kw_only=True)
class Quick(Lab):
    """Answers without waiting for anything."""

    @export
    async def nothing(self) -> AsyncGenerator[int, None]:
        for number in self.log:
            yield len(number)

    @export
    async def broken(self) -> AsyncGenerator[int, None]:
        yield self.log.index("an item that is missing")


class Turns(trio.abc.Instrument):
    """How often a task was resumed: other tasks had a turn before that."""

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.taken = 0
        self._task = task

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.taken += task is self._task


def read_in_thread(channel: Channel) -> None:
    """Let a thread make a call, and read the earlier answers with its own."""
    call = OutgoingCall(channel, ask("echo_async", "thread"))
    thread = Thread(target=leading.begin, args=(channel.connection, call, channel.start, math.inf))
    thread.start()
    thread.join(PATIENCE)
    assert call.done
    assert call.result(None) == "thread"


def is_answered(call: OutgoingCall) -> bool:
    return bool(call.done or getattr(call, "items", False) or getattr(call, "accepted", False))


def wait_for_bytes(connection: Connection) -> None:
    transport = connection._transport
    assert isinstance(transport, SocketTransport)
    poll = select.poll()
    poll.register(transport.fileno(), select.POLLIN)
    assert poll.poll(PATIENCE * 1000)


@pytest.fixture
async def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Channel]:
    """A channel that threads may read."""
    monkeypatch.setattr(leading, "_PATIENCE_MS", int(PATIENCE * 1000))
    with served_at(f"unix:{tmp_path}/socket", Quick()) as address:
        async with in_time(), connect_async(address) as client:
            channel = client.channel.channel
            channel.connection.ownership.watch_socket()
            await until(lambda: channel.connection.ownership.watch is not None)
            yield channel


@pytest.fixture
def overtaken(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> Channel:
    """The same channel: a thread reads the answer of each call as soon as the task has sent it."""
    really_begin = Channel._begin

    def begin_and_read(self: Channel, call: OutgoingCall) -> None:
        assert really_begin(self, call) is None  # it was sent
        while not is_answered(call):
            read_in_thread(self)

    async def lead_not(_self: Channel, _call: OutgoingCall) -> bool:
        return False  # as if another call had been under way

    monkeypatch.setattr(Channel, "_begin", begin_and_read)
    monkeypatch.setattr(Channel, "_lead", lead_not)
    return channel


async def assert_turn(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Check that other tasks have a turn while a function runs."""
    turns = Turns(trio.lowlevel.current_task())
    trio.lowlevel.add_instrument(turns)
    try:
        result = await function(*args)
    finally:
        trio.lowlevel.remove_instrument(turns)
    assert turns.taken
    return result


async def test_a_call_whose_answer_a_thread_has_read_is_a_checkpoint(overtaken: Channel) -> None:
    assert await assert_turn(overtaken.call, ask("echo_async", 1)) == 1


async def test_a_call_whose_error_a_thread_has_read_is_a_checkpoint(overtaken: Channel) -> None:
    async def fail() -> None:
        with pytest.raises(DriverError, match="the device is slow"):
            await overtaken.call(ask("fail"))

    await assert_turn(fail)


async def test_a_call_of_a_cancelled_task_is_not_sent(channel: Channel) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.call(ask("echo_async", 1))
    assert scope.cancelled_caught
    assert not channel.connection.handlers


async def test_an_iteration_that_has_ended_before_its_wait_is_a_checkpoint(
    overtaken: Channel,
) -> None:
    async def iterate() -> list[int]:
        return [each async for each in generator(overtaken, "nothing")]

    assert await assert_turn(iterate) == []


async def test_an_iteration_that_has_failed_before_its_wait_is_a_checkpoint(
    overtaken: Channel,
) -> None:
    async def iterate() -> None:
        with pytest.raises(DriverError, match="ValueError"):
            await anext(generator(overtaken, "broken"))

    await assert_turn(iterate)


async def test_a_first_item_that_a_thread_has_read_is_a_checkpoint(overtaken: Channel) -> None:
    items = generator(overtaken, "count_async", 2)
    assert await assert_turn(anext, items) == 0
    await items.aclose()


async def test_a_block_of_a_generator_that_has_ended_is_a_checkpoint(overtaken: Channel) -> None:
    async def enter() -> None:
        async with generator(overtaken, "nothing"):
            pass

    await assert_turn(enter)


async def test_a_step_after_the_end_of_an_iteration_is_a_checkpoint(channel: Channel) -> None:
    items = generator(channel, "nothing")
    assert [each async for each in items] == []

    async def step() -> None:
        with pytest.raises(StopAsyncIteration):
            await anext(items)

    await assert_turn(step)
    with trio.CancelScope() as scope:
        scope.cancel()
        await step()
    assert scope.cancelled_caught


async def test_opening_a_stream_that_a_thread_has_seen_open_is_a_checkpoint(
    overtaken: Channel,
) -> None:
    opened = await assert_turn(stream, overtaken, "connect")
    await opened.aclose()


async def test_waiting_for_a_stream_that_has_ended_is_a_checkpoint(channel: Channel) -> None:
    opened = await stream(channel, "connect")
    await opened.aclose()
    await assert_turn(opened.wait_ended)


async def test_bytes_that_arrive_just_before_the_wait_are_received_at_a_checkpoint(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await stream(channel, "connect")
    looks = 0

    def read_after_a_look(self: Any) -> bool:
        nonlocal looks
        looks += 1
        pending = self.buffered  # and the stream has not ended
        if looks == 1:
            wait_for_bytes(channel.connection)
            read_in_thread(channel)
        return bool(pending)

    await opened.send_all(b"bytes")
    monkeypatch.setattr(type(opened), "pending", property(read_after_a_look))
    assert await assert_turn(opened.receive_some) == b"bytes"
    assert looks > 1
    monkeypatch.undo()
    await opened.aclose()
