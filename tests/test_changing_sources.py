"""Test that a source changing or failing mid-transfer is an error and keeps the old content."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest

from helpers import PATIENCE, served
from http_server import running
from jumpstarter.drivers.storage import FileStorage, StorageClient
from jumpstarter.errors import (
    DriverConnectionError,
    DriverError,
    DriverInvalidArgument,
    DriverOSError,
)
from resources_for_tests import Library, Reader

SIZE: Final = 32 * 1024**2  # more than is ever in flight
LONG_AGO: Final = 1_000_000_000
OLD: Final = b"what was there"


def shrink(path: Path) -> None:
    os.truncate(path, SIZE // 4)


def grow(path: Path) -> None:
    os.truncate(path, SIZE + 1)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def shrink_and_grow(path: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path, SIZE)


def rewrite_and_restore_time(path: Path) -> None:
    rewrite(path)
    os.utime(path, (LONG_AGO, LONG_AGO))


CHANGES: Final = [shrink, grow, rewrite, shrink_and_grow, rewrite_and_restore_time]
changing = pytest.mark.parametrize("change", CHANGES)
compressed_or_not = pytest.mark.parametrize("compress", [False, True])
Progress = Callable[[int, int | None], None]


def once_under_way(change: Callable[[Path], None], path: Path) -> Progress:
    """Return a progress callback that changes a file after its first bytes were transferred."""
    done = False

    def progress(count: int, _total: int | None) -> None:
        nonlocal done
        if count and not done:
            done = True
            change(path)

    return progress


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, SIZE)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a file alone in a directory; neither may change."""
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "file"
    path.write_bytes(OLD)
    return path


def assert_unchanged(old: Path) -> None:
    assert old.read_bytes() == OLD
    assert [each.name for each in old.parent.iterdir()] == [old.name]


@contextmanager
def storage(path: Path) -> Iterator[StorageClient]:
    with served(FileStorage(path=str(path))) as client:
        yield cast("StorageClient", client)


@contextmanager
def library() -> Iterator[Reader]:
    with served(Library()) as client:
        yield cast("Reader", client)


# -------------------------------------------------------------------- from the client to the driver


@changing
@compressed_or_not
def test_an_image_that_changes_while_it_is_flashed_is_not_flashed(
    change: Callable[[Path], None], compress: bool, image: Path, old: Path
) -> None:
    with storage(old) as client, pytest.raises(OSError, match="changed while it was read") as told:
        client.flash(image, compress=compress, progress=once_under_way(change, image))
    assert told.value.filename == str(image)
    assert_unchanged(old)


@changing
@pytest.mark.parametrize("method", ["read", "read_in_thread"])
def test_a_driver_takes_no_part_of_a_changed_file_for_all_of_it(
    change: Callable[[Path], None], method: str, image: Path
) -> None:
    with (
        library() as client,
        pytest.raises(OSError, match="changed while it was read") as told,
        client.local_file(image, progress=once_under_way(change, image)) as handle,
    ):
        client.call(method, handle)
    assert isinstance(told.value.__cause__, DriverError), "the driver was told"


@changing
@pytest.mark.parametrize("buffering", [0, -1])
def test_a_lent_stream_of_a_file_that_changes_is_an_error(
    change: Callable[[Path], None], buffering: int, image: Path
) -> None:
    with (
        library() as client,
        image.open("rb", buffering) as file,
        pytest.raises(OSError, match="changed while it was read"),
        client.resource(file, progress=once_under_way(change, image)) as handle,
    ):
        client.call("read", handle)


def test_a_file_that_cannot_be_read_to_its_end_leaves_what_was_there(old: Path) -> None:
    with storage(old) as client, pytest.raises(OSError, match="/proc/self/mem") as told:
        client.flash("/proc/self/mem")  # a regular file that cannot be read at offset 0
    assert told.value.errno == errno.EIO
    assert_unchanged(old)


# ------------------------------------------------------------------ from the driver to a local file


@changing
@compressed_or_not
def test_a_storage_that_changes_while_it_is_dumped_is_not_dumped(
    change: Callable[[Path], None], compress: bool, image: Path, old: Path
) -> None:
    with storage(image) as client, pytest.raises(DriverOSError, match="changed while it was read"):
        client.dump(old, compress=compress, progress=once_under_way(change, image))
    assert_unchanged(old)


def test_a_storage_that_cannot_be_read_to_its_end_leaves_what_was_there(old: Path) -> None:
    with storage(Path("/proc/self/mem")) as client, pytest.raises(DriverOSError, match="/proc/sel"):
        client.dump(old)
    assert_unchanged(old)


# ---------------------------------------------------------------------------- unreliable sizes


@pytest.mark.parametrize("path", ["/proc/version", "/sys/class/net/lo/mtu"])
def test_files_whose_size_the_kernel_makes_up_pass_both_ways(path: str, tmp_path: Path) -> None:
    source = Path(path)
    content = source.read_bytes()
    assert source.stat().st_size != len(content)
    with storage(tmp_path / "card") as client:
        assert client.flash(source) == hashlib.sha256(content).hexdigest()
    with library() as reader, source.open("rb") as file, reader.resource(file) as handle:
        assert reader.call("read", handle) == hashlib.sha256(content).hexdigest()
    with storage(source) as client:
        client.dump(tmp_path / "dump")
    assert (tmp_path / "card").read_bytes() == (tmp_path / "dump").read_bytes() == content


# ----------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("what", "error", "told"),
    [
        ("short", DriverConnectionError, "/short"),
        ("cut", DriverConnectionError, "/cut"),
        ("endless", DriverInvalidArgument, "does not say where the file ends"),
    ],
)
def test_an_image_whose_server_fails_leaves_what_was_there(
    what: str,
    error: type[Exception],
    told: str,
    old: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with running() as url, storage(old) as client, pytest.raises(error, match=told):
        client.flash(f"{url}/{what}")
    assert_unchanged(old)


# ----------------------------------------------------------------------------- targets that fail


@contextmanager
def no_file_larger_than(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_target_that_takes_no_more_keeps_what_it_had(image: Path, old: Path) -> None:
    with (
        storage(old) as client,
        no_file_larger_than(100_000),
        pytest.raises(DriverOSError) as at_the_driver,
    ):
        client.flash(image)
    with (
        library() as reader,
        no_file_larger_than(100_000),
        pytest.raises(OSError, match="too large") as here,
        reader.local_file(old, write=True) as handle,
    ):
        reader.call("write", handle, bytes(65536), 100)
    assert at_the_driver.value.errno == here.value.errno == errno.EFBIG
    assert_unchanged(old)


def test_a_failure_says_that_a_device_has_lost_what_it_had(tmp_path: Path) -> None:
    device = tmp_path / "device"  # a FIFO stands in for a device: both are written in place
    os.mkfifo(device)

    def drain() -> None:
        with device.open("rb") as peer:
            while peer.read(65536):
                pass

    thread = threading.Thread(target=drain)
    thread.start()
    with (
        storage(device) as client,
        pytest.raises(OSError, match="a bad sector") as told,
        client.resource(_FailsLate()) as handle,
    ):
        client.call("write", handle)
    thread.join(PATIENCE)
    assert isinstance(told.value.__cause__, DriverError)
    assert "is a device: its first" in "".join(told.value.__cause__.__notes__)


class _FailsLate:
    """A source that returns a megabyte and then fails."""

    left = 16

    def read(self, _size: int = -1) -> bytes:
        if not self.left:
            raise OSError(errno.EIO, "a bad sector")
        self.left -= 1
        return bytes(65536)


@pytest.mark.parametrize("kind", ["storage", "lent"])
def test_a_device_that_is_not_there_is_not_replaced_by_a_file(kind: str, image: Path) -> None:
    device = Path("/dev/no-such-card")
    if kind == "storage":
        with storage(device) as client, pytest.raises(DriverOSError, match="no such device"):
            client.flash(image)
    else:
        with library() as reader, pytest.raises(FileNotFoundError, match="no such device"):
            _lend_for_writing(reader, device)
    assert not device.exists()


def _lend_for_writing(reader: Any, path: Path) -> None:
    with reader.local_file(path, write=True):
        raise AssertionError
