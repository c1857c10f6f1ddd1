"""Test that the workflow files run the gates of CI, and nothing that is not pinned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
MAKEFILE: Final = (ROOT / "Makefile").read_text()
DIRECTORY: Final = ROOT / ".github" / "workflows"
# A source distribution has no workflow files.
pytestmark = pytest.mark.skipif(not DIRECTORY.exists(), reason="only a checkout has workflows")


def workflow(name: str) -> dict[str, Any]:
    document = yaml.safe_load((DIRECTORY / name).read_text())
    assert isinstance(document, dict)
    return document


def jobs() -> list[tuple[str, dict[str, Any]]]:
    names = [path.name for path in sorted(DIRECTORY.glob("*.yml"))]
    return [(name, job) for name in names for job in workflow(name)["jobs"].values()]


def test_each_file_says_first_that_nobody_has_run_it() -> None:
    for path in DIRECTORY.glob("*.yml"):
        assert path.read_text().startswith("# Not run yet: "), path


def test_ci_has_a_job_for_each_gate() -> None:
    gates = workflow("ci.yml")["jobs"]["gate"]["strategy"]["matrix"]["gate"]
    targets = {word for gate in gates for word in gate.split()}
    script = (ROOT / ".ci" / "run").read_text()
    expected = set(re.findall(r"(?:^|[\"&] ?)gate ([a-z-]+)", script, re.MULTILINE))
    assert len(expected) > 8
    assert expected <= targets
    assert "COVERAGE=1" in targets


def test_each_target_exists() -> None:
    gates = workflow("ci.yml")["jobs"]["gate"]["strategy"]["matrix"]["gate"]
    commands = [step["run"] for _, job in jobs() for step in job["steps"] if "run" in step]
    words = [word for gate in gates for word in gate.split() if "=" not in word]
    words += [name for line in commands for name in re.findall(r"^make ([a-z-]+)$", line)]
    assert len(words) > 12
    for word in words:
        assert re.search(rf"^{word}:", MAKEFILE, re.MULTILINE), word


def test_ci_runs_on_each_python() -> None:
    ci = workflow("ci.yml")["jobs"]
    tested = {*ci["python"]["strategy"]["matrix"]["python"]}
    tested |= {
        step["with"]["python-version"]
        for step in ci["gate"]["steps"]
        if "uses" in step and "setup-python" in step["uses"]
    }
    (line,) = re.findall(r"^PYTHONS \?= (.+)", MAKEFILE, re.MULTILINE)
    assert tested == set(line.split())
    assert ci["latest"]["continue-on-error"] is True


def test_actions_are_pinned_to_commits_and_jobs_may_only_read() -> None:
    for name, job in jobs():
        assert job["permissions"] == {"contents": "read"}, name
        for step in job["steps"]:
            action = step.get("uses", "")
            assert not action or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action


def test_wheels_are_built_for_the_systems_that_the_policies_name() -> None:
    include = workflow("wheels.yml")["jobs"]["wheels"]["strategy"]["matrix"]["include"]
    assert {(each["system"], each["arch"]) for each in include} == {
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("macos", "x86_64"),
        ("macos", "arm64"),
    }
