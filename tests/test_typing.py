"""Test that mypy and pyright report exactly the expected errors for the files in `typing/`."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

TESTS: Final = Path(__file__).parent
FILES: Final = sorted(str(path) for path in (TESTS / "typing").glob("*.py"))
DEADLINE: Final = 300.0  # seconds; without a cache, a checker reads all imported modules


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *args]
    return subprocess.run(
        command, cwd=TESTS.parent, capture_output=True, text=True, check=False, timeout=DEADLINE
    )


def test_mypy_agrees() -> None:
    done = run("mypy", "--strict", *FILES)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_pyright_agrees(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "extraPaths": [str(TESTS.parent / "src")],
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
        # The comments contain mypy's codes; pyright must report each of these errors, too.
        "enableTypeIgnoreComments": True,
        "reportUnknownMemberType": "none",  # of names known only from a report
        "reportUnknownVariableType": "none",
        "pythonVersion": "3.11",
    }
    for file in FILES:  # pyright only checks files below its settings
        shutil.copy(file, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path))
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright does not start here: {done.stderr[-200:]}")
    answer = json.loads(done.stdout)
    found = [(each["range"]["start"], each["message"]) for each in answer["generalDiagnostics"]]
    assert found == []
    assert answer["summary"]["filesAnalyzed"] == len(FILES)
