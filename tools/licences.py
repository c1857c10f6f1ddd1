"""List the licence of every package that an extra brings: `make licences` writes docs/licences.md.

The licences come from the metadata of installed packages: the environment has all that the locks
have for this system. Packages that the locks have for other systems only are in `ELSEWHERE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.commands import ROOT, Failed, fail, settings

__all__ = [
    "ELSEWHERE",
    "FOR_USERS",
    "PAGE",
    "closure",
    "extras_of",
    "licence_of",
    "locked_names",
    "rows_of",
]

NAME: Final = "jumpstarter"
PAGE: Final = ROOT / "docs" / "licences.md"
BEGIN: Final = "<!-- written by `make licences` -->\n"
LOCKS: Final = ("dev", "hostile", "release")
# The extras that a user installs. The others are for the development of this project.
FOR_USERS: Final = (
    "zstd",
    "progress",
    "http",
    "pexpect",
    "serial",
    "cli",
    "metrics",
    "pytest",
    "compat",
)
# Licences of packages that are locked, but not for Linux with a Python of this project.
ELSEWHERE: Final = {"colorama": "BSD-3-Clause"}
# Older metadata has classifiers instead of an identifier of SPDX.
_VAGUE: Final = {"OSI Approved", "DFSG approved"}
_CLASSIFIED: Final = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "GNU General Public License (GPL)": "GPL",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "The Unlicense (Unlicense)": "Unlicense",
}


def extras_of(root: Path = ROOT) -> list[str]:
    """Return the names of the project's extras, in the order of pyproject.toml."""
    return list(settings(root)["project"]["optional-dependencies"])


def requirements(extra: str = "", root: Path = ROOT) -> list[Requirement]:
    """Return what the project requires, or what one of its extras adds."""
    project = settings(root)["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(line) for line in lines]


def closure(wanted: Iterable[Requirement]) -> set[str]:
    """Return the packages that these requirements install here, with what those require."""
    found: set[tuple[str, str]] = set()
    todo = list(wanted)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) not in found:
                found.add((name, extra))
                todo += requirements(extra) if name == NAME else _required_by(name, extra)
    return {name for name, _ in found} - {NAME}


def _required_by(name: str, extra: str) -> Iterator[Requirement]:
    """Yield what a package requires, or what one of its extras adds."""
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None:
            if not extra:
                yield requirement
        elif marker.evaluate({"extra": extra}) and (
            not extra or not marker.evaluate({"extra": ""})
        ):
            requirement.marker = None
            yield requirement


def licence_of(name: str) -> str:
    """Return a package's licence, as its metadata says.

    Raises:
        Failed: The metadata has none, or the package is not installed.
    """
    try:
        metadata = distribution(name).metadata
    except PackageNotFoundError:
        if name in ELSEWHERE:
            return ELSEWHERE[name]
        raise Failed(f"{name} is locked but not installed: add it to ELSEWHERE") from None
    classifiers = metadata.get_all("Classifier") or []
    ends = {each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")}
    classified = sorted(_CLASSIFIED.get(end, end) for end in ends - _VAGUE)
    text = (metadata["License"] or "").strip()
    short = text if len(text) < 40 and "\n" not in text else ""
    several = len(classified) > 1 and " OR " in short  # the classifiers do not say which
    licence = metadata["License-Expression"] or ("" if several else ", ".join(classified)) or short
    if not licence:
        raise Failed(f"the metadata of {name} has no licence")
    return str(licence)


def locked_names(root: Path = ROOT) -> set[str]:
    """Return the packages of the locks that have all extras."""
    texts = ((root / "locks" / f"{lock}.txt").read_text(encoding="utf-8") for lock in LOCKS)
    return {
        canonicalize_name(name)
        for text in texts
        for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)
    }


def rows_of(page: str) -> dict[str, tuple[str, list[str]]]:
    """Return the table of the page: each package with its licence, and its extras."""
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \| ([^|]*) \|$", page, re.MULTILINE)
    return {name: (licence, uses.split(", ")) for name, licence, uses in rows if name != "package"}


def table() -> str:
    """Return the tables, of what users install and of the rest."""
    uses: dict[str, list[str]] = {name: [] for name in sorted(locked_names())}
    for label, wanted in [("always", requirements()), *((e, requirements(e)) for e in FOR_USERS)]:
        for name in closure(wanted):
            if "always" not in uses[name]:
                uses[name].append(label)
    heads = "| package | licence | extras |\n|---|---|---|\n"
    rows = {name: f"| {name} | {licence_of(name)} | {{}} |\n" for name in uses}
    users = "".join(rows[name].format(", ".join(labels)) for name, labels in uses.items() if labels)
    others = "".join(
        rows[name].format("development") for name, labels in uses.items() if not labels
    )
    return f"\n## What users install\n\n{heads}{users}\n## For development\n\n{heads}{others}"


def main() -> None:
    """Write the tables into the page, below its introduction."""
    introduction, mark, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(introduction + mark + table(), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except Failed as reason:
        fail(reason)
