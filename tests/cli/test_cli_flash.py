"""Test `jumpstarter flash`: complete images, and nothing after a failure or an interruption."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporters_for_cli import Reached, board_over
from helpers import PATIENCE
from http_server import BODY
from http_server import running as http_server
from jumpstarter.cli import main
from processes import running
from ptys import at_a_terminal, user

IMAGE = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(IMAGE).hexdigest()
DRIVER = "console_drivers:storages"


@pytest.fixture(params=["unix", "tls"])
def board(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reached]:
    monkeypatch.setenv("STORAGE", str(tmp_path))
    with board_over(request.param, tmp_path, DRIVER) as reached:
        yield reached


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image.img"
    file.write_bytes(IMAGE)
    return file


def flash(board: Reached, *arguments: str) -> int:
    return main(["flash", *board.access, "--allow", "console_drivers.*", board.address, *arguments])


def test_an_image_is_written_and_described(
    board: Reached, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert flash(board, "card", str(image)) == 0
    text = f"flashed card with {image}: 1,048,576 bytes, SHA-256 {DIGEST}\n"
    assert capfd.readouterr() == (text, "")
    assert (tmp_path / "card.img").read_bytes() == IMAGE


def test_an_image_comes_from_stdin(board: Reached, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jumpstarter", "flash", *board.access, board.address]
    done = subprocess.run(
        [*command, "card", "-"], input=IMAGE, capture_output=True, timeout=4 * PATIENCE, check=True
    )
    assert done.stdout.decode() == f"flashed card with -: 1,048,576 bytes, SHA-256 {DIGEST}\n"
    assert (tmp_path / "card.img").read_bytes() == IMAGE


def test_an_image_comes_from_a_pipe_or_a_device(
    board: Reached, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    threading.Thread(target=fifo.write_bytes, args=[IMAGE], daemon=True).start()
    assert flash(board, "parts", str(fifo), "--target", "boot") == 0
    assert capfd.readouterr().out == f"flashed parts with {fifo}: 1,048,576 bytes\n"
    assert (tmp_path / "boot.part").read_bytes() == IMAGE
    assert flash(board, "parts", "/dev/null", "--target", "boot") == 0
    assert capfd.readouterr().out == "flashed parts with /dev/null: 0 bytes\n"
    assert (tmp_path / "boot.part").read_bytes() == b""


def test_an_image_comes_from_a_url(
    board: Reached, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with http_server() as url:
        assert flash(board, "card", f"{url}/file") == 0
    assert (tmp_path / "card.img").read_bytes() == BODY
    text = f"flashed card with {url}/file: SHA-256 {hashlib.sha256(BODY).hexdigest()}\n"
    assert capfd.readouterr().out == text


def test_a_flasher_writes_the_part_that_is_named(
    board: Reached, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert flash(board, "parts", str(image), "--target", "boot") == 0
    assert (tmp_path / "boot.part").read_bytes() == IMAGE
    assert capfd.readouterr().out == f"flashed parts with {image}: 1,048,576 bytes\n"
    assert flash(board, "parts", str(image), "--target", "broken") == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "the medium has failed" in err
    assert err.count("\n") == 1


def test_a_multiplexer_is_switched_to_the_host_and_back(
    board: Reached, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, code in (("good.img", 0), ("bad.img", 1)):
        (tmp_path / name).write_bytes(b"12345")
        assert flash(board, "mux", str(tmp_path / name)) == code
    assert main(["call", *board.access, board.address, "mux.done"]) == 0
    *_, last = capfd.readouterr().out.splitlines()
    assert last == '["host", "write good.img", "dut", "host", "dut"]'


@pytest.mark.parametrize(
    "case",
    [
        ("card no.img", 1, "No such file or directory: 'no.img'"),
        ("card .", 1, "Is a directory: '.'"),
        ("cart {image}", 1, "did you mean 'card'?"),
        ("power {image}", 1, "its client PowerClient has no method flash()"),
        ("card {image} -t boot", 2, "this storage has no targets"),
        ("mux {image} -t boot", 2, "'mux' has no targets"),
        ("card {image} more", 2, "unexpected argument 'more'"),
        ("card", 2, "an argument is missing"),
    ],
)
def test_what_cannot_be_flashed_says_why(
    board: Reached, image: Path, case: tuple[str, int, str], capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, code, said = case
    assert flash(board, *arguments.format(image=image).split()) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err


def test_a_client_class_that_is_not_allowed_is_named(
    board: Reached, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["flash", *board.access, board.address, "mux", str(image)]) == 1
    assert "its client class may not be imported here" in capfd.readouterr().err


def test_a_missing_image_is_found_before_connecting(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["flash", "unix:/nobody", "card", "/no/such.img"]) == 1
    assert capfd.readouterr().err.endswith("No such file or directory: '/no/such.img'\n")


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_flash_that_is_interrupted_leaves_nothing_behind(
    board: Reached, image: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "card.img").write_bytes(b"old")
    before = set(tmp_path.iterdir())
    command = [sys.executable, "-m", "jumpstarter", "flash", *board.access, board.address]
    pipe = subprocess.PIPE
    with running([*command, "stuck", str(image)], stdout=pipe, stderr=pipe) as process:
        wait_for((tmp_path / "begun").exists)
        assert set(tmp_path.iterdir()) > before
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.strip()) == (code, "", "")
    wait_for(lambda: set(tmp_path.iterdir()) == {*before, tmp_path / "begun"})
    assert (tmp_path / "card.img").read_bytes() == b"old"


def test_a_flash_whose_exporter_is_killed_is_one_line(
    board: Reached, image: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "jumpstarter", "flash", *board.access, board.address]
    pipe = subprocess.PIPE
    with running([*command, "stuck", str(image)], stdout=pipe, stderr=pipe) as process:
        wait_for((tmp_path / "begun").exists)
        board.process.send(signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert not (tmp_path / "card.img").exists()


def test_a_bar_shows_the_progress_on_a_terminal(board: Reached, image: Path) -> None:
    arguments = ["-m", "jumpstarter", "flash", *board.access, board.address, "slow", str(image)]
    with user() as someone, at_a_terminal(someone, arguments) as job:
        someone.see(b"image.img")
        assert job.wait() == 0
        someone.see(b"1.0/1.0 MiB")
        someone.see(b"\x1b[?25h")  # the cursor is shown again
        someone.see(f"SHA-256 {DIGEST}".encode())


def test_a_closed_stdin_is_an_error_of_usage(
    board: Reached, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as Python has it then
    assert flash(board, "card", "-") == 2
    assert "stdin is closed: redirect the image to it" in capfd.readouterr().err
