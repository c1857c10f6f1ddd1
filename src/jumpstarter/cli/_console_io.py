"""Read and write the descriptors of a console without blocking the Trio loop.

None of this changes a descriptor's flags: O_NONBLOCK would hold for every process that shares the
terminal, and for the shell after a crash.
"""

from __future__ import annotations

import errno
import os
import select

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["TypedBytes", "read_some", "write_all"]

_READ = 64 * 1024  # bytes that are read in one step


async def read_some(fd: int, *, is_terminal: bool) -> bytes:
    """Read what is available, at least one byte; `b""` at the end, or when a terminal is gone.

    Raises:
        OSError: It cannot be read.
    """
    while True:
        try:
            await trio.lowlevel.wait_readable(fd)
        except PermissionError:  # epoll knows no files, and they are always readable
            return await trio.to_thread.run_sync(os.read, fd, _READ, abandon_on_cancel=True)
        try:
            return os.read(fd, _READ)
        except BlockingIOError:  # another process has set O_NONBLOCK, and was faster
            continue
        except OSError as exc:
            if is_terminal and exc.errno == errno.EIO:  # it has hung up
                return b""
            raise


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes. Blocks, even if another process has set O_NONBLOCK.

    Raises:
        OSError: They cannot be written; a BrokenPipeError if the reader has gone.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(fd, select.POLLOUT)
            waiting.poll()


class TypedBytes:
    """Bytes that were typed, and wait for being sent. One task adds, and one takes.

    Args:
        limit: The size at which `add` begins to wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._ended = False
        self._discarding = False
        self._changed = trio.lowlevel.ParkingLot()

    async def add(self, data: bytes) -> None:
        """Add bytes. Waits while the limit is reached."""
        while len(self._bytes) >= self._limit:
            await self._changed.park()
        if not self._discarding:
            self._bytes += data
        self._changed.unpark_all()

    def end(self) -> None:
        """Let `take` return `b""` once it has returned everything else."""
        self._ended = True
        self._changed.unpark_all()

    def discard(self) -> None:
        """Forget the bytes, and all that are added from now on."""
        self._discarding = True
        self._bytes.clear()
        self._changed.unpark_all()

    async def take(self) -> bytes:
        """Wait for bytes, and return all that there are; `b""` at the end."""
        while not self._bytes and not self._ended:
            await self._changed.park()
        data = bytes(self._bytes)
        self._bytes.clear()
        self._changed.unpark_all()
        return data
