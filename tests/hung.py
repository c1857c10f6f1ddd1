"""Make paths on which file operations block until the test releases them.

Opening a FIFO without a peer blocks, and so does reading a FIFO whose peer is silent. On a FUSE
file system without a server every operation blocks, as on a network file system whose server is
gone.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import pytest

from helpers import PATIENCE
from jumpstarter._io.file_operations import abandoned_threads

__all__ = ["HUNG", "KINDS", "hung"]

_MNT_DETACH: Final = 2


@contextmanager
def _lonely_fifo(directory: Path) -> Iterator[Path]:
    path = directory / "fifo"
    os.mkfifo(path)
    try:
        yield path
    finally:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


@contextmanager
def _silent_fifo(directory: Path) -> Iterator[Path]:
    path = directory / "fifo"
    os.mkfifo(path)
    peer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield path
    finally:
        os.close(peer)


@contextmanager
def _unserved(directory: Path) -> Iterator[Path]:
    """Mount a file system whose server never answers. Skips the test if that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        pytest.skip(f"no FUSE file system can be mounted here: {exc}")
    place = directory / "mounted"
    place.mkdir()
    options = f"fd={server},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    try:
        if libc.mount(b"none", bytes(place), b"fuse", 0, options.encode()):
            pytest.skip(f"cannot mount here: {os.strerror(ctypes.get_errno())}")
        try:
            yield place / "file"
        finally:
            libc.umount2(bytes(place), _MNT_DETACH)
    finally:
        os.close(server)  # ends every operation that waits for an answer


_MAKERS: Final[dict[str, Callable[[Path], AbstractContextManager[Path]]]] = {
    "a FIFO without a peer": _lonely_fifo,
    "a FIFO whose peer is silent": _silent_fifo,
    "a file system without a server": _unserved,
}
KINDS: Final = list(_MAKERS)
HUNG: Final = pytest.mark.parametrize("kind", KINDS)


@contextmanager
def hung(kind: str, directory: Path) -> Iterator[Path]:
    """Yield a path on which operations block; at the end, release them and wait for them."""
    with _MAKERS[kind](directory) as path:
        yield path
    deadline = time.monotonic() + PATIENCE
    while abandoned_threads:
        assert time.monotonic() < deadline, f"still held: {abandoned_threads}"
        time.sleep(0.01)
