"""Tests of `jumpstarter.client._lending`, through `ResourceMixin`: loans in both directions.

`test_driver_resources` tests the exporter's side: which loans it refuses, and how loans end.
"""

from __future__ import annotations

import errno
import hashlib
import io
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from drivers_for_tests import Plain
from exporter_process import exporter
from helpers import PATIENCE, begin, scripted, served, timed
from jumpstarter import connect, serve_async
from jumpstarter._io.transfer import Chunks, pipe
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.codec import encode_value
from jumpstarter._protocol.frames import Kind
from jumpstarter.client._channel import Channel
from jumpstarter.client._lending import Loan
from jumpstarter.client._loan_ends import READ_AHEAD, READ_SIZE, file_source, source_of
from jumpstarter.client._outgoing_call import Request
from jumpstarter.client._raw_streams import open_stream
from jumpstarter.client._remote import DriverRef
from jumpstarter.errors import (
    ArgumentError,
    CallOutcomeUnknown,
    CallRefused,
    DriverConnectionError,
    DriverError,
    DriverInvalidArgument,
    DriverOSError,
    DriverTimeoutError,
    MissingExtra,
    ResourceError,
)
from jumpstarter.testing import client_for_async
from resources_for_tests import Library, Reader

DATA: Final = bytes(range(256)) * 4000  # 1,024,000 bytes
DIGEST: Final = hashlib.sha256(DATA).hexdigest()

compressed_or_not = pytest.mark.parametrize("compress", [False, True])
in_a_task_or_a_thread = pytest.mark.parametrize("suffix", ["", "_in_thread"])


@contextmanager
def blocking() -> Iterator[Reader]:
    """Yield a client for blocking code, over a real socket."""
    driver = Library()
    with served(driver) as client:
        yield cast("Reader", client)
        assert driver.resources == {}


@asynccontextmanager
async def trio_client(driver: Library | None = None) -> AsyncIterator[Reader]:
    """Yield a client for Trio code."""
    driver = driver or Library()
    async with client_for_async(driver) as client:
        yield cast("Reader", client)
        assert driver.resources == {}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.img"
    path.write_bytes(DATA)
    return path


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -------------------------------------------------------------------------------- both directions


@compressed_or_not
@in_a_task_or_a_thread
def test_a_driver_reads_a_local_file(image: Path, suffix: str, compress: bool) -> None:
    with blocking() as client, client.local_file(image, compress=compress) as handle:
        assert client.call(f"read{suffix}", handle) == DIGEST


@compressed_or_not
@in_a_task_or_a_thread
def test_a_driver_writes_a_local_file(tmp_path: Path, suffix: str, compress: bool) -> None:
    path = tmp_path / "dump.img"
    with blocking() as client:
        with client.local_file(str(path), write=True, compress=compress) as handle:
            client.call(f"write{suffix}", handle, DATA[:100_000], 10)
            assert not path.exists(), "it is not complete"
        assert path.read_bytes() == DATA[:100_000] * 10
        assert names_in(tmp_path) == ["dump.img"]


@timed()
async def test_lending_works_in_trio_code(image: Path, tmp_path: Path) -> None:
    async with trio_client() as client:
        async with client.local_file_async(image) as handle:
            assert await client.call_async("read", handle) == DIGEST
        async with client.local_file_async(tmp_path / "dump", write=True) as handle:
            await client.call_async("write", handle, b"abc", 2)
        assert (tmp_path / "dump").read_bytes() == b"abcabc"


@pytest.mark.parametrize("size", [0, 1, 65536, 65537])
def test_sizes_around_chunk_boundaries_are_transferred_exactly(tmp_path: Path, size: int) -> None:
    with blocking() as client:
        with client.resource(io.BytesIO(DATA[:size])) as handle:
            assert client.call("read", handle) == hashlib.sha256(DATA[:size]).hexdigest()
        with client.local_file(tmp_path / "out", write=True) as handle:
            client.call("write", handle, DATA[:size], 1)
        assert (tmp_path / "out").read_bytes() == DATA[:size]


def test_existing_file_is_replaced_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with blocking() as client:
        for method in ("write_and_fail", "write_in_thread_and_fail"):
            with (
                pytest.raises(DriverOSError, match="the card has gone"),
                client.local_file(path, write=True) as handle,
            ):
                client.call(method, handle)
        with (
            pytest.raises(DriverInvalidArgument, match="failed as it wrote: OSError: the card"),
            client.local_file(path, write=True) as handle,
        ):
            assert client.call("write_and_hide_it", handle) == "all is well"
        with (
            pytest.raises(DriverInvalidArgument, match="has not used what was lent"),
            client.local_file(path, write=True) as handle,
        ):
            client.call("ignore", handle)
        assert path.read_bytes() == b"old"
        assert names_in(tmp_path) == ["dump"]
        with client.local_file(path, write=True) as handle:
            client.call("write", handle, b"new", 1)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names_in(tmp_path) == ["dump"]


@pytest.mark.parametrize("exists", [True, False])
def test_target_of_a_link_is_written_and_the_link_stays(tmp_path: Path, exists: bool) -> None:
    path, link = tmp_path / "dump", tmp_path / "link"
    link.symlink_to(path)
    if exists:
        path.write_bytes(b"old")
    with blocking() as client, client.local_file(link, write=True) as handle:
        client.call("write", handle, b"new", 1)
    assert link.is_symlink()
    assert path.read_bytes() == b"new"


def test_a_new_file_may_have_as_long_a_name_as_any(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    with blocking() as client, client.local_file(path, write=True) as handle:
        client.call("write", handle, b"new", 1)
    assert path.read_bytes() == b"new"


@timed()
async def test_buffers_that_wait_to_be_sent_are_not_overwritten(tmp_path: Path) -> None:
    blocks = [bytes([number]) * READ_SIZE for number in range(20)]
    (tmp_path / "image").write_bytes(b"".join(blocks))
    taken: list[bytes] = []

    async def take_slowly(pieces: Chunks) -> None:
        await trio.sleep(0.01)  # the thread reads ahead as far as it may
        for piece in pieces:
            taken.append(bytes(piece))
            await trio.sleep(0.001)

    async with file_source(tmp_path / "image") as (read, _):
        await pipe(read, take_slowly, READ_AHEAD)
    assert b"".join(taken) == b"".join(blocks)


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with blocking() as client, client.local_file(tmp_path / "dump", write=True) as handle:
        client.call("write", handle, b"new", 1)
    assert (tmp_path / "dump").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_device_is_written_as_it_is() -> None:
    with blocking() as client, client.local_file("/dev/null", write=True) as handle:
        client.call("write", handle, b"new", 1)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_unread_rest_is_not_an_error(image: Path) -> None:
    with blocking() as client:
        with client.local_file(image) as handle:
            assert client.call("read_some", handle, 10) == DATA[:10]
        with client.local_file(image) as handle:
            client.call("ignore", handle)


def test_the_cap_on_what_is_written_is_the_clients(tmp_path: Path) -> None:
    with (
        blocking() as client,
        pytest.raises(ResourceError, match="more than the 1,000 bytes"),
        client.local_file(tmp_path / "out", write=True, compress=True, max_bytes=1000) as handle,
    ):
        client.call("write", handle, bytes(100_000), 100)
    assert names_in(tmp_path) == []


# ----------------------------------------------------------------------------------- the streams


class Stubborn(io.RawIOBase):
    """A file that accepts at most 1,000 bytes per write."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data[:1000])
        self.taken += piece
        return len(piece)


def test_stream_with_partial_writes_gets_everything() -> None:
    sink = Stubborn()
    with blocking() as client, client.resource(sink, write=True) as handle:
        client.call("write", handle, b"x" * 5001, 2)
    assert sink.taken == b"x" * 10002


def test_a_buffered_stream_is_flushed_and_not_closed(tmp_path: Path) -> None:
    with blocking() as client, (tmp_path / "out").open("wb") as file:
        with client.resource(file, write=True) as handle:
            client.call("write", handle, b"abc", 1)
        assert (tmp_path / "out").read_bytes() == b"abc"
        assert not file.closed


@timed()
async def test_a_trio_stream_can_be_lent_either_way() -> None:
    async with trio_client() as client, trio.open_nursery() as nursery:
        near, far = trio.testing.memory_stream_pair()

        async def feed() -> None:
            await far.send_all(DATA)
            await far.send_eof()

        nursery.start_soon(feed)
        async with client.resource_async(near) as handle:
            assert await client.call_async("read", handle) == DIGEST
        async with client.resource_async(near, write=True) as handle:
            await client.call_async("write", handle, b"abc", 1)
        assert await far.receive_some(10) == b"abc"


@timed()
async def test_a_trio_file_can_be_lent(image: Path) -> None:
    async with (
        trio_client() as client,
        await trio.open_file(image, "rb") as file,
        client.resource_async(file) as handle,
    ):
        assert await client.call_async("read", handle) == DIGEST


@pytest.mark.parametrize("write", [False, True])
def test_value_that_is_not_a_binary_stream_is_refused(write: bool) -> None:
    with (
        blocking() as client,
        pytest.raises(ArgumentError, match="a object cannot be"),
        client.resource(object(), write=write),
    ):
        raise AssertionError


@pytest.mark.parametrize(
    ("stream", "write", "told"),
    [
        (
            io.StringIO("abc"),
            False,
            'a StringIO is a text stream, .*open the file with "rb", or lend an io.By',
        ),
        (io.TextIOWrapper(io.BytesIO()), True, 'is a text stream, and .*: open the file with "wb"'),
        (b"abc", False, r"a bytes cannot be read: lend an io.BytesIO\(\) of it"),
        ("image.img", False, r"a str cannot be read: local_file\(\) lends a file by its path"),
    ],
)
def test_unusable_stream_is_refused_with_advice(stream: Any, write: bool, told: str) -> None:
    with (
        blocking() as client,
        pytest.raises(ArgumentError, match=told),
        client.resource(stream, write=write),
    ):
        raise AssertionError


def test_leaving_the_block_does_not_wait_for_a_silent_pipe() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs.makefile("rb") as pipe:
        theirs.close()
        with blocking() as client, client.resource(pipe) as handle:
            client.call("ignore", handle)
        ours.shutdown(socket.SHUT_WR)  # unblocks the thread that waits there


# -------------------------------------------------------------------------- our own failures


class Failing(io.RawIOBase):
    """A file that returns some bytes, and then fails."""

    def __init__(self, failure: Exception) -> None:
        self._left = 3
        self._failure = failure

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        del size
        if self._left == 0:
            raise self._failure
        self._left -= 1
        return DATA[:1000]

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        del data
        raise self._failure


@pytest.mark.parametrize(
    "failure", [OSError("a bad sector"), ValueError("no"), trio.BrokenResourceError("gone")]
)
def test_a_source_that_fails_fails_the_driver_and_leaves_the_block(failure: Exception) -> None:
    with blocking() as client:
        with (
            pytest.raises(type(failure), match=str(failure)) as caught,
            client.resource(Failing(failure)) as handle,
        ):
            client.call("read", handle)
        assert isinstance(caught.value.__cause__, DriverError), "the driver saw no proper end"


def test_a_sink_that_fails_fails_the_driver_and_leaves_the_block() -> None:
    with (
        blocking() as client,
        pytest.raises(OSError, match="no space"),
        client.resource(Failing(OSError("no space")), write=True) as handle,
    ):
        client.call("write", handle, DATA, 100)


@in_a_task_or_a_thread
def test_a_driver_learns_why_its_source_has_failed(suffix: str) -> None:
    failure = OSError(errno.EIO, "Input/output error", "/dev/sdz")
    driver = Library()

    class FailingLater(Failing):
        """Fails only once the driver reads: before that, the call would find no loan."""

        def read(self, size: int = -1) -> bytes:
            while not any(loan.in_use for loan in list(driver.resources.values())):
                time.sleep(0.001)
            return super().read(size)

    with (
        served(driver) as client,
        pytest.raises(OSError, match="/dev/sdz") as caught,
        cast("Reader", client).resource(FailingLater(failure)) as handle,
    ):
        client.call(f"read{suffix}", handle)
    assert caught.value is failure
    told = caught.value.__cause__  # the failure of the driver's call
    assert isinstance(told, DriverConnectionError)
    assert "the client could not go on with what it has lent: OSError: [Errno 5]" in str(told)
    why = told.__cause__
    assert isinstance(why, DriverOSError)
    assert (why.errno, why.filename) == (errno.EIO, "/dev/sdz")


@in_a_task_or_a_thread
def test_a_driver_learns_why_its_sink_has_failed(suffix: str) -> None:
    failure = OSError(errno.ENOSPC, "No space left on device")
    with (
        blocking() as client,
        pytest.raises(OSError, match="No space left") as caught,
        client.resource(Failing(failure), write=True) as handle,
    ):
        client.call(f"write{suffix}", handle, DATA, 100)
    assert caught.value is failure
    assert "the client could not go on with what it has lent" in str(caught.value.__cause__)


@timed()
async def test_client_cannot_fail_the_loan_of_another_client(tmp_path: Path) -> None:
    path = f"{tmp_path}/socket"
    async with serve_async(Library(), f"unix:{path}"), trio.open_nursery() as nursery:
        one, other = [Channel(await trio.open_unix_socket(path), "the exporter") for _ in range(2)]
        for channel in (one, other):
            await channel.begin(nursery)
        lend = Request(0, Kind.STREAM, "lend", (1, "read", ""), driver="the exporter")
        stream = await open_stream(one, lend)
        for channel, handle in ((other, stream.metadata), (one, "none")):
            claim = Request(0, Kind.UNARY, "lent_failed", (handle, b""), driver="the exporter")
            with pytest.raises(DriverError, match="no such loan of this client"):
                await channel.call(claim)
        reading = Request(1, Kind.UNARY, "read", (stream.metadata,), driver="the driver")
        await stream.send_eof()
        assert await one.call(reading) == hashlib.sha256().hexdigest()
        await stream.aclose()
        for channel in (one, other):
            await channel.aclose()


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with blocking() as client:
        with pytest.raises(FileNotFoundError, match="nothing"), client.local_file("/nothing"):
            raise AssertionError
        with (
            pytest.raises(FileNotFoundError),
            client.local_file(tmp_path / "no" / "such", write=True),
        ):
            raise AssertionError


def test_an_exception_of_the_body_leaves_the_block_as_it_is(image: Path, tmp_path: Path) -> None:
    with blocking() as client:
        for write, path in ((False, image), (True, tmp_path / "out")):
            with pytest.raises(ZeroDivisionError), client.local_file(path, write=write):
                raise ZeroDivisionError
    assert names_in(tmp_path) == ["image.img"]


def test_compression_without_the_extra_says_what_to_install(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("backports", "backports.zstd", "compression", "compression.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with (
        blocking() as client,
        pytest.raises(MissingExtra, match=r"pip install .*\[zstd\]"),
        client.local_file(image, compress=True),
    ):
        raise AssertionError


@timed()
async def test_invalid_handle_from_the_exporter_is_refused() -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        client = Reader(uuid=Plain().uuid, channel=DriverRef(channel, 1, "the driver"))

        async def lend() -> None:
            async with client.resource_async(io.BytesIO(b"abc")):
                raise AssertionError

        for metadata in (None, 7):
            lending = await begin(nursery, lend)
            slot = (await exporter.event(ev.CallReceived)).slot
            exporter.rules.accept(slot, encode_value(metadata))
            await exporter.send()
            await exporter.event(ev.CancelReceived)
            await exporter.result(slot)
            await wait_all_tasks_blocked()
            lending.failed(DriverError, "which is not a str")


# --------------------------------------------------------------- concurrency, limits, lost peers


def test_many_threads_lend_files_concurrently(image: Path) -> None:
    digests: list[str] = []
    with blocking() as client:

        def read() -> None:
            with client.local_file(image) as handle:
                digests.append(client.call("read", handle))

        threads = [threading.Thread(target=read) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert digests == [DIGEST] * 20


@timed()
async def test_the_blocking_form_is_refused_in_a_trio_task(image: Path) -> None:
    async with trio_client() as client:
        with pytest.raises(RuntimeError, match="resource_async"), client.local_file(image):
            raise AssertionError


class Endless(io.RawIOBase):
    """A file that returns an endless number of zeros."""

    count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.count += size
        return bytes(size)


def test_read_ahead_is_bounded() -> None:
    source = Endless()
    with blocking() as client, client.resource(source) as handle:
        client.call("read_some", handle, 1)
    assert source.count < 8 * 1024 * 1024


def test_ctrl_c_in_the_middle_leaves_nothing_lent() -> None:
    main = threading.main_thread().ident
    assert main is not None
    interrupted = False

    def interrupt(done: int, total: int | None) -> None:
        nonlocal interrupted
        del total
        if done > 1_000_000 and not interrupted:
            interrupted = True
            signal.pthread_kill(main, signal.SIGINT)

    with blocking() as client:
        with (
            pytest.raises(KeyboardInterrupt),
            client.resource(Endless(), progress=interrupt) as handle,
        ):
            client.call("read", handle)
        with client.resource(io.BytesIO(DATA)) as handle:
            assert client.call("read", handle) == DIGEST


def test_timeout_limits_the_transfer() -> None:
    with blocking() as client:
        with (
            pytest.raises(DriverTimeoutError),
            client.timeout(0.2),
            client.resource(Endless()) as handle,
        ):
            client.call("read", handle)
        with client.resource(io.BytesIO(DATA)) as handle:
            assert client.call("read", handle) == DIGEST


def test_an_exporter_that_is_lost_in_the_middle_is_an_error(tmp_path: Path) -> None:
    with (
        exporter(tmp_path, driver="resources_for_tests:Library") as server,
        connect(server.address, allow=["resources_for_tests.*"]) as client,
    ):
        reader = cast("Reader", client)

        def kill(done: int, total: int | None) -> None:
            del total
            if done > 1_000_000:
                server.send(signal.SIGKILL)

        with (
            pytest.raises(CallOutcomeUnknown),
            reader.resource(Endless(), progress=kill) as handle,
        ):
            reader.call("read", handle)
        with pytest.raises(CallRefused), reader.resource(Endless()):
            raise AssertionError


def test_loan_has_the_mode_and_encoding_for_the_exporter() -> None:
    source = source_of(io.BytesIO(), None)
    assert Loan(title="", source=source).mode == "read"
    assert Loan(title="", sink=None).mode == "write"
    assert Loan(title="", compress=True).encoding == "zstd"
