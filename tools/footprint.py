"""Measure how fast the package is imported, and how much it installs: `make footprint`.

It writes the tables of docs/size.md. With the output of `.ci/run` as an argument it also writes the
time of each gate; without, that table stays as it is.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from tools.commands import ROOT, Failed, fail, output_of
from tools.licences import FOR_USERS, closure, requirements

__all__ = ["PAGE", "extras_table", "gates", "gates_table", "replaced"]

PAGE: Final = ROOT / "docs" / "size.md"
ROUNDS: Final = 41
PROGRAMS: Final = (
    ("`python -c pass`", ("-c", "pass")),
    ("`import trio`", ("-c", "import trio")),
    ("`import jumpstarter`", ("-c", "import jumpstarter")),
    ("`from jumpstarter import connect`", ("-c", "from jumpstarter import connect")),
    ("`from jumpstarter import serve`", ("-c", "from jumpstarter import serve")),
    ("`jumpstarter --version`", ("-m", "jumpstarter", "--version")),
)
COUNT: Final = "import sys; before = len(sys.modules); {}; print(len(sys.modules) - before)"


def replaced(page: str, name: str, table: str) -> str:
    """Return the page with another table between the marks of this name.

    Raises:
        Failed: The page has no such marks.
    """
    begin, end = f"<!-- measured: {name} -->\n", "<!-- end -->"
    before, mark, rest = page.partition(begin)
    _, closing, after = rest.partition(end)
    if not mark or not closing:
        raise Failed(f"{PAGE.name} has no marks for {name}")
    return f"{before}{mark}{table}{closing}{after}"


def seconds_of(command: Sequence[str | Path]) -> float:
    """Run a program once, and return how long it took."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    return time.perf_counter() - started


def imports_table(python: Path) -> str:
    """Time each program in turn, so that a busy moment affects all of them."""
    times: dict[str, list[float]] = {name: [] for name, _ in PROGRAMS}
    for number in range(ROUNDS + 1):
        for name, arguments in PROGRAMS:
            seconds = seconds_of([python, "-I", *arguments])
            if number:  # the first round reads the files from the disk
                times[name].append(seconds * 1000)
    lines = ["| program | median | min - max | modules |\n|---|---|---|---|\n"]
    for name, arguments in PROGRAMS:
        modules = "" if arguments[0] == "-m" else f"{modules_of(python, arguments[1])}"
        found = times[name]
        spread = f"{min(found):.0f} - {max(found):.0f} ms"
        lines.append(f"| {name} | {statistics.median(found):.0f} ms | {spread} | {modules} |\n")
    return "".join(lines)


def modules_of(python: Path, statement: str) -> int:
    """Count the modules that a statement imports, beyond those of a Python that starts."""
    return int(output_of(python, "-I", "-c", COUNT.format(statement)))


def size_of(names: Iterable[str]) -> int:
    """Return how many bytes the files of installed packages have, without compiled Python."""
    files = [file for name in names for file in distribution(name).files or ()]
    paths = {Path(str(file.locate())) for file in files if file.suffix != ".pyc"}
    return sum(path.stat().st_size for path in paths if path.is_file())


def megabytes(size: int) -> str:
    """Return a size in megabytes, with one digit after the point."""
    return f"{size / 1e6:.1f} MB"


def installed_table(python: Path) -> str:
    """Return the size of the package and of its requirements, as pip has installed them."""
    program = (
        "import json, importlib.metadata as m, pathlib\n"
        "sizes = {}\n"
        "for each in m.distributions():\n"
        "    files = [f for f in each.files or () if f.suffix != '.pyc']\n"
        "    sizes[each.metadata['Name'].lower()] = [\n"
        "        sum(pathlib.Path(str(f.locate())).stat().st_size for f in files),\n"
        "        sum(pathlib.Path(str(f.locate())).stat().st_size for f in files\n"
        "            if f.suffix == '.so')]\n"
        "print(json.dumps(sizes))"
    )
    sizes = json.loads(output_of(python, "-I", "-c", program))
    needed = sorted(closure(requirements()))
    whole, compiled = sizes["jumpstarter"]
    rest = sum(sizes[name][0] for name in needed)
    return (
        "| installed | size |\n|---|---|\n"
        f"| jumpstarter | {megabytes(whole)}, of which extension modules {megabytes(compiled)} |\n"
        f"| what it requires: {', '.join(needed)} | {megabytes(rest)} |\n"
    )


def extras_table() -> str:
    """Return how many packages each extra adds to what is always installed."""
    always = closure(requirements())
    lines = ["| extra | packages | size |\n|---|---|---|\n"]
    lines.append(f"| none | {len(always)} | {megabytes(size_of(always))} |\n")
    together: set[str] = set()
    for extra in FOR_USERS:
        added = closure(requirements(extra)) - always
        together |= added
        lines.append(f"| `{extra}` | {len(added)} | {megabytes(size_of(added))} |\n")
    lines.append(f"| `all` | {len(together)} | {megabytes(size_of(together))} |\n")
    return "".join(lines)


def gates(log: str) -> list[tuple[str, int]]:
    """Return the gates in the output of `.ci/run`, and the seconds that each took.

    Raises:
        Failed: The run did not pass.
    """
    total = re.findall(r"^all gates passed in (\d+) s$", log, re.MULTILINE)
    if not total:
        raise Failed("this is not the output of a .ci/run that passed")
    found = re.findall(r"^=== make (.+): passed in (\d+) s$", log, re.MULTILINE)
    return [*((name, int(seconds)) for name, seconds in found), ("total", int(total[-1]))]


def gates_table(log: str) -> str:
    """Return the time of each gate."""
    rows = gates(log)
    lines = [f"| `make {name}` | {seconds} s |\n" for name, seconds in rows[:-1]]
    minutes, seconds = divmod(rows[-1][1], 60)
    last = f"| `.ci/run`, in which some gates run beside each other | {minutes} min {seconds} s |\n"
    return "".join(["| gate | time |\n|---|---|\n", *lines, last])


def machine() -> str:
    """Return what the figures depend on."""
    processors = len(os.sched_getaffinity(0))
    python, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return f"Python {python}, {system}, {processors} processors, {date}.\n"


def main(python: Path, log: str) -> None:
    """Measure, and write the tables into the page."""
    page = PAGE.read_text(encoding="utf-8")
    tables = {
        "machine": machine(),
        "imports": imports_table(python),
        "installed": installed_table(python),
        "extras": extras_table(),
    }
    if log:
        tables["gates"] = gates_table(Path(log).read_text(encoding="utf-8"))
    for name, table in tables.items():
        page = replaced(page, name, f"\n{table}\n")
    PAGE.write_text(page, encoding="utf-8")
    print("\n".join(f"{name}\n\n{table}" for name, table in tables.items()))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), "".join(sys.argv[2:]))
    except Failed as reason:
        fail(reason)
