"""Run the scenarios of local use that need no published driver packages."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from scenarios_runner import SCENARIOS, run_scenario, scenarios_in

INSTALLED: Final = Path(sys.executable).with_name("jmp").exists()


@pytest.mark.skipif(not INSTALLED, reason="the console scripts are not installed")
@pytest.mark.parametrize("script", scenarios_in(SCENARIOS), ids=lambda path: path.stem)
def test_scenario(script: Path, tmp_path: Path) -> None:
    if script.name == "direct.sh" and shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    run_scenario(script, tmp_path)
