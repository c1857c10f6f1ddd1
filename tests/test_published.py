"""Test the runner of the published driver packages' suites, with a package made here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from published import __main__ as command
from published import loopback, records, report, runner, suites
from published.identity import identity
from published.runner import Result, run
from published.verdict import Verdict, judge

ROOT: Final = Path(__file__).parents[1]
DRIVERS: Final = [
    Requirement(line)
    for line in (ROOT / "tests" / "published" / "drivers.txt").read_text().splitlines()
    if not line.startswith("#")
]
SUITE: Final = """
import os, socket, time
import pytest

class TestThis:
    @pytest.mark.parametrize("text", ["a::b[c]"])
    def test_passes(self, text):
        pass

def test_fails():
    raise ValueError("too bad")

def test_skips_itself():
    pytest.skip("there is no board")

@pytest.fixture
def broken():
    yield
    raise OSError("cannot be closed")

def test_fails_at_its_end(broken):
    pass

def test_settings():
    assert not [name for name in os.environ if name.startswith("JMP_")]
    assert os.environ["HOME"] == os.getcwd()
"""
HANGS: Final = """
import time

def test_before():
    pass

def test_hangs():
    time.sleep(600)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a driver package `made`, which a suite can import."""
    monkeypatch.setattr(runner, "PATH", [*runner.PATH, tmp_path])
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", "UNSAFE")
    place = tmp_path / "jumpstarter_driver_made"
    place.mkdir()
    (place / "__init__.py").touch()
    return place


# ---------------------------------------------------------------------------- one suite


def test_outcomes_of_a_suite_are_known_by_id(package: Path) -> None:
    (package / "driver_test.py").write_text(SUITE)
    result = run("made", isolated=False)
    assert result.outcomes == {
        "made::driver_test.TestThis::test_passes[a::b[c]]": "passed",
        "made::driver_test::test_fails": "failed",
        "made::driver_test::test_skips_itself": "skipped",
        "made::driver_test::test_fails_at_its_end": "failed",
        "made::driver_test::test_settings": "passed",
    }, result.output
    assert result.reasons["made::driver_test::test_fails"] == "ValueError: too bad"
    assert result.reasons["made::driver_test::test_skips_itself"] == "there is no board"
    assert "cannot be closed" in result.reasons["made::driver_test::test_fails_at_its_end"]
    assert result.errors == []


def test_a_module_that_cannot_be_imported_has_failed(package: Path) -> None:
    (package / "driver_test.py").write_text("from jumpstarter.nowhere import Nothing\n")
    result = run("made", isolated=False)
    assert result.outcomes == {"made::driver_test": "failed"}
    assert "No module named 'jumpstarter.nowhere'" in result.reasons["made::driver_test"]
    verdict = judge(result, {"made::driver_test::test_a", "other::x::y"}, {})
    assert (verdict.expected, verdict.passed, verdict.good) == (1, 0, False)
    assert "cannot be imported" in verdict.failures["made::driver_test::test_a"]


def test_a_suite_that_hangs_is_killed_and_the_test_is_known(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "driver_test.py").write_text(HANGS)
    monkeypatch.setattr(runner, "limit_of", lambda _: 20.0)
    result = run("made", isolated=False)
    assert result.errors == ["killed at its limit of 20 s"]
    assert result.outcomes["made::driver_test::test_before"] == "passed"
    assert result.reasons["made::driver_test::test_hangs"] == "did not end"


def test_a_suite_that_crashes_is_an_error(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The version of pytest-asyncio that our own tests use would print a warning first.
    monkeypatch.setattr(runner, "arguments_of", lambda _: ["-p", "no:asyncio"])
    (package / "conftest.py").write_text("import os\nos._exit(7)\n")
    result = run("made", isolated=False)
    assert result.outcomes == {}
    assert result.errors == ["pytest ended with 7: it printed nothing"]
    assert not judge(result, set(), {}).good


def test_a_package_without_tests_is_fine(package: Path) -> None:
    assert package.exists()
    result = run("made", isolated=False)
    assert (result.outcomes, result.errors) == ({}, [])


def test_a_test_that_cannot_run_here_is_not_selected(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "driver_test.py").write_text(HANGS)
    listed = tmp_path / "unavailable.txt"
    listed.write_text("# why\nmade::driver_test::test_hangs  # takes ten minutes\n")
    monkeypatch.setattr(records, "UNAVAILABLE", listed)
    assert records.unavailable() == {"made::driver_test::test_hangs": "takes ten minutes"}
    result = run("made", isolated=False)
    assert result.outcomes == {"made::driver_test::test_before": "passed"}


@pytest.mark.skipif(loopback.why_not_allowed() is not None, reason="namespaces are not allowed")
def test_a_suite_has_loopback_and_no_other_network(package: Path) -> None:
    (package / "driver_test.py").write_text(
        "import socket\n"
        "def test_network():\n"
        "    assert [name for _, name in socket.if_nameindex()] == ['lo']\n"
        "    with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "        socket.create_connection(server.getsockname()).close()\n"
    )
    result = run("made", isolated=True)
    assert result.outcomes == {"made::driver_test::test_network": "passed"}, result.output


def test_a_machine_without_namespaces_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert loopback.why_not_allowed() == "unshare is not installed (Debian: util-linux)"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("../site-packages/jumpstarter_driver_a/x_test.py::test_b", "a::x_test::test_b"),
        ("jumpstarter_driver_a/sub/x_test.py::C::test_b[1::2]", "a::sub.x_test.C::test_b[1::2]"),
        ("/v/jumpstarter_driver_a/x_test.py", "a::x_test"),
    ],
)
def test_an_id_does_not_depend_on_the_place(node: str, expected: str) -> None:
    assert identity("a", node) == expected


# ------------------------------------------------------------------------------- verdicts


def verdict_of(**outcomes: str) -> Verdict:
    tests = {f"a::m::{name}": outcome for name, outcome in outcomes.items()}
    result = Result("a", tests, dict.fromkeys(tests, "a reason"))  # type: ignore[arg-type]
    return judge(result, {"a::m::one", "a::m::two", "b::m::x"}, {"a::m::far": "is far away"})


def test_all_of_the_baseline_passes() -> None:
    verdict = verdict_of(one="passed", two="passed", three="skipped", far="failed")
    assert (verdict.expected, verdict.passed, verdict.good) == (2, 2, True)
    assert verdict.not_run == {"a::m::three": "a reason", "a::m::far": "is far away"}
    assert report.line(verdict).endswith(" 2      0       2     0.0  1: is far away; 1: a reason")
    assert report.closing([verdict]) == "2 passed of 2"


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_a_test_of_the_baseline_that_does_not_pass_is_a_failure(outcome: str) -> None:
    verdict = verdict_of(one="passed", two=outcome)
    assert verdict.failures == {"a::m::two": f"{outcome}: a reason"}
    assert report.closing([verdict]) == "1 passed of 2; packages that fail: a"
    assert f"FAILED: a: {outcome}: a reason\n    a::m::two\n" in report.details([verdict])


def test_a_test_that_did_not_run_is_a_failure() -> None:
    assert verdict_of(one="passed").failures == {"a::m::two": "did not run"}


def test_a_failure_outside_the_baseline_is_a_failure() -> None:
    verdict = verdict_of(one="passed", two="passed", three="failed")
    assert not verdict.good
    assert verdict.failures == {"a::m::three": "failed: a reason"}


def test_a_baseline_is_replaced_for_the_packages_that_ran() -> None:
    old = ["a::m::gone", "b::m::kept"]
    assert records.replaced(old, ["a::m::new"], {"a"}) == ["a::m::new", "b::m::kept"]


# ---------------------------------------------------------------------------- what is listed


def test_the_lists_name_published_packages() -> None:
    names = [each.name.removeprefix("jumpstarter-driver-").replace("-", "_") for each in DRIVERS]
    assert len(names) == 48
    assert {str(each.specifier) for each in DRIVERS} == {"==0.9.0"}
    listed = [*records.baseline(), *records.unavailable()]
    assert {test.partition("::")[0] for test in listed} <= set(names)
    assert set(suites.QUICK) <= set(names)
    assert len(records.baseline()) == 1203
    assert not records.baseline() & records.unavailable().keys()
    assert all(len(reason) > 10 for reason in records.unavailable().values())


def test_packages_are_selected_in_any_spelling() -> None:
    available = ["can", "http_power", "power"]
    assert suites.selected([], available) == available
    assert suites.selected(["power", "jumpstarter-driver-http-power"], available) == [
        "http_power",
        "power",
    ]


@pytest.mark.parametrize("available", [[], ["can"]])
def test_a_package_that_is_not_installed_is_refused(available: list[str]) -> None:
    with pytest.raises(suites.UnknownPackage, match=r"no driver package power is .*(can|none)"):
        suites.selected(["power"], available)


def test_no_suite_at_all_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "installed", list)
    assert command.main([]) == 2
    assert "is installed here; there are: none" in capsys.readouterr().err


def test_the_command_compares_and_records(
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (package / "driver_test.py").write_text("def test_a():\n    pass\n")
    listed = tmp_path / "baseline.txt"
    listed.write_text("can::m::x\nmade::driver_test::test_gone\n")
    monkeypatch.setattr(suites, "installed", lambda: ["made"])
    monkeypatch.setattr(records, "BASELINE", listed)
    logs = tmp_path / "logs"
    assert command.main(["made", "--logs", str(logs)]) == 1
    assert capsys.readouterr().out.endswith("0 passed of 1; packages that fail: made\n")
    assert command.main(["made", "--record", "--logs", str(logs)]) == 0
    assert listed.read_text() == "can::m::x\nmade::driver_test::test_a\n"
    assert command.main(["made", "--logs", str(logs)]) == 0
    assert capsys.readouterr().out.endswith("1 passed of 1\n")
    assert "1 passed" in (logs / "made.log").read_text()


def test_the_runner_needs_only_what_a_suite_has() -> None:
    code = "import sys, published.__main__; print('jumpstarter' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "False\n"
