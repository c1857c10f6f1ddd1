"""Storage in a file on the exporter: a disk image for an emulator, or a card in a reader.

An image is written to a temporary file in the same directory, and renamed when it is complete. So
if a transfer is interrupted, or its source changes meanwhile, the old image stays. A block device
is written in place; if that fails after the first byte, the error says that its content is lost.

Any file operation can hang, on a network file system for example. The call still ends in time (see
`_io.file_operations`), and further calls are refused until the hanging thread has returned.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .._io.file_operations import FileOperations
from .._io.files import SinkFile, open_sink, open_source
from .._io.transfer import MAX_BYTES
from .._util.checks import check_int, check_path
from ..client import DriverClient
from ..client._progress import Progress
from ..driver import Driver, export
from ..errors import ArgumentError, ConfigurationError
from .mixins import ResourceMixin

if TYPE_CHECKING:
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["FileStorage", "StorageClient"]

_READ_SIZE: Final = 256 * 1024  # bytes read from the file in one step
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(kw_only=True)
class FileStorage(Driver):
    """A file that is written and read as a whole.

    Attributes:
        path: The path of the file, or of a block device. Only one client should write a device at a
            time.
        max_bytes: The largest image that is accepted, in bytes.

    Raises:
        ConfigurationError: A field cannot be used.
    """

    path: str
    max_bytes: int = MAX_BYTES
    _hung: list[FileOperations] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self.path = check_path("path of FileStorage", self.path, ConfigurationError)
        name = "max_bytes of FileStorage"
        check_int(name, self.max_bytes, 0, error=ConfigurationError)

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.storage.StorageClient"

    @export
    async def write(self, source: str) -> str:
        """Write an image that the client lends, or that is at a URL, and return its SHA-256."""
        digest = hashlib.sha256()
        with self._operations() as operations:
            async with open_sink(Path(self.path), operations, medium=True) as file:

                def write(data: bytes) -> None:
                    digest.update(data)
                    file.write([data])

                try:
                    async with self.resource(source, max_bytes=self.max_bytes) as stream:
                        async for data in stream:
                            await operations.run(write, data)
                except Exception as exc:
                    _note_lost_content(exc, file)
                    raise
        return digest.hexdigest()

    @export
    async def read(self, target: str) -> str:
        """Send the image to a resource that the client lends, and return its SHA-256."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_READ_SIZE))
        with self._operations() as operations:
            async with open_source(Path(self.path), operations) as file:

                def read() -> memoryview:
                    data = buffer[: file.readinto(buffer)]
                    digest.update(data)
                    return data

                async with self.resource(target) as stream:
                    while data := await operations.run(read):
                        await stream.send_all(data)
        return digest.hexdigest()

    @export
    async def erase(self) -> None:
        """Delete the image, which must be a file."""
        with self._operations() as operations:
            await operations.run(_erase, Path(self.path))

    @export
    async def size(self) -> int:
        """Return the size of the image in bytes, or 0 without one; or that of a block device."""
        with self._operations() as operations:
            return await operations.run(_size, Path(self.path))

    @contextmanager
    def _operations(self) -> Iterator[FileOperations]:
        """Yield the file operations of one call, unless a thread of an earlier call still hangs.

        Otherwise every call would use up one more thread while the file system hangs.

        Raises:
            OSError: An earlier call's thread has not returned (EBUSY).
        """
        self._hung = [operations for operations in self._hung if operations.is_hanging]
        if self._hung:
            text = "an earlier operation hangs in the exporter's system; try again once it is back"
            raise OSError(errno.EBUSY, text, self.path)
        operations = FileOperations(self.path)
        try:
            yield operations
        finally:
            if operations.is_hanging:
                self._hung.append(operations)


def _erase(place: Path) -> None:
    if place.exists() and not place.is_file():
        raise ValueError(f"{place} is a device, and cannot be erased: write an empty image")
    place.unlink(missing_ok=True)


def _size(place: Path) -> int:
    if place.is_block_device():
        with place.open("rb") as device:
            return device.seek(0, os.SEEK_END)
    return place.stat().st_size if place.exists() else 0


def _note_lost_content(exc: Exception, file: SinkFile) -> None:
    """Add to an error what it left on a device, whose old content cannot be restored."""
    if file.in_place and file.count:
        exc.add_note(
            f"{file.name} is a device: its first {file.count:,} bytes were overwritten, and what"
            " was there is lost; write a complete image before it is used"
        )


class StorageClient(ResourceMixin, DriverClient):
    """The client of a storage."""

    def cli(self) -> click.Group:
        """Return the commands of `j` for it: those of its driver, and `flash` and `dump`."""
        from ._commands import storage_commands  # noqa: PLC0415 - it needs an extra

        return storage_commands(self)

    def flash(
        self, image: str | os.PathLike[str], *, compress: bool = False, progress: Progress = None
    ) -> str:
        """Write an image to the storage, and return its SHA-256. Blocks.

        Args:
            image: The path of a local file, or an `http://` or `https://` URL, which the exporter
                fetches.
            compress: As for `ResourceMixin.local_file`.
            progress: As for `ResourceMixin.local_file`.

        Raises:
            OSError: The image cannot be read, or changed while it was read.
            DriverError: The driver could not write it. After either error, a file has its old
                content; if the content of a device was lost, a note on the error says so.
            ArgumentError: The URL has another scheme; nothing was sent.
        """
        if isinstance(image, str) and (scheme := _URL.match(image)):
            if scheme[1].lower() not in {"http", "https"}:
                text = f"{image:.100} cannot be fetched: only http:// and https:// URLs can"
                raise ArgumentError(f"{text}, and local files are given by their path")
            return self.call_as(str, "write", image)
        image = check_path("image", image)
        with self.local_file(image, compress=compress, progress=progress) as handle:
            return self.call_as(str, "write", handle)

    def dump(
        self, path: str | os.PathLike[str], *, compress: bool = False, progress: Progress = None
    ) -> str:
        """Read the storage into a local file, and return its SHA-256. Blocks.

        The file appears, or replaces the old one, once it is complete.

        Args:
            path: The path of the local file.
            compress: As for `ResourceMixin.local_file`.
            progress: As for `ResourceMixin.local_file`.

        Raises:
            OSError: The file cannot be written.
            DriverError: The driver could not read the storage.
        """
        path = check_path("path", path)
        with self.local_file(
            path, write=True, size=self.size(), compress=compress, progress=progress
        ) as handle:
            return self.call_as(str, "read", handle)

    def erase(self) -> None:
        """Delete the image. The driver refuses it for a device."""
        self.call("erase")

    def size(self) -> int:
        """Return the size of the image in bytes, or 0 without one."""
        return self.call_as(int, "size")
