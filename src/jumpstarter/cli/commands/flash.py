"""The command `flash`: write an image by whichever client of a storage or a flasher there is."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from ..._util.extras import requires_extra
from ...client import DriverClient, StubDriverClient
from ...errors import ClientImportError
from .._connecting import Access, access_options, connected
from .._targets import find_driver, split_address
from .._terminal import exit_on_signals

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]

_STDIN: Final = "-"
_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@click.command("flash")
@click.argument("arguments", nargs=-1, metavar="[ADDRESS] DRIVER FILE")
@click.option("-t", "--target", help="the part of the device, for one that has several")
@access_options
def command(arguments: tuple[str, ...], target: str | None, access: Access) -> None:
    """Write an image to a storage of the device.

    FILE is a local file, - for stdin, or a URL that the exporter fetches. On a terminal, a bar
    shows the progress of a long transfer. The exit code is 0 only if the image was written; Ctrl-C
    (130) and SIGTERM (143) cancel the driver's code. ADDRESS is by default $JUMPSTARTER_HOST.
    """
    address, rest = split_address(arguments, 2)
    if len(rest) > 2:
        raise click.UsageError(f"unexpected argument {rest[2]!r}")
    path, source = rest
    ending = {number: 128 + number for number in (signal.SIGTERM, signal.SIGHUP)}
    with (
        exit_on_signals(ending),
        _image(source) as image,  # first: without an image, the device is not disturbed
        connected(address, access, path=path) as root,
    ):
        result = _flash(find_driver(root, path), path, image, target)
        text = _described(result, image)
    click.echo(f"flashed {path} with {source}{text}")


@contextmanager
def _image(source: str) -> Iterator[str]:
    """Check the image; yield its path, or its URL.

    Raises:
        OSError: It cannot be read.
    """
    if _URL.match(source):
        yield source
    elif source != _STDIN:
        with open(source, "rb") as file:  # noqa: PTH123 - a better error than that of an absent Path
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
                yield source
            else:  # a FIFO, or a device whose size nothing tells
                with _copied(file) as path:
                    yield path
    else:
        if sys.stdin is None:
            raise click.UsageError("stdin is closed: redirect the image to it, or name a file")
        with _copied(sys.stdin.buffer) as path:
            yield path


@contextmanager
def _copied(stream: BinaryIO) -> Iterator[str]:
    """Copy a stream to a file: clients of flashers take a path, and some read it twice."""
    with tempfile.NamedTemporaryFile(prefix="jumpstarter-flash-") as file:
        shutil.copyfileobj(stream, file)
        file.flush()
        yield file.name


def _flash(client: DriverClient, path: str, image: str, target: str | None) -> Any:
    """Write the image by the method that the client's class has for it.

    Raises:
        click.ClickException: It has none.
        ClientImportError: The class is missing, or may not be imported.
    """
    if isinstance(client, StubDriverClient):
        raise ClientImportError(client.missing)
    cls = type(client)
    if callable(getattr(cls, "flash", None)):
        options = {} if target is None else {"target": target}
        return _checked(client.flash, target)(image, **options)
    if callable(getattr(cls, "write_local_file", None)):  # a published storage multiplexer
        if target is not None:
            raise click.UsageError(f"{path!r} has no targets")
        client.host()
        try:
            return client.write_local_file(image)
        finally:
            client.dut()
    text = f"{path!r} cannot be flashed: its client {cls.__name__} has no method flash()"
    raise click.ClickException(text)


def _checked(flash: Any, target: str | None) -> Any:
    """Return the method, which takes a target if there is one.

    Raises:
        click.UsageError: It does not.
    """
    parameters = inspect.signature(flash).parameters.values()
    takes = any(each.name == "target" or each.kind is each.VAR_KEYWORD for each in parameters)
    if target is not None and not takes:
        raise click.UsageError("this storage has no targets")
    return flash


def _described(result: Any, image: str) -> str:
    """Return what is known about the image: its size, and the SHA-256 of what was written."""
    facts = [] if _URL.match(image) else [f"{_size_of(image):,} bytes"]
    if isinstance(result, str) and _SHA256.fullmatch(result):
        facts.append(f"SHA-256 {result}")
    return f": {', '.join(facts)}" if facts else ""


def _size_of(image: str) -> int:
    with Path(image).open("rb") as file:
        return file.seek(0, os.SEEK_END)  # of a block device too, for which stat() has 0
