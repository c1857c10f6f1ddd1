"""Storage that is a file on the exporter: a disk image for an emulator, or a card in a reader.

An image is written beside its place and moved there when it is whole, so that one which was cut
short leaves what was there before; a device is written as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import trio

from .._transfer import MAX_BYTES
from .._writes import naming
from ..client import DriverClient
from ..client._lending import part_of
from ..client._progress import Progress
from ..driver import Driver, export
from ..errors import ArgumentError
from .mixins import ResourceMixin

__all__ = ["FileStorage", "StorageClient"]

_PIECE: Final = 256 * 1024
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(kw_only=True)
class FileStorage(Driver):
    """One file that can be written and read as a whole.

    Attributes:
        path: Of the file, or of a block device, which one client should write at a time.
        max_bytes: How large an image may be.
    """

    path: str
    max_bytes: int = MAX_BYTES

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "jumpstarter.drivers.storage.StorageClient"

    @export
    async def write(self, source: str) -> str:
        """Write an image, which the client has lent, or which is at a URL; give its SHA-256."""
        place = await trio.to_thread.run_sync(Path(self.path).resolve)  # a link stays one
        is_device = await trio.to_thread.run_sync(_is_device, place)
        part = place if is_device else await trio.to_thread.run_sync(part_of, place)
        try:
            digest = await self._copy(source, part)
            if not is_device:
                await trio.to_thread.run_sync(part.replace, place)
        except BaseException:
            if not is_device:
                part.unlink(missing_ok=True)
            raise
        return digest

    async def _copy(self, source: str, place: Path) -> str:
        digest = hashlib.sha256()
        async with self.resource(source, max_bytes=self.max_bytes) as stream:
            with await trio.to_thread.run_sync(place.open, "wb") as file:

                def take(data: bytes | bytearray) -> None:
                    digest.update(data)
                    with naming(self.path):  # ENOSPC, for one, comes without it
                        file.write(data)

                async for data in stream:
                    await trio.to_thread.run_sync(take, data)
                with naming(self.path):
                    await trio.to_thread.run_sync(_sync, file)
        return digest.hexdigest()

    @export
    async def read(self, target: str) -> str:
        """Write what there is to a resource of the client's; give its SHA-256."""
        digest = hashlib.sha256()
        async with self.resource(target) as stream:
            with await trio.to_thread.run_sync(Path(self.path).open, "rb") as file:

                def give() -> bytes:
                    with naming(self.path):
                        data = file.read(_PIECE)
                    digest.update(data)
                    return data

                while data := await trio.to_thread.run_sync(give):
                    await stream.send_all(data)
        return digest.hexdigest()

    @export
    def erase(self) -> None:
        """Forget the image, which is a file."""
        place = Path(self.path)
        if _is_device(place):
            raise ValueError(f"{place} is a device, and cannot be erased: write an empty image")
        place.unlink(missing_ok=True)

    @export
    def size(self) -> int:
        """Give the image's bytes, 0 if there is none; those of all of a block device."""
        place = Path(self.path)
        if place.is_block_device():
            with place.open("rb") as device:
                return device.seek(0, os.SEEK_END)
        return place.stat().st_size if place.exists() else 0


def _is_device(place: Path) -> bool:
    return place.exists() and not place.is_file()


def _sync(file: BinaryIO) -> None:
    """Have it on the medium before anybody boots from it."""
    file.flush()
    os.fsync(file.fileno())


class StorageClient(ResourceMixin, DriverClient):
    """What a test has of a storage."""

    def flash(
        self, image: str | os.PathLike[str], *, compress: bool = False, progress: Progress = None
    ) -> str:
        """Write an image to the storage, and give its SHA-256.

        Args:
            image: A local file, or an `http://` or `https://` URL, which the exporter fetches.
            compress: As for `ResourceMixin.local_file`.
            progress: As for `ResourceMixin.local_file`.

        Raises:
            DriverError: The storage still has what it had before.
            ArgumentError: It is another kind of URL; nothing was sent.
        """
        if isinstance(image, str) and (scheme := _URL.match(image)):
            if scheme[1].lower() not in {"http", "https"}:
                text = f"{image:.100} cannot be fetched: only http:// and https:// URLs can"
                raise ArgumentError(f"{text}, and local files are given by their path")
            return self.call_as(str, "write", image)
        with self.local_file(image, compress=compress, progress=progress) as handle:
            return self.call_as(str, "write", handle)

    def dump(
        self, path: str | os.PathLike[str], *, compress: bool = False, progress: Progress = None
    ) -> str:
        """Read the storage into a local file, and give its SHA-256.

        The file is there once it is complete. Arguments and errors as for `flash`.
        """
        with self.local_file(
            path, write=True, size=self.size(), compress=compress, progress=progress
        ) as handle:
            return self.call_as(str, "read", handle)

    def erase(self) -> None:
        """Forget the image."""
        self.call("erase")

    def size(self) -> int:
        """Give the image's bytes, 0 if there is none."""
        return self.call_as(int, "size")
