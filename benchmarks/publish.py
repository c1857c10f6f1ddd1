"""Publish the record, table and charts of a run: `python -m benchmarks.publish FILE`.

The table goes into `docs/performance.md`, between two marks. The rest of that page stays unchanged.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import plot, table
from .record import Record, read

__all__ = ["main", "publish", "section"]

_BEGIN: Final = "<!-- a run, put here by benchmarks.publish -->"
_END: Final = "<!-- the end of the run -->"


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
        ValueError: The page does not have exactly one place for the run.
    """
    record = read(file)
    plot.draw(record, docs)
    page = docs / "performance.md"
    between = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    text, places = between.subn(lambda _: section(record), page.read_text())
    if places != 1:
        raise ValueError(f"{page} has {places} places for a run, not one")
    page.write_text(text)
    shutil.copyfile(file, docs / "performance.json")


def section(record: Record) -> str:
    """Return the section of the page for a run, including the marks."""
    return f"{_BEGIN}\n```text\n{record.setting}\n```\n\n{table.whole(record.results)}\n{_END}"


if __name__ == "__main__":
    sys.exit(main())
