"""Test that images are flashed and dumped completely, or the call fails."""

from __future__ import annotations

import gzip
import lzma
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from helpers import PATIENCE
from jumpstarter import serve
from jumpstarter.client.flasher import FlasherClient
from jumpstarter.driver import Driver, FlasherInterface, export
from jumpstarter.errors import DriverError, DriverTimeoutError
from jumpstarter.streams.encoding import Compression

IMAGE = os.urandom(700_000) + bytes(300_000)


@dataclass(kw_only=True)
class Flash(FlasherInterface, Driver):
    """Keeps images in memory."""

    images: dict[str | None, bytes] = field(default_factory=dict)
    handles: list[Any] = field(default_factory=list)
    fault: str = ""
    begun: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gate.set()

    @export
    async def flash(self, source: Any, target: str | None = None) -> str:
        self.handles.append(source)
        if self.fault == "before":
            raise OSError("no medium")
        data = b""
        async with self.resource(source) as stream:
            async for piece in stream:
                data += piece
                self.begun.set()
                await trio.to_thread.run_sync(self.gate.wait, PATIENCE)
                if self.fault == "hang":
                    await trio.sleep_forever()
                if self.fault in {"amid", target}:
                    raise OSError("the medium has failed")
        self.images[target] = data
        return f"{target}: {len(data)}"

    @export
    async def dump(self, target: Any, partition: str | None = None) -> None:
        self.handles.append(target)
        data = self.images[partition]
        async with self.resource(target) as stream:
            for start in range(0, len(data), 50_000):
                await stream.send(data[start : start + 50_000])
                if self.fault == "amid":
                    raise OSError("the medium has failed")


@pytest.fixture
def flash() -> Flash:
    return Flash()


@pytest.fixture
def client(flash: Flash) -> Iterator[FlasherClient]:
    with serve(flash, client=FlasherClient) as client:
        yield client


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.img"
    path.write_bytes(IMAGE)
    return path


# ------------------------------------------------------------------------- files


def test_image_is_flashed_and_dumped(
    client: FlasherClient, flash: Flash, image: Path, tmp_path: Path
) -> None:
    assert client.flash(image) == f"None: {len(IMAGE)}"
    assert client.flash(str(image), target="boot") == f"boot: {len(IMAGE)}"
    assert flash.images == {None: IMAGE, "boot": IMAGE}
    assert {handle["kind"] for handle in flash.handles} == {"client_stream"}
    client.dump(tmp_path / "copy.img", target="boot")
    assert (tmp_path / "copy.img").read_bytes() == IMAGE


def test_empty_image_is_an_image(client: FlasherClient, flash: Flash, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    client.flash(tmp_path / "empty")
    assert flash.images == {None: b""}
    client.dump(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


@pytest.mark.parametrize(
    ("compression", "compress"),
    [(Compression.GZIP, gzip.compress), (Compression.XZ, lzma.compress)],
)
def test_compressed_image_is_expanded_by_the_exporter(
    client: FlasherClient, flash: Flash, tmp_path: Path, compression: Compression, compress: Any
) -> None:
    (tmp_path / "image").write_bytes(compress(IMAGE))
    client.flash(tmp_path / "image", compression=compression)
    assert flash.images == {None: IMAGE}


def test_dump_can_be_compressed(client: FlasherClient, flash: Flash, tmp_path: Path) -> None:
    flash.images[None] = IMAGE
    client.dump(tmp_path / "image.gz", compression=Compression.GZIP)
    assert gzip.decompress((tmp_path / "image.gz").read_bytes()) == IMAGE


@pytest.mark.parametrize("cut", [10, 100_000])
def test_image_that_is_cut_short_is_an_error(
    client: FlasherClient, flash: Flash, tmp_path: Path, cut: int
) -> None:
    (tmp_path / "image.gz").write_bytes(gzip.compress(IMAGE)[:-cut])
    with pytest.raises(DriverError):
        client.flash(tmp_path / "image.gz", compression=Compression.GZIP)
    assert flash.images == {}


def test_image_that_is_damaged_is_an_error(
    client: FlasherClient, flash: Flash, tmp_path: Path
) -> None:
    data = bytearray(gzip.compress(IMAGE))
    data[300_000] ^= 0xFF
    (tmp_path / "image.gz").write_bytes(data)
    with pytest.raises(DriverError):
        client.flash(tmp_path / "image.gz", compression=Compression.GZIP)
    assert flash.images == {}


def test_missing_file_is_an_error_of_this_side(client: FlasherClient, flash: Flash) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-image"):
        client.flash("no-such-image")
    assert flash.handles == []


@pytest.mark.parametrize("fault", ["before", "amid"])
def test_flash_that_fails_is_an_error(
    client: FlasherClient, flash: Flash, image: Path, fault: str
) -> None:
    flash.fault = fault
    with pytest.raises(OSError, match="medium") as caught:
        client.flash(image)
    assert isinstance(caught.value, DriverError)
    flash.fault = ""
    client.flash(image)  # nothing is left behind
    assert flash.images == {None: IMAGE}


def test_image_that_changes_while_it_is_flashed_is_an_error(
    client: FlasherClient, flash: Flash, tmp_path: Path
) -> None:
    image = tmp_path / "image.img"
    image.write_bytes(os.urandom(10_000_000))

    def cut() -> None:
        assert flash.begun.wait(PATIENCE)
        os.truncate(image, 1_000_000)
        flash.gate.set()

    flash.gate.clear()
    thread = threading.Thread(target=cut)
    thread.start()
    with pytest.raises(OSError, match="changed"), client.timeout(PATIENCE):
        client.flash(image)
    thread.join()
    assert flash.images == {}


def test_timeout_ends_a_flash(client: FlasherClient, flash: Flash, image: Path) -> None:
    flash.fault = "hang"
    with pytest.raises(DriverTimeoutError), client.timeout(0.3):
        client.flash(image)
    flash.fault = ""
    client.flash(image)
    assert flash.images == {None: IMAGE}


def test_dump_that_fails_leaves_the_file_that_was_there(
    client: FlasherClient, flash: Flash, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")
    flash.images[None] = IMAGE
    flash.fault = "amid"
    with pytest.raises(OSError, match="medium"):
        client.dump(path)
    with pytest.raises(DriverError, match="KeyError"):
        client.dump(path, target="none")
    assert path.read_bytes() == b"old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["image"]


# ------------------------------------------------------------------------- targets


def test_each_target_gets_its_image(client: FlasherClient, flash: Flash, image: Path) -> None:
    assert client.flash({"boot": image, "root": str(image)}) == {
        "boot": f"boot: {len(IMAGE)}",
        "root": f"root: {len(IMAGE)}",
    }
    assert flash.images == {"boot": IMAGE, "root": IMAGE}


def test_failure_of_a_target_names_those_before(
    client: FlasherClient, flash: Flash, image: Path
) -> None:
    flash.fault = "root"
    with pytest.raises(OSError, match="medium") as caught:
        client.flash({"boot": image, "root": image, "data": image})
    assert "target 'root' has failed; flashed before: boot" in caught.value.__notes__
    assert flash.images == {"boot": IMAGE}


def test_commands_flash_a_device(client: FlasherClient, flash: Flash, image: Path) -> None:
    result = CliRunner().invoke(client.cli(), ["flash", "-t", f"boot:{image}"])
    assert (result.exit_code, result.output) == (0, "")
    assert flash.images == {"boot": IMAGE}
