"""Test that each module can be imported first, without circular imports or warnings.

One case imports each module without its parent packages, since their `__init__` would import many
other modules and hide a missing import. Another case imports it through them, as users do.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import jumpstarter
from helpers import PATIENCE

SRC: Final = Path(jumpstarter.__file__).parent

# One process imports the dependencies and forks for each module, which makes each start cheap.
SCRIPT: Final = """
import os, sys, types, warnings
sys.path.insert(0, sys.argv[1])
alone = sys.argv[2] == "alone"
import trio.testing, msgspec

def bare(name):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [os.path.join(sys.argv[1], *name.split("."))]

failed = []
for name in sys.argv[3:]:
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        parts = name.split(".")
        for end in range(1, len(parts)):
            if alone:
                bare(".".join(parts[:end]))
        try:
            __import__(name)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print(" ".join(failed))
"""


def module_names() -> list[str]:
    names = []
    for path in sorted(SRC.rglob("*.py*")):
        if path.suffix in {".py", ".pyx"}:
            parts = path.relative_to(SRC.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("how", ["alone", "through its packages"])
def test_each_module_can_be_the_first_to_be_imported(how: str) -> None:
    names = module_names()
    assert {"jumpstarter", "jumpstarter._framing", "jumpstarter.client._tree"} < set(names)
    command = [sys.executable, "-I", "-W", "error", "-c", SCRIPT, str(SRC.parent), how, *names]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=6 * PATIENCE, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "\n"
    assert done.returncode == 0
