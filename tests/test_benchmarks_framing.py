"""Test the loops of the framing benchmarks, and the gate on their instruction counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import framing, framing_loops
from benchmarks.framing import BASELINES, MARGIN, judge

from jumpstarter._framing import FrameDecoder, pack_frame

SMALL = [framing.name_of(case) for case in framing_loops.CASES if case[1] == 16]
COUNTED = pytest.mark.skipif(shutil.which("valgrind") is None, reason="there is no valgrind")


@pytest.fixture
def count_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the instruction count, with no counts accepted yet."""
    monkeypatch.setattr(framing, "BASELINES", tmp_path / "instructions.json")
    framing.BASELINES.write_text("{}")
    monkeypatch.setattr(shutil, "which", lambda _name: "valgrind")

    def decide(instructions: float) -> None:
        counts = {framing.name_of(case): instructions for case in framing_loops.CASES}
        monkeypatch.setattr(framing, "count", lambda _side: counts)

    return decide


@pytest.mark.parametrize("case", framing_loops.CASES)
@pytest.mark.parametrize("side", ["ours", "floor", "plain"])
def test_loops_run(side: str, case: tuple[str, int]) -> None:
    framing_loops.SIDES[side](*case)(framing_loops.BATCH + 1)


def test_plain_decoder_gives_what_ours_gives() -> None:
    stream = b"".join(pack_frame(2, 0x20, slot, bytes(slot)) for slot in range(40))
    for step in (1, 7, 64, len(stream)):
        plain, ours = framing_loops.PlainDecoder(), FrameDecoder(1024)
        for at in range(0, len(stream), step):
            piece = stream[at : at + step]
            assert plain.feed(piece) == ours.feed(piece)


def test_more_than_the_margin_is_worse() -> None:
    accepted = {"decode 16 B": 1000.0, "encode 16 B": 1000.0}
    assert judge({"decode 16 B": 1000 * (1 + MARGIN), "encode 16 B": 1.0}, accepted) == []
    (said,) = judge({"decode 16 B": 1000.0, "encode 16 B": 1040.0}, accepted)
    assert said.startswith("encode 16 B: 1040.0 instructions per frame, accepted are 1000.0")


def test_accepted_cases_are_counted() -> None:
    counted = {framing.name_of(case) for case in framing_loops.CASES}
    accepted = json.loads(BASELINES.read_text())
    assert accepted
    assert all(set(cases) <= counted for cases in accepted.values())


def test_without_valgrind_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert framing.main([]) == 0
    assert capsys.readouterr().out.startswith("not counted: there is no valgrind")


@pytest.mark.parametrize(
    ("instructions", "code", "said"),
    [(100.0, 0, "no more than was accepted"), (104.0, 1, "decode 16 B: 104.0 instructions")],
)
def test_gate_holds_ours_to_what_was_accepted(
    instructions: float,
    code: int,
    said: str,
    count_as: Callable[[float], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    count_as(100.0)
    assert framing.main([]) == 0
    assert "nothing was accepted yet" in capsys.readouterr().out
    assert framing.main(["--accept"]) == 0
    count_as(instructions)
    assert framing.main([]) == code
    assert said in capsys.readouterr().out


@COUNTED
def test_instructions_of_the_floor_are_counted_the_same_twice() -> None:
    first, second = (framing.count("floor", framing_loops.BATCH) for _ in range(2))
    assert first.keys() == {framing.name_of(case) for case in framing_loops.CASES}
    assert all(instructions > 0 for instructions in first.values())
    for name in SMALL:
        assert second[name] == pytest.approx(first[name], rel=MARGIN)
