"""Test that fragments become entries of the changelog, by the real towncrier."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Final

import pytest
from tools.changelog import fragments, main, released
from tools.commands import Failed, package_version

ROOT: Final = Path(__file__).parents[2]
DAY: Final = dt.date(2030, 1, 2)
FIRST: Final = """# Changelog

About versions.

## Unreleased

This is the first version.

### Drivers

- A driver
  of two lines.

### Exporters

- An exporter.
"""
LATER: Final = FIRST.replace("## Unreleased", "## 1.0 (2029-01-01)")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a directory with this project's settings and an empty list of fragments."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "src" / "jumpstarter").mkdir(parents=True)
    (tmp_path / "src/jumpstarter/_version.py").write_text('__version__: Final = "2.0+trio.1"\n')
    (tmp_path / "changelog.d").mkdir()
    for name in ("README.md", "template.md"):
        shutil.copy(ROOT / "changelog.d" / name, tmp_path / "changelog.d")
    (tmp_path / "CHANGELOG.md").write_text(FIRST)
    return tmp_path


def test_fragments_join_the_notes_of_the_release_under_their_headings(checkout: Path) -> None:
    (checkout / "changelog.d/pdu.drivers.md").write_text("A switch\nover HTTP.\n")
    (checkout / "changelog.d/leak.security.md").write_text("A fix.\n")
    main(checkout, DAY)
    assert (
        (checkout / "CHANGELOG.md").read_text()
        == """# Changelog

About versions.

## 2.0+trio.1 (2030-01-02)

This is the first version.

### Drivers

- A driver
  of two lines.
- A switch
  over HTTP.

### Exporters

- An exporter.

### Security

- A fix.
"""
    )
    assert fragments(checkout) == []


def test_a_later_release_gets_a_section_above_the_last_one(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(LATER)
    (checkout / "changelog.d/pdu.drivers.md").write_text("A switch.\n")
    main(checkout, DAY)
    head, section = (
        "About versions.\n\n",
        "## 2.0+trio.1 (2030-01-02)\n\n### Drivers\n\n- A switch.\n",
    )
    expected = LATER.replace(head, f"{head}{section}\n")
    assert (checkout / "CHANGELOG.md").read_text() == expected


def test_notes_before_older_versions_keep_those() -> None:
    page = FIRST + "\n## 1.0 (2029-01-01)\n\n- Older.\n"
    text = released(page, "2.0", DAY, "### Drivers\n\n- A switch.\n")
    assert text.endswith("- An exporter.\n\n## 1.0 (2029-01-01)\n\n- Older.\n")
    assert text.count("- A switch.") == 1


@pytest.mark.parametrize(
    ("name", "page", "reason"),
    [
        ("pdu.gadgets.md", FIRST, "pdu.gadgets.md has none of the types breaking, deprecated,"),
        ("README.md", LATER, "nothing has changed"),
        ("a.cli.md", LATER.replace("1.0 (", "2.0+trio.1 ("), "has a section for 2.0+trio.1"),
    ],
)
def test_a_release_that_cannot_be_written_changes_nothing(
    checkout: Path, name: str, page: str, reason: str
) -> None:
    (checkout / "CHANGELOG.md").write_text(page)
    (checkout / "changelog.d" / name).write_text("Text.\n")
    with pytest.raises(Failed, match=f"^.*{reason.replace('+', '.')}"):
        main(checkout, DAY)
    assert (checkout / "CHANGELOG.md").read_text() == page


def test_the_fragments_of_this_checkout_are_entries(checkout: Path) -> None:
    for path in fragments(ROOT):
        text = path.read_text()
        assert not text.startswith("-"), f"{path.name}: write no bullet"
        assert text.rstrip().endswith("."), f"{path.name}: write whole sentences"
        shutil.copy(path, checkout / "changelog.d")
    main(checkout, DAY)  # their types are known


def test_the_version_of_the_package_is_read_without_importing_it() -> None:
    import jumpstarter  # noqa: PLC0415 - only this test compares them

    assert package_version(ROOT) == jumpstarter.__version__
