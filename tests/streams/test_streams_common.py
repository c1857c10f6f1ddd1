"""Test `streams.common` in both kinds of loops."""

from __future__ import annotations

import logging
from typing import Self

import anyio
import pytest
from test_streams_encoding import run

from jumpstarter.streams.common import copy_stream, create_memory_stream, forward_stream

each_loop = pytest.mark.parametrize("loop", ["trio", "asyncio"])


@each_loop
def test_streams_are_forwarded_both_ways_with_their_ends(loop: str) -> None:
    async def main() -> None:
        near, a = create_memory_stream()
        b, far = create_memory_stream()
        async with near, far, forward_stream(a, b):
            await near.send(b"up")
            await far.send(b"down")
            assert await far.receive() == b"up"
            assert await near.receive() == b"down"
            await near.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await far.receive()
            await far.send(b"the other half is open")
            assert await near.receive() == b"the other half is open"
            await far.send_eof()
        with pytest.raises(anyio.ClosedResourceError):
            await a.send(b"more")

    run(loop, main)


@each_loop
def test_leaving_waits_for_both_directions(loop: str) -> None:
    async def main() -> None:
        near, a = create_memory_stream()
        b, far = create_memory_stream()
        said = []

        async def answer() -> None:
            said.extend([data async for data in far])
            await near.send_eof()
            await far.send_eof()

        async with near, far, anyio.create_task_group() as tasks:
            async with forward_stream(a, b):
                await near.send(b"last words")
                await near.send_eof()
                tasks.start_soon(answer)
            assert said == [b"last words"]

    run(loop, main)


@each_loop
def test_the_exception_of_the_block_leaves_alone(loop: str) -> None:
    async def main() -> None:
        near, a = create_memory_stream()
        b, far = create_memory_stream()
        async with near, far, forward_stream(a, b):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(loop, main)


@each_loop
def test_a_broken_stream_ends_its_direction_and_is_logged(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        near, a = create_memory_stream()
        b, far = create_memory_stream()
        async with a, b:
            await far.aclose()
            await near.send(b"to nobody")
            await copy_stream(b, a)
            await near.aclose()

    with caplog.at_level(logging.WARNING):
        run(loop, main)
    assert caplog.text.count("copying from a stream has ended: BrokenResourceError") == 1


@each_loop
def test_another_exception_of_a_stream_leaves_alone(loop: str) -> None:
    class Failing:
        async def send(self, item: bytes) -> None:
            raise ZeroDivisionError(item)

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        def __aiter__(self) -> Self:
            return self

        async def __anext__(self) -> bytes:
            await anyio.sleep_forever()
            raise AssertionError

    async def main() -> None:
        near, a = create_memory_stream()
        async with near, forward_stream(a, Failing()):
            await near.send(b"any")
            await anyio.sleep_forever()

    with pytest.raises(ZeroDivisionError):
        run(loop, main)
