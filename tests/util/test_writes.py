"""Every write is complete or an error, whatever a `write`, `send` or `send_all` returns.

The rules of `jumpstarter._util.writes` come first, then each place that takes a user's object:
a source or sink that a client lends, and a driver's stream.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from helpers import PATIENCE, served, timed
from jumpstarter._util.writes import check_sent, check_write_count, name_os_errors, write_all
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, exportstream
from jumpstarter.drivers.storage import FileStorage, StorageClient
from jumpstarter.errors import ArgumentError, DriverError, DriverOSError
from jumpstarter.testing import client_for_async
from resources_for_tests import Library, Reader

DATA = b"0123456789" * 500
WRONG = [0, -1, len(DATA) + 1, True, "all", 5.0]  # results that no write of DATA may return


class Writer:
    """A file that writes a part of the data, and returns a given value."""

    def __init__(self, answer: Callable[[int], object], most: int = 10**6) -> None:
        self.taken = b""
        self._answer = answer
        self._most = most

    def write(self, data: Any) -> Any:
        piece = bytes(data)[: self._most]
        self.taken += piece
        return self._answer(len(piece))


class Full(io.RawIOBase):
    """An unbuffered, nonblocking file that is full."""

    def writable(self) -> bool:
        return True

    def write(self, _data: Any) -> None:
        return None

    def readable(self) -> bool:
        return True

    def read(self, _size: int = -1) -> None:
        return None


# ------------------------------------------------------------------------------------ the rules


def test_none_means_all_bytes_and_a_number_means_that_many() -> None:
    assert check_write_count(None, 7, "write()") == 7
    assert check_write_count(7, 7, "write()") == 7
    assert check_write_count(1, 7, "write()") == 1


@pytest.mark.parametrize("answer", WRONG)
def test_an_invalid_return_value_is_an_error_that_names_it(answer: object) -> None:
    with pytest.raises(OSError, match=r"a port's write\(\).*5000 bytes") as caught:
        check_write_count(answer, len(DATA), "a port's write()")
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("most", [1, 7, 4999, 5000])
def test_short_writes_are_continued(most: int) -> None:
    writer = Writer(int, most)
    write_all(writer, DATA)
    assert writer.taken == DATA


def test_a_full_nonblocking_file_is_an_error() -> None:
    with pytest.raises(BlockingIOError, match="takes no more now"):
        write_all(Full(), DATA)


def test_a_full_nonblocking_pipe_is_an_error() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with (
        open(reading, "rb"),  # noqa: PTH123 - a descriptor has no path
        open(writing, "wb", buffering=0) as file,  # noqa: PTH123
        pytest.raises(BlockingIOError, match="takes no more now"),
    ):
        write_all(file, bytes(10_000_000))


def test_send_all_may_not_send_a_part() -> None:
    check_sent(None, 7, "send()")
    check_sent(7, 7, "send()")
    with pytest.raises(OSError, match=r"send\(\) took 3 of 7 bytes"):
        check_sent(3, 7, "send()")


def test_an_os_error_gets_the_file_name_unless_it_has_one() -> None:
    with pytest.raises(FileNotFoundError, match="'/dev/card'"), name_os_errors("/dev/card"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    with pytest.raises(FileNotFoundError, match="'/other'"), name_os_errors("/dev/card"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/other")
    with pytest.raises(OSError, match=r"^/dev/card: path too long$"), name_os_errors("/dev/card"):
        raise OSError("path too long")
    with pytest.raises(OSError, match=r"^no /dev/card$"), name_os_errors("/dev/card"):
        raise OSError("no /dev/card")


# ------------------------------------------------------------------------------------ lent files


def lent(sink: object, count: int = 1) -> None:
    """Have a driver write DATA to a stream of the client's."""
    with (
        served(Library()) as client,
        client.timeout(PATIENCE),
        cast("Reader", client).resource(sink, write=True) as handle,
    ):
        client.call("write", handle, DATA, count)


@pytest.mark.parametrize("answer", [int, lambda _: None])
def test_a_lent_file_gets_every_byte(answer: Callable[[int], object]) -> None:
    writer = Writer(answer)
    lent(writer, 3)
    assert writer.taken == DATA * 3


@pytest.mark.parametrize("answer", WRONG)
def test_a_lent_file_that_miscounts_fails_the_block(answer: object) -> None:
    with pytest.raises(OSError, match=r"Writer\.write\(\)"):
        lent(Writer(lambda _: answer))


def test_a_full_nonblocking_lent_file_fails_the_block() -> None:
    with pytest.raises(BlockingIOError, match="Full takes no more now"):
        lent(Full())


class Sender:
    """A Trio stream whose `send_all` returns a number of bytes."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def send_all(self, _data: object) -> object:
        await trio.lowlevel.checkpoint()
        return self._answer


@pytest.mark.parametrize("answer", [0, 3, -1])
@timed()
async def test_a_lent_trio_stream_that_sends_a_part_fails_the_block(answer: int) -> None:
    async with client_for_async(Library()) as client:
        with pytest.raises(OSError, match=r"Sender\.send_all\(\)"):
            async with cast("Reader", client).resource_async(Sender(answer), write=True) as handle:
                await client.call_async("write", handle, DATA, 1)


class Giver:
    """A file whose `read` returns a given object instead of bytes."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def read(self, _size: int = -1) -> object:
        return self._answer


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (None, BlockingIOError, "gave None: the stream does not block"),
        ("text", ArgumentError, "Giver gave str, where bytes are expected"),
        (5, ArgumentError, "Giver gave int, where bytes are expected"),
    ],
)
def test_a_lent_file_that_returns_no_bytes_fails_the_block(
    answer: object, kind: type[Exception], text: str
) -> None:
    with (
        served(Library()) as client,
        client.timeout(PATIENCE),
        pytest.raises(kind, match=text),
        cast("Reader", client).resource(Giver(answer)) as handle,
    ):
        client.call("read", handle)


def test_a_full_disk_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    with (
        served(Library()) as client,
        client.timeout(PATIENCE),
        pytest.raises(OSError, match="No space left on device: '/dev/full'"),
        cast("Reader", client).local_file(path, write=True) as handle,
    ):
        client.call("write", handle, DATA, 1)


def test_a_full_storage_error_names_its_path(tmp_path: Path) -> None:
    image = tmp_path / "image.img"
    image.write_bytes(DATA * 1000)
    with (
        served(FileStorage(path="/dev/full")) as client,
        client.timeout(PATIENCE),
        pytest.raises(DriverOSError, match="No space left on device: '/dev/full'"),
    ):
        cast("StorageClient", client).flash(image)


# --------------------------------------------------------------------------- a driver's stream


class Short:
    """A device's stream that returns a smaller number than it was given."""

    def __init__(self, answer: object) -> None:
        self._answer = answer


class ShortTrio(Short):
    async def receive_some(self) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def send_all(self, _data: bytes) -> object:
        await trio.lowlevel.checkpoint()
        return self._answer


class ShortAnyio(Short):
    async def receive(self) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def send(self, _data: bytes) -> object:
        await trio.lowlevel.checkpoint()
        return self._answer


@dataclass(kw_only=True)
class Board(Driver):
    """A driver that yields a given stream."""

    stream: object

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        yield self.stream


def sent_to(stream: object) -> None:
    with served(Board(stream=stream)) as client, client.timeout(PATIENCE):
        assert isinstance(client, DriverClient)
        with client.stream() as opened:
            opened.send(b"reboot\n")


@pytest.mark.parametrize("kind", [ShortTrio, ShortAnyio])
def test_a_drivers_stream_may_return_the_full_count(kind: type[Short]) -> None:
    sent_to(kind(None))
    sent_to(kind(7))


@pytest.mark.parametrize("kind", [ShortTrio, ShortAnyio])
@pytest.mark.parametrize("answer", [0, 3, -1, 8])
def test_a_drivers_stream_that_sends_a_part_fails(kind: type[Short], answer: int) -> None:
    with pytest.raises(DriverOSError, match=rf"{kind.__name__}\.send(_all)?\(\)"):
        sent_to(kind(answer))


class Nothing(ShortAnyio):
    async def receive(self) -> Any:
        await trio.lowlevel.checkpoint()
        return None


def test_a_drivers_stream_that_returns_no_bytes_fails_with_the_value() -> None:
    with served(Board(stream=Nothing(None))) as client, client.timeout(PATIENCE):
        stream = client.open_stream()
        with pytest.raises(DriverError, match="must give a bytes-like object, and gave NoneType"):
            stream.receive()
        with pytest.raises(DriverError, match="must give a bytes-like object, and gave NoneType"):
            stream.close()
