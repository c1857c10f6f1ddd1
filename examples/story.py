"""A complete test: power, console, image, network, and a failure in between.

    python examples/story.py              # an image of 1 GiB
    python examples/story.py --mib 16     # a smaller one

A console is opened, the board switched on and its login prompt awaited there, an image flashed with
a progress bar, and a page fetched from its web server through a forwarded port. The first attempt
fails in the middle of the flash, and leaves nothing behind; the second one goes through. All of it
is real but the board, which is a process on a pseudo-terminal.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import tty
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from jumpstarter import serve
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.network import TcpNetwork
from jumpstarter.drivers.power import PowerInterface, PowerReading
from jumpstarter.drivers.serial import SerialPort
from jumpstarter.drivers.storage import FileStorage
from story_board import PAGE

BOARD = Path(__file__).with_name("story_board.py")


# ------------------------------------------------------------------------------ on the exporter


@dataclass(kw_only=True)
class BoardPower(PowerInterface, Driver):
    """Switches a simulated board, which is a process that runs while it has power.

    Attributes:
        line: The board's end of its serial line, a file descriptor.
        web: What its web server listens on.
    """

    line: int
    web: socket.socket
    _board: subprocess.Popen[bytes] | None = field(init=False, repr=False, default=None)

    @export
    def on(self) -> None:
        """Switch on."""
        if self._board is None:
            web = self.web.fileno()
            command = [sys.executable, "-I", str(BOARD), str(web)]
            self._board = subprocess.Popen(
                command, stdin=self.line, stdout=self.line, pass_fds=[web], start_new_session=True
            )

    @export
    def off(self) -> None:
        """Switch off, without shutting the board down."""
        if self._board is not None:
            self._board.kill()
            self._board.wait()
            self._board = None

    @export
    async def read(self, interval: float) -> AsyncGenerator[PowerReading, None]:
        """Yield readings like those of a real switch."""
        while True:
            yield PowerReading(voltage=12.0 if self._board else 0.0, current=0.4)
            await trio.sleep(interval)

    def reset(self) -> None:
        """Switch off, whatever state the last session left."""
        self.off()


@contextmanager
def bench(directory: Path) -> Iterator[Driver]:
    """Make a bench, as an exporter's configuration does."""
    line, port = os.openpty()
    tty.setraw(port)
    with socket.create_server(("127.0.0.1", 0)) as web:
        host, web_port = web.getsockname()
        yield Composite(
            children={
                "power": BoardPower(line=line, web=web),
                "console": SerialPort(url=os.ttyname(port)),
                "card": FileStorage(path=str(directory / "card.img")),
                "web": TcpNetwork(host=host, port=web_port),
            }
        )
    os.close(port)
    os.close(line)


# ---------------------------------------------------------------------------------- in the test


class RejectedError(Exception):
    """The error of the first attempt."""


@contextmanager
def powered(board: DriverClient) -> Iterator[None]:
    """Keep the board on for the length of a block, and switch it off afterwards."""
    board.power.on()
    try:
        yield
    finally:
        board.power.off()


@contextmanager
def logged_in(board: DriverClient) -> Iterator[None]:
    """Keep the board on, with a user logged in, for the length of a block.

    The console is opened first: what a serial port has got before that is thrown away.
    """
    with board.console.pexpect(timeout=30) as session, powered(board):
        session.expect("booting")
        session.expect("login: ")
        session.sendline("root")
        session.expect("# ")
        print("  logged in")
        yield


def flash(board: DriverClient, image: Path, *, fails: bool) -> None:
    """Flash an image, with a progress bar on a terminal; or fail at half of it."""

    def reject(done: int, total: int | None) -> None:
        if done > (total or 0) // 2:
            raise RejectedError(f"at byte {done:,} of {total:,}")

    digest = board.card.flash(image, progress=reject if fails else None)
    with image.open("rb") as file:
        assert digest == hashlib.file_digest(file, "sha256").hexdigest()
    print(f"  flashed {board.card.size():,} bytes")


def fetch(board: DriverClient) -> None:
    """Fetch the board's page through a local port."""
    with board.web.portforward() as (host, port):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{host}:{port}/", timeout=30) as answer:
            assert answer.read() == PAGE
    print(f"  fetched the page through port {port}")


def attempt(board: DriverClient, image: Path, *, fails: bool) -> None:
    """Run the test."""
    with logged_in(board):
        flash(board, image, fails=fails)
        fetch(board)


def check_nothing_is_left(board: DriverClient, driver: Driver, directory: Path) -> None:
    """Check that the failed attempt left no power, no partial image, and no loan."""
    assert next(board.power.read()).voltage == 0
    assert list(directory.iterdir()) == []
    assert driver.children["card"].resources == {}
    with board.console.stream():  # the port is free again
        pass
    print("  nothing is left behind")


def main() -> None:
    """Run the exporter and the test."""
    parser = argparse.ArgumentParser(description="a test from its first line to its last")
    parser.add_argument("--mib", type=int, default=1024, help="size of the image")
    size = parser.parse_args().mib * 1024 * 1024
    with tempfile.TemporaryDirectory() as name:
        image, card = Path(name, "image.img"), Path(name, "card")
        card.mkdir()
        with image.open("wb") as file:
            file.truncate(size)
        with bench(card) as driver, serve(driver) as board:
            print("the first attempt:")
            try:
                attempt(board, image, fails=True)
            except RejectedError as exc:
                print(f"  failed, as it was meant to: {exc}")
            check_nothing_is_left(board, driver, card)
            print("the second attempt:")
            attempt(board, image, fails=False)
            print("power off: the board is as it was before")


if __name__ == "__main__":
    main()
