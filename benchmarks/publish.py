"""Publish the record, tables and charts of a run: `python -m benchmarks.publish FILE`.

The tables go into `docs/performance.md`, each between two marks: the everyday situations, the
goals, and the whole run. The rest of that page stays unchanged.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import goals, plot, summary, table
from .record import Record, read

__all__ = ["main", "publish", "sections"]

_SITUATIONS: Final = (
    "<!-- the situations of a run, put here by benchmarks.publish -->",
    "<!-- the end of the situations -->",
)
_GOALS: Final = (
    "<!-- the goals of a run, put here by benchmarks.publish -->",
    "<!-- the end of the goals -->",
)
_RUN: Final = "<!-- a run, put here by benchmarks.publish -->", "<!-- the end of the run -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Publish the run that a file contains."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("file", type=Path, help="what `python -m benchmarks --json` wrote")
    publish(parser.parse_args(argv).file, plot.DOCS)
    return 0


def publish(file: Path, docs: Path) -> None:
    """Publish the run that a file contains in the directory that has the page.

    Raises:
        ModuleNotFoundError: matplotlib is not installed. Nothing has changed.
        ValueError: The page does not have exactly one place for each table of the run.
    """
    record = read(file)
    plot.draw(record, docs)
    page = docs / "performance.md"
    text = page.read_text()
    for (begin, end), section in sections(record).items():
        between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        text, places = between.subn(lambda _, section=section: section, text)  # type: ignore[misc]
        if places != 1:
            raise ValueError(f"{page} has {places} places for a run, not one: {begin}")
    page.write_text(text)
    shutil.copyfile(file, docs / "performance.json")


def sections(record: Record) -> dict[tuple[str, str], str]:
    """Return the sections of the page for a run, including the marks, by their marks."""
    run = f"```text\n{record.setting}\n```\n\n{table.whole(record.results)}"
    texts = {
        _SITUATIONS: summary.whole(record.results),
        _GOALS: goals.whole(record.results),
        _RUN: run,
    }
    return {marks: f"{marks[0]}\n{text}\n{marks[1]}" for marks, text in texts.items()}


if __name__ == "__main__":
    sys.exit(main())
