"""The client of drivers that flash images and dump them, with its commands.

An image is a local file, or an `http://` or `https://` URL that the exporter fetches itself. This
module needs the extra `compat`.
"""

from __future__ import annotations

import os
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from .._util.compression import Compression
from .._util.extras import requires_extra
from ..errors import ArgumentError
from ._base import DriverClient
from .adapters import blocking

with requires_extra("compat", "the client of a flasher"):
    import click

    from ._file_streams import open_reader, open_writer
    from .decorators import driver_click_group

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["FlasherClient", "FlasherClientInterface", "PathBuf"]

#: The path of a local file, or a URL.
PathBuf: TypeAlias = str | os.PathLike[str]

_COMPRESSION: Final = click.option(
    "--compression",
    type=click.Choice([each.value for each in Compression], case_sensitive=False),
    help="How the file is compressed; the exporter expands it, or compresses what it sends.",
)


class FlasherClientInterface(metaclass=ABCMeta):
    """The base class of clients of flashers: two methods, and the commands for them."""

    @abstractmethod
    def flash(
        self,
        path: PathBuf | dict[str, PathBuf],
        *,
        target: str | None = None,
        compression: Compression | None = None,
    ) -> Any:
        """Write an image to the device.

        Args:
            path: The image, or the image of each target.
            target: The part of the device, for one that has several.
            compression: How the image is compressed; the exporter expands it.
        """

    @abstractmethod
    def dump(
        self,
        path: PathBuf,
        *,
        target: str | None = None,
        compression: Compression | None = None,
    ) -> Any:
        """Read an image from the device.

        Args:
            path: Where it goes.
            target: The part of the device, for one that has several.
            compression: How to compress it.
        """

    def cli(self) -> click.Group:
        """Return the group of commands `flash` and `dump`."""

        @driver_click_group(self)
        def base() -> None:
            """Generic flasher interface."""

        @base.command()
        @click.argument("file", required=False)
        @click.option("-t", "--target", "targets", multiple=True, help="An image as name:file.")
        @_COMPRESSION
        def flash(file: str | None, targets: tuple[str, ...], compression: str | None) -> None:
            """Write an image to the device: FILE, or one for each target."""
            encoding = None if compression is None else Compression(compression)
            if targets:
                if file is not None:
                    raise click.UsageError("give FILE, or images by --target, but not both")
                images: dict[str, PathBuf] = dict(map(_target, targets))
                self.flash(images, compression=encoding)
            elif file is not None:
                self.flash(file, target=None, compression=encoding)
            else:
                raise click.UsageError("FILE is missing; or give images by --target name:file")

        @base.command()
        @click.argument("file")
        @click.option("--target", help="The part of the device.")
        @_COMPRESSION
        def dump(file: str, target: str | None, compression: str | None) -> None:
            """Read an image from the device to FILE."""
            encoding = None if compression is None else Compression(compression)
            self.dump(file, target=target, compression=encoding)

        return base


class FlasherClient(FlasherClientInterface, DriverClient):
    """The client of a `jumpstarter.driver.FlasherInterface`."""

    def flash(
        self,
        path: PathBuf | dict[str, PathBuf],
        *,
        target: str | None = None,
        compression: Compression | None = None,
    ) -> Any:
        """Write an image to the device. Blocks until the driver has finished.

        Args:
            path: A local file, or a URL that the exporter fetches. Or a dict, which flashes an
                image to each target, one after the other.
            target: The part of the device, for one that has several. Not with a dict.
            compression: How a local file is compressed; the exporter expands it. Ignored for a URL,
                with a warning.

        Returns:
            What the driver returns; a dict of that by target if `path` is one.

        Raises:
            ArgumentError: A target was given beside a dict.
            OSError: The file cannot be read, or changed while it was read.
            DriverError: The driver has failed. If other targets were flashed before, a note names
                them.
            DriverTimeoutError: The surrounding `timeout` ran out.
            MissingExtra: It takes an extra that is not installed here.
        """
        if not isinstance(path, dict):
            return self._flash_one(path, target, compression)
        if target is not None:
            text = "the 'target' parameter is not valid with several images: each has its target"
            raise ArgumentError(f"{text}, and target={target!r} was given too")
        results: dict[str, Any] = {}
        for each, image in path.items():
            try:
                results[each] = self._flash_one(image, each, compression)
            except Exception as exc:
                done = ", ".join(results) or "no other target"
                exc.add_note(f"target {each!r} has failed; flashed before: {done}")
                raise
        return results

    def dump(
        self,
        path: PathBuf,
        *,
        target: str | None = None,
        compression: Compression | None = None,
    ) -> Any:
        """Read an image from the device. Blocks until the driver has finished.

        Args:
            path: A local file, which is replaced once all bytes have arrived; or a URL, to which
                the exporter sends them by PUT.
            target: The part of the device, for one that has several.
            compression: How the exporter compresses what it sends to a local file. Ignored for a
                URL, with a warning.

        Returns:
            What the driver returns.

        Raises:
            OSError: The file cannot be written. One that was there before stays as it was.
            DriverError: The driver has failed, likewise.
            DriverTimeoutError: The surrounding `timeout` ran out, likewise.
            MissingExtra: It takes an extra that is not installed here.
        """
        _warn_of_compression(path, compression, level=3)
        with _handle(self, path, "wb", compression) as handle:
            return self.call("dump", handle, target)

    def _flash_one(self, path: PathBuf, target: str | None, compression: Compression | None) -> Any:
        _warn_of_compression(path, compression, level=4)
        with _handle(self, path, "rb", compression) as handle:
            return self.call("flash", handle, target)


def _handle(
    client: DriverClient, path: PathBuf, mode: Literal["rb", "wb"], compression: Compression | None
) -> AbstractContextManager[dict[str, Any]]:
    """Lend a file or a URL, for the length of a block; yields the handle."""
    text = os.fspath(path)
    if not _is_url(path):
        return _lend_file(client=client, path=Path(text), mode=mode, compression=compression)
    method = "GET" if mode == "rb" else "PUT"
    return nullcontext({"kind": "presigned_request", "headers": {}, "url": text, "method": method})


def _is_url(path: PathBuf) -> bool:
    return os.fspath(path).lower().startswith(("http://", "https://"))


def _warn_of_compression(path: PathBuf, compression: Compression | None, *, level: int) -> None:
    if compression is not None and _is_url(path):
        text = f"compression={str(compression)!r} is ignored for a URL: the exporter transfers its"
        warnings.warn(f"{text} bytes as they are", stacklevel=level)


@blocking
@asynccontextmanager
async def _lend_file(
    *,
    client: DriverClient,
    path: Path,
    mode: Literal["rb", "wb"],
    compression: Compression | None,
) -> AsyncIterator[dict[str, Any]]:
    compressed = compression is not None
    opened = open_reader(path, compressed=compressed) if mode == "rb" else open_writer(path)
    async with (
        opened as stream,
        client.resource_async(stream, content_encoding=compression) as handle,
    ):
        yield handle


def _target(spec: str) -> tuple[str, str]:
    """Return the name and the file of a `name:file`."""
    name, colon, file = spec.partition(":")
    if not (name and colon and file):
        raise click.BadParameter(f"{spec!r} is not name:file", param_hint="--target")
    return name, file
