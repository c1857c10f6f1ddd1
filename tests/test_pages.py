"""Test every block of every documentation page, run in order as a reader would."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pages import PAGES, ROOT, anchors, blocks_of, indented_code, links, page_reader

FIRST = "README.md"
RUN = [page for page in PAGES if any(block.language[:1] != "{" for block in blocks_of(page))]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory with a short name, since the path of a socket is limited."""
    path = Path(tempfile.mkdtemp(prefix="reader-"))
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
@pytest.mark.parametrize("page", RUN)
def test_blocks_of_a_page_do_what_the_page_says(page: str, directory: Path) -> None:
    with page_reader(directory) as reader:
        if page != FIRST:  # readers start with the README
            for block in blocks_of(FIRST):
                if block.detail == "power.py":
                    reader.save(block)
        for block in blocks_of(page):
            reader.follow(block)
        reader.stop()


@pytest.mark.parametrize("page", PAGES)
def test_code_is_fenced(page: str) -> None:
    assert indented_code(page) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    here = ROOT / page
    for link in links(PAGES[page]):
        path, _, anchor = link.partition("#")
        target = (here.parent / path).resolve() if path else here
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_pages_that_the_program_names_exist() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    named = set(re.findall(r"\bdocs/[\w./-]*\w", text))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_readme_installs_before_it_runs_anything_and_needs_no_extra() -> None:
    text = PAGES[FIRST]
    install = text.index("```sh\npip install .\n")
    first = text.index("```python\n")
    assert install < text.index("python power.py")
    assert install < first
    [program] = [block.text for block in blocks_of(FIRST) if block.detail == "power.py"]
    imported = re.findall(r"^(?:from|import) ([\w.]+)", program, re.MULTILINE)
    assert set(imported) == {"jumpstarter", "jumpstarter.client", "jumpstarter.driver"}
