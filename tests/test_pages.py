"""Every block of every page does what the page says, for a reader who does it in turn."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pages import PAGES, at_a_desk, blocks_of, indented

FIRST = "README.md"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory whose name leaves room for that of a socket."""
    path = Path(tempfile.mkdtemp(prefix="reader-"))
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
def test_a_reader_who_follows_a_page_gets_what_it_says(page: str, directory: Path) -> None:
    with at_a_desk(directory) as reader:
        if page != FIRST:  # its reader has read that one before
            for block in blocks_of(FIRST):
                if block.detail == "power.py":
                    reader.save(block)
        for block in blocks_of(page):
            reader.follow(block)
        reader.stop()


@pytest.mark.parametrize("page", PAGES)
def test_code_is_fenced_so_that_it_is_run(page: str) -> None:
    assert indented(page) == []


def test_the_first_page_says_how_to_install_before_it_runs_anything_and_needs_no_extra() -> None:
    text = PAGES[FIRST]
    install = text.index("```sh\npip install .\n")
    first = text.index("```python\n")
    assert install < text.index("python power.py")
    assert install < first
    [program] = [block.text for block in blocks_of(FIRST) if block.detail == "power.py"]
    imported = re.findall(r"^(?:from|import) ([\w.]+)", program, re.MULTILINE)
    assert set(imported) == {"jumpstarter", "jumpstarter.client", "jumpstarter.driver"}
