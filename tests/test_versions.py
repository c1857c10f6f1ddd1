"""Test this version of the wire protocol against each older one, with either side the older one.

The older peer is the real package from the last commit with an older version of the wire protocol.
The tests take it from this repository's history and run it in a separate process.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from driver_of_versions import Board
from exporter_process import exporter
from helpers import timed
from jumpstarter import Limits, _framing, connect, serve_async
from jumpstarter._protocol.frames import VERSION
from jumpstarter.client import DriverClient
from jumpstarter.driver import Caller, caller, export, on_disconnect
from jumpstarter.errors import (
    DriverError,
    DriverErrorGroup,
    DriverFileNotFoundError,
    DriverInvalidArgument,
    DriverMethodNotImplemented,
    DriverOSError,
)
from script_of_versions import Spoiled, lend

TESTS: Final = Path(__file__).parent
ROOT: Final = TESTS.parent
BUILDING: Final = 300.0  # seconds
RUNNING: Final = 60.0
ALLOW: Final = ("driver_of_versions.*",)
QUICK: Final = Limits(ping_interval=0.3, ping_timeout=2)


@dataclass(frozen=True)
class Release:
    """The last commit with an older version of the wire protocol."""

    version: tuple[int, int]
    commit: str
    module: str  # the one that has VERSION


OLDER: Final = {
    "1.0": Release((1, 0), "926d1e3dcc97847be6eba35e194072ff862e8ec2", "jumpstarter._messages"),
    "1.1": Release(
        (1, 1), "6574e490013c1b9d4d15b78205aa623c28fe5842", "jumpstarter._protocol.frames"
    ),
}


@dataclass(frozen=True)
class Older:
    """A build of an older package."""

    release: Release
    package: Path  # its directory, for PYTHONPATH

    @property
    def has_system_errors(self) -> bool:
        return self.release.version >= (1, 1)

    @property
    def has_names(self) -> bool:
        return self.release.version >= (1, 1)


@pytest.fixture(scope="module", params=list(OLDER.values()), ids=list(OLDER))
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Older:
    release: Release = request.param
    return Older(release, build(release.commit, tmp_path_factory.mktemp("older")))


def build(commit: str, place: Path) -> Path:
    """Build the package of a commit, and return its directory."""
    paths = ("src", "setup.py", "pyproject.toml", "README.md", "LICENSE")
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, *paths]
    try:
        archive = subprocess.run(command, capture_output=True, check=True, timeout=RUNNING).stdout
    except (OSError, subprocess.CalledProcessError) as exc:
        said = getattr(exc, "stderr", b"").decode().strip()
        pytest.fail(
            f"an older version is built from this repository's history, and commit {commit[:12]} "
            f"cannot be had: {said or exc}. In a shallow clone: git fetch --unshallow",
            pytrace=False,
        )
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(place, filter="data")
    package = place / "src" / "jumpstarter"
    ours = Path(_framing.__file__)
    if (package / "_framing.pyx").read_bytes() == (
        ROOT / "src/jumpstarter/_framing.pyx"
    ).read_bytes():
        shutil.copy(ours, package / ours.name)  # built from the same source
        return place / "src"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, str(place / "built"), str(place)], check=True, timeout=BUILDING)
    return place / "built"


def run_client(package: Path, address: str) -> dict[str, Any]:
    """Run the script with the given package, and return its observations."""
    result = subprocess.run(
        [sys.executable, str(TESTS / "script_of_versions.py"), address],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=RUNNING,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    seen: dict[str, Any] = json.loads(result.stdout)
    return seen


def test_the_older_one_is_of_the_older_version(older: Older) -> None:
    program = f"import {older.release.module} as m; print(m.__file__, *m.VERSION)"
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(older.package)},
        capture_output=True,
        text=True,
        timeout=RUNNING,
        check=True,
    ).stdout
    file, *version = said.split()
    assert Path(file).is_relative_to(older.package)
    assert tuple(map(int, version)) == older.release.version < VERSION


def test_each_older_version_is_tested() -> None:
    assert [release.version for release in OLDER.values()] == [(1, n) for n in range(VERSION[1])]


# ----------------------------------------------------------------- an older exporter, our client


def use(client: DriverClient) -> None:
    large = b"x" * 300_000
    assert client.call("echo", large) == large
    assert [client.call("echo_async", number) for number in range(3)] == [0, 1, 2]
    assert list(client.streamingcall("count", 1000)) == list(range(1000))
    with client.stream("connect") as stream:
        stream.send(b"through the stream")
        stream.send_eof()
        assert b"".join(stream) == b"through the stream"


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
def test_our_client_uses_an_older_exporter(older: Older, tmp_path: Path, scheme: str) -> None:
    options = ["--address", "tcp://127.0.0.1:0"] if scheme == "tcp" else []
    prefix = ("env", f"PYTHONPATH={older.package}")
    with (
        exporter(tmp_path, *options, driver="driver_of_versions:Board", prefix=prefix) as process,
        connect(process.address, name="ours", limits=QUICK, allow=ALLOW) as client,
        client.timeout(20),
    ):
        use(client)
        with pytest.raises(DriverOSError) as missing:
            client.call("missing")
        with pytest.raises(DriverInvalidArgument) as caused:
            client.call("caused")
        assert lend(client, io.BytesIO(b"abc")) == 3
        with pytest.raises(OSError, match="/dev/sdz") as spoiled:
            lend(client, Spoiled())
        with pytest.raises(DriverErrorGroup) as group:
            client.call("group")
        too_old = pytest.raises(DriverMethodNotImplemented, match="its version of the library")
        with too_old, client.log_stream():
            pytest.fail("an older exporter does not send its log")
    # Fields that the older exporter omits are absent; all that it sends arrive.
    assert (client.description, client.methods_description) == (None, {})
    check_errors(older, missing.value, caused.value)
    assert isinstance(spoiled.value.__cause__, DriverError)  # the error of the interrupted call
    assert [type(each).__name__ for each in group.value.exceptions] == [
        "DriverConnectionResetError" if older.has_system_errors else "DriverConnectionError",
        "DriverError",
    ]


def check_errors(older: Older, missing: DriverOSError, caused: DriverInvalidArgument) -> None:
    fields = (type(missing), missing.errno, missing.filename)
    if older.has_system_errors:
        assert fields == (DriverFileNotFoundError, 2, "/dev/ttyUSB0")
        assert isinstance(caused.__cause__, DriverFileNotFoundError)
    else:
        assert fields == (DriverOSError, None, None)
        assert caused.__cause__ is None
    text = "FileNotFoundError: [Errno 2] No such file or directory: '/dev/ttyUSB0'"
    assert text in str(missing)


# ----------------------------------------------------------------- an older client, our exporter


class Asking(Board):
    """A driver that asks for its caller's identity and records callers that disconnect."""

    def __init__(self) -> None:
        super().__init__(description="Board 7", methods_description={"echo": "Ask board 7"})
        self.seen: list[Caller] = []
        self.gone: list[int] = []

    @export
    def echo(self, value: Any = None) -> Any:
        self.seen.append(caller())
        on_disconnect(self._note)
        return value

    async def _note(self) -> None:
        self.gone.append(caller().connection)


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
@timed(RUNNING)
async def test_an_older_client_uses_our_exporter(older: Older, tmp_path: Path, scheme: str) -> None:
    board = Asking()
    address = "tcp://127.0.0.1:0" if scheme == "tcp" else f"unix:{tmp_path}/socket"
    async with serve_async(board, address, limits=QUICK) as server:
        seen = await trio.to_thread.run_sync(run_client, older.package, server.address)
    assert Path(seen["file"]).is_relative_to(older.package)
    assert seen["echo"] == [1, [2], "three"]
    assert (seen["large"], seen["count"], seen["alive"]) == (True, True, "alive")
    assert seen["stream"] == "through the stream"
    assert seen["described"] == [None, None]
    kind, text, mirrored, _ = seen["missing"]
    assert kind == ("DriverFileNotFoundError" if older.has_system_errors else "DriverOSError")
    assert mirrored == ["OSError"]
    assert text.endswith("FileNotFoundError: [Errno 2] No such file or directory: '/dev/ttyUSB0'")
    assert (seen["lent"], seen["spoiled"][0]) == (3, "OSError")
    assert "/dev/sdz" in seen["spoiled"][1]
    assert seen["caused"][0] == "DriverInvalidArgument"
    assert seen["caused"][1].endswith("ValueError: no console")
    assert seen["group"][3] == [
        "DriverConnectionResetError" if older.has_system_errors else "DriverConnectionError",
        "DriverError",
    ]
    assert {bool(each.claimed.name) for each in board.seen} == {older.has_names}
    assert board.gone == [1]
    assert board.seen[0].claimed.agent.startswith("jumpstarter/")


@timed(RUNNING)
async def test_the_same_script_sees_more_with_our_client(tmp_path: Path) -> None:
    board = Asking()
    async with serve_async(board, f"unix:{tmp_path}/socket", limits=QUICK) as server:
        ours = Path(_framing.__file__).parent.parent
        seen = await trio.to_thread.run_sync(run_client, ours, server.address)
    assert seen["missing"][0] == DriverFileNotFoundError.__name__
    assert seen["group"][3] == ["DriverConnectionResetError", "DriverError"]
    assert "script_of_versions.py" in board.seen[0].claimed.name
    assert seen["described"] == ["Board 7", {"echo": "Ask board 7"}]
