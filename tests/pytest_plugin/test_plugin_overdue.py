"""Test that the terminal says what the end of a fixture waits for, despite pytest's capture."""

from __future__ import annotations

import logging

import pytest

from lab_for_plugin import Run

# The driver's code is let go once the log has named it: otherwise the fixture would never end.
HANGING = """
import logging
import queue
from collections.abc import Iterator
import pytest
from jumpstarter import serve
from jumpstarter._exporter import overdue
from jumpstarter.driver import Driver, export

events = queue.SimpleQueue()

class Board(Driver):
    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

    @export
    def events(self) -> Iterator[str]:
        yield "listening"
        events.get()

class Release(logging.Handler):
    def emit(self, record):
        events.put("released")

@pytest.fixture
def board(monkeypatch):
    monkeypatch.setattr(overdue, "PATIENCE", 0.01)
    logging.getLogger("jumpstarter.overdue").addHandler(Release())
    with serve(Board()) as client:
        yield client

def test_events(board):
    with board.events() as events:
        assert next(events) == "listening"
"""


def test_terminal_names_the_code_that_a_fixture_waits_for(
    run_pytest: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The handler of the run that this test is part of must not write to its terminal.
    monkeypatch.setattr(logging.getLogger("jumpstarter.overdue"), "handlers", [])
    run_pytest(HANGING).assert_outcomes(passed=1)
    err = capfd.readouterr().err
    assert "\njumpstarter: 'events' of driver 'root' " in err
    assert "in events\n    events.get()\n" in err
