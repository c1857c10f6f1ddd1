"""Flash the virtual board, boot it, log in, fetch a page from it, and switch it off.

pytest gets the board from the fixture `device`:

    pytest examples/virtual_board --jumpstarter-config examples/virtual_board/exporter.yaml
"""

from __future__ import annotations

import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jumpstarter.client import DriverClient

BOOT = 300  # seconds; without KVM, and beside much else, a boot that takes 7 may take minutes
PAGE = "The virtual board says hello.\n"


class Board(NamedTuple):
    """The board, switched on, with its console."""

    device: DriverClient
    console: Any


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of the card: an archive of the pages that the board serves."""
    directory = tmp_path_factory.mktemp("card")
    (directory / "index.html").write_text(PAGE)
    with tarfile.open(directory / "card.img", "w") as archive:
        archive.add(directory / "index.html", "index.html")
    return directory / "card.img"


@pytest.fixture(scope="module")
def board(device: DriverClient, card: Path) -> Iterator[Board]:
    """Flash the card, switch the board on, and wait until it asks for a login."""
    device.power.off()
    device.disk.flash(card)
    with device.console.pexpect(timeout=BOOT, encoding="utf-8") as console:
        device.power.on()
        console.expect("virtual-board login: ")
        yield Board(device, console)
        device.power.off()


def test_the_board_runs(board: Board) -> None:
    """The board is on, and found a card with a file."""
    assert board.device.machine.query_status() == "running"
    assert "the card has 1 files" in board.console.before


def test_root_logs_in(board: Board) -> None:
    """The console takes a name and a password, and runs a command."""
    board.console.sendline("root")
    board.console.expect("Password: ")
    board.console.sendline("jumpstarter")
    board.console.expect("board# ")
    board.console.sendline("uname --kernel-name --nodename")
    board.console.expect("Linux virtual-board")
    board.console.expect("board# ")


def test_the_board_serves_its_card(board: Board) -> None:
    """A local port leads to the board's web server."""
    with board.device.web.portforward() as (host, port):
        page = urllib.request.urlopen(f"http://{host}:{port}/", timeout=BOOT).read()
    assert page.decode() == PAGE


def test_the_screen_can_be_seen(board: Board, tmp_path: Path) -> None:
    """QEMU makes a picture of the board's screen."""
    board.device.machine.screendump(tmp_path / "screen.png")
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")


def test_the_power_button_switches_it_off(board: Board) -> None:
    """The board shuts down, and its power is off then."""
    board.device.machine.system_powerdown()
    board.console.expect("the power button was pressed")
    board.console.expect("reboot: Power down")
    status = board.device.power.process.wait_for("stopped")
    assert status.returncode == 0
