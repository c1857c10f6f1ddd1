"""Make the fragments of `changelog.d` the section of the version in CHANGELOG.md: `make changelog`.

towncrier reads and checks the fragments and renders them. A fragment's type is a heading of the
page. The section `## Unreleased`, if there is one, becomes the section of the version, and keeps
its text: notes that are written for the release as a whole.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Final

from tools.commands import ROOT, Failed, fail, output_of, package_version, settings

__all__ = ["FRAGMENTS", "heading", "released"]

FRAGMENTS: Final = "changelog.d"
UNRELEASED: Final = "## Unreleased"


def fragments(root: Path) -> list[Path]:
    """Return the fragments that no release has used yet."""
    return sorted((root / FRAGMENTS).glob("*.*.md"))


def heading(version: str) -> str:
    """Return how the heading of a version's section begins."""
    return f"## {version} ("


def released(page: str, version: str, date: dt.date, notes: str) -> str:
    """Return the changelog with a section for a version.

    Args:
        page: The changelog.
        version: The version that is released.
        date: The day of the release.
        notes: Rendered fragments: headings of the third level, each with its entries.
    """
    title = f"{heading(version)}{date.isoformat()})"
    before, unreleased, rest = page.partition(f"{UNRELEASED}\n")
    if not unreleased:  # a new section, above that of the last version
        before, _, rest = page.partition("\n## ")
        rest = f"\n## {rest}" if rest else ""
        return f"{before.rstrip()}\n\n{title}\n\n{notes.strip()}\n{rest}"
    section, _, older = rest.partition("\n## ")
    older = f"\n## {older}" if older else ""
    merged = _merged(_parts(section), _parts(notes))
    return f"{before}{title}\n{merged}\n{older}"


def _parts(section: str) -> dict[str, str]:
    """Split a section at its headings of the third level. The first part has none."""
    first, *others = f"\n{section}".split("\n### ")
    parts = {"": first.strip()}
    for part in others:
        name, _, entries = part.partition("\n")
        parts[name] = entries.strip()
    return parts


def _merged(parts: dict[str, str], more: dict[str, str]) -> str:
    together = {name: [parts.get(name, ""), more.get(name, "")] for name in {**parts, **more}}
    texts = {name: "\n".join(filter(None, both)) for name, both in together.items()}
    headed = [f"### {name}\n\n{text}" if name else text for name, text in texts.items() if text]
    return "\n" + "\n\n".join(headed)


def render(root: Path, version: str) -> str:
    """Return the fragments as towncrier renders them, after checking their names."""
    types = [each["directory"] for each in settings(root)["tool"]["towncrier"]["type"]]
    for path in fragments(root):
        if path.name.split(".")[-2] not in types:
            raise Failed(f"{path.name} has none of the types {', '.join(types)}")
    towncrier = Path(sys.executable).parent / "towncrier"
    return output_of(towncrier, "build", "--draft", "--version", version, cwd=root)


def main(root: Path, date: dt.date) -> None:
    """Move the fragments into the page."""
    version, page = package_version(root), root / "CHANGELOG.md"
    text = page.read_text(encoding="utf-8")
    used = fragments(root)
    if heading(version) in text:
        raise Failed(
            f"CHANGELOG.md has a section for {version}: change src/jumpstarter/_version.py"
        )
    if not used and f"{UNRELEASED}\n" not in text:
        raise Failed(f"nothing has changed: {FRAGMENTS} has no fragments")
    notes = render(root, version) if used else ""
    page.write_text(released(text, version, date, notes[notes.find("### ") :]), encoding="utf-8")
    for path in used:
        path.unlink()
    print(f"CHANGELOG.md has a section for {version}, with {len(used)} fragments")


if __name__ == "__main__":
    try:
        main(ROOT, dt.datetime.now(tz=dt.UTC).date())
    except Failed as reason:
        fail(reason)
