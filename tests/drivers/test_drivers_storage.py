"""Tests of `jumpstarter.drivers.storage`: complete and interrupted transfers of images."""

from __future__ import annotations

import hashlib
import http.server
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, cast

import pytest

from helpers import served
from jumpstarter.drivers.storage import FileStorage, StorageClient
from jumpstarter.errors import ArgumentError, DriverError, DriverInvalidArgument, DriverOSError

IMAGE: Final = bytes(range(256)) * 5000
DIGEST: Final = hashlib.sha256(IMAGE).hexdigest()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.img"
    path.write_bytes(IMAGE)
    return path


@pytest.fixture
def card(tmp_path: Path) -> Path:
    directory = tmp_path / "card"
    directory.mkdir()
    return directory / "card.img"


@contextmanager
def storage(card: Path, max_bytes: int = 2**30) -> Iterator[StorageClient]:
    with served(FileStorage(path=str(card), max_bytes=max_bytes)) as client:
        yield cast("StorageClient", client)


@pytest.mark.parametrize("compress", [False, True])
def test_an_image_is_flashed_and_dumped(
    image: Path, card: Path, tmp_path: Path, compress: bool
) -> None:
    with storage(card) as client:
        assert client.size() == 0
        assert client.flash(image, compress=compress) == DIGEST
        assert card.read_bytes() == IMAGE
        assert client.size() == len(IMAGE)
        assert client.dump(tmp_path / "dump", compress=compress) == DIGEST
        assert (tmp_path / "dump").read_bytes() == IMAGE
        client.erase()
        client.erase()
        assert client.size() == 0


def test_interrupted_image_leaves_the_old_file(image: Path, card: Path) -> None:
    card.write_bytes(b"old")

    def fail(done: int, total: int | None) -> None:
        if done > 500_000:
            raise ZeroDivisionError(total)

    with storage(card) as client, pytest.raises(ZeroDivisionError):
        client.flash(image, progress=fail)
    assert card.read_bytes() == b"old"
    assert [path.name for path in card.parent.iterdir()] == [card.name]


def test_an_image_that_is_too_large_is_refused(image: Path, card: Path) -> None:
    with (
        storage(card, max_bytes=1000) as client,
        pytest.raises(DriverInvalidArgument, match="more than the 1,000 bytes"),
    ):
        client.flash(image)
    assert list(card.parent.iterdir()) == []


def test_dump_of_a_missing_image_is_an_error(card: Path, tmp_path: Path) -> None:
    with storage(card) as client, pytest.raises(DriverOSError, match=r"card\.img"):
        client.dump(tmp_path / "dump")
    assert not (tmp_path / "dump").exists()


def test_device_is_written_in_place(image: Path) -> None:
    with storage(Path("/dev/null")) as client, pytest.raises(DriverError, match="Invalid arg"):
        client.flash(image)  # the driver writes all bytes, but fsync refuses this device
    assert Path("/dev/null").is_char_device()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


def test_an_image_can_be_fetched_by_the_exporter(
    image: Path, card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    handler = partial(_Quiet, directory=str(image.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with storage(card) as client:
            url = f"http://127.0.0.1:{server.server_address[1]}/image.img"
            assert client.flash(url) == DIGEST
        server.shutdown()
        thread.join()
    assert card.read_bytes() == IMAGE


def test_dump_reports_its_total_size(card: Path, tmp_path: Path) -> None:
    card.write_bytes(IMAGE)
    told: list[tuple[int, int | None]] = []
    with storage(card) as client:
        client.dump(tmp_path / "dump", progress=lambda *how_far: told.append(how_far))
    assert told[-1] == (len(IMAGE), len(IMAGE))
    assert {total for _, total in told} == {len(IMAGE)}


@pytest.mark.parametrize("url", ["ftp://host/image.img", "s3+x://bucket/image.img"])
def test_url_with_another_scheme_is_refused_before_anything_is_sent(card: Path, url: str) -> None:
    with (
        storage(card) as client,
        pytest.raises(ArgumentError, match=r"only http:// and https:// URLs can"),
    ):
        client.flash(url)
    assert list(card.parent.iterdir()) == []


def test_image_keeps_the_link_and_the_permissions(image: Path, card: Path) -> None:
    card.write_bytes(b"old")
    card.chmod(0o600)
    link = card.with_name("link")
    link.symlink_to(card)
    with storage(link) as client:
        client.flash(image)
    assert link.is_symlink()
    assert card.read_bytes() == IMAGE
    assert stat.S_IMODE(card.stat().st_mode) == 0o600


def test_image_may_have_the_longest_file_name(image: Path, card: Path) -> None:
    path = card.with_name("ä" * 127)
    with storage(path) as client:
        client.flash(image)
    assert path.read_bytes() == IMAGE


def test_a_device_is_not_erased(card: Path) -> None:
    os.mkfifo(card)
    with storage(card) as client, pytest.raises(DriverError, match="is a device"):
        client.erase()
    assert card.exists()
