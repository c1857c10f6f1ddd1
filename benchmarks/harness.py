"""Run workloads: start the ends, let the sides take turns, stop the ends.

Every process started here has ended by the time its `with` block exits, even on an exception: the
harness closes the process's standard input, and kills the process if it does not end. The harness
leaves out a peer that is not installed or fails, and records the reason in the result; our own side
and the floor must work. This module does not depend on the units or on the code of any side.
"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from . import link, memory, peers, processor
from .model import BEFORE, FLOOR, OURS, Side, Workload

__all__ = [
    "Ends",
    "Plan",
    "Result",
    "Round",
    "SideError",
    "Worker",
    "calibrate",
    "environment",
    "measure",
    "shares",
    "start",
    "take_turns",
    "with_before",
]

PATIENCE: Final = 60.0  # seconds to wait for an answer of a worker; the longest round takes 1 or 2
_END_GRACE: Final = 10.0  # seconds in which a worker must end by itself
_ROOT: Final = Path(__file__).parents[1]  # the directory from which workers import this package
_FEWER: Final = 3  # divides the rounds of new processes: memory varies much less than time
_WARM: Final = 16  # operations before the first memory reading, to exclude what loads only once
_LONG_ENOUGH: Final = 0.7  # of the planned duration of a round
_TRIES: Final = 5  # to find how many operations take that long

Measures = Mapping[str, float]
Run = Callable[[int], Measures]
Round = Mapping[str, Measures]


@dataclass(frozen=True)
class Plan:
    """Settings of a measurement.

    Attributes:
        rounds: Number of turns of each side.
        seconds: Approximate duration of a turn, unless the workload fixes the number of operations.
        starts: How often the processes are started; the rounds are divided among the starts. A
            process may stay in one mode for its whole life (see `modes`).
        cores: Processors to pin ends to; empty to pin none. A workload on one core uses the last.
            A workload on two runs its server on the last and its client on the first.
        installed: Versions of the installed peers, by name.
        before: The interpreter of an environment that has an earlier state of the library. Each
            workload then has one more side, `BEFORE`, which runs our ends there. Empty for none.
        operations: Operations in each turn; overrides the workloads' own numbers unless 0.
    """

    rounds: int
    seconds: float
    starts: int = 1
    cores: tuple[int, ...] = ()
    installed: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    operations: int = 0


@dataclass(frozen=True)
class Result:
    """Results of a workload.

    Attributes:
        workload: The workload.
        operations: Number of operations in each round, by side. If a round's measures have
            "operations", that is the number of its own.
        rounds: The rounds in order, each with its measures by side.
        absent: The reason why a side is not in the rounds, by side.
    """

    workload: Workload
    operations: Mapping[str, int]
    rounds: list[Round]
    absent: Mapping[str, str] = field(default_factory=dict)


class SideError(RuntimeError):
    """Raised when an end of a side fails or does not answer.

    Attributes:
        side: The side's name.
    """

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(f"{side}: {reason}")
        self.side = side


# ------------------------------------------------------------------------------------ processes


class Worker:
    """A handle to one end in its process.

    Args:
        process: The process, with unbuffered pipes for its input and output.
        end: The end's name in error messages.
        patience: Seconds to wait for an answer.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], end: str, patience: float = PATIENCE
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._end = end
        self._patience = patience

    def begin(self, path: str) -> None:
        """Make the end serve at the path or connect to it. Returns when the end is ready."""
        self._ask(path)

    def run(self, operations: int) -> dict[str, float]:
        """Run a round. Returns its measures."""
        measures: dict[str, float] = json.loads(self._ask(str(operations)))
        return measures

    def _ask(self, line: str) -> str:
        """Send one line, and return the single line that answers it."""
        try:
            self._stdin.write(f"{line}\n".encode())
            if not select.select([self._stdout], [], [], self._patience)[0]:
                raise RuntimeError(f"{self._end}: no answer to {line!r} in {self._patience:g} s")
            answer = self._stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise RuntimeError(f"{self._end} has ended; what it wrote to stderr may say why")
        return answer.decode()


def environment() -> dict[str, str]:
    """Return the environment of a worker: this process's, and it keeps bytecode.

    A process that has compiled its modules has memory to spare from that, into which connections
    and calls fit: an exporter's call in flight seemed to take 4.2 KiB instead of 4.5.
    """
    return {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def start(
    end: str, python: str, cores: Sequence[int] = (), *, patience: float = PATIENCE
) -> Iterator[Worker]:
    """Start an end, which ends before the `with` block exits.

    Args:
        end: The dotted name of a function, followed by its arguments.
        python: The interpreter.
        cores: Processors to pin the end to; empty to pin it to none.
        patience: Seconds to wait for an answer of the end.
    """
    pin = ",".join(map(str, cores))
    process = subprocess.Popen(
        [python, "-m", "benchmarks.worker", pin, *end.split()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # no buffered data remains to flush when the worker has died
        cwd=_ROOT,
        env=environment(),
        start_new_session=True,  # Ctrl-C reaches only the harness, which then ends the worker
    )
    with process:
        try:
            yield Worker(process, end, patience)
        except BaseException:
            process.kill()  # the worker may be in a round, and does not read its input then
            raise
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise RuntimeError(f"{end} did not end, and was killed") from None
    if process.returncode != 0:
        raise RuntimeError(f"{end} ended with code {process.returncode}")


class Ends:
    """The running processes of one side.

    Args:
        name: The side's name.
        workers: The workers by role, "server", "link" and "client". The client is always present.
    """

    def __init__(self, name: str, workers: Mapping[str, Worker]) -> None:
        self._name = name
        self._workers = workers

    def begin(self, path: str) -> None:
        """Make the server serve at the path, then the client connect to it.

        A link listens at the path for the client, and the server behind it.
        """
        with _failing_as(self._name):
            for role, worker in self._workers.items():
                behind_a_link = role == "server" and "link" in self._workers
                worker.begin(link.behind(path) if behind_a_link else path)

    def run(self, operations: int) -> dict[str, float]:
        """Run a round. Returns its measures, with the processor time of each process."""
        with _failing_as(self._name):
            before = self._spent()
            measures = self._workers["client"].run(operations)
            for role, spent in self._spent().items():
                if not math.isnan(spent):
                    measures[f"{role}_cpu"] = spent - before[role]
            return measures

    def _spent(self) -> dict[str, float]:
        return {role: processor.spent(each.process.pid) for role, each in self._workers.items()}

    def run_and_measure(self, operations: int) -> dict[str, float]:
        """Run a round, and measure its memory use as well. Returns its measures."""
        self.run(min(operations, _WARM))
        before = {}
        for role, worker in self._workers.items():
            memory.forget_peak(worker.process.pid)
            before[role] = memory.resident(worker.process.pid)
        measures = self.run(operations)
        for role, worker in self._workers.items():
            peak = memory.peak(worker.process.pid)
            measures[f"{role}_peak"] = peak
            measures[f"{role}_growth"] = max(peak - before[role], memory.PAGE)
        return measures


@contextmanager
def _failing_as(side: str) -> Iterator[None]:
    try:
        yield
    except SideError:
        raise  # raised for another side, whose failure ended this side's processes
    except RuntimeError as error:
        raise SideError(side, str(error)) from error


@contextmanager
def _all_ends(
    sides: Mapping[str, Side], cores: Mapping[str, Sequence[int]], before: str
) -> Iterator[list[Ends]]:
    """Start all ends of these sides, which run concurrently, and make them begin."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        begun = []
        for name, side in sides.items():
            stack.enter_context(_failing_as(name))
            python = _python(side, before)
            between = f"benchmarks.link.forward {side.delay}" if side.delay else ""
            ends = {"server": side.server, "link": between, "client": side.client}
            begun.append(
                Ends(
                    name,
                    {
                        role: stack.enter_context(start(end, python, cores[role]))
                        for role, end in ends.items()
                        if end
                    },
                )
            )
        for number, ends_of_side in enumerate(begun):
            ends_of_side.begin(str(directory / str(number)))
        yield begun


def _python(side: Side, before: str) -> str:
    """Return the interpreter of a side's ends."""
    if side.is_before:
        return before
    return str(peers.PYTHON) if side.peer else sys.executable


# --------------------------------------------------------------------------------- measurements


def measure(workload: Workload, plan: Plan) -> Result:
    """Run one workload with all its available sides.

    If a peer or an earlier state fails, the workload starts again without it.

    Raises:
        SideError: Our own side or the floor failed, or does not answer.
    """
    if plan.before:
        workload = with_before(workload)
    absent = {
        name: "not installed"
        for name, side in workload.sides.items()
        if side.peer and side.peer not in plan.installed
    }
    run = _run_afresh if workload.afresh else _run_in_turns
    while True:
        sides = {name: side for name, side in workload.sides.items() if name not in absent}
        try:
            operations, rounds = run(workload, sides, plan)
        except SideError as error:
            if error.side in {OURS, FLOOR}:
                raise
            print(f"{workload.name}: {error}; left out", file=sys.stderr, flush=True)
            absent[error.side] = "failed"
        else:
            return Result(workload, operations, rounds, absent)


def with_before(workload: Workload) -> Workload:
    """Return the workload with the side that an earlier state of the library has, after ours."""
    sides: dict[str, Side] = {}
    for name, side in workload.sides.items():
        sides[name] = side
        if name == OURS:
            sides[BEFORE] = replace(side, is_before=True)
    return replace(workload, sides=sides)


def _cores(workload: Workload, plan: Plan) -> dict[str, Sequence[int]]:
    client = plan.cores[-1:] if workload.cores == 1 else plan.cores[:1]
    return {"server": plan.cores[-1:], "link": plan.cores[-1:], "client": client}


def _run_in_turns(
    workload: Workload, sides: Mapping[str, Side], plan: Plan
) -> tuple[dict[str, int], list[Round]]:
    fixed = plan.operations or workload.operations
    operations: dict[str, int] = {}
    rounds: list[Round] = []
    seconds = max(plan.seconds, workload.shortest)
    for share in shares(plan.rounds, plan.starts):
        with _all_ends(sides, _cores(workload, plan), plan.before) as begun:
            runs = {name: ends.run for name, ends in zip(sides, begun, strict=True)}
            operations = {name: fixed or calibrate(run, seconds) for name, run in runs.items()}
            rounds += take_turns(runs, operations, share)
    return operations, rounds


def shares(rounds: int, starts: int) -> list[int]:
    """Divide the rounds among the starts, as evenly as possible and with at least one each."""
    starts = min(rounds, starts)
    return [rounds // starts + (number < rounds % starts) for number in range(starts)]


def _run_afresh(
    workload: Workload, sides: Mapping[str, Side], plan: Plan
) -> tuple[dict[str, int], list[Round]]:
    """Run a workload with new processes for each turn."""
    fixed = plan.operations or workload.operations
    cores = _cores(workload, plan)

    def turn(name: str) -> Run:
        def run(operations: int) -> Measures:
            with _all_ends({name: sides[name]}, cores, plan.before) as (ends,):
                return ends.run_and_measure(operations)

        return run

    operations = dict.fromkeys(sides, fixed)
    rounds = math.ceil(plan.rounds / _FEWER)
    return operations, take_turns({name: turn(name) for name in sides}, operations, rounds)


def calibrate(run: Run, seconds: float) -> int:
    """Return how many operations take about `seconds`. This also warms up the side.

    A single short run can be many times slower than later ones, so the number is tried out.
    """
    operations = 1
    while (took := run(operations)["seconds"]) < seconds / 4:
        operations *= 4
    for _ in range(_TRIES):
        operations = max(1, round(operations * seconds / took))
        if took >= _LONG_ENOUGH * seconds:
            break
        took = run(operations)["seconds"]
    return operations


def take_turns(runs: Mapping[str, Run], operations: Mapping[str, int], rounds: int) -> list[Round]:
    """Run every side once in each round. Returns the measures of each round, by side."""
    return [
        {name: _turn(run, operations[name]) for name, run in runs.items()} for _ in range(rounds)
    ]


def _turn(run: Run, operations: int) -> Measures:
    return {**run(operations), "operations": operations}
