"""Run the scenarios of local use with published driver packages, by `make compat-real`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from scenarios_runner import SCENARIOS, run_scenario, scenarios_in

PATIENCE: Final = 600.0  # seconds; published drivers import much, and each process does
PUBLISHED: Final = scenarios_in(SCENARIOS / "published")


@pytest.mark.parametrize("script", PUBLISHED, ids=lambda path: path.stem)
def test_scenario(script: Path, tmp_path: Path) -> None:
    run_scenario(script, tmp_path, seconds=PATIENCE)
