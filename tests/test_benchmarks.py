"""The benchmarks run: every workload, once, with next to no operations; and their arithmetic."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import table
from benchmarks.__main__ import main
from benchmarks.harness import Plan, Result, calibrate, measure, start, take_turns
from benchmarks.payloads import PIECE, Tally, decode_order, encode_order
from benchmarks.workloads import FLOOR, OURS, WORKLOADS, Side, Unit, Workload

ONCE = Plan(rounds=1, seconds=0, core=None)
TIME = Unit("µs", 1e6, is_rate=False)
RATE = Unit("items/ms", 1e-3, is_rate=True)
ECHO = "benchmarks.floors.serve_echo"
PING_PONG = "benchmarks.floors.blocking_ping_pong"
ON_LINUX = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processes pinned")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Give a way to make a module that workers can import; its end is the function `run`."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")

    def make(source: str) -> str:
        (tmp_path / "some_end.py").write_text(source)
        return "some_end.run"

    return make


def result_of(
    unit: Unit, operations: dict[str, int], *rounds: dict[str, float], goal: float | None = None
) -> Result:
    return Result(Workload("a name", unit, {}, goal), operations, list(rounds))


# --- the whole ---


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_workload_runs_on_all_its_sides_and_has_a_line(workload: Workload) -> None:
    result = measure(workload, ONCE)
    assert [seconds.keys() for seconds in result.rounds] == [{OURS, FLOOR}]
    assert all(seconds > 0 for seconds in result.rounds[0].values())
    assert table.line(result).startswith(workload.name)


def test_names_are_unique_and_fit_the_table() -> None:
    names = [workload.name for workload in WORKLOADS]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < table.HEAD.index("unit")


def test_command_prints_a_table_and_writes_the_raw_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "raw.json"
    arguments = ["--rounds", "2", "--seconds", "0", "--json", str(path), "ping-pong", "async"]
    assert main(arguments) == 0
    _setting, head, row = capsys.readouterr().out.splitlines()
    assert head == table.HEAD
    assert row.startswith("stream, ping-pong, async")
    (raw,) = json.loads(path.read_text())["workloads"]
    assert raw["name"] == "stream, ping-pong, async"
    assert raw["operations"] == {OURS: 1, FLOOR: 1}
    assert [seconds.keys() for seconds in raw["seconds"]] == [{OURS, FLOOR}] * 2


def test_command_that_selects_nothing_says_what_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["no such", "workload"]) == 2
    said = capsys.readouterr().out
    assert "no such and workload" in said
    assert all(workload.name in said for workload in WORKLOADS)


# --- turns and rounds ---


def test_sides_take_turns() -> None:
    asked = []

    def side(name: str) -> Callable[[int], float]:
        def run(operations: int) -> float:
            asked.append((name, operations))
            return len(asked)

        return run

    rounds = take_turns({"a": side("a"), "b": side("b")}, {"a": 10, "b": 20}, 2)
    assert asked == [("a", 10), ("b", 20)] * 2
    assert rounds == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]


@pytest.mark.parametrize("cost", [1e-6, 1e-3, 0.5])
def test_calibration_finds_how_many_operations_fill_a_round(cost: float) -> None:
    assert calibrate(lambda operations: operations * cost, 1.0) == pytest.approx(1 / cost)


def test_a_round_has_at_least_one_operation() -> None:
    assert calibrate(lambda _: 5.0, 1.0) == 1


# --- workers ---


def test_worker_runs_rounds_until_its_input_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with start(ECHO, sys.executable) as server, start(PING_PONG, sys.executable) as client:
        server.begin(path)
        client.begin(path)
        assert client.run(1) > 0
        assert client.run(3) > 0
    assert (server.process.returncode, client.process.returncode) == (0, 0)


@ON_LINUX
def test_worker_is_pinned_where_it_is_told(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with start(ECHO, sys.executable, core) as server:
        server.begin(str(tmp_path / "socket"))
        assert os.sched_getaffinity(server.process.pid) == {core}


def test_worker_that_fails_is_named(
    module: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    end = module("def run(path): raise ValueError(path)")
    with (
        pytest.raises(RuntimeError, match=rf"^{end} has ended; .* stderr"),
        start(end, sys.executable) as worker,
    ):
        worker.begin("the path")
    assert "ValueError: the path" in capfd.readouterr().err
    assert worker.process.returncode is not None


def test_worker_that_does_not_answer_is_killed(module: Callable[[str], str]) -> None:
    end = module("import time\ndef run(path): time.sleep(600)")
    with (
        pytest.raises(RuntimeError, match=rf"^{end}: no answer to 'the path' in 0.1 s"),
        start(end, sys.executable, patience=0.1) as worker,
    ):
        worker.begin("the path")
    assert worker.process.returncode < 0


def test_worker_that_fails_at_its_end_is_no_success(
    module: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    end = module(
        "from benchmarks.worker import rounds\n"
        "def run(path):\n"
        "    for count in rounds(): pass\n"
        "    raise ValueError(path)\n"
    )
    with (
        pytest.raises(RuntimeError, match=rf"^{end} ended with code 1$"),
        start(end, sys.executable) as worker,
    ):
        worker.begin("the path")
    assert "ValueError: the path" in capfd.readouterr().err


def test_one_end_that_fails_ends_the_measurement(
    module: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    end = module("def run(path): raise ValueError(path)")
    workload = Workload("broken", TIME, {OURS: Side(ECHO, end)})
    with pytest.raises(RuntimeError, match=f"^{end} has ended"):
        measure(workload, ONCE)
    assert "ValueError" in capfd.readouterr().err


# --- what crosses the wire ---


@pytest.mark.parametrize("cut", [1, 4096, len(PIECE), 3 * len(PIECE)])
def test_tally_sees_the_ends_of_transfers_however_they_are_cut(cut: int) -> None:
    tally = Tally()
    for pieces in (1, 2, 5):
        assert decode_order(encode_order(pieces)) == pieces
        assert not tally.add(encode_order(pieces))
        data = PIECE * pieces
        ends = [tally.add(data[at : at + cut]) for at in range(0, len(data), cut)]
        assert ends == [False] * (len(ends) - 1) + [True]


# --- figures ---


@pytest.mark.parametrize(
    ("unit", "figure"),
    [(TIME, 500.0), (RATE, 2.0), (Unit("MB/s", 0.5, is_rate=True), 1000.0)],
)
def test_unit_turns_operations_and_seconds_into_a_figure(unit: Unit, figure: float) -> None:
    assert unit.figure(4000, 2.0) == pytest.approx(figure)


def test_ratio_is_taken_within_each_round() -> None:
    # The second round is slow on both sides: it says nothing about how they compare.
    rounds = [{OURS: 2.0, FLOOR: 1.0}, {OURS: 20.0, FLOOR: 10.0}, {OURS: 3.0, FLOOR: 1.0}]
    result = result_of(TIME, {OURS: 100, FLOOR: 100}, *rounds)
    assert table.ratio(result, OURS, FLOOR) == table.Spread(2.0, 2.0, 3.0)


@pytest.mark.parametrize(("unit", "expected"), [(TIME, 0.5), (RATE, 2.0)])
def test_ratio_has_the_units_direction(unit: Unit, expected: float) -> None:
    result = result_of(unit, {OURS: 200, FLOOR: 100}, {OURS: 1.0, FLOOR: 1.0})
    assert table.ratio(result, OURS, FLOOR).median == pytest.approx(expected)


@pytest.mark.parametrize(
    ("spread", "shown"),
    [
        (table.Spread(1.234, 0.5, 9.99), "1.23 (0.50-9.99)"),
        (table.Spread(12.34, 10, 99.94), "12.3 (10.0-99.9)"),
        (table.Spread(123.4, 100, 12345), "123 (100-12,345)"),
    ],
)
def test_spread_shows_three_digits_or_so(spread: table.Spread, shown: str) -> None:
    assert str(spread) == shown


@pytest.mark.parametrize(
    ("unit", "goal", "shown"), [(TIME, 1.3, "<= 1.3"), (RATE, 0.6, ">= 0.6"), (TIME, None, "1.00)")]
)
def test_goal_says_its_direction(unit: Unit, goal: float | None, shown: str) -> None:
    result = result_of(unit, {OURS: 1, FLOOR: 1}, {OURS: 1.0, FLOOR: 1.0}, goal=goal)
    assert table.line(result).endswith(shown)
