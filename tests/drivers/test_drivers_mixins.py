"""Tests of `jumpstarter.drivers.mixins`: the mixins for client classes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from drivers_for_tests import Echo
from jumpstarter.client import BlockingStream, DriverClient
from jumpstarter.driver import exportstream
from jumpstarter.drivers.mixins import StreamMixin
from jumpstarter.errors import DriverMethodNotImplemented, DriverOSError, EndOfStream
from jumpstarter.testing import client_for


class MixinFirst(StreamMixin, DriverClient):
    """A client class with the usual order of bases."""


class MixinLast(DriverClient, StreamMixin):
    """A client class with the other order of bases."""


class Console(Echo):
    """A driver with a second stream, which sends one line and ends, and a third that fails."""

    client_class = "MixinFirst"

    @classmethod
    def client(cls) -> str:
        return f"test_drivers_mixins.{cls.client_class}"

    @exportstream
    @asynccontextmanager
    async def banner(self) -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(b"ready")
        await ours.send_eof()
        yield theirs

    @exportstream
    @asynccontextmanager
    async def unplugged(self) -> AsyncIterator[trio.abc.Stream]:
        yield await trio.open_unix_socket("/no/such/port")


class ConsoleOfTheOther(Console):
    client_class = "MixinLast"


@pytest.mark.parametrize("driver", [Console, ConsoleOfTheOther])
def test_connect_opens_the_stream_named_connect(driver: type[Console]) -> None:
    with client_for(driver()) as client, client.connect() as stream:
        assert isinstance(stream, BlockingStream)
        stream.send(b"hello")
        assert stream.receive() == b"hello"


def test_connect_opens_another_stream_by_name() -> None:
    with client_for(Console()) as client, client.connect("banner") as stream:
        assert stream.receive() == b"ready"
        with pytest.raises(EndOfStream):
            stream.receive()


def test_leaving_the_block_closes_the_stream() -> None:
    with client_for(Console()) as client:
        with client.connect() as stream:
            pass
        with pytest.raises(trio.ClosedResourceError):
            stream.send(b"too late")


def test_a_stream_that_cannot_be_opened_says_why() -> None:
    with client_for(Console()) as client:
        with pytest.raises(DriverOSError, match="No such file"), client.connect("unplugged"):
            raise AssertionError("it was opened")
        with pytest.raises(DriverMethodNotImplemented), client.connect("nowhere"):
            raise AssertionError("it was opened")
