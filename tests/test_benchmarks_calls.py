"""Test the loops of the call benchmarks, and the gate on their instruction counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import call_loops, calls
from benchmarks.call_loops import IN_FLIGHT, PATHS, RULES, Marked
from benchmarks.calls import BASELINES, ENDS, MARGIN_OF_PATHS, judge
from benchmarks.framing import MARGIN

import jumpstarter

ALL = (*RULES, *PATHS)


def counts_of(instructions: float) -> calls.Counts:
    return {name: dict.fromkeys(ENDS, instructions) for name in ALL}


@pytest.fixture
def count_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the instruction count, with no counts accepted yet."""
    monkeypatch.setattr(calls, "BASELINES", tmp_path / "calls.json")
    calls.BASELINES.write_text("{}")
    monkeypatch.setattr(shutil, "which", lambda _name: "valgrind")
    monkeypatch.setattr(calls, "is_compiled", lambda: True)

    def decide(instructions: float) -> None:
        monkeypatch.setattr(calls, "count", lambda: counts_of(instructions))

    return decide


@pytest.mark.parametrize("in_flight", [1, IN_FLIGHT])
@pytest.mark.parametrize("make", [call_loops.client_rules, call_loops.exporter_rules])
def test_loops_of_the_rules_run_again_and_again(
    make: Callable[[int], call_loops.Loop], in_flight: int
) -> None:
    loop = make(in_flight)
    for _ in range(3):
        loop()


def test_loops_of_whole_calls_run_between_marks() -> None:
    marks = 0

    def mark() -> None:
        nonlocal marks
        marks += 1

    with jumpstarter.serve(Marked()) as client:
        client.call("mark")
        for make in PATHS.values():
            call_loops.run(make(client), mark)
    assert marks == 2 * call_loops.ROUNDS * len(PATHS)


def test_the_lowest_of_the_rounds_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Parts 1, 3, 5 ... end where a round begins, and have what happened between two rounds.
    numbers = range(1, 2 * call_loops.ROUNDS * len(RULES) + 1)
    instructions = {f"part.{n}": 1 if n % 2 else 1000 * n for n in numbers}
    monkeypatch.setattr(calls, "instructions_in", lambda part: instructions[part.name])
    found: calls.Counts = {name: {} for name in RULES}
    calls._add(found, RULES, "client", tmp_path)
    firsts = [2, 2 + 2 * call_loops.ROUNDS]
    assert [ends["client"] for ends in found.values()] == [
        1000 * n / call_loops.CALLS for n in firsts
    ]


def test_more_than_the_margin_is_worse_and_rules_have_the_smaller_one() -> None:
    accepted = counts_of(1000.0)
    assert judge(counts_of(1000 * (1 + MARGIN)), accepted) == []
    said = judge(counts_of(1000 * (1 + MARGIN) + 1), accepted)
    assert len(said) == len(RULES) * len(ENDS)
    assert said[0].startswith(f"{next(iter(RULES))}, client: 1,031 instructions per call, accepted")
    assert len(judge(counts_of(1000 * (1 + MARGIN_OF_PATHS) + 1), accepted)) == len(ALL) * len(ENDS)


def test_accepted_counts_have_each_path_and_end() -> None:
    accepted = json.loads(BASELINES.read_text())
    assert accepted
    for paths in accepted.values():
        assert set(paths) == set(ALL)
        assert all(set(ends) == set(ENDS) for ends in paths.values())


def test_without_valgrind_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert calls.main([]) == 0
    assert capsys.readouterr().out.startswith("not counted: there is no valgrind")


def test_the_python_form_is_counted_and_not_judged(
    count_as: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count_as(100.0)
    monkeypatch.setattr(calls, "is_compiled", lambda: False)
    assert calls.main([]) == 0
    assert "not held to anything: the rules run as Python code" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("instructions", "code", "said"),
    [(100.0, 0, "no more than was accepted"), (104.0, 1, "one call, client: 104 instructions")],
)
def test_gate_holds_calls_to_what_was_accepted(
    instructions: float,
    code: int,
    said: str,
    count_as: Callable[[float], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    count_as(100.0)
    assert calls.main([]) == 0
    assert "nothing was accepted yet" in capsys.readouterr().out
    assert calls.main(["--accept"]) == 0
    count_as(instructions)
    assert calls.main([]) == code
    assert said in capsys.readouterr().out


def test_an_accident_that_adds_instructions_does_not_fail_the_gate(
    count_as: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count_as(100.0)
    assert calls.main(["--accept"]) == 0
    counted = iter([counts_of(150.0), counts_of(120.0), counts_of(101.0)])
    monkeypatch.setattr(calls, "count", lambda: next(counted))
    assert calls.main([]) == 0
    assert capsys.readouterr().out.count("counting again") == 2


def test_calls_that_take_more_each_time_fail_the_gate(
    count_as: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    count_as(100.0)
    assert calls.main(["--accept"]) == 0
    count_as(150.0)
    assert calls.main([]) == 1
    assert capsys.readouterr().out.count("counting again") == calls._REPEATS
