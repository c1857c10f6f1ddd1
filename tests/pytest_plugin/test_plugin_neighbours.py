"""Test that the plugin leaves alone the runs that do not use it, and other plugins."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import _jumpstarter_pytestplugin
from helpers import PATIENCE

RunAlone = Callable[..., pytest.RunResult]

OTHER = """
import sys

def test_nothing_is_imported():
    ours = {name.partition(".")[0] for name in sys.modules}
    assert not ours & {"jumpstarter", "trio", "msgspec", "yaml", "click"}
    assert "_jumpstarter_pytestplugin" in sys.modules
"""


@pytest.fixture
def run_alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunAlone:
    """Run pytest in a process of its own, with no other plugin than ours and those named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("JUMPSTARTER_HOST", raising=False)

    def run(*options: str) -> pytest.RunResult:
        ours = ("-p", "_jumpstarter_pytestplugin", "-p", "no:cacheprovider")
        strict = ("-W", "error", "--strict-markers", "--strict-config")
        return pytester.runpytest_subprocess(*ours, *strict, *options, timeout=4 * PATIENCE)

    return run


def test_a_run_that_uses_no_device_imports_nothing(
    run_alone: RunAlone, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(OTHER)
    run_alone().assert_outcomes(passed=1)


def test_pytest_finds_the_plugin_where_the_library_is_installed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUMPSTARTER_HOST", raising=False)
    pytester.makepyfile(
        "def test_it(pytestconfig):\n    assert pytestconfig.pluginmanager."
        "has_plugin('jumpstarter')"
    )
    common = ("-p", "no:cacheprovider", "-p", "no:asyncio")
    pytester.runpytest_subprocess(*common, timeout=4 * PATIENCE).assert_outcomes(passed=1)


def test_it_can_be_disabled(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(device): pass")
    options = ("-p", "no:jumpstarter", "-p", "no:cacheprovider", "-p", "no:asyncio")
    result = pytester.runpytest_subprocess(*options, timeout=4 * PATIENCE)
    result.assert_outcomes(errors=1)
    assert "fixture 'device' not found" in result.stdout.str()


def test_a_marked_test_of_another_project_needs_only_the_marker(
    run_alone: RunAlone, pytester: pytest.Pytester
) -> None:
    """Collecting and deselecting marked tests needs no device."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.jumpstarter(requires=["power"])
        def test_it(device): pass
        def test_other(): pass
        """
    )
    run_alone("-m", "not jumpstarter").assert_outcomes(passed=1, deselected=1)
    result = run_alone("--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_beside_pytest_asyncio(run_alone: RunAlone, pytester: pytest.Pytester, mode: str) -> None:
    pytester.makepyfile(
        """
        import asyncio
        import pytest, pytest_asyncio
        @pytest_asyncio.fixture
        async def number():
            await asyncio.sleep(0)
            yield 7
        @pytest.mark.asyncio
        async def test_it(number):
            await asyncio.sleep(0)
            assert number == 7
        def test_other(): pass
        """
    )
    pytester.makeini(
        f"[pytest]\nasyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function\n"
    )
    run_alone("-p", "pytest_asyncio.plugin").assert_outcomes(passed=2)


def test_beside_anyio(run_alone: RunAlone, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import anyio, pytest
        pytestmark = pytest.mark.anyio
        @pytest.fixture
        async def number():
            await anyio.sleep(0)
            yield 7
        async def test_it(number): assert number == 7
        """
    )
    run_alone("-p", "anyio").assert_outcomes(passed=2)  # on asyncio and on trio


def test_beside_pytest_trio(run_alone: RunAlone, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest, trio
        @pytest.fixture
        async def number():
            await trio.sleep(0)
            yield 7
        async def test_it(number): assert number == 7
        """
    )
    pytester.makeini("[pytest]\ntrio_mode = true\n")
    run_alone("-p", "pytest_trio.plugin").assert_outcomes(passed=1)


def test_unittest_and_doctest_items_pass(run_alone: RunAlone, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        '''
        import unittest
        def double(x):
            """
            >>> double(2)
            4
            """
            return 2 * x
        class TestIt(unittest.TestCase):
            def test_it(self): self.assertEqual(double(1), 2)
        '''
    )
    run_alone("--doctest-modules").assert_outcomes(passed=2)


def test_the_module_that_pytest_loads_imports_only_pytest() -> None:
    source = Path(_jumpstarter_pytestplugin.__file__).read_text()
    imported = set()
    for statement in ast.parse(source).body:  # not those inside functions and TYPE_CHECKING
        if isinstance(statement, ast.Import):
            imported |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            imported.add(str(statement.module))
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names == {"pytest"}
