"""Test that Ctrl-C ends the program even if it arrives while a driver's code runs in its loop."""

from __future__ import annotations

import queue
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from drivers_for_tests import Echo
from helpers import ask, channel_to, generator, stream
from jumpstarter._protocol.frames import Kind
from jumpstarter._util.ctrl_c import pass_on_ctrl_c
from jumpstarter.client._channel import Channel
from jumpstarter.driver import export, exportstream, on_disconnect
from jumpstarter.errors import DriverError


def press() -> None:
    signal.raise_signal(signal.SIGINT)


class Interrupted(Echo):
    """Its code runs when Ctrl-C is pressed."""

    @export
    async def method(self) -> None:
        press()

    @export
    async def method_that_has_waited(self) -> None:
        await trio.lowlevel.checkpoint()
        press()

    @export
    async def method_with_a_nursery(self) -> None:
        async def child() -> None:
            press()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)

    @export
    async def generator(self) -> AsyncGenerator[int, None]:
        press()
        yield 1

    @exportstream
    @asynccontextmanager
    async def stream(self) -> AsyncIterator[trio.abc.Stream]:
        press()
        yield trio.testing.memory_stream_pair()[0]

    @export
    async def method_that_raises(self) -> None:
        raise KeyboardInterrupt

    @export
    async def leave(self) -> None:
        async def end() -> None:
            press()

        on_disconnect(end)


async def use(channel: Channel, method: str) -> None:
    if method == "generator":
        await anext(generator(channel, method))
    elif method == "stream":
        await stream(channel, method)
    else:
        await channel.call(ask(method, kind=Kind.UNARY))


@pytest.mark.parametrize(
    "method",
    ["method", "method_that_has_waited", "method_with_a_nursery", "generator", "stream"],
)
def test_ctrl_c_in_an_async_method_fails_its_call_and_ends_the_program(method: str) -> None:
    failed: list[str] = []

    async def main() -> None:
        async with channel_to(Interrupted()) as channel, trio.open_nursery() as nursery:

            async def call() -> None:
                with trio.CancelScope(shield=True), pytest.raises(DriverError):
                    await use(channel, method)
                failed.append(method)

            nursery.start_soon(call)
            with pytest.raises(KeyboardInterrupt):
                await trio.sleep_forever()
            with trio.CancelScope(shield=True):
                assert await channel.call(ask("echo_async", "usable")) == "usable"

    trio.run(main)
    assert failed == [method]


def test_a_keyboard_interrupt_that_a_driver_raises_stays_in_its_call() -> None:
    async def main() -> None:
        async with channel_to(Interrupted()) as channel:
            with pytest.raises(DriverError):
                await channel.call(ask("method_that_raises"))
            assert await channel.call(ask("echo_async", "usable")) == "usable"

    trio.run(main)


def test_ctrl_c_when_a_client_has_left_ends_the_program() -> None:
    ended: list[bool] = []

    async def visit() -> None:
        async with channel_to(Interrupted()) as channel:
            await channel.call(ask("leave"))
        await trio.sleep_forever()

    async def main() -> None:
        try:
            await visit()
        except* KeyboardInterrupt:  # in a group, if the block of the channel is being left
            ended.append(True)

    trio.run(main)
    assert ended


def test_a_handler_that_has_no_module_changes_nothing() -> None:
    presses: queue.SimpleQueue[object] = queue.SimpleQueue()
    put: Any = presses.put
    assert put.__module__ is None
    before = signal.signal(signal.SIGINT, put)
    try:
        pass_on_ctrl_c(KeyboardInterrupt())
    finally:
        signal.signal(signal.SIGINT, before)
    assert presses.empty()


def test_a_handler_of_the_program_is_not_called_again() -> None:
    pressed: list[int] = []

    def handle(number: int, _: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            press()
        pass_on_ctrl_c(caught.value)
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [signal.SIGINT]
