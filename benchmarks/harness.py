"""Runs workloads: starts the ends, lets the sides take turns, stops the ends.

Every process started here has ended when the block that started it is left, however that happens:
it is told by the end of its input, and killed if it does not listen. A peer that is not there, or
that fails, is left out, and the result says why; our own side and the floor must work. This file
knows no units and no side's code.
"""

from __future__ import annotations

import json
import math
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from . import memory, peers
from .model import FLOOR, OURS, Side, Workload

__all__ = [
    "Ends",
    "Plan",
    "Result",
    "Round",
    "SideError",
    "Worker",
    "calibrate",
    "measure",
    "start",
    "take_turns",
]

PATIENCE: Final = 60.0  # seconds for any one answer of a worker; the longest round takes one or two
_END_GRACE: Final = 10.0  # seconds for a worker to end in by itself
_ROOT: Final = Path(__file__).parents[1]  # from where workers find this package
_FEWER: Final = 3  # times fewer rounds of new processes: memory repeats much better than time
_WARM: Final = 16  # operations before memory is looked at: what is loaded once is not counted

Measures = Mapping[str, float]
Run = Callable[[int], Measures]
Round = Mapping[str, Measures]


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        rounds: Turns of each side.
        seconds: About how long each turn takes, where a workload does not say otherwise.
        cores: The processors that ends are pinned to, none for none: a workload on one core has the
            last, one on two has its server on the last and its client on the first.
        installed: The peers that are there, with their versions.
        operations: In each turn, whatever the workloads say; 0 lets them say.
    """

    rounds: int
    seconds: float
    cores: tuple[int, ...] = ()
    installed: Mapping[str, str] = field(default_factory=dict)
    operations: int = 0


@dataclass(frozen=True)
class Result:
    """What came of a workload.

    Attributes:
        workload: Which one.
        operations: In each round, by side.
        rounds: In order, each with its measures by side.
        absent: The sides that are not in the rounds, and why.
    """

    workload: Workload
    operations: Mapping[str, int]
    rounds: list[Round]
    absent: Mapping[str, str] = field(default_factory=dict)


class SideError(RuntimeError):
    """An end of a side has failed, or does not answer.

    Attributes:
        side: Its name.
    """

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(f"{side}: {reason}")
        self.side = side


# ------------------------------------------------------------------------------------ processes


class Worker:
    """One end, in its process.

    Args:
        process: With unbuffered pipes for its input and output.
        end: What messages call it.
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
        """Have it serve at the path, or connect there; returns when it does."""
        self._ask(path)

    def run(self, operations: int) -> dict[str, float]:
        """Do a round. Returns its measures."""
        measures: dict[str, float] = json.loads(self._ask(str(operations)))
        return measures

    def _ask(self, line: str) -> str:
        """Send one line and give the one that answers it, the only one there can be."""
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


@contextmanager
def start(
    end: str, python: str, cores: Sequence[int] = (), *, patience: float = PATIENCE
) -> Iterator[Worker]:
    """Start an end; it has ended when the block is left.

    Args:
        end: Dotted name of a function, and its arguments.
        python: The interpreter.
        cores: To pin it to; none for none.
        patience: Seconds to wait for an answer of it.
    """
    pin = ",".join(map(str, cores))
    process = subprocess.Popen(
        [python, "-m", "benchmarks.worker", pin, *end.split()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # nothing is left to be flushed to a worker that has died
        cwd=_ROOT,
        start_new_session=True,  # Ctrl-C is for the harness; the worker sees its input end
    )
    with process:
        try:
            yield Worker(process, end, patience)
        except BaseException:
            process.kill()  # it may be in the midst of a round, and does not listen
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
    """The processes of one side, which has begun.

    Args:
        name: The side's.
        workers: By role, "server" and "client"; the client is there in any case.
    """

    def __init__(self, name: str, workers: Mapping[str, Worker]) -> None:
        self._name = name
        self._workers = workers

    def begin(self, path: str) -> None:
        """Have the server serve at the path, then the client connect there."""
        with _failing_as(self._name):
            for worker in self._workers.values():
                worker.begin(path)

    def run(self, operations: int) -> dict[str, float]:
        """Do a round. Returns its measures."""
        with _failing_as(self._name):
            return self._workers["client"].run(operations)

    def classify_annotation(self, operations: int) -> dict[str, float]:
        """Do a round, and look how much memory it takes, too."""
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
        raise  # of another side, whose processes ended these
    except RuntimeError as error:
        raise SideError(side, str(error)) from error


@contextmanager
def _all_ends(
    sides: Mapping[str, Side], cores: Mapping[str, Sequence[int]]
) -> Iterator[list[Ends]]:
    """Start all ends of these sides at once, and have them begin."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        begun = []
        for name, side in sides.items():
            stack.enter_context(_failing_as(name))
            python = str(peers.PYTHON) if side.peer else sys.executable
            ends = {"server": side.server, "client": side.client}
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


# --------------------------------------------------------------------------------- measurements


def measure(workload: Workload, plan: Plan) -> Result:
    """Run one workload, all its sides that are there.

    A peer that fails is left out, and the workload begun again without it.

    Raises:
        SideError: Our own side or the floor has failed, or does not answer.
    """
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


def _cores(workload: Workload, plan: Plan) -> dict[str, Sequence[int]]:
    client = plan.cores[-1:] if workload.cores == 1 else plan.cores[:1]
    return {"server": plan.cores[-1:], "client": client}


def _run_in_turns(
    workload: Workload, sides: Mapping[str, Side], plan: Plan
) -> tuple[dict[str, int], list[Round]]:
    fixed = plan.operations or workload.operations
    with _all_ends(sides, _cores(workload, plan)) as begun:
        runs = {name: ends.run for name, ends in zip(sides, begun, strict=True)}
        operations = {name: fixed or calibrate(run, plan.seconds) for name, run in runs.items()}
        return operations, take_turns(runs, operations, plan.rounds)


def _run_afresh(
    workload: Workload, sides: Mapping[str, Side], plan: Plan
) -> tuple[dict[str, int], list[Round]]:
    """Give each turn processes of its own."""
    fixed = plan.operations or workload.operations
    cores = _cores(workload, plan)

    def turn(name: str) -> Run:
        def run(operations: int) -> Measures:
            with _all_ends({name: sides[name]}, cores) as (ends,):
                return ends.classify_annotation(operations)

        return run

    operations = dict.fromkeys(sides, fixed)
    rounds = math.ceil(plan.rounds / _FEWER)
    return operations, take_turns({name: turn(name) for name in sides}, operations, rounds)


def calibrate(run: Run, seconds: float) -> int:
    """Find how many operations take about so long. Warms the side up, too."""
    operations = 1
    while (took := run(operations)["seconds"]) < seconds / 4:
        operations *= 4
    return max(1, round(operations * seconds / took))


def take_turns(runs: Mapping[str, Run], operations: Mapping[str, int], rounds: int) -> list[Round]:
    """Let each side do its operations, all sides once in each round; give what they measured."""
    return [{name: run(operations[name]) for name, run in runs.items()} for _ in range(rounds)]
