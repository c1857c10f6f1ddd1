"""Test the benchmarks: each workload, with very few operations, and the arithmetic.

The peers are not installed here. Made-up peers test the handling of a missing or failing peer.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import __main__ as command
from benchmarks import memory, peers, plot, publish, table
from benchmarks.harness import (
    Plan,
    Result,
    SideError,
    calibrate,
    environment,
    measure,
    start,
    take_turns,
)
from benchmarks.loops import repeat, repeat_from_threads, repeat_timed, report_beside_bulk
from benchmarks.model import FLOOR, OURS, Side, Unit, Workload
from benchmarks.payloads import PIECE, Tally, decode_order, encode_order
from benchmarks.record import Record, read
from benchmarks.workloads import WORKLOADS

from processes import PATIENCE

DOCS = Path(__file__).parents[1] / "docs"
ONCE = Plan(rounds=1, seconds=0, operations=1)
TIME = Unit("µs", 1e6)
RATE = Unit("items/ms", 1e-3, is_rate=True)
ECHO = "benchmarks.floors.serve_echo"
PING_PONG = "benchmarks.floors.blocking_ping_pong"
BLOCKING = Side(ECHO, PING_PONG)
ON_LINUX = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processes pinned")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that makes a module for workers to import, with its end named `run`."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")

    def make(source: str) -> str:
        (tmp_path / "some_end.py").write_text(source)
        return "some_end.run"

    return make


def result_of(
    unit: Unit,
    operations: dict[str, int],
    *rounds: dict[str, float],
    goals: dict[str, float] | None = None,
) -> Result:
    """Make a result from durations in seconds."""
    workload = Workload("a name", (unit,), dict.fromkeys(operations, BLOCKING), goals or {})
    measures = [{side: {"seconds": taken} for side, taken in each.items()} for each in rounds]
    return Result(workload, operations, list(measures))


# --- whole runs ---


def one_of_each_size() -> list[Workload]:
    """Return the workloads without those that differ from another one only by numbers."""
    sides = [workload.sides[OURS] for workload in WORKLOADS]
    kinds = [re.sub(r"\d+", "", f"{side.server} {side.client} {side.delay}") for side in sides]
    return list(dict(zip(reversed(kinds), reversed(WORKLOADS), strict=True)).values())


@pytest.mark.parametrize("workload", one_of_each_size(), ids=lambda workload: workload.name)
def test_workload_runs_on_its_own_sides_and_has_lines(workload: Workload) -> None:
    result = measure(workload, ONCE)
    assert {OURS, FLOOR} <= result.operations.keys()
    assert set(result.absent) == {name for name, side in workload.sides.items() if side.peer}
    for unit in workload.units:
        assert table.figures(result, OURS, unit)[0] > 0
    lines = list(table.lines(result))
    assert len(lines) == len(workload.sides) * len(workload.units)
    assert lines[0].startswith(f"| {workload.name}")


def test_names_are_unique_and_goals_are_of_sides() -> None:
    names = [workload.name for workload in WORKLOADS]
    assert len(set(names)) == len(names)
    assert all(workload.goals.keys() <= workload.sides.keys() for workload in WORKLOADS)


def test_every_peer_is_one_that_can_be_installed_and_has_a_workload() -> None:
    named = {side.peer for workload in WORKLOADS for side in workload.sides.values()}
    assert named - {""} == peers.PEERS.keys()


def test_ends_are_written() -> None:
    root = Path(__file__).parents[1]
    for workload in WORKLOADS:
        for side in workload.sides.values():
            for end in filter(None, (side.server, side.client)):
                module, _, name = end.split()[0].rpartition(".")
                source = root.joinpath(*module.split(".")).with_suffix(".py").read_text()
                assert f"def {name}(" in source or f"as {name}\n" in source, end


def test_command_prints_a_table_and_keeps_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "raw.json"
    arguments = ["--no-peers", "--rounds", "2", "--operations", "3", "--json", str(path)]
    assert command.main([*arguments, "ping-pong", "blocking"]) == 0
    printed = capsys.readouterr().out
    head, rows = printed.split("\n\n")
    assert head.startswith("python -m benchmarks --no-peers --rounds 2")
    assert rows.startswith(table.HEAD)
    record = read(path)
    (result,) = record.results
    assert result.workload.name == "stream, ping-pong, blocking"
    assert result.operations == {OURS: 3, FLOOR: 3}
    assert [measures.keys() for measures in result.rounds] == [{OURS, FLOOR}] * 2
    assert command.main(["--show", str(path)]) == 0
    assert capsys.readouterr().out == printed


def test_record_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    path = tmp_path / "raw.json"
    arguments = ["--no-peers", "--rounds", "1", "--operations", "1", "--json", str(path)]
    assert command.main([*arguments, "calls in flight"]) == 0
    # In a separate process, since matplotlib keeps its font files open.
    draw = [sys.executable, "-m", "benchmarks.plot", str(path), "--into", str(tmp_path)]
    drawings = []
    for _ in range(2):
        subprocess.run(draw, timeout=PATIENCE, check=True, cwd=Path(__file__).parents[1])
        drawings.append((tmp_path / "performance.svg").read_bytes())
    assert b"64 calls in flight" in drawings[0]
    assert (tmp_path / "performance.png").read_bytes().startswith(b"\x89PNG")
    assert drawings[0] == drawings[1]


def test_command_that_selects_nothing_says_what_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--no-peers", "no such", "workload"]) == 2
    said = capsys.readouterr().out
    assert "no such and workload" in said
    assert all(workload.name in said for workload in WORKLOADS)


def test_docs_have_the_run_that_is_on_record() -> None:
    record = read(DOCS / "performance.json")
    page = (DOCS / "performance.md").read_text()
    assert all(section in page for section in publish.sections(record).values())
    for picture in ("performance.svg", "performance.png"):
        assert (DOCS / picture).exists()


def test_run_is_published_between_the_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "draw", lambda _record, _into: [])
    file = DOCS / "performance.json"
    page = tmp_path / "performance.md"
    record = read(file)

    def page_of(record: Record) -> str:
        texts = publish.sections(record).values()
        return "\n".join(["before", *texts, "after\n"])

    page.write_text(page_of(Record(record.setting, [])))
    for _ in range(2):
        publish.publish(file, tmp_path)
        assert page.read_text() == page_of(record)
    assert (tmp_path / "performance.json").read_bytes() == file.read_bytes()


def test_page_without_marks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "draw", lambda _record, _into: [])
    (tmp_path / "performance.md").write_text("no marks")
    with pytest.raises(ValueError, match="has 0 places for a run"):
        publish.publish(DOCS / "performance.json", tmp_path)


# --- peers ---


def test_peer_that_is_not_installed_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    sides = {OURS: BLOCKING, FLOOR: BLOCKING, "other": Side(ECHO, PING_PONG, "other-library")}
    result = measure(Workload("a name", (TIME,), sides, {}), ONCE)
    assert result.absent == {"other": "not installed"}
    assert "not installed" in list(table.lines(result))[2]
    assert capsys.readouterr().err == ""


def test_peer_that_fails_is_left_out_and_the_rest_goes_on(
    module: Callable[[str], str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "PYTHON", Path(sys.executable))
    end = module("def run(path): raise ValueError(path)")
    sides = {"other": Side(ECHO, end, "other-library"), OURS: BLOCKING, FLOOR: BLOCKING}
    plan = Plan(rounds=2, seconds=0, operations=1, installed={"other-library": "1.0"})
    result = measure(Workload("a name", (TIME,), sides, {}), plan)
    assert result.absent == {"other": "failed"}
    assert [measures.keys() for measures in result.rounds] == [{OURS, FLOOR}] * 2
    assert f"a name: other: {end} has ended" in capfd.readouterr().err


def test_no_environment_has_no_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PYTHON", tmp_path / "python")
    assert peers.installed() == {}


def test_peers_are_asked_for_in_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(peers, "PEERS", {"pytest": (), "no-such-distribution": ()})
    assert peers.installed() == {"pytest": pytest.__version__}


def test_a_worker_keeps_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory would otherwise depend on whether its modules had to be compiled."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert {**environment(), "PYTHONDONTWRITEBYTECODE": "1"} == dict(os.environ)
    assert "PYTHONDONTWRITEBYTECODE" not in environment()


# --- turns and rounds ---


def test_sides_take_turns() -> None:
    asked = []

    def side(name: str) -> Callable[[int], dict[str, float]]:
        def run(operations: int) -> dict[str, float]:
            asked.append((name, operations))
            return {"seconds": len(asked)}

        return run

    rounds = take_turns({"a": side("a"), "b": side("b")}, {"a": 10, "b": 20}, 2)
    assert asked == [("a", 10), ("b", 20)] * 2
    seconds = [[measures["seconds"] for measures in each.values()] for each in rounds]
    assert seconds == [[1, 2], [3, 4]]


@pytest.mark.parametrize("cost", [1e-6, 1e-3, 0.5])
def test_calibration_finds_how_many_operations_fill_a_round(cost: float) -> None:
    operations = calibrate(lambda operations: {"seconds": operations * cost}, 1.0)
    assert operations == pytest.approx(1 / cost)


def test_a_round_has_at_least_one_operation() -> None:
    assert calibrate(lambda _: {"seconds": 5.0}, 1.0) == 1


# --- workers ---


def test_worker_runs_rounds_until_its_input_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with start(ECHO, sys.executable) as server, start(PING_PONG, sys.executable) as client:
        server.begin(path)
        client.begin(path)
        assert client.run(1)["seconds"] > 0
        assert client.run(3)["seconds"] > 0
    assert (server.process.returncode, client.process.returncode) == (0, 0)


@ON_LINUX
def test_worker_is_pinned_where_it_is_told(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with start(ECHO, sys.executable, [core]) as server:
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
    workload = Workload("broken", (TIME,), {OURS: Side(ECHO, end), FLOOR: BLOCKING}, {})
    with pytest.raises(SideError, match=f"^{OURS}: {end} has ended"):
        measure(workload, ONCE)
    assert "ValueError" in capfd.readouterr().err


@ON_LINUX
def test_memory_that_a_round_took_is_weighed(module: Callable[[str], str]) -> None:
    end = module(
        "from benchmarks.worker import rounds\n"
        "def run(path):\n"
        "    for count in rounds(): b'x' * (count * 2**20)\n"
    )
    sides = {OURS: Side("", end), FLOOR: Side("", end)}
    unit = Unit("KiB each", 1 / 1024, measure="client_growth")
    workload = Workload("a name", (unit,), sides, {}, operations=64, afresh=True)
    result = measure(workload, Plan(rounds=1, seconds=0))
    assert result.rounds[0][OURS]["client_growth"] >= 40 * 2**20  # warm-up took 16 of 64 MiB
    assert result.rounds[0][OURS]["client_peak"] >= result.rounds[0][OURS]["client_growth"]


def test_memory_of_nobody_is_nothing() -> None:
    nobody = 2**22 + 1  # above the largest process id
    memory.forget_peak(nobody)
    assert (memory.resident(nobody), memory.peak(nobody)) == (0, 0)


# --- loops ---


@pytest.fixture
def two_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.loops.rounds", lambda: iter([1, 13]))


@pytest.mark.usefixtures("two_rounds")
def test_operations_are_done_as_often_as_asked() -> None:
    done: list[None] = []
    repeat(lambda: done.append(None))
    assert len(done) == 1 + 13
    repeat_from_threads(lambda: done.append(None), 8)
    assert len(done) == 2 * (1 + 13)


def test_latencies_are_reported_by_percentile(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, float] = {}
    monkeypatch.setattr("benchmarks.loops.report", lambda **measures: said.update(measures))
    report_beside_bulk(2.0, 3.0, [float(n) for n in range(100, -1, -1)])
    assert said == {"p50": 50, "p99": 99, "slowdown": 1.5}


@pytest.mark.parametrize("beside", ["computing", "nothing"])
def test_latencies_are_reported_for_each_round(
    beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, float]] = []
    computing: list[threading.Thread] = []
    company: list[int] = []

    def compute(begun: threading.Event, over: threading.Event) -> None:
        computing.append(threading.current_thread())
        begun.set()
        assert over.wait(PATIENCE)
        computing.clear()

    monkeypatch.setattr("benchmarks.loops.rounds", lambda: iter([1, 13]))
    monkeypatch.setattr("benchmarks.loops._compute", compute)
    monkeypatch.setattr("benchmarks.loops.report", lambda **measures: said.append(measures))
    repeat_timed(lambda: company.append(len(computing)), beside)
    assert company == [int(beside == "computing")] * 14
    assert [measures.keys() for measures in said] == [{"p50", "p99"}] * 2
    assert computing == []


# --- bytes on the wire ---


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


SHARED = Unit("MB/s", 0.5, is_rate=True)
WHOLE = Unit("MiB", 10, each=False)


@pytest.mark.parametrize(
    ("unit", "figure"), [(TIME, 500.0), (RATE, 2.0), (SHARED, 1000.0), (WHOLE, 20.0)]
)
def test_unit_turns_operations_and_a_measure_into_a_figure(unit: Unit, figure: float) -> None:
    assert unit.figure(4000, {"seconds": 2.0}) == pytest.approx(figure)


def test_unit_takes_its_own_measure() -> None:
    unit = Unit("p99, ms", 1e3, measure="p99", each=False)
    assert unit.figure(7, {"seconds": 2.0, "p99": 0.5}) == 500


def test_ratio_is_taken_within_each_round() -> None:
    # The second round is slow on both sides, which must not affect their ratio.
    rounds = [{OURS: 2.0, FLOOR: 1.0}, {OURS: 20.0, FLOOR: 10.0}, {OURS: 3.0, FLOOR: 1.0}]
    result = result_of(TIME, {OURS: 100, FLOOR: 100}, *rounds)
    assert table.ratio(result, OURS, FLOOR, TIME) == table.Spread(2.0, 2.0, 3.0)


@pytest.mark.parametrize(("unit", "expected"), [(TIME, 0.5), (RATE, 2.0)])
def test_ratio_has_the_units_direction_and_gain_has_none(unit: Unit, expected: float) -> None:
    result = result_of(unit, {OURS: 200, FLOOR: 100}, {OURS: 1.0, FLOOR: 1.0})
    ratio, gain = table.ratio(result, OURS, FLOOR, unit), table.gain(result, FLOOR, unit)
    assert ratio is not None
    assert gain is not None
    assert ratio.median == pytest.approx(expected)
    assert gain.median == pytest.approx(2)


@pytest.mark.parametrize(
    ("spread", "shown"),
    [
        (table.Spread(0.0123, 0.01, 0.5), "0.012 (0.010-0.50)"),
        (table.Spread(1.234, 0.5, 9.99), "1.23 (0.50-9.99)"),
        (table.Spread(12.34, 10, 99.94), "12.3 (10.0-99.9)"),
        (table.Spread(123.4, 100, 12345), "123 (100-12,345)"),
    ],
)
def test_spread_shows_three_digits_or_so(spread: table.Spread, shown: str) -> None:
    assert str(spread) == shown


@pytest.mark.parametrize(
    ("unit", "side", "shown"),
    [
        (TIME, OURS, "<= 1.3"),
        (RATE, OURS, ">= 1.3"),
        (TIME, FLOOR, "ours <= 1.3 x"),
        (RATE, FLOOR, "ours >= 1.3 x"),
        (TIME, "other", ">= 1.3"),
        (RATE, "other", ">= 1.3"),
    ],
)
def test_goal_is_shown_where_it_is_read(unit: Unit, side: str, shown: str) -> None:
    sides = (OURS, FLOOR, "other")
    seconds = dict.fromkeys(sides, 1.0)
    result = result_of(unit, dict.fromkeys(sides, 1), seconds, goals={side: 1.3})
    goals = [line.split("|")[-2].strip() for line in table.lines(result)]
    assert dict(zip(sides, goals, strict=True)) == dict.fromkeys(sides, "") | {side: shown}
