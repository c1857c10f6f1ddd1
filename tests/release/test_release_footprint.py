"""Test the parts of `make footprint` that do not depend on the machine."""

from __future__ import annotations

import re
import sys

import pytest
from tools.commands import Failed
from tools.footprint import PAGE, extras_table, gates, gates_table, replaced

LOG = """
=== make lint
All checks passed!
=== make lint: passed in 2 s
=== make test COVERAGE=1: passed in 790 s
all gates passed in 801 s
"""


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="measured with the oldest Python")
def test_the_page_counts_the_packages_that_each_extra_brings() -> None:
    pattern = r"^\| (`\w+`|none) \| (\d+) \|"
    found = re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) > 10
    assert found == re.findall(pattern, extras_table(), re.MULTILINE), "make footprint"


def test_each_table_of_the_page_is_filled() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in ("machine", "imports", "installed", "extras", "gates"):
        assert replaced(page, name, "x").count("<!-- end -->") == page.count("<!-- end -->") == 5
        assert f"<!-- measured: {name} -->\n<!-- end -->" not in page


def test_a_table_replaces_only_that_of_its_name() -> None:
    page = "<!-- measured: a -->\nold\n<!-- end -->\n<!-- measured: b -->\nkept\n<!-- end -->\n"
    assert replaced(page, "a", "new\n") == page.replace("old", "new")
    with pytest.raises(Failed, match="no marks for c"):
        replaced(page, "c", "new\n")


def test_the_gates_are_read_from_the_output_of_ci() -> None:
    assert gates(LOG) == [("lint", 2), ("test COVERAGE=1", 790), ("total", 801)]
    assert gates_table(LOG).endswith("| 13 min 21 s |\n")


def test_a_run_that_failed_is_no_measurement() -> None:
    with pytest.raises(Failed, match="not the output of a"):
        gates(LOG.replace("all gates passed in", "A GATE FAILED after"))
