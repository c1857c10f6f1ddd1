"""Test the statistics of the benchmarks: modes, ratios, rounds, and what the table shows."""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import compare, goals, processor, summary, table
from benchmarks.floors import serve_echo
from benchmarks.harness import Plan, Result, calibrate, measure, shares, start, with_before
from benchmarks.link import behind
from benchmarks.model import BEFORE, FLOOR, OURS, Side, Unit, Workload
from benchmarks.modes import are_comparable, slow_rounds
from benchmarks.record import Record, Setting, write
from benchmarks.situations import SITUATIONS
from benchmarks.workloads import WORKLOADS

from processes import PATIENCE

RATE = Unit("MB/s", 1, is_rate=True)
BARE = Side("", "benchmarks.floors.blocking_ping_pong")
ECHO = replace(BARE, server="benchmarks.floors.serve_echo")

# Rounds of a bare stream, in MB/s: a quick run, and the same minutes later.
SLOW = [398.0, 402.0, 391.0]
FAST = [3565.0, 3480.0, 3611.0]


# --- modes ---


def test_a_figure_that_is_one_of_two_has_two_modes() -> None:
    assert slow_rounds([*SLOW, *FAST]) == {0, 1, 2}
    assert slow_rounds([3565, 398, 3480, 402]) == {1, 3}


@pytest.mark.parametrize(
    "figures",
    [
        [],
        [400.0],
        [398.0, 3565.0],
        SLOW,
        [100, 110, 150, 145, 120, 130],  # half as much again, with values in between
        [100, 101, 99, 300],  # a single round was disturbed
        [100, 160, 256, 410, 655, 1049],  # far apart, but without two groups
        [100, 180, 300, 500],  # a group that is wider than the step to the other
    ],
)
def test_a_figure_that_varies_has_one_mode(figures: Sequence[float]) -> None:
    assert slow_rounds(figures) == frozenset()


def test_modes_do_not_depend_on_the_unit() -> None:
    figures = [*SLOW, *FAST]
    times = [1 / figure for figure in figures]
    assert slow_rounds([1000 * figure for figure in figures]) == slow_rounds(figures)
    assert slow_rounds(times) == set(range(6)) - slow_rounds(figures)


def test_figures_are_comparable_if_both_stay_or_change_together() -> None:
    steady = [100.0, 102.0, 101.0, 99.0, 100.0, 103.0]
    both = [*SLOW, *FAST]
    assert are_comparable(steady, steady)
    assert are_comparable(both, [2 * figure for figure in both])
    assert not are_comparable(steady, both)
    assert not are_comparable(both, steady)
    assert not are_comparable(both, [*FAST, *SLOW])


# --- the table ---


def result_of(ours: Sequence[float], bare: Sequence[float], **more: float) -> Result:
    """Make a result from figures in MB/s."""
    workload = Workload("a stream", (RATE,), {OURS: BARE, FLOOR: BARE}, {})
    rounds = [
        {OURS: {"seconds": 1 / mine, **more}, FLOOR: {"seconds": 1 / floor}}
        for mine, floor in zip(ours, bare, strict=True)
    ]
    return Result(workload, {OURS: 1, FLOOR: 1}, list(rounds))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_a_ratio_between_modes_is_not_shown() -> None:
    result = result_of([300, 310, 305, 300, 308, 303], [*SLOW, *FAST])
    assert table.ratio(result, OURS, FLOOR, RATE) is None
    assert table.gain(result, FLOOR, RATE) is None
    ours, bare = (cells(line) for line in table.lines(result))
    assert ours[4] == bare[5] == "none: two modes"
    assert ours[3] == "304 (300-310)"
    assert bare[3] == "398 (3 rounds) or 3,565 (3 rounds)"


def test_a_ratio_within_the_same_modes_is_shown() -> None:
    result = result_of([figure / 2 for figure in [*SLOW, *FAST]], [*SLOW, *FAST])
    assert table.ratio(result, OURS, FLOOR, RATE) == table.Spread(0.5, 0.5, 0.5)


def test_processor_time_is_that_of_an_operation_at_both_ends() -> None:
    result = result_of([1, 1], [1, 1], client_cpu=0.02, server_cpu=0.001, operations=100)
    assert table.processor_time(result, OURS, "client") == pytest.approx(0.0002)
    assert table.processor_time(result, FLOOR, "client") is None
    ours, bare = (cells(line) for line in table.lines(result))
    assert ours[6] == "200 + 10.0"
    assert bare[6] == ""


def test_processor_time_with_two_modes_is_shown_as_two() -> None:
    result = result_of([1.0] * 4, [1.0] * 4)
    for number, spent in enumerate([10e-6, 30e-6, 11e-6, 31e-6]):
        result.rounds[number] = {
            side: {**measures, "client_cpu": spent, "server_cpu": 2e-6}
            for side, measures in result.rounds[number].items()
        }
    assert cells(next(table.lines(result)))[6] == "(10.5 or 30.5) + 2.00"


def test_a_rounds_own_number_of_operations_counts() -> None:
    result = result_of([1.0], [1.0], operations=7)
    assert table.figures(result, OURS, RATE) == [7]
    assert table.figures(result, FLOOR, RATE) == [1]


def test_a_goal_for_ours_is_a_multiple_of_ours_otherwise() -> None:
    sides = {OURS: BARE, FLOOR: BARE, "nothing else open": Side("", "", is_ours=True)}
    workload = Workload("a call", (Unit("µs", 1e6),), sides, {"nothing else open": 1.3})
    measures = {side: {"seconds": 1.0} for side in sides}
    result = Result(workload, dict.fromkeys(sides, 1), [measures])
    assert [cells(line)[7] for line in table.lines(result)] == ["", "", "ours <= 1.3 x"]


# --- goals ---


def judged(ours: Sequence[float], bare: Sequence[float], goal: float, side: str = FLOOR) -> str:
    """Return whether a stream meets a goal, from figures in MB/s."""
    result = result_of(ours, bare)
    result = replace(result, workload=replace(result.workload, goals={side: goal}))
    [line] = goals.lines(result)
    return cells(line)[4]


@pytest.mark.parametrize(
    ("ours", "met"),
    [
        ([0.9, 1.0, 1.1], "yes"),
        ([0.7, 0.9, 1.0], "yes, by the median only"),
        ([0.6, 0.7, 0.9], "no, by the median only"),
        ([0.5, 0.6, 0.7], "no"),
    ],
)
def test_a_goal_is_met_by_the_median(ours: Sequence[float], met: str) -> None:
    assert judged(ours, [1, 1, 1], 0.8) == met
    assert judged(ours, [1, 1, 1], 0.8, OURS) == met


def test_a_goal_for_times_is_a_maximum() -> None:
    result = everyday([1.2e-6] * 4, [1e-6] * 4, [6e-6] * 4)
    [line] = goals.lines(result)
    assert cells(line) == [
        "a call",
        "nothing else open",
        "<= 1.3 x",
        "1.20 (1.20-1.20)",
        "yes",
    ]
    slower = everyday([1.4e-6] * 4, [1e-6] * 4, [6e-6] * 4)
    assert cells(next(goals.lines(slower)))[4] == "no"


def test_a_goal_beside_a_peer_is_a_minimum() -> None:
    result = everyday([2e-6] * 4, [1e-6] * 4, [6e-6] * 4)
    sides = {**result.workload.sides, "grpc": Side("", "", "grpcio")}
    workload = replace(result.workload, sides=sides, goals={"grpc": 2.5})
    [line] = goals.lines(replace(result, workload=workload))
    assert cells(line)[1:] == ["grpc", ">= 2.5", "3.00 (3.00-3.00)", "yes"]
    absent = Result(workload, result.operations, result.rounds, {"grpc": "failed"})
    assert list(goals.lines(absent)) == []


def test_a_goal_is_not_judged_between_modes() -> None:
    assert judged([300.0] * 6, [*SLOW, *FAST], 0.8) == "two modes"
    assert judged([*SLOW, *FAST], [1.0] * 6, 400, OURS) == "two modes"


def beside_before(name: str, now: Sequence[float], before: Sequence[float]) -> Result:
    """Make a result with an earlier state, from microseconds of processor time."""
    workload = with_before(Workload(name, (RATE,), {OURS: BARE}, {}))
    rounds = [
        {
            OURS: {"seconds": 1.0, "client_cpu": mine * 1e-6},
            BEFORE: {"seconds": 1.0, "client_cpu": earlier * 1e-6},
        }
        for mine, earlier in zip(now, before, strict=True)
    ]
    return Result(workload, {OURS: 1, BEFORE: 1}, list(rounds))


def test_operations_that_take_more_processor_time_than_before_are_named() -> None:
    steady = [10.0, 11.0, 10.5, 10.2]
    less = beside_before("less", [each / 2 for each in steady], steady)
    as_much = beside_before("as much", [each * 1.05 for each in steady], steady)
    more = beside_before("more", [each * 1.06 for each in steady], steady)
    modes = beside_before("two modes", [10, 30, 11, 31], steady)
    assert goals.against_before([less, as_much, more, modes]) == (
        "Over 5% more processor time than before: more, 1.06 (1.06-1.06) times. "
        "Not compared, because of two modes: two modes."
    )
    none = "Over 5% more processor time than before: none."
    assert goals.against_before([less]) == none
    assert goals.whole([less]).endswith(f"\n\n{none}")
    assert goals.against_before([result_of([1.0], [1.0])]) == ""


def test_a_run_without_goals_says_so() -> None:
    assert goals.whole([result_of([1.0], [1.0])]) == goals.whole([])


# --- an earlier state ---


def test_an_earlier_state_is_a_side_with_our_ends() -> None:
    workload = Workload("a stream", (RATE,), {OURS: BARE, FLOOR: BARE}, {})
    sides = with_before(workload).sides
    assert list(sides) == [OURS, BEFORE, FLOOR]
    assert sides[BEFORE] == replace(BARE, is_before=True)


def test_an_earlier_state_runs_in_its_environment() -> None:
    workload = next(each for each in WORKLOADS if each.name == "call, blocking -> plain")
    sides = {name: workload.sides[name] for name in (OURS, FLOOR)}
    plan = Plan(rounds=1, seconds=0, operations=1, before=sys.executable)
    result = measure(replace(workload, sides=sides), plan)
    assert list(result.rounds[0]) == [OURS, BEFORE, FLOOR]
    lines = [cells(line) for line in table.lines(result)]
    assert [line[2] for line in lines] == [OURS, BEFORE, FLOOR]


def test_an_earlier_state_that_cannot_do_the_work_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    workload = Workload("a stream", (RATE,), {OURS: ECHO, FLOOR: ECHO}, {})
    plan = Plan(rounds=1, seconds=0, operations=1, before=str(python))
    assert measure(workload, plan).absent == {BEFORE: "failed"}
    assert "a stream: before: " in capsys.readouterr().err


# --- rounds ---


@pytest.mark.parametrize(
    ("rounds", "starts", "expected"),
    [(9, 3, [3, 3, 3]), (4, 3, [2, 1, 1]), (2, 3, [1, 1]), (5, 1, [5])],
)
def test_rounds_are_divided_among_the_starts(rounds: int, starts: int, expected: list[int]) -> None:
    assert shares(rounds, starts) == expected


def test_a_round_is_as_long_as_planned_although_the_first_ones_were_slow() -> None:
    runs: list[int] = []

    def run(operations: int) -> dict[str, float]:
        runs.append(operations)
        slow = 100 if len(runs) < 4 else 1
        return {"seconds": operations * 1e-4 * slow}

    assert calibrate(run, 1.0) == pytest.approx(10_000)


def test_a_workload_has_rounds_that_are_long_enough_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned: list[float] = []

    def calibrate_to_one(_run: object, seconds: float) -> int:
        planned.append(seconds)
        return 1

    monkeypatch.setattr("benchmarks.harness.calibrate", calibrate_to_one)
    workload = Workload("a stream", (RATE,), {OURS: ECHO}, {}, shortest=0.3)
    for seconds in (0.15, 0.5):
        measure(workload, Plan(rounds=1, seconds=seconds))
    assert planned == [0.3, 0.5]


def test_calibration_of_what_keeps_changing_ends() -> None:
    assert calibrate(lambda _: {"seconds": 0.5}, 1.0) > 0


# --- processor time ---


@pytest.mark.skipif(sys.platform != "linux", reason="reads the clocks of Linux")
def test_processor_time_of_a_process_is_that_of_all_its_threads() -> None:
    before, begin = processor.spent(os.getpid()), time.process_time()
    sum(range(1_000_000))
    took = time.process_time() - begin
    assert processor.spent(os.getpid()) - before >= took > 0


def test_processor_time_of_nobody_is_unknown() -> None:
    assert math.isnan(processor.spent(2**22 + 1))  # above the largest process id


# --- a link ---


def test_a_link_delays_every_byte_and_its_end(tmp_path: Path) -> None:
    path, delay = str(tmp_path / "socket"), 0.05
    data = os.urandom(1_000_000)
    server = f"{serve_echo.__module__}.{serve_echo.__name__}"
    with (
        start(server, sys.executable) as far,
        start(f"benchmarks.link.forward {delay}", sys.executable) as link,
        socket.socket(socket.AF_UNIX) as client,
    ):
        far.begin(behind(path))
        link.begin(path)
        client.settimeout(PATIENCE)
        client.connect(path)
        for sent in (b"x", data):
            begin = time.monotonic()
            client.sendall(sent)
            received = b""
            while len(received) < len(sent):
                received += client.recv(65536)
            assert received == sent
            assert time.monotonic() - begin >= 2 * delay
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


# --- the summary ---


def everyday(ours: Sequence[float], quiet: Sequence[float], peer: Sequence[float]) -> Result:
    """Make a result of a call beside a console, from seconds."""
    sides = {OURS: BARE, "nothing else open": Side("", "", is_ours=True), "grpc": Side("", "")}
    workload = Workload("a call", (Unit("µs", 1e6),), sides, {"nothing else open": 1.3})
    rounds = [
        {side: {"seconds": taken} for side, taken in zip(sides, each, strict=True)}
        for each in zip(ours, quiet, peer, strict=True)
    ]
    return Result(workload, dict.fromkeys(sides, 1), list(rounds))


def test_summary_has_what_a_situation_costs_and_how_peers_compare() -> None:
    result = everyday([2e-6] * 4, [1e-6] * 4, [6e-6] * 4)
    assert cells(summary.line(result)) == [
        "a call",
        "",
        "2.00 (2.00-2.00) µs",
        "",
        "2.00 x nothing else open",
        "",
        "grpc: 3.00",
    ]


def test_summary_has_what_it_was_before() -> None:
    result = everyday([2e-6] * 4, [1e-6] * 4, [6e-6] * 4)
    workload = with_before(result.workload)
    rounds = [{**measures, BEFORE: {"seconds": 9e-6}} for measures in result.rounds]
    now = Result(workload, {**result.operations, BEFORE: 1}, list(rounds))
    assert cells(summary.line(now))[1:4] == ["9.00 µs", "2.00 (2.00-2.00) µs", "4.50"]
    absent = Result(workload, result.operations, result.rounds, {BEFORE: "failed"})
    assert cells(summary.line(absent))[1:4] == ["", "2.00 (2.00-2.00) µs", ""]


def test_summary_has_the_processor_time_and_what_it_is_otherwise() -> None:
    result = everyday([2e-6] * 4, [1e-6] * 4, [6e-6] * 4)
    cpu = {OURS: (140e-6, 60e-6), "nothing else open": (30e-6, 20e-6)}
    for number, measures in enumerate(result.rounds):
        result.rounds[number] = {
            side: {**of_side, "client_cpu": cpu[side][0], "server_cpu": cpu[side][1]}
            if side in cpu
            else of_side
            for side, of_side in measures.items()
        }
    assert cells(summary.line(result))[5] == "200 (4.00 x)"


def test_summary_has_no_ratio_between_modes() -> None:
    result = everyday([1e-6, 9e-6] * 3, [1e-6] * 6, [1e-6] * 6)
    assert cells(summary.line(result))[3:] == [
        "",
        "two modes nothing else open",
        "",
        "grpc: two modes",
    ]


def test_summary_has_only_everyday_situations() -> None:
    calls = result_of([1.0], [1.0])
    assert summary.whole([calls]) == summary.whole([])
    assert "a stream" not in summary.whole([calls, everyday([1], [1], [1])])
    assert {workload.name for workload in WORKLOADS if summary.is_everyday(workload)} == {
        workload.name for workload in SITUATIONS
    }


# --- two runs ---


def run_of(name: str, *, client: float, server: float) -> Record:
    """Make a record of a run with one workload, from microseconds of processor time."""
    cpu = {"client_cpu": client * 1e-6, "server_cpu": server * 1e-6}
    sides = {OURS: BARE, FLOOR: BARE}
    workload = Workload(name, (Unit("µs", 1e6),), sides, {})
    rounds = [{OURS: {"seconds": 1e-4, **cpu}, FLOOR: {"seconds": 1e-5}}] * 3
    setting = Setting("", "", "", "", "", 0.0, 3, 0.1, (), {})
    return Record(setting, [Result(workload, {OURS: 1, FLOOR: 1}, list(rounds))])


def test_two_runs_are_compared_by_the_processor_time_of_both_ends() -> None:
    before, after = run_of("a", client=42, server=60), run_of("a", client=62, server=44)
    [pair] = compare.pairs(before, after)
    assert compare.change_of(pair) == pytest.approx(4 / 102)
    assert not compare.worse(pair)
    [line] = compare.lines([pair])
    assert cells(line) == ["a", "µs", "100", "100", "102", "106", "+4%"]
    assert compare.pairs(before, run_of("b", client=1, server=1)) == []


def test_two_runs_are_not_compared_between_modes() -> None:
    before, after = run_of("a", client=42, server=60), run_of("a", client=62, server=44)
    before.results[0].rounds[:] = [
        {side: {**measures, "client_cpu": spent} for side, measures in each.items()}
        for each, spent in zip(before.results[0].rounds * 2, [4.1e-5, 12.1e-5] * 3, strict=True)
    ]
    [pair] = compare.pairs(before, after)
    assert compare.change_of(pair) is None
    assert not compare.worse(pair)
    [line] = compare.lines([pair])
    assert cells(line)[4:] == ["(101 or 181)", "106", ""]


def test_a_comparison_fails_if_an_operation_takes_more_processor_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = str(tmp_path / "before"), str(tmp_path / "after")
    write(run_of("a", client=40, server=60), Path(files[0]))
    write(run_of("a", client=50, server=60), Path(files[1]))
    assert compare.main(files) == 1
    assert "+10% !" in capsys.readouterr().out
    assert compare.main([files[1], files[0]]) == 0
    assert "-9%" in capsys.readouterr().out


def test_a_run_without_processor_times_is_not_judged() -> None:
    before = run_of("a", client=1, server=1)
    for result in before.results:
        result.rounds[:] = [{OURS: {"seconds": 1.0}, FLOOR: {"seconds": 1.0}}]
    [pair] = compare.pairs(before, run_of("a", client=9, server=9))
    assert compare.change_of(pair) is None
    assert not compare.worse(pair)
