"""Count the instructions per call: `python -m benchmarks.calls`, or `make instructions`.

As `benchmarks.framing` does for a frame, callgrind counts what one call takes, in the client's
process and in the exporter's: of the protocol's rules alone, and of whole calls over a Unix socket.

The rules alone do the same each time, so their counts repeat exactly. A whole call does not: it
depends on the scheduler whether an answer has arrived before the caller waits for it. Such an
accident adds instructions. Each count is therefore the lowest of several rounds, the margin of
whole calls is wider, and counts that exceed it are taken again: on a busy machine every round of a
process may have such accidents, while a call that takes more by itself does so each time. The
machine's speed must not matter either, so the clock of the exporter's loop stands still.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from jumpstarter._protocol import is_compiled

from .call_loops import CALLS, PATHS, ROUNDS, RULES
from .framing import MARGIN, accept, accepted_here, hold, instructions_in
from .framing_loops import MARK

__all__ = ["BASELINES", "ENDS", "MARGIN_OF_PATHS", "count", "judge", "main"]

BASELINES: Final = Path(__file__).with_name("calls.json")
ENDS: Final = ("client", "exporter")
MARGIN_OF_PATHS: Final = 0.10  # of the accepted count: counts of one commit differ by up to 5 %
_REPEATS: Final = 3  # of the counting, as long as counts exceed their margin
_PATIENCE: Final = 600.0  # seconds; an end takes about 20
_ROOT: Final = Path(__file__).parents[1]

Counts = dict[str, dict[str, float]]  # by path, and by end


def count(observed: str = "") -> Counts:
    """Return the number of instructions per call, for each path and end.

    Args:
        observed: What the exporter does beside: `metrics` counts the calls, and `json` notes them
            for the log. `exclusive` lets one client at a time use it. Empty for nothing.

    Raises:
        FileNotFoundError: Valgrind is not installed.
        subprocess.CalledProcessError: The loops failed.
    """
    counts: Counts = {name: {} for name in (*RULES, *PATHS)}
    for end in ENDS:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
            directory = Path(name)
            _run(directory, "rules", end)
            _add(counts, RULES, end, directory)
        with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
            directory = Path(name)
            with _exporter(directory, observed, counted=end == "exporter") as address:
                _run(directory, "calls", end, address, counted=end == "client")
            _add(counts, PATHS, end, directory)
    return counts


def _run(directory: Path, *args: str, counted: bool = True) -> None:
    command = _command(directory, *args, counted=counted)
    environment = _environment()
    subprocess.run(command, check=True, cwd=_ROOT, env=environment, timeout=_PATIENCE)


@contextmanager
def _exporter(directory: Path, observed: str, *, counted: bool) -> Iterator[str]:
    address = f"unix:{directory}/socket"
    arguments = ["serve", address, *([observed] if observed else [])]
    process = subprocess.Popen(
        _command(directory, *arguments, counted=counted),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env=_environment(),
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise subprocess.CalledProcessError(process.wait(_PATIENCE), process.args)
        yield address
        process.communicate(timeout=_PATIENCE)  # ends its input, and thereby the exporter
    finally:
        process.kill()
        process.communicate()


def _command(directory: Path, *args: str, counted: bool) -> list[str]:
    valgrind = [
        "valgrind",
        "--tool=callgrind",
        "--quiet",
        "--fair-sched=yes",
        f"--dump-before={MARK}",
        f"--callgrind-out-file={directory / 'part'}",
    ]
    return [*(valgrind if counted else ()), sys.executable, "-m", "benchmarks.call_loops", *args]


def _environment() -> dict[str, str]:
    # Nothing else: the environment lies on the stack, so its size shifts addresses there.
    names = ("PATH", "JUMPSTARTER_PURE")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "PYTHONHASHSEED": "0"}


def _add(counts: Counts, paths: Mapping[str, object], end: str, directory: Path) -> None:
    # Of the two marks of a round, the second ends the part that has the round's instructions.
    for number, name in enumerate(paths):
        ends_of_rounds = [2 * (number * ROUNDS + each) for each in range(1, ROUNDS + 1)]
        parts = [instructions_in(directory / f"part.{part}") for part in ends_of_rounds]
        counts[name][end] = min(parts) / CALLS


def judge(counts: Counts, accepted: Counts) -> list[str]:
    """Compare counts with the accepted ones. Returns a message for each that exceeds its margin."""
    worse = []
    for name, ends in accepted.items():
        margin = MARGIN if name in RULES else MARGIN_OF_PATHS
        for end, standard in ends.items():
            if counts[name][end] > standard * (1 + margin):
                worse.append(
                    f"{name}, {end}: {counts[name][end]:,.0f} instructions per call, accepted are "
                    f"{standard:,.0f} and {margin:.0%} more"
                )
    return worse


def main(argv: Sequence[str] | None = None) -> int:
    """Count instructions, print them, and compare those of the compiled form with the accepted."""
    options = _parser().parse_args(argv)
    if shutil.which("valgrind") is None:
        print("not counted: there is no valgrind (a package of that name has it)")
        return 0
    counts = count(options.observe) if options.observe else count()
    print(_table(counts))
    if options.observe:
        print(f"not held to anything: the exporter's calls are observed, by {options.observe}")
        return 0
    if not is_compiled():
        print("not held to anything: the rules run as Python code")
        return 0
    if options.accept:
        rounded = {
            name: {end: round(n) for end, n in ends.items()} for name, ends in counts.items()
        }
        accept(BASELINES, rounded)
        return 0
    return hold(BASELINES, partial(judge, _repeated(counts)))


def _repeated(counts: Counts) -> Counts:
    """Count again while a count exceeds its margin, and return the lowest counts."""
    accepted = accepted_here(BASELINES)
    for _ in range(_REPEATS):
        if accepted is None or not judge(counts, accepted):
            break
        print("more than was accepted: counting again")
        again = count()
        counts = {
            name: {end: min(n, again[name][end]) for end, n in ends.items()}
            for name, ends in counts.items()
        }
        print(_table(counts))
    return counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="what a call costs now is right")
    text = "count while the exporter counts its calls, notes them for a log, or is exclusive"
    parser.add_argument("--observe", choices=["metrics", "json", "exclusive"], help=text)
    return parser


def _table(counts: Counts) -> str:
    width = max(map(len, counts))
    head = f"| {'instructions per call':{width}} | {' | '.join(end.rjust(9) for end in ENDS)} |"
    rule = f"| {'-' * width} | {' | '.join('-' * 9 for _ in ENDS)} |"
    rows = [
        f"| {name:{width}} | {' | '.join(f'{ends[end]:9,.0f}' for end in ENDS)} |"
        for name, ends in counts.items()
    ]
    return "\n".join((head, rule, *rows))


if __name__ == "__main__":
    sys.exit(main())
