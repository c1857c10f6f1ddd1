"""Tests of `jumpstarter.client._progress`: progress callbacks and progress bars."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from helpers import served
from jumpstarter.client import _progress
from jumpstarter.client._progress import Progress
from jumpstarter.errors import MissingExtra
from resources_for_tests import Library, Reader

MIB = 1024 * 1024


class Terminal(io.StringIO):
    """A fake stderr that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def put_on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal; only within a test, as fixtures have a different stderr in pytest."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return made


@pytest.fixture
def fast_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show progress immediately, as for a long transfer."""
    monkeypatch.setattr(_progress, "_DELAY", 0.0)


def transfer(progress: Progress, size: int = MIB, known: int | None = MIB) -> None:
    with (
        served(Library()) as client,
        cast("Reader", client).resource(
            io.BytesIO(bytes(size)), size=known, progress=progress
        ) as handle,
    ):
        client.call("read", handle)


def test_callback_gets_the_progress_up_to_the_last_chunk(tmp_path: Path) -> None:
    told: list[Any] = []
    transfer(lambda *args: told.append(args))
    assert told[-1] == (MIB, MIB)
    assert told == sorted(told)
    assert len(told) >= 16
    told.clear()
    with (
        served(Library()) as client,
        cast("Reader", client).local_file(
            tmp_path / "out", write=True, progress=lambda *args: told.append(args)
        ) as handle,
    ):
        client.call("write", handle, bytes(1000), 3)
    assert told[-1] == (3000, None)


def test_a_files_own_size_is_the_total(tmp_path: Path) -> None:
    told: list[Any] = []
    (tmp_path / "image").write_bytes(bytes(1000))
    with (
        served(Library()) as client,
        cast("Reader", client).local_file(
            tmp_path / "image", compress=True, progress=lambda *args: told.append(args)
        ) as handle,
    ):
        client.call("read", handle)
    assert told[:] == [(1000, 1000)], "as it is here, and not as it is sent"


def test_a_callback_that_fails_ends_the_transfer() -> None:
    def fail(done: int, total: int | None) -> None:
        raise ZeroDivisionError(done, total)

    with pytest.raises(ZeroDivisionError):
        transfer(fail)


@pytest.mark.usefixtures("fast_forward")
def test_bar_on_a_terminal_shows_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = put_on_terminal(monkeypatch)
    transfer(None)
    seen = terminal.getvalue()
    assert "1.0/1.0 MiB" in seen
    assert "/s" in seen
    assert "0:00:00" in seen


def test_short_transfer_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = put_on_terminal(monkeypatch)
    begin = time.monotonic()
    transfer(None)
    assert time.monotonic() - begin > 1 or terminal.getvalue() == ""


@pytest.mark.parametrize("known", [MIB, None])
@pytest.mark.usefixtures("fast_forward")
def test_a_bar_can_be_asked_for_whatever_the_size_is(
    known: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = io.StringIO()
    monkeypatch.setattr(sys, "stderr", made)
    transfer(True, known=known)
    assert "1.0" in made.getvalue()


@pytest.mark.parametrize("progress", [None, False])
@pytest.mark.usefixtures("fast_forward")
def test_no_bar_without_a_terminal_or_when_disabled(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Terminal() if progress is False else io.StringIO()
    monkeypatch.setattr(sys, "stderr", made)
    transfer(progress)
    assert made.getvalue() == ""


@pytest.mark.usefixtures("fast_forward")
def test_without_rich_there_is_no_bar_and_one_that_is_asked_for_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = put_on_terminal(monkeypatch)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, name, cast("Any", None))
    transfer(None)
    assert terminal.getvalue() == ""
    with pytest.raises(MissingExtra, match=r"the extra 'progress'.*pip install .*\[progress\]"):
        transfer(True)


@pytest.mark.usefixtures("fast_forward")
def test_a_files_name_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = put_on_terminal(monkeypatch)
    source = io.BytesIO(bytes(MIB))
    source.name = "[red]image[/red].img"
    with (
        served(Library()) as client,
        cast("Reader", client).resource(source, size=MIB) as handle,
    ):
        client.call("read", handle)
    assert "[red]image[/red].img" in terminal.getvalue()
