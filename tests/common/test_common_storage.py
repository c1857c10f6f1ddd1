"""Test the copies to and from storage devices, in Trio and in asyncio.

A device is a regular file here, which has the same interface: it is missing, empty, or ready.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

from helpers import PATIENCE
from jumpstarter.common.storage import (
    read_from_storage_device,
    wait_for_storage_device,
    write_to_storage_device,
)

IMAGE = bytes(range(256)) * 1000
on_each_loop = pytest.mark.parametrize("backend", ["trio", "asyncio"])


def run(backend: str, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        with anyio.fail_after(PATIENCE):
            await function()

    anyio.run(limited, backend=backend)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a thread or a line of the log is awaited
        await anyio.sleep(0.01)


def descriptors_of(path: Path) -> list[Path]:
    return [fd for fd in Path("/proc/self/fd").iterdir() if fd.resolve() == path]


async def pieces(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


class OpenOn:
    """Contains the descriptors of this process that are open on a file."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __contains__(self, fd: int) -> bool:
        return os.path.realpath(f"/proc/self/fd/{fd}") == self._path


class Sink:
    def __init__(self) -> None:
        self.data = b""

    async def send(self, data: bytes) -> None:
        self.data += data


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "card"
    path.write_bytes(b"old" * 100_000)
    return path


@on_each_loop
def test_image_is_written_and_read_back(
    device: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("driver.mux")
    caplog.set_level("INFO", "driver.mux")

    async def main() -> None:
        await write_to_storage_device(device, pieces(IMAGE), leeway=0, logger=logger)
        sink = Sink()
        await read_from_storage_device(device, sink, logger=logger)
        assert sink.data == await anyio.Path(device).read_bytes()

    run(backend, main)
    assert device.read_bytes() == IMAGE + (b"old" * 100_000)[len(IMAGE) :]  # a device has its size
    assert f"storage device {device} is ready" in caplog.text
    assert f"written 0.2 MiB to storage device {device}" in caplog.text
    assert f"read 0.3 MiB from storage device {device}" in caplog.text


@on_each_loop
def test_device_is_awaited_until_it_has_a_size(
    tmp_path: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "card"
    caplog.set_level("DEBUG", "jumpstarter.common.storage")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_storage_device, path, "rb", PATIENCE)
            await until(lambda: "No such file" in caplog.text)
            path.touch()
            await until(lambda: "its size is 0" in caplog.text)
            path.write_bytes(b"x")

    run(backend, main)


@on_each_loop
def test_device_that_does_not_appear_is_a_timeout_that_says_why(
    tmp_path: Path, backend: str
) -> None:
    async def main() -> None:
        with pytest.raises(
            TimeoutError, match=r"card was not ready within 0\.01 s: .*No such file"
        ):
            await write_to_storage_device(tmp_path / "card", pieces(IMAGE), timeout=0.01)

    run(backend, main)


def test_device_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(IsADirectoryError):
            await wait_for_storage_device(tmp_path, "wb")
        with pytest.raises(ValueError, match="mode 'r'"):
            await wait_for_storage_device(tmp_path, "r")

    run("trio", main)


@on_each_loop
@pytest.mark.parametrize("code", [errno.ENOMEDIUM, errno.EIO])
def test_medium_that_is_missing_is_awaited(
    device: Path, monkeypatch: pytest.MonkeyPatch, backend: str, code: int
) -> None:
    seek, answers = os.lseek, [OSError(code, os.strerror(code))]

    def lseek(fd: int, position: int, how: int) -> int:
        if answers:
            raise answers.pop()
        return seek(fd, position, how)

    async def main() -> None:
        monkeypatch.setattr(os, "lseek", lseek)
        assert await wait_for_storage_device(device, "rb") == device

    run(backend, main)
    assert not answers


@on_each_loop
def test_source_that_fails_fails_the_write(device: Path, backend: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"new"
        raise ConnectionError("the client is gone")

    async def main() -> None:
        with pytest.raises(ConnectionError, match="the client is gone"):
            await write_to_storage_device(device, broken(), leeway=0)

    run(backend, main)


def test_short_writes_are_continued(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7000]))

    async def main() -> None:
        await write_to_storage_device(device, pieces(IMAGE), leeway=0)

    run("trio", main)
    assert device.read_bytes()[: len(IMAGE)] == IMAGE


@on_each_loop
def test_sync_is_tried_again_after_an_input_output_error(
    device: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, backend: str
) -> None:
    errors = [OSError(errno.EIO, "busy")]

    def fsync(_: int) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(os, "fsync", fsync)

    async def main() -> None:
        await write_to_storage_device(device, pieces(IMAGE), leeway=0)

    run(backend, main)
    assert not errors
    assert "busy; trying again" in caplog.text


def test_sync_that_fails_otherwise_is_an_error(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fsync)

    async def main() -> None:
        with pytest.raises(OSError, match="full"):
            await write_to_storage_device(device, pieces(IMAGE), leeway=0)

    run("trio", main)


@on_each_loop
def test_sync_that_hangs_is_a_timeout(
    device: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    released, ended = threading.Event(), threading.Event()

    def fsync(_: int) -> None:
        released.wait(PATIENCE)
        ended.set()

    monkeypatch.setattr(os, "fsync", fsync)

    async def main() -> None:
        with pytest.raises(TimeoutError, match=r"has not taken all bytes within 0\.05 s"):
            await write_to_storage_device(device, pieces(IMAGE), fsync_timeout=0.05, leeway=0)
        released.set()  # asyncio's end waits for its threads

    run(backend, main)
    assert ended.wait(PATIENCE)


@on_each_loop
def test_cancelled_write_leaves_no_descriptor(device: Path, backend: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"new"
        started.set()
        await anyio.sleep_forever()

    started = threading.Event()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_to_storage_device, device, endless())
            await until(started.is_set)
            tasks.cancel_scope.cancel()

    run(backend, main)
    assert descriptors_of(device) == []


def test_task_of_asyncio_that_is_cancelled_waits_for_its_write(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, released, write = threading.Event(), threading.Event(), os.write

    def slow(fd: int, data: bytes) -> int:
        if fd in fds:
            entered.set()
            released.wait(PATIENCE)
        return write(fd, data)

    async def main() -> None:
        task = asyncio.create_task(write_to_storage_device(device, pieces(IMAGE)))
        await until(entered.is_set)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert descriptors_of(device) != []
        assert not task.done()
        released.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    fds = OpenOn(device)
    monkeypatch.setattr(os, "write", slow)
    run("asyncio", main)
    assert descriptors_of(device) == []


@on_each_loop
def test_leeway_is_awaited_after_the_sync(
    device: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def main() -> None:
        monkeypatch.setattr(anyio, "sleep", sleep)
        await write_to_storage_device(device, pieces(IMAGE))
        assert waited == [6]

    run(backend, main)
