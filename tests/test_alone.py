"""Test that a test which runs alone passes and fails as it does there."""

from __future__ import annotations

from pathlib import Path

import pytest

from alone import alone

TESTS = """
import pytest, os
from alone import alone

@pytest.mark.parametrize("why", ["one cause", "another"])
@alone
def test_that_fails(tmp_path, why):
    assert why is None

@alone
def test_that_is_skipped():
    pytest.skip("not here")

@alone
def test_that_ends_its_process():
    os._exit(0)
"""


@pytest.mark.parametrize("text", ["a [b] c", "\u00e9"])
@alone
def test_parameters_and_fixtures_arrive(text: str, tmp_path: Path) -> None:
    assert text in {"a [b] c", "\u00e9"}
    assert tmp_path.is_dir()


def test_what_fails_alone_fails_with_its_output(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio")
    result.assert_outcomes(failed=3, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "alone, *::test_that_fails[[]one cause[]] has failed:",
            "*assert 'one cause' is None*",
            "alone, *::test_that_fails[[]another[]] has failed:",
            "*assert 'another' is None*",
        ]
    )
