"""Look at the documentation site with a real browser: `make test-browser`, which builds it.

The pages are files, as a reader opens them without a server. Screenshots are in build/browser/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from chromium import CHROMIUM, Tab, open_tab

ROOT: Final = Path(__file__).parents[2]
SITE: Final = ROOT / "build" / "docs"
SHOTS: Final = ROOT / "build" / "browser"
NARROW: Final = 400
OVERFLOW: Final = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Sphinx lists its results one after the other, and then says that it has finished.
FOUND: Final = """
new Promise((resolve) => {
  const look = () => {
    const found = [...document.querySelectorAll("#search-results li a")].map((a) => a.href);
    const summary = document.querySelector("#search-results .search-summary")?.innerText ?? "";
    if (/finished|did not match/.test(summary)) resolve(found); else setTimeout(look, 50);
  };
  look();
})
"""
# Names of Python and headings of pages, and the page that a reader looks for.
SEARCHES: Final = {
    "cancel_grace": "limits.html",
    "CallOutcomeUnknown": "errors.html",
    "serial console": "serial-console.html",
    "client_fixture": "test-a-driver.html",
}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with open_tab(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def url(page: str) -> str:
    return (SITE / page).as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_page_is_wider_than_a_narrow_window(tab: Tab, dark: bool) -> None:
    pages = sorted(SITE.rglob("*.html"))
    assert len(pages) > 50
    tab.show(width=NARROW, dark=dark)
    too_wide = {}
    for page in pages:
        if "_modules" in page.parts:  # the source code of the package
            continue
        tab.open(page.as_uri())
        if excess := tab.value(OVERFLOW):
            too_wide[str(page.relative_to(SITE))] = excess
    assert too_wide == {}


@pytest.mark.parametrize("words", SEARCHES)
def test_search_finds_a_page_without_a_server(tab: Tab, words: str) -> None:
    tab.show(width=1280)
    tab.open(url("search.html") + f"?q={words.replace(' ', '+')}")
    found = tab.value(FOUND)
    assert any(SEARCHES[words] in each for each in found), found


@pytest.mark.parametrize("page", ["index", "howto/pytest", "reference/cli", "reference/driver"])
@pytest.mark.parametrize("width", [1280, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_screenshot(tab: Tab, page: str, width: int, dark: bool) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    name = f"{page.replace('/', '-')}-{width}-{'dark' if dark else 'light'}.png"
    tab.show(width=width, height=1100, dark=dark)
    tab.open(url(f"{page}.html"))
    shot = SHOTS / f"docs-{name}"
    tab.screenshot(shot)
    assert shot.stat().st_size > 10_000  # an empty page has less
