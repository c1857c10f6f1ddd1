"""Say what a release of this checkout lacks: `make release-check`.

The version is in `src/jumpstarter/_version.py` only. The name of the tag, the heading of the
changelog and the names of the files are derived from it, so a check compares each with it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from packaging.version import InvalidVersion, Version

from tools.changelog import FRAGMENTS, fragments, heading
from tools.commands import (
    ROOT,
    Failed,
    fail,
    output_of,
    package_version,
    run,
    settings,
    tracked_files,
)
from tools.wheels import digest

__all__ = ["findings"]

MISSING: Final = "MISSING"
UNKNOWN: Final = "UNKNOWN"
NOTE: Final = "note"
OK: Final = "ok"

Finding = tuple[str, str]


def findings(root: Path, ci_passed_at: str = "") -> Iterator[Finding]:
    """Yield what is there, what is missing, and what cannot be known from the checkout.

    Args:
        root: The checkout.
        ci_passed_at: The commit at which CI passed, as the caller says.
    """
    version = package_version(root)
    commit = output_of("git", "rev-parse", "HEAD", cwd=root).strip()
    yield _version(version)
    yield from _changelog(root, version)
    yield _tree(root)
    yield from _files(root, version, commit)
    yield _documentation(root)
    yield _ci(commit, ci_passed_at)
    yield _tag(root, version, commit)
    yield from _places(version)


def _version(version: str) -> Finding:
    try:
        canonical = str(Version(version))
    except InvalidVersion:
        return MISSING, f"version: {version} is not a version of PEP 440: see _version.py"
    if canonical != version:
        return MISSING, f"version: write {canonical} instead of {version} in _version.py"
    return OK, f"version: {version}"


def _changelog(root: Path, version: str) -> Iterator[Finding]:
    if heading(version) in (root / "CHANGELOG.md").read_text(encoding="utf-8"):
        yield OK, f"changelog: CHANGELOG.md has a section for {version}"
    else:
        yield MISSING, f"changelog: CHANGELOG.md has no section for {version}: make changelog"
    if left := fragments(root):
        yield MISSING, f"changelog: {FRAGMENTS} has fragments ({len(left)}): make changelog"


def _tree(root: Path) -> Finding:
    changed = output_of("git", "status", "--porcelain", cwd=root).splitlines()
    if changed:
        return MISSING, f"clean tree: {len(changed)} files differ from the commit: git status"
    return OK, "clean tree: every file is committed"


def _files(root: Path, version: str, commit: str) -> Iterator[Finding]:
    release = root / "dist" / "release"
    record = release / "tested.json"
    if not record.exists():
        yield MISSING, "wheels: dist/release has no record of tested files: make wheels"
        return
    tested = json.loads(record.read_text(encoding="utf-8"))
    if tested["commit"] != commit:
        yield MISSING, f"wheels: they are not of the clean commit {commit[:12]}: make wheels"
    names = {path.name for path in release.iterdir()} - {record.name}
    for tag in ("-cp" + python.replace(".", "") for python in _pythons(root)):
        if not any(name.startswith(f"jumpstarter-{version}{tag}-") for name in names):
            yield MISSING, f"wheels: there is none for {tag.removeprefix('-')}: make wheels"
    if f"jumpstarter-{version}.tar.gz" not in names:
        yield MISSING, "source distribution: there is none: make wheels"
    for name in sorted(names):
        if tested["files"].get(name) == digest(release / name):
            yield OK, f"tested: {name}"
        else:
            yield MISSING, f"tested: {name} is not the file that was tested: make wheels"


def _pythons(root: Path) -> list[str]:
    text = "\n".join(settings(root)["project"]["classifiers"])
    return re.findall(r":: (3\.\d+)$", text, re.MULTILINE)


def _documentation(root: Path) -> Finding:
    index = root / "build" / "docs" / "index.html"
    if not index.exists():
        return MISSING, "documentation: it is not built: make docs"
    built = index.stat().st_mtime
    for name in tracked_files(root):
        if name.startswith(("docs/", "src/")) and (root / name).stat().st_mtime > built:
            return MISSING, f"documentation: {name} is newer than build/docs: make docs"
    return OK, "documentation: build/docs is newer than its sources"


def _ci(commit: str, passed_at: str) -> Finding:
    if passed_at and commit.startswith(passed_at) and len(passed_at) >= 7:
        return OK, f"CI: passed at {commit[:12]}, as you say"
    text = f"CI: nothing here records whether it passed at {commit[:12]}: run .ci/run, then"
    return UNKNOWN, f"{text} make release-check PASSED={commit[:12]}"


def _tag(root: Path, version: str, commit: str) -> Finding:
    tag = f"v{version}"
    done = run("git", "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}", cwd=root)
    if done.returncode != 0:
        return MISSING, f"tag: there is no {tag}; when all else is there: git tag -a {tag} -m {tag}"
    if done.stdout.strip() != commit:
        text = f"tag: {tag} is another commit, so this version is released: raise it in _version.py"
        return MISSING, text
    return OK, f"tag: {tag} is this commit"


def _places(version: str) -> Iterator[Finding]:
    if "+" in version:
        text = "where: PyPI refuses a local version (the part after `+`), and the name jumpstarter"
        yield NOTE, f"{text} belongs to another project there. Do not upload these files to it."
        text = "where: attach them to a release page, or serve them from an index of your own"
        yield NOTE, f"{text} (docs/policies.md)"


def main(ci_passed_at: str) -> None:
    """Print the findings, and exit with code 1 if anything is missing or unknown."""
    found = list(findings(ROOT, ci_passed_at))
    for kind, text in found:
        print(f"{kind:8}{text}")
    open_points = sum(kind in {MISSING, UNKNOWN} for kind, _ in found)
    if open_points:
        print(f"not ready: {open_points} points are open")
        raise SystemExit(1)
    print("ready")


if __name__ == "__main__":
    try:
        main("".join(sys.argv[1:]))
    except Failed as reason:
        fail(reason)
