"""Test that the page of licences agrees with the locks and with the metadata of packages."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import Final

import pytest
from packaging.requirements import Requirement
from tools import licences
from tools.commands import Failed

ROWS: Final = licences.rows_of(licences.PAGE.read_text(encoding="utf-8"))
# Other Pythons have other versions of some packages.
FOR_THE_OLDEST: Final = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the page is written with the oldest Python"
)
CURE: Final = "make licences"


def test_the_page_has_each_package_of_the_locks_and_no_other() -> None:
    assert len(ROWS) > 100
    assert ROWS.keys() == licences.locked_names(), CURE


@FOR_THE_OLDEST
def test_the_licence_of_each_installed_package_is_on_the_page() -> None:
    checked = 0
    for name, (licence, _) in ROWS.items():
        try:
            distribution(name)
        except PackageNotFoundError:
            continue  # another environment has it, or another system
        assert licences.licence_of(name) == licence, CURE
        checked += 1
    assert checked > 80


@FOR_THE_OLDEST
def test_the_page_names_the_extras_that_bring_a_package() -> None:
    always = licences.closure(licences.requirements())
    assert {name for name, (_, uses) in ROWS.items() if uses == ["always"]} == always
    for extra in licences.FOR_USERS:
        brought = licences.closure(licences.requirements(extra))
        assert {name for name, (_, uses) in ROWS.items() if extra in uses} == brought - always, CURE


def test_every_extra_is_one_of_users_or_of_developers() -> None:
    rest = set(licences.extras_of()) - set(licences.FOR_USERS)
    assert rest == {"all", "test", "lint", "bench", "docs", "dev", "release", "hostile"}
    assert set(licences.FOR_USERS) <= set(licences.extras_of())


def test_requirements_of_other_systems_are_not_counted() -> None:
    found = licences.closure(
        [Requirement("trio"), Requirement("colorama; sys_platform == 'win32'")]
    )
    assert {"trio", "outcome", "attrs", "sortedcontainers"} <= found
    assert not found & {"colorama", "cffi"}


def test_a_package_that_is_not_installed_needs_an_entry() -> None:
    assert licences.licence_of("colorama") == "BSD-3-Clause"
    with pytest.raises(Failed, match="no-such-package is locked but not installed"):
        licences.licence_of("no-such-package")
