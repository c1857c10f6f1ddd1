"""Test that each thing that a release lacks is found, in a real repository."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

import pytest
from tools.release_check import findings
from tools.wheels import digest

from processes import PATIENCE

VERSION: Final = "2.0+trio.1"
UNSIGNED: Final = ("-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false")
PYPROJECT: Final = """
[project]
classifiers = ["Programming Language :: Python :: 3.11", "Programming Language :: Python :: 3.12"]
"""
FILES: Final = (
    f"jumpstarter-{VERSION}-cp311-cp311-manylinux_2_17_x86_64.whl",
    f"jumpstarter-{VERSION}-cp312-cp312-manylinux_2_17_x86_64.whl",
    f"jumpstarter-{VERSION}.tar.gz",
)


def git(root: Path, *arguments: str) -> str:
    settings = (
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@localhost",
        "-c",
        "tag.gpgsign=false",
    )
    done = subprocess.run(
        ["git", *settings, *UNSIGNED, *arguments],  # noqa: S607
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.stdout.strip()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """Return a checkout that lacks nothing."""
    write(tmp_path / ".gitignore", "dist/\nbuild/\n")
    write(tmp_path / "pyproject.toml", PYPROJECT)
    write(tmp_path / "src/jumpstarter/_version.py", f'__version__: Final = "{VERSION}"\n')
    write(tmp_path / "CHANGELOG.md", f"# Changelog\n\n## {VERSION} (2030-01-02)\n\n- A change.\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    git(tmp_path, "tag", "--annotate", f"v{VERSION}", "--message", VERSION)
    for name in FILES:
        write(tmp_path / "dist/release" / name, name)
    record(tmp_path)
    write(tmp_path / "build/docs/index.html", "")
    return tmp_path


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD")


def record(root: Path) -> None:
    release = root / "dist/release"
    tested = {path.name: digest(path) for path in release.iterdir() if path.suffix != ".json"}
    write(release / "tested.json", json.dumps({"commit": head(root), "files": tested}))


def missing(root: Path) -> list[str]:
    """Return what is missing, without its cures."""
    return [text for kind, text in findings(root, head(root)) if kind not in {"ok", "note"}]


def test_a_checkout_that_has_all_is_ready(ready: Path) -> None:
    assert missing(ready) == []


def test_a_local_version_is_said_to_be_none_for_pypi(ready: Path) -> None:
    notes = [text for kind, text in findings(ready) if kind == "note"]
    assert notes[0].startswith("where: PyPI refuses a local version")


def test_ci_is_unknown_until_somebody_says_that_it_passed_at_this_commit(ready: Path) -> None:
    for said in ("", "abcdef1", head(ready)[:4]):
        unknown = [text for kind, text in findings(ready, said) if kind == "UNKNOWN"]
        assert [text.partition(":")[0] for text in unknown] == ["CI"]
        assert f"make release-check PASSED={head(ready)[:12]}" in unknown[0]


def test_a_version_without_a_section_or_a_tag_is_found(ready: Path) -> None:
    write(ready / "CHANGELOG.md", "# Changelog\n\n## Unreleased\n\n- A change.\n")
    git(ready, "commit", "--quiet", "--all", "--message", "Undo")
    git(ready, "tag", "--delete", f"v{VERSION}")
    record(ready)
    assert missing(ready) == [
        f"changelog: CHANGELOG.md has no section for {VERSION}: make changelog",
        f"tag: there is no v{VERSION}; when all else is there: git tag -a v{VERSION} -m v{VERSION}",
    ]


def test_a_later_commit_needs_another_version_and_other_files(ready: Path) -> None:
    write(ready / "new.py", "")
    git(ready, "add", ".")
    git(ready, "commit", "--quiet", "--message", "Go on")
    assert missing(ready) == [
        f"wheels: they are not of the clean commit {head(ready)[:12]}: make wheels",
        f"tag: v{VERSION} is another commit, so this version is released: raise it in _version.py",
    ]


@pytest.mark.parametrize("version", ["2.0.trio", "02.0"])
def test_a_version_that_is_not_canonical_is_found(ready: Path, version: str) -> None:
    write(ready / "src/jumpstarter/_version.py", f'__version__: Final = "{version}"\n')
    if version == "02.0":
        assert missing(ready)[0] == "version: write 2.0 instead of 02.0 in _version.py"
    else:
        assert next(iter(findings(ready)))[1].startswith("version: 2.0.trio is not a version")


def test_files_that_are_missing_or_not_tested_are_found(ready: Path) -> None:
    release = ready / "dist/release"
    release.joinpath(FILES[0]).unlink()
    release.joinpath(FILES[1]).write_text("built again")
    release.joinpath(FILES[2]).unlink()
    assert missing(ready) == [
        "wheels: there is none for cp311: make wheels",
        "source distribution: there is none: make wheels",
        f"tested: {FILES[1]} is not the file that was tested: make wheels",
    ]
    release.joinpath("tested.json").unlink()
    assert missing(ready) == ["wheels: dist/release has no record of tested files: make wheels"]


def test_fragments_and_changed_files_are_found(ready: Path) -> None:
    write(ready / "changelog.d/pdu.drivers.md", "A switch.\n")
    assert missing(ready) == [
        "changelog: changelog.d has fragments (1): make changelog",
        "clean tree: 1 files differ from the commit: git status",
    ]


def test_documentation_that_is_missing_or_older_than_its_sources_is_found(ready: Path) -> None:
    index = ready / "build/docs/index.html"
    os.utime(index, (1, 1))
    newer = "documentation: src/jumpstarter/_version.py is newer than build/docs: make docs"
    assert missing(ready) == [newer]
    index.unlink()
    assert missing(ready) == ["documentation: it is not built: make docs"]
