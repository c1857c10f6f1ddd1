"""Test `streams.progress`: what is passed on, counted and shown."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from anyio.abc import ObjectStream
from test_streams_encoding import run

from jumpstarter.client import _progress
from jumpstarter.streams import progress
from jumpstarter.streams.common import create_memory_stream
from jumpstarter.streams.progress import ProgressAttribute, ProgressStream


class Sized(ObjectStream[bytes]):
    """A stream that says how many bytes it has."""

    def __init__(self, stream: ObjectStream[bytes]) -> None:
        self.stream = stream

    async def receive(self) -> bytes:
        return await self.stream.receive()

    async def send(self, item: bytes) -> None:
        await self.stream.send(item)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {ProgressAttribute.total: lambda: 2000.0}


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
def test_everything_is_passed_on_and_the_progress_logged(
    loop: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LOG_INTERVAL", 0)

    async def main() -> None:
        near, far = create_memory_stream()
        stream = ProgressStream(stream=Sized(near), logging=True)
        assert stream.extra(ProgressAttribute.total) == 2000.0
        await stream.send(b"x" * 1500)
        await stream.send_eof()
        assert b"".join([data async for data in far]) == b"x" * 1500
        await far.send(b"yy")
        assert await stream.receive() == b"yy"
        await stream.aclose()
        await far.aclose()

    with caplog.at_level(logging.INFO, "jumpstarter.progress"):
        run(loop, main)
    assert caplog.messages == [
        "transferred 1,500 of 2,000 bytes",
        "transferred 1,502 of 2,000 bytes",
    ]


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_there_is_a_bar_on_a_terminal_that_is_not_dumb(
    terminal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(_progress, "_DELAY", 0)
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", terminal)

    async def main() -> None:
        near, far = create_memory_stream()
        async with ProgressStream(stream=near) as stream, far:
            await stream.send(b"x" * 1500)

    run("trio", main)
    assert ("transfer" in stderr.getvalue()) == (terminal == "xterm")
