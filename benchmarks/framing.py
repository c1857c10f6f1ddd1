"""How many instructions a frame costs: `python -m benchmarks.framing`, or `make instructions`.

Times vary with the machine and its other work; the number of instructions does not. Valgrind's
callgrind counts them over two lengths of a loop, and what the longer one has more is shared out
among its frames, so that starting and warming up cancel out. The same interpreter and compiler
give the same number each time.

That makes it a gate: what ours cost when it was last accepted is in `instructions.json`, for each
minor version of Python and kind of processor. More than the margin above that fails. Only the
smallest frames are held to it: how the C library copies larger ones depends on the processor.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from . import peers
from .framing_loops import BATCH, CASES, MARK, SIDES

__all__ = ["BASELINES", "MARGIN", "count", "judge", "main"]

BASELINES: Final = Path(__file__).with_name("instructions.json")
MARGIN: Final = 0.03  # of the accepted; below what one more object or lookup for a frame costs
FRAMES: Final = 25 * BATCH  # in the shorter loop
_GATED: Final = 16  # bytes of payload
_PATIENCE: Final = 300.0  # seconds; a side takes about fifteen

Counts = Mapping[str, float]


def count(side: str, frames: int = FRAMES) -> dict[str, float]:
    """Give the instructions per frame of each case.

    Args:
        side: One of the loops' sides.
        frames: In the shorter of the two loops.

    Raises:
        FileNotFoundError: There is no Valgrind.
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
            # Nothing else of the environment, which is on the stack and so moves what lies there.
            env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"},
            timeout=_PATIENCE,
        )
        # Three marks for each case; what ends at the second is the shorter loop.
        parts = [_total(out.with_name(f"part.{n}")) for n in range(1, 3 * len(CASES) + 1)]
    return {
        name_of(case): (parts[3 * n + 2] - parts[3 * n + 1]) / (2 * frames)
        for n, case in enumerate(CASES)
    }


def name_of(case: tuple[str, int]) -> str:
    """Say what a case is."""
    task, size = case
    return f"{task} {size} B"


def _total(part: Path) -> int:
    found = re.search(r"^totals: (\d+)$", part.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{part.name} has no totals")
    return int(found[1])


# ---------------------------------------------------------------------------------- the gate


def judge(counts: Counts, accepted: Counts) -> list[str]:
    """Compare with what was accepted. Returns what is worse, in words."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Count, print, and hold ours to what was accepted."""
    options = _parser().parse_args(argv)
    if shutil.which("valgrind") is None:
        print("not counted: there is no valgrind (a package of that name has it)")
        return 0
    counts = {side: count(side) for side in ("ours", *(_others() if options.all else ()))}
    print(_table(counts))
    baselines = json.loads(BASELINES.read_text())
    if options.accept:
        baselines[_here()] = _gated(counts["ours"])
        BASELINES.write_text(json.dumps(baselines, indent=1, sort_keys=True) + "\n")
        return 0
    if _here() not in baselines:
        print(f"not held to anything: for {_here()} nothing was accepted yet; --accept does that")
        return 0
    worse = judge(counts["ours"], baselines[_here()])
    print("\n".join(worse) or "no more than was accepted")
    return 1 if worse else 0


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
