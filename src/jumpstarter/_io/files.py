"""Read or write whole files, by operations that a worker thread runs (`file_operations`).

A source that changes while it is read is an error. A file is replaced only by a complete one. This
module does not know resource handles or drivers.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from io import FileIO
from pathlib import Path
from uuid import uuid4

from .._util.fork import close_in_children, close_path_in_children
from .._util.writes import name_os_errors, write_all
from .file_operations import FileOperations

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SinkFile", "SourceFile", "Unchanged", "open_sink", "open_source"]


class Unchanged:
    """Detects whether a regular file changed while it was read.

    Compares the size and the times of modification and of change, before and after. The
    number of bytes read is not compared: files in /proc and /sys have other sizes than they say.

    Args:
        descriptor: Of the open file; only asked, never used to read.
        name: How the error names the file.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._before = os.fstat(descriptor)

    @property
    def size(self) -> int | None:
        """The size of a regular file when the reading began, None for anything else."""
        return self._before.st_size if stat.S_ISREG(self._before.st_mode) else None

    def check(self) -> None:
        """Compare. Blocks.

        Raises:
            OSError: The file changed.
        """
        before, after = self._before, os.fstat(self._descriptor)
        if not stat.S_ISREG(before.st_mode):
            return
        if _version_of(before) == _version_of(after):
            return
        change = f"it had {before.st_size:,} bytes and has {after.st_size:,} now"
        if before.st_size == after.st_size:
            change = "somebody wrote to it"
        text = f"the file changed while it was read: {change}"
        text += "; the bytes that were read are a mixture, so try again once nobody writes to it"
        raise OSError(errno.EBUSY, text, self._name)


def _version_of(status: os.stat_result) -> tuple[int, int, int]:
    # A program can set the time of modification back, but not that of the last change.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class SourceFile:
    """A file that is read as a whole. Every method blocks.

    Args:
        path: Its path.

    Attributes:
        size: The size of a regular file, once it is open; otherwise None.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._unchanged: Unchanged
        self.size: int | None = None  # of a regular file, once it is open

    def open(self) -> None:
        """Open the file. Raises OSError."""
        with close_path_in_children(os.O_RDONLY, self._path):
            self._file = FileIO(str(self._path))  # as the error shows it
            close_in_children(self._file)
        self._unchanged = Unchanged(self._file.fileno(), str(self._path))
        self.size = self._unchanged.size

    def readinto(self, buffer: memoryview) -> int:
        """Read some bytes into the buffer, and return their number, 0 at the end.

        Raises:
            OSError: The file cannot be read, or, at the end, it has changed.
        """
        assert self._file is not None
        with name_os_errors(str(self._path)):
            count = self._file.readinto(buffer)
        if count == 0:
            self._unchanged.check()
        if count is None:
            raise BlockingIOError(errno.EAGAIN, "the device has nothing to read", str(self._path))
        return count

    def close(self) -> None:
        """Close it, if it is open."""
        if self._file is not None:
            # Everything was read, or the error that led here is reported.
            with suppress(OSError), close_path_in_children(os.O_RDONLY, self._path):
                self._file.close()


class SinkFile:
    """A file that is written as a whole: under another name, and renamed when it is complete.

    A device or a FIFO is written in place, and cannot be restored. Every method blocks.

    Args:
        path: Its path. A symbolic link to it stays.
        medium: The path must lead to storage: completing waits until the bytes are stored, and a
            file that cannot be synced is an error.
    """

    def __init__(self, path: Path, *, medium: bool = False) -> None:
        self._path = path
        self._medium = medium
        self._file: FileIO | None = None
        self._part: Path | None = None
        self._place = path
        self.in_place: bool = False  # there was nothing to replace it by: what is written is there
        self.count: int = 0  # bytes written

    @property
    def name(self) -> str:
        """The path, with all links followed once it is open."""
        return str(self._place)

    def open(self) -> None:
        """Open it.

        Raises:
            OSError: It cannot be opened, or is a device that is not there.
        """
        self._place = self._path.resolve()
        if self._place.exists() and not self._place.is_file():
            self.in_place = True
            # Without O_CREAT: a device that goes away now is not replaced by a file of its name.
            with close_path_in_children(os.O_WRONLY, self._place):
                self._file = FileIO(os.open(self._place, os.O_WRONLY | os.O_CLOEXEC), "w")
                close_in_children(self._file)
            return
        if not self._place.exists() and _is_for_devices(self._place.parent):
            text = "there is no such device, and no file is made in its place"
            raise FileNotFoundError(errno.ENOENT, text, str(self._place))
        part = self._place.with_name(f".{self._place.name:.50}.{uuid4().hex}.part")  # 200 bytes
        with close_path_in_children(os.O_WRONLY, part):
            _create_beside(part, self._place)
            self._part = part
            self._file = FileIO(part, "w")
            close_in_children(self._file)

    def write(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write all of the pieces. Raises OSError."""
        assert self._file is not None
        with name_os_errors(self.name):  # ENOSPC, for one, comes without it
            for piece in pieces:
                write_all(self._file, piece)
                self.count += len(piece)

    def complete(self) -> None:
        """Sync the file and move it into its place. Raises OSError if that failed."""
        assert self._file is not None
        with name_os_errors(self.name):
            mode = os.fstat(self._file.fileno()).st_mode
            if self._medium or stat.S_ISREG(mode) or stat.S_ISBLK(mode):
                os.fsync(self._file.fileno())  # errors of a full or failing disk come this late
            self._close()
        if self._part is not None:
            self._part.replace(self._place)
            self._part = None

    def close(self) -> None:
        """Close the file, and remove an incomplete copy."""
        with suppress(OSError):  # the error that led here is reported
            self._close()
        if self._part is not None:
            with suppress(OSError):
                self._part.unlink()

    def _close(self) -> None:
        if self._file is not None:
            with close_path_in_children(os.O_WRONLY, self._part or self._place, self._place):
                self._file.close()


def _is_for_devices(directory: Path) -> bool:
    """Return True if a directory holds devices; mounts below /dev, such as /dev/shm, do not."""
    root = Path("/dev")
    within = directory == root or root in directory.parents
    return within and directory.exists() and directory.stat().st_dev == root.stat().st_dev


def _create_beside(part: Path, path: Path) -> None:
    """Create an empty file that is to replace another, with the permissions of that, if any."""
    try:
        part.touch()
    except OSError as exc:
        exc.filename = str(path)  # the caller does not know the partial file
        raise
    with suppress(FileNotFoundError):
        part.chmod(stat.S_IMODE(path.stat().st_mode))


@asynccontextmanager
async def open_source(path: Path, operations: FileOperations) -> AsyncIterator[SourceFile]:
    """Open a file, to be read by `operations.run(source.readinto, buffer)`.

    Entering and leaving are checkpoints.
    """
    source = SourceFile(path)
    try:
        await operations.run(source.open)
        yield source
    finally:
        await operations.finish(source.close)


@asynccontextmanager
async def open_sink(
    path: Path, operations: FileOperations, *, medium: bool = False
) -> AsyncIterator[SinkFile]:
    """Open a file, to be written by `operations.run(sink.write, pieces)`.

    Entering and leaving are checkpoints. If the block raises, the file keeps its old content.
    """
    sink = SinkFile(path, medium=medium)
    try:
        await operations.run(sink.open)
        yield sink
        await operations.run(sink.complete)
    finally:
        await operations.finish(sink.close)
