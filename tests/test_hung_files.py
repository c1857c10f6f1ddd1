"""Test when and how a call fails while a file operation hangs in the operating system."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio

from helpers import PATIENCE, served, timed
from hung import HUNG, KINDS, hung
from jumpstarter._io.file_operations import GRACE, abandoned_threads
from jumpstarter.client import DriverClient
from jumpstarter.drivers.storage import FileStorage, StorageClient
from jumpstarter.errors import DriverError, DriverOSError
from jumpstarter.testing import client_for_async
from leaks import nothing_leaks
from resources_for_tests import Library, Reader

SOON = GRACE + PATIENCE  # seconds within which a call must end; nothing else ends what hangs
WAIT = 0.3  # seconds until the timeout or Ctrl-C

reading_or_writing = pytest.mark.parametrize("write", [False, True])
in_a_task_or_a_thread = pytest.mark.parametrize("suffix", ["", "_in_thread"])


@contextmanager
def soon() -> Iterator[None]:
    """Fail if the block takes much longer than expected, so that even a hanging test ends."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < WAIT + SOON


@contextmanager
def ctrl_c_after(seconds: float) -> Iterator[None]:
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join(PATIENCE)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [each for each in caplog.records if each.name == "jumpstarter.files"]
    return [each.getMessage() for each in records if each.levelno == logging.WARNING]


def until_held(attempt: Callable[[], object]) -> None:
    """Repeat an attempt until the operating system holds a thread.

    On a busy machine, an attempt can time out before its thread has begun.
    """
    while not abandoned_threads:
        attempt()


def lend(client: Reader, path: Path, *, write: bool, suffix: str) -> None:
    with client.local_file(path, write=write, progress=False) as handle:
        if write:
            client.call(f"write{suffix}", handle, bytes(65536), 100)
        else:
            client.call(f"read{suffix}", handle)


def lend_in_vain(client: DriverClient, path: Path, *, write: bool) -> None:
    with pytest.raises(TimeoutError), client.timeout(WAIT):
        lend(cast("Reader", client), path, write=write, suffix="")


# ---------------------------------------------------------------------- files lent by a client


@HUNG
@reading_or_writing
@in_a_task_or_a_thread
def test_a_timeout_ends_a_lent_file_that_hangs(
    kind: str, write: bool, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(Library()) as client, hung(kind, tmp_path) as path:
        reader = cast("Reader", client)

        def give_up() -> None:
            with soon(), pytest.raises(TimeoutError), client.timeout(WAIT):
                lend(reader, path, write=write, suffix=suffix)

        until_held(give_up)
        (warning,) = warnings_of(caplog)
        assert str(path) in warning
        assert client.call("ignore", 1) is None


@HUNG
@reading_or_writing
def test_ctrl_c_ends_a_lent_file_that_hangs(kind: str, write: bool, tmp_path: Path) -> None:
    with served(Library()) as client, hung(kind, tmp_path) as path:
        reader = cast("Reader", client)

        def give_up() -> None:
            with soon(), pytest.raises(KeyboardInterrupt), ctrl_c_after(WAIT):
                lend(reader, path, write=write, suffix="")

        until_held(give_up)
        assert client.call("ignore", 1) is None


@HUNG
@reading_or_writing
@timed()
async def test_a_cancelled_scope_ends_a_lent_file_that_hangs(
    kind: str, write: bool, tmp_path: Path
) -> None:
    async with client_for_async(Library()) as client:
        reader = cast("Reader", client)
        with hung(kind, tmp_path) as path:
            while not abandoned_threads:
                with soon(), trio.move_on_after(WAIT) as scope:
                    async with reader.local_file_async(path, write=write) as handle:
                        if write:
                            await client.call_async("write", handle, bytes(65536), 100)
                        else:
                            await client.call_async("read", handle)
                assert scope.cancelled_caught
            assert await client.call_async("ignore", 1) is None


def test_a_lent_stream_that_hangs_in_write_ends_in_time(tmp_path: Path) -> None:
    silent = hung("a FIFO whose peer is silent", tmp_path)
    with served(Library()) as client, silent as path, path.open("wb", 0) as fifo:
        reader = cast("Reader", client)

        def give_up() -> None:
            with (
                soon(),
                pytest.raises(TimeoutError),
                client.timeout(WAIT),
                reader.resource(fifo, write=True) as handle,
            ):
                client.call("write", handle, bytes(65536), 100)

        until_held(give_up)
        with path.open("rb", 0) as peer:  # releases the thread before its file is closed
            os.set_blocking(peer.fileno(), False)  # the thread may end before the loop notices
            while abandoned_threads:
                peer.read(65536)
                time.sleep(0.001)


def test_many_files_that_hang_keep_no_other_one_from_its_thread(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"abc")
    with served(Library()) as client, hung("a FIFO without a peer", tmp_path) as path:
        give_up = partial(lend_in_vain, client, path, write=False)
        while missing := 40 - len(abandoned_threads):  # as `until_held` does
            threads = [threading.Thread(target=give_up) for _ in range(missing)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
        assert len(abandoned_threads) == 40, "as many as a loop has threads for at a time"
        lend(cast("Reader", client), tmp_path / "image", write=False, suffix="")


# ------------------------------------------------------------------------------------ a storage


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((kind, method) for kind in KINDS for method in ("flash", "dump")),
        *((KINDS[-1], method) for method in ("erase", "size")),  # these open no FIFO
    ],
)
def test_a_storage_that_hangs_ends_its_call_in_time_and_refuses_the_next(
    kind: str, method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "image").write_bytes(bytes(1_000_000))
    with hung(kind, tmp_path) as path, served(FileStorage(path=str(path))) as client:
        storage = cast("StorageClient", client)
        calls = {
            "flash": lambda: storage.flash(tmp_path / "image"),
            "dump": lambda: _dump(storage, tmp_path),
            "erase": storage.erase,
            "size": storage.size,
        }

        def give_up() -> None:
            with soon(), pytest.raises(TimeoutError), client.timeout(WAIT):
                calls[method]()

        until_held(give_up)
        assert len(warnings_of(caplog)) == 1
        with pytest.raises(DriverOSError, match="hangs in the exporter's system"):
            client.call("size")


def _dump(storage: StorageClient, directory: Path) -> None:
    with storage.local_file(directory / "dump", write=True) as handle:
        storage.call("read", handle)


def test_a_storage_works_again_once_it_was_let_go(tmp_path: Path) -> None:
    with hung("a FIFO without a peer", tmp_path) as path:
        (tmp_path / "image").write_bytes(b"abc")
        with served(FileStorage(path=str(path))) as client:
            storage = cast("StorageClient", client)

            def give_up() -> None:
                with pytest.raises(TimeoutError), client.timeout(WAIT):
                    storage.flash(tmp_path / "image")

            until_held(give_up)
            with path.open("rb") as peer:
                while abandoned_threads:
                    time.sleep(0.01)
                assert peer.read() == b"", "the thread has closed what it had opened too late"
            with pytest.raises(DriverError, match="is a device"):
                storage.erase()


# -------------------------------------------------------------------------------------- the leaks


def test_a_held_thread_is_the_one_exception_from_what_leaks(tmp_path: Path) -> None:
    with hung("a FIFO without a peer", tmp_path) as path, nothing_leaks():
        with served(Library()) as client:
            until_held(lambda: lend_in_vain(client, path, write=False))
        assert len(abandoned_threads) == 1


@reading_or_writing
def test_what_a_held_thread_has_open_is_closed_when_it_is_let_go(
    write: bool, tmp_path: Path
) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with served(Library()) as client, path.open("r+b", 0):
        until_held(lambda: lend_in_vain(client, path, write=write))
        assert _opened(path) == 2
    deadline = time.monotonic() + PATIENCE
    while _opened(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert abandoned_threads == set()


def _opened(path: Path) -> int:
    with os.scandir("/proc/self/fd") as descriptors:
        return sum(os.path.realpath(each.path) == str(path) for each in descriptors)
