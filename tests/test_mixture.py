"""Test that a mixture of this package and the published one refuses to be imported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import jumpstarter
from jumpstarter._mixture import FOREIGN, refuse_mixture

PACKAGE: Final = Path(jumpstarter.__file__).parent


def test_this_package_has_no_module_of_the_published_one() -> None:
    refuse_mixture(PACKAGE)


@pytest.mark.parametrize("name", FOREIGN)
def test_each_foreign_module_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    with pytest.raises(ImportError) as caught:
        refuse_mixture(tmp_path)
    assert f"{tmp_path} has files of two distributions" in str(caught.value)
    assert name in str(caught.value)
    assert "run `pip uninstall --yes jumpstarter` until it finds none" in str(caught.value)
    assert caught.value.name == "jumpstarter"


@pytest.mark.parametrize(
    "code",
    [
        "import jumpstarter",
        "from jumpstarter.driver import Driver",
        "from jumpstarter.client import DriverClient",
        "from jumpstarter.common.utils import serve",
        "import jumpstarter.errors",
    ],
)
@pytest.mark.parametrize("overwritten", [False, True], ids=["under", "over"])
def test_a_mixture_is_noticed_by_what_a_driver_imports(
    code: str, overwritten: bool, tmp_path: Path
) -> None:
    mixed = tmp_path / "jumpstarter"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, mixed, ignore=ignored)
    (mixed / "exporter").mkdir()
    (mixed / "exporter" / "session.py").touch()
    if overwritten:  # the published package's own file is empty
        (mixed / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if overwritten and code == "import jumpstarter":
        assert done.returncode == 0  # none of our code runs
    else:
        assert "has files of two distributions" in done.stderr
        assert done.returncode == 1
