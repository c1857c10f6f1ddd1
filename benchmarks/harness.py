"""Runs workloads: starts the ends, lets the sides take turns, stops the ends.

Every process started here has ended when the block that started it is left, however that happens:
it is told by the end of its input, and killed if it does not listen. This file knows no units and
no side's code.
"""

from __future__ import annotations

import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .workloads import Workload

__all__ = ["Plan", "Result", "Round", "Worker", "calibrate", "measure", "start", "take_turns"]

PATIENCE: Final = 60.0  # seconds for any one answer of a worker; the longest round takes one or two
_END_GRACE: Final = 10.0  # seconds for a worker to end in by itself
_ROOT: Final = Path(__file__).parents[1]  # from where workers find this package

Run = Callable[[int], float]
Round = Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: Turns of each side.
        seconds: About how long each turn takes.
        core: The processor that all ends are pinned to, None for none.
    """

    rounds: int
    seconds: float
    core: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of a workload.

    Attributes:
        workload: Which one.
        operations: In each round, by side.
        rounds: In order, each with its seconds by side.
    """

    workload: Workload
    operations: Mapping[str, int]
    rounds: list[Round]


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

    def run(self, operations: int) -> float:
        """Do a round. Returns its seconds."""
        return float(self._ask(str(operations)))

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
    end: str, python: str, core: int | None = None, *, patience: float = PATIENCE
) -> Iterator[Worker]:
    """Start an end; it has ended when the block is left.

    Args:
        end: Dotted name of a function, and its arguments.
        python: The interpreter.
        core: To pin it to.
        patience: Seconds to wait for an answer of it.
    """
    pin = "" if core is None else str(core)
    process = subprocess.Popen(  # noqa: S603 - our own, from our own table
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


def measure(workload: Workload, plan: Plan) -> Result:
    """Run one workload, all its sides.

    Raises:
        RuntimeError: An end has failed, or does not answer.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        ends = {
            name: [
                stack.enter_context(start(end, side.python, plan.core))
                for end in (side.server, side.client)
            ]
            for name, side in workload.sides.items()
        }
        runs: dict[str, Run] = {}
        for name, (server, client) in ends.items():
            for worker in (server, client):
                worker.begin(str(directory / name))
            runs[name] = client.run
        operations = {name: calibrate(run, plan.seconds) for name, run in runs.items()}
        return Result(workload, operations, take_turns(runs, operations, plan.rounds))


def calibrate(run: Run, seconds: float) -> int:
    """Find how many operations take about so long. Warms the side up, too."""
    operations = 1
    while (took := run(operations)) < seconds / 4:
        operations *= 4
    return max(1, round(operations * seconds / took))


def take_turns(runs: Mapping[str, Run], operations: Mapping[str, int], rounds: int) -> list[Round]:
    """Let each side do its operations, all sides once in each round; give the seconds."""
    return [{name: run(operations[name]) for name, run in runs.items()} for _ in range(rounds)]
