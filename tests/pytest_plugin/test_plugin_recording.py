"""Test how the bytes of consoles become lines, and what a file that cannot be written does."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from jumpstarter._pytest_plugin import recording
from jumpstarter._pytest_plugin.recording import RECEIVED, SENT, Recording
from jumpstarter.client._log_stream import LogRow


def console_of(tested: Recording, name: str = "c") -> list[str]:
    return dict(tested.sections()).get(f"console {name}", "").splitlines()


def test_pieces_of_a_line_are_joined_even_within_a_character() -> None:
    tested = Recording("t", None)
    for piece in (b"gr", "ü".encode()[:1], "ü".encode()[1:], b"n\r", b"\nnext"):
        tested.add_bytes("c", RECEIVED, piece)
    assert console_of(tested) == ["< grün", "< next"]


def test_a_change_of_direction_ends_a_line() -> None:
    tested = Recording("t", None)
    tested.add_bytes("c", RECEIVED, b"login: ")
    tested.add_bytes("c", SENT, b"root\n")
    tested.add_bytes("c", RECEIVED, b"root\r\n\r\n")
    assert console_of(tested) == ["< login: ", "> root", "< root", "< "]


def test_two_consoles_do_not_mix() -> None:
    tested = Recording("t", None)
    tested.add_bytes("one", RECEIVED, b"fir")
    tested.add_bytes("two", RECEIVED, b"second\n")
    tested.add_bytes("one", RECEIVED, b"st\n")
    assert console_of(tested, "one") == ["< first"]
    assert console_of(tested, "two") == ["< second"]


def test_the_log_comes_last_and_the_number_of_sections_is_limited() -> None:
    tested = Recording("t", None)
    tested.add_note("first")
    for number in range(100):
        tested.add_bytes(f"c{number}", RECEIVED, b"line\n")
    titles = [title for title, _ in tested.sections()]
    assert titles[0] == "console c0"
    assert titles[-1] == "exporter log"
    assert len(titles) == 20


def test_a_line_without_an_end_is_cut() -> None:
    tested = Recording("t", None)
    for _ in range(100):
        tested.add_bytes("c", RECEIVED, b"x" * 100)
    lines = console_of(tested)
    assert len(lines) == 3
    assert all(len(line) < 1100 for line in lines)


def test_tabs_are_expanded_and_other_control_characters_shown() -> None:
    tested = Recording("t", None)
    tested.add_bytes("c", RECEIVED, b"a\tb\x07\x1b[2J\x00\n")
    assert console_of(tested) == [r"< a       b\x07\x1b[2J\x00"]


def test_a_file_is_complete_without_being_closed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    tested = Recording("the\ntitle", path)
    tested.add_record(LogRow(0.0, 30, "driver", "driver.X", "text", {}))
    tested.add_bytes("c", RECEIVED, b"line\n")
    lines = path.read_text().splitlines()
    assert [line.partition("[")[2] for line in lines[-2:]] == [
        "exporter] WARNING driver.X: text",
        "c] < line",
    ]
    tested.close()
    tested.close()


def test_a_file_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_MAX_FILE", 1000)
    tested = Recording("t", tmp_path / "log")
    for _ in range(100):
        tested.add_bytes("c", RECEIVED, b"x" * 50 + b"\n")
    tested.close()
    text = (tmp_path / "log").read_text()
    assert len(text) < 1300
    assert "(the rest is cut: more than 1000 characters)" in text.splitlines()[-1]
    assert len(console_of(tested)) == 51  # the report has the last lines all the same


def test_a_full_disk_is_in_the_report_and_does_not_disturb_the_test() -> None:
    tested = Recording("t", Path("/dev/full"))
    tested.add_bytes("c", RECEIVED, b"line\n")
    tested.close()
    sections = dict(tested.sections())
    assert sections["console c"] == "< line"
    assert sections["jumpstarter log"].startswith("/dev/full is not complete: ")


def test_threads_may_add_at_the_same_time(tmp_path: Path) -> None:
    tested = Recording("t", tmp_path / "log")

    def add(name: str) -> None:
        for number in range(200):
            tested.add_bytes(name, RECEIVED, b"%d\n" % number)

    threads = [threading.Thread(target=add, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tested.close()
    assert len((tmp_path / "log").read_text().splitlines()) == 801
