"""Drivers and fixtures for the tests of the pytest plugin; `conftest.py` makes it a plugin."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from exporter_process import ExporterProcess, exporter
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.composite import Composite

# Runs pytest in the process of the calling test, on a source of tests, with options.
Run = Callable[..., pytest.RunResult]

# What the console prints: a line with escape sequences, one with bytes that are not UTF-8, and a
# prompt without a line's end.
BOOT = b"\x1b[31mred\x1b[0m alert\r\nbad \xff\xfe bytes\r\nlogin: "


# An exporter's configuration with one of the drivers.
CONFIG = """
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata:
  name: bench-7
export:
  power:
    type: lab_for_plugin.Power
"""


class Power(Driver):
    """Fails in several ways."""

    @classmethod
    def client(cls) -> str:
        return "lab_for_plugin.PowerClient"

    @export
    def on(self) -> str:
        self.logger.warning("the relay clicks")
        return "on"

    @export
    def say(self, text: str) -> None:
        self.logger.warning(text)

    @export
    def burn(self) -> None:
        raise ValueError("bad voltage")

    @export
    def die(self) -> None:
        os._exit(3)

    @export
    async def hang(self) -> None:
        await trio.sleep_forever()


class PowerClient(DriverClient):
    def on(self) -> str:
        return self.call_as(str, "on")

    def hang(self) -> None:
        self.call("hang")


class Console(Driver):
    """Prints `BOOT`, then echoes."""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.drivers.network.NetworkClient"

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()

        async def run() -> None:
            await ours.send_all(BOOT)
            async for data in ours:
                await ours.send_all(data.replace(b"\n", b"\r\n"))
            await ours.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield theirs
            nursery.cancel_scope.cancel()


def tree() -> Driver:
    serial = Composite(children={"console": Console()})
    return Composite(
        children={"power": Power(), "serial": serial},
        labels={"board": "rpi4"},
        description="the shelf",
    )


@contextmanager
def lab(directory: Path, *options: str) -> Iterator[ExporterProcess]:
    """Serve the tree in a process of its own."""
    with exporter(directory, *options, driver="lab_for_plugin:tree") as process:
        yield process


@pytest.fixture(scope="module")
def lab_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the tree for all tests of a module."""
    with lab(tmp_path_factory.mktemp("lab")) as process:
        yield process.address


@pytest.fixture
def lab_process(tmp_path: Path) -> Iterator[str]:
    """Serve the tree for one test, which may end the exporter."""
    with lab(tmp_path) as process:
        yield process.address


@pytest.fixture
def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest on a source of tests, in this process, with warnings as errors.

    The environment names no device, and the clients of the drivers can be imported. Neither does it
    say that this is CI, where pytest prints the whole text of each error a second time.
    """
    of_devices = ("JUMPSTARTER_HOST", "JMP_DRIVERS_ALLOW", "JMP_EXPORTER", "JMP_EXPORTER_LABELS")
    for name in (*of_devices, "CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)

    def run(source: str, *options: str | Path) -> pytest.RunResult:
        pytester.makepyfile(source)
        common = ("-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio", "--color=no")
        return pytester.runpytest_inprocess(*common, *options, no_reraise_ctrlc=True)

    return run
