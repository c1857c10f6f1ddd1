"""Count the instructions per frame: `python -m benchmarks.framing`, or `make instructions`.

Times vary with the machine and its other work; the number of instructions does not. Valgrind's
callgrind counts the instructions of a loop of two lengths. The difference, divided by the number of
additional frames, is the cost of a frame; start-up and warm-up cancel out. The same interpreter and
compiler produce the same number each time.

The count therefore serves as a gate. `instructions.json` has the last accepted counts of our
framing, for each minor version of Python and each processor architecture. The gate fails if a count
exceeds the accepted one by more than the margin. It checks only the smallest frames, because the
way in which the C library copies larger ones depends on the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from . import peers
from .framing_loops import BATCH, CASES, MARK, SIDES

__all__ = ["BASELINES", "MARGIN", "accept", "count", "hold", "judge", "main"]

BASELINES: Final = Path(__file__).with_name("instructions.json")
MARGIN: Final = 0.03  # of the accepted count; one more object or lookup per frame costs more
FRAMES: Final = 25 * BATCH  # in the shorter loop
_GATED: Final = 16  # bytes of payload
_PATIENCE: Final = 300.0  # seconds; a side takes about 15

Counts = Mapping[str, float]


def count(side: str, frames: int = FRAMES) -> dict[str, float]:
    """Return the number of instructions per frame, for each case.

    Args:
        side: One of the keys of `framing_loops.SIDES`.
        frames: The number of frames in the shorter of the two loops.

    Raises:
        FileNotFoundError: Valgrind is not installed.
        subprocess.CalledProcessError: The loops failed.
    """
    python = str(peers.PYTHON) if side == "h2" else sys.executable
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        out = Path(directory) / "part"
        subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                f"--dump-before={MARK}",
                f"--callgrind-out-file={out}",
                *(python, "-m", "benchmarks.framing_loops", side, str(frames)),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
            # Pass nothing else: the environment lies on the stack, so its size shifts addresses
            # there.
            env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"},
            timeout=_PATIENCE,
        )
        # Each case has three marks: the second ends the shorter loop, the third the longer.
        parts = [instructions_in(out.with_name(f"part.{n}")) for n in range(1, 3 * len(CASES) + 1)]
    return {
        name_of(case): (parts[3 * n + 2] - parts[3 * n + 1]) / (2 * frames)
        for n, case in enumerate(CASES)
    }


def name_of(case: tuple[str, int]) -> str:
    """Return the name of a case, as the table shows it."""
    task, size = case
    return f"{task} {size} B"


def instructions_in(part: Path) -> int:
    found = re.search(r"^totals: (\d+)$", part.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{part.name} has no totals")
    return int(found[1])


# ---------------------------------------------------------------------------------- the gate


def judge(counts: Counts, accepted: Counts) -> list[str]:
    """Compare counts with the accepted ones. Returns a message for each that exceeds the margin."""
    return [
        f"{name}: {counts[name]:.1f} instructions per frame, accepted are {standard:.1f} "
        f"and {MARGIN:.0%} more"
        for name, standard in accepted.items()
        if counts[name] > standard * (1 + MARGIN)
    ]


def _gated(counts: Counts) -> dict[str, float]:
    names = [name_of(case) for case in CASES if case[1] == _GATED]
    return {name: round(counts[name], 1) for name in names}


def _here() -> str:
    major, minor, _patch = platform.python_version_tuple()
    return f"Python {major}.{minor}, {platform.machine()}"


def accept(baselines: Path, counts: object) -> None:
    """Store what was counted in a file of accepted counts, for this machine and Python."""
    accepted = json.loads(baselines.read_text())
    accepted[_here()] = counts
    baselines.write_text(json.dumps(accepted, indent=1, sort_keys=True) + "\n")


def accepted_here(baselines: Path) -> Any:
    """Return the accepted counts of a file for this machine and Python, or None without any."""
    return json.loads(baselines.read_text()).get(_here())


def hold(baselines: Path, judge: Callable[[Any], list[str]]) -> int:
    """Print how counts compare with the accepted ones of a file, for this machine and Python.

    Args:
        baselines: The file.
        judge: Returns a message for each count that exceeds what was accepted.

    Returns:
        The exit code: 1 if there is a message.
    """
    accepted = accepted_here(baselines)
    if accepted is None:
        print(f"not held to anything: for {_here()} nothing was accepted yet; --accept does that")
        return 0
    worse = judge(accepted)
    print("\n".join(worse) or "no more than was accepted")
    return 1 if worse else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Count instructions, print them, and compare our framing with the accepted counts."""
    options = _parser().parse_args(argv)
    if shutil.which("valgrind") is None:
        print("not counted: there is no valgrind (a package of that name has it)")
        return 0
    counts = {side: count(side) for side in ("ours", *(_others() if options.all else ()))}
    print(_table(counts))
    if options.accept:
        accept(BASELINES, _gated(counts["ours"]))
        return 0
    return hold(BASELINES, partial(judge, counts["ours"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.framing", description=__doc__)
    parser.add_argument("--all", action="store_true", help="count the other sides, too")
    parser.add_argument("--accept", action="store_true", help="what ours costs now is right")
    return parser


def _others() -> list[str]:
    there = peers.installed()
    return [side for side in SIDES if side != "ours" and (side != "h2" or "h2" in there)]


def _table(counts: Mapping[str, Counts]) -> str:
    head = ["instructions per frame", *counts]
    rows = [
        [name_of(case), *(f"{of_side[name_of(case)]:,.0f}" for of_side in counts.values())]
        for case in CASES
    ]
    rule = ["-" * 22, *("-" * 8 for _ in counts)]
    return "\n".join(
        f"| {row[0]:22} | {' | '.join(cell.rjust(8) for cell in row[1:])} |"
        for row in (head, rule, *rows)
    )


if __name__ == "__main__":
    sys.exit(main())
