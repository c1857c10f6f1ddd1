"""Tests of the file that a recorded console writes: its lines, its size, and a disk that fails."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import given, settings

from helpers import timed
from jumpstarter.drivers import _console_log
from jumpstarter.drivers._console_log import ConsoleLog, LineStamper

NOON = datetime(2026, 1, 2, 12, 0, 0, 345_678, tzinfo=UTC)
TIME = "2026-01-02T12:00:00.345Z"
LOGGER = logging.getLogger("driver.test")


def recovered(text: bytes) -> bytes:
    """Return what the console sent, from the file."""
    said = b""
    for line in text.splitlines(keepends=True):
        match = re.match(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ([|#:]) ", line)
        assert match, line
        if match[1] == b":":
            assert said.endswith(b"\n")
            said = said[:-1]
        if match[1] != b"#":
            said += line[match.end() :]
    return said


def test_each_line_has_the_time_of_its_first_byte() -> None:
    stamper = LineStamper()
    later = NOON.replace(second=1)
    text = stamper.output(NOON, b"U-Boot\r\nlog") + stamper.output(later, b"in: \nok\n")
    assert text.decode() == (
        f"{TIME} | U-Boot\r\n{TIME} | login: \n{TIME.replace('00.345', '01.345')} | ok\n"
    )


def test_a_note_cuts_a_line_and_its_rest_has_a_sign_of_its_own() -> None:
    stamper = LineStamper()
    text = stamper.output(NOON, b"log") + stamper.note(NOON, "gone") + stamper.output(NOON, b"in\n")
    assert text.decode() == f"{TIME} | log\n{TIME} # gone\n{TIME} : in\n"


CHUNKS = st.lists(
    st.one_of(st.none(), st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xff"]), min_size=1)),
    max_size=12,
)


@settings(deadline=None)
@given(CHUNKS)
def test_the_file_holds_what_the_console_sent_byte_for_byte(
    chunks: list[list[bytes] | None],
) -> None:
    stamper = LineStamper()
    text, said = b"", b""
    for chunk in chunks:
        if chunk is None:
            text += stamper.note(NOON, "note")
        else:
            said += b"".join(chunk)
            text += stamper.output(NOON, b"".join(chunk))
    lines = text.replace(b"\r", b"<cr>")  # splitlines would also split at these
    expected = said.replace(b"\r", b"<cr>")
    # A line that a note has cut, and that never went on, ends at the note.
    assert recovered(lines).removesuffix(b"\n") == expected.removesuffix(b"\n")


def names_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


async def written(log: ConsoleLog, *chunks: bytes) -> None:
    """Write chunks, each with a write of its own."""
    for chunk in chunks:
        log.output(NOON, chunk)
        await log._write_pending()


@timed()
async def test_a_file_that_would_be_too_large_is_moved_and_few_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    log = ConsoleLog(str(path), 200, 2, LOGGER)
    lines = [b"%d" % number * 100 + b"\n" for number in range(5)]
    await written(log, *lines[:1])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    await written(log, *lines[1:])
    assert names_in(tmp_path) == ["console.log", "console.log.1", "console.log.2"]
    oldest_first = [tmp_path / "console.log.2", tmp_path / "console.log.1", path]
    assert [recovered(each.read_bytes()) for each in oldest_first] == lines[2:]
    assert path.stat().st_mode & 0o777 == 0o640


@timed()
async def test_without_older_files_the_file_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    await written(ConsoleLog(str(path), 50, 0, LOGGER), b"a" * 30 + b"\n", b"b" * 30 + b"\n")
    assert names_in(tmp_path) == ["console.log"]
    assert recovered(path.read_bytes()) == b"b" * 30 + b"\n"


@timed()
async def test_another_program_may_move_the_file_away(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    log = ConsoleLog(str(path), 0, 0, LOGGER)
    await written(log, b"one\n")
    path.rename(tmp_path / "old.log")
    await written(log, b"two\n")
    assert recovered((tmp_path / "old.log").read_bytes()) == b"one\n"
    assert recovered(path.read_bytes()) == b"two\n"


@timed()
async def test_what_the_disk_refuses_is_counted_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "directory" / "console.log"
    log = ConsoleLog(str(path), 0, 0, LOGGER)
    await written(log, b"lost\n", b"too\n")
    assert log.lost == 9
    assert caplog.text.count("cannot write") == 1  # not for each byte
    path.parent.mkdir()
    await written(log, b"kept\n")
    text = path.read_text()
    assert "# 9 bytes are not in this file" in text
    assert text.endswith(" | kept\n")


@timed()
async def test_a_disk_that_takes_nothing_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_console_log, "_MAX_PENDING", 1000)
    log = ConsoleLog(str(tmp_path / "console.log"), 0, 0, LOGGER)
    for _ in range(100):
        log.output(NOON, b"x" * 99 + b"\n")
        log.note(NOON, "note")
    assert len(log._pending) < 4000
    assert log.lost > 0
    await log._write_pending()
    log.output(NOON, b"again\n")
    log.end()
    await log.run()
    text = (tmp_path / "console.log").read_text()
    assert f"# {log.lost} bytes are not in this file" in text
    assert text.endswith(" | again\n")


@timed()
async def test_everything_is_written_before_the_end(tmp_path: Path) -> None:
    log = ConsoleLog(str(tmp_path / "console.log"), 0, 0, LOGGER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for number in range(10):
            log.output(NOON, b"%d\n" % number)
            await trio.testing.wait_all_tasks_blocked()
        log.end()
    said = b"".join(b"%d\n" % number for number in range(10))
    assert recovered((tmp_path / "console.log").read_bytes()) == said


@timed()
async def test_a_line_that_was_written_in_part_is_ended_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    log = ConsoleLog(str(path), 0, 0, LOGGER)
    await written(log, b"a line with")
    path.rename(tmp_path / "away")
    path.mkdir()
    await written(log, b"out an end\n")
    path.rmdir()
    (tmp_path / "away").rename(path)
    await written(log, b"the next\n")
    lines = path.read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "| a line with",
        "# 11 bytes are not in this file: the disk did not take them",
        "| the next",
    ]
