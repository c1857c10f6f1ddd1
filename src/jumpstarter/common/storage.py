"""Copy an image to a storage device, such as the card of a multiplexer, and back.

A device that was just connected appears after a while, first without a medium. Blocking operations
run in worker threads, so other calls go on. This module needs the extra `compat`, and works in Trio
and in asyncio.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from .._util.extras import requires_extra

with requires_extra("compat", "jumpstarter.common.storage"):
    import anyio
    import anyio.to_thread

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["read_from_storage_device", "wait_for_storage_device", "write_to_storage_device"]

_Path: TypeAlias = str | os.PathLike[str]

_NO_MEDIUM: Final = getattr(errno, "ENOMEDIUM", errno.ENXIO)  # macOS reports ENXIO
_NOT_YET: Final = {errno.ENOENT, _NO_MEDIUM, errno.EIO}
_FLAGS: Final = {"rb": os.O_RDONLY, "wb": os.O_WRONLY}
_PIECE: Final = 64 << 10  # bytes that are read at a time
_REPORT: Final = 50 << 20  # bytes between two lines of the log


async def wait_for_storage_device(
    storage_device: _Path,
    mode: str,
    timeout: float = 10,  # noqa: ASYNC109 - published signature
    *,
    logger: logging.Logger | None = None,
) -> _Path:
    """Wait until a storage device can be opened and has a size. Tries once a second.

    Args:
        storage_device: The path of the device.
        mode: `"rb"` to read it or `"wb"` to write it.
        timeout: Seconds to wait.
        logger: Where to say what it waits for.

    Returns:
        The path.

    Raises:
        TimeoutError: The device did not appear in time, or has no medium or size.
        OSError: It cannot be opened, for another reason.
        ValueError: The mode is another one.
    """
    if mode not in _FLAGS:
        raise ValueError(f"mode {mode!r}: give 'rb' to read the device or 'wb' to write it")
    logger = logger or logging.getLogger(__name__)
    missing = "it has no answer yet"
    try:
        with anyio.fail_after(timeout):
            while missing := await _in_thread(_why_not_ready, storage_device, _FLAGS[mode]):
                logger.debug("waiting for storage device %s: %s", storage_device, missing)
                await anyio.sleep(1)
    except TimeoutError as exc:
        text = f"storage device {storage_device} was not ready within {timeout} s: {missing}"
        raise TimeoutError(text) from exc
    logger.info("storage device %s is ready", storage_device)
    return storage_device


async def write_to_storage_device(
    storage_device: _Path,
    resource: Any,
    timeout: float = 10,  # noqa: ASYNC109 - published signature
    fsync_timeout: float = 900,
    leeway: float = 6,
    *,
    logger: logging.Logger | None = None,
) -> None:
    """Write all bytes of a stream to a storage device, and wait until they are on it.

    If it raises or is cancelled, the device has lost its content and holds a part of the new one.

    Args:
        storage_device: The path of the device.
        resource: A stream or an async iterator of bytes.
        timeout: Seconds to wait for the device.
        fsync_timeout: Seconds in which the system must have written everything. An input/output
            error meanwhile is logged, and tried again.
        leeway: Seconds to wait in the end, for a device that needs some before it is disconnected.
        logger: Where to report progress.

    Raises:
        TimeoutError: The device did not appear, or did not take the bytes, in time.
        OSError: It cannot be written.
        Exception: Any that the stream raises.
    """
    path = await wait_for_storage_device(storage_device, "wb", timeout, logger=logger)
    report = _Report(logger, "written", "to", path)
    async with _opened(path, os.O_WRONLY) as device:
        async for piece in resource:
            await _in_thread(device.write_all, piece)
            report.add(len(piece))
        report.end()
        await _sync(device, path, fsync_timeout, logger or logging.getLogger(__name__))
    await anyio.sleep(leeway)


async def read_from_storage_device(
    storage_device: _Path,
    resource: Any,
    timeout: float = 10,  # noqa: ASYNC109 - published signature
    *,
    logger: logging.Logger | None = None,
) -> None:
    """Send the whole content of a storage device to a stream.

    Args:
        storage_device: The path of the device.
        resource: A stream with an async `send`.
        timeout: Seconds to wait for the device.
        logger: Where to report progress.

    Raises:
        TimeoutError: The device did not appear in time.
        OSError: It cannot be read.
        Exception: Any that the stream raises.
    """
    path = await wait_for_storage_device(storage_device, "rb", timeout, logger=logger)
    report = _Report(logger, "read", "from", path)
    async with _opened(path, os.O_RDONLY) as device:
        while piece := await _in_thread(device.read):
            await resource.send(piece)
            report.add(len(piece))
        report.end()


def _why_not_ready(path: _Path, flags: int) -> str:
    """Return why a device cannot be used yet; empty if it can."""
    try:
        device = os.open(path, flags)
    except OSError as exc:
        if exc.errno not in _NOT_YET:
            raise
        return str(exc)
    try:
        return "" if os.lseek(device, 0, os.SEEK_END) > 0 else "its size is 0"
    except OSError as exc:
        if exc.errno not in _NOT_YET:
            raise
        return str(exc)
    finally:
        os.close(device)


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *args)


class _Device:
    """An open device, used in worker threads.

    A task of asyncio that is cancelled leaves its thread behind, in the middle of a write. The lock
    makes `close` wait for that thread, which otherwise would write to whatever has the descriptor's
    number by then.
    """

    def __init__(self, path: _Path, flags: int) -> None:
        self._path = path
        self._flags = flags
        self._lock = threading.Lock()
        self._fd: int | None = None

    def open(self) -> None:
        with self._lock:
            self._fd = os.open(self._path, self._flags)

    def read(self) -> bytes:
        with self._lock:
            return os.read(self._descriptor(), _PIECE)

    def write_all(self, piece: Any) -> None:
        with self._lock, memoryview(piece) as view:
            done = 0
            while done < len(view):
                done += os.write(self._descriptor(), view[done:])

    def sync(self) -> None:
        with self._lock:
            copy = os.dup(self._descriptor())  # `close` does not wait for a sync that hangs
        try:
            os.fsync(copy)
        finally:
            os.close(copy)

    def close(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _descriptor(self) -> int:
        if self._fd is None:
            raise OSError(errno.EBADF, "the device is closed", str(self._path))
        return self._fd


@asynccontextmanager
async def _opened(path: _Path, flags: int) -> AsyncIterator[_Device]:
    device = _Device(path, flags)
    try:
        await _in_thread(device.open)
        yield device
    finally:
        with anyio.CancelScope(shield=True):  # to close a device may write what it has cached
            await _in_thread(device.close)


async def _sync(device: _Device, path: _Path, seconds: float, logger: logging.Logger) -> None:
    """Wait until the system has written everything; a hanging one is left behind in its thread."""
    logger.info("waiting until storage device %s has everything", path)
    try:
        with anyio.fail_after(seconds):
            while not await _synced(device, path, logger):  # noqa: ASYNC110 - it sends no event
                await anyio.sleep(1)
    except TimeoutError as exc:
        text = f"storage device {path} has not taken all bytes within {seconds} s"
        raise TimeoutError(text) from exc


async def _synced(device: _Device, path: _Path, logger: logging.Logger) -> bool:
    try:
        await anyio.to_thread.run_sync(device.sync, abandon_on_cancel=True)
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        logger.warning("fsync of storage device %s: %s; trying again", path, exc)
        return False
    return True


class _Report:
    """Logs the progress of a copy, every 50 MiB and at the end."""

    def __init__(
        self, logger: logging.Logger | None, done: str, preposition: str, path: _Path
    ) -> None:
        self._logger = logger or logging.getLogger(__name__)
        self._text = f"{done} %.1f MiB {preposition} storage device {path}"
        self._count = 0
        self._next = _REPORT

    def add(self, count: int) -> None:
        self._count += count
        if self._count >= self._next:
            self._next = self._count + _REPORT
            self.end()

    def end(self) -> None:
        self._logger.info(self._text, self._count / (1 << 20))
