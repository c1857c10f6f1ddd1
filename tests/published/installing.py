"""Install published driver packages beside a wheel of this project, as a user does.

Run by `make compat-install`, since it downloads packages: nothing here is a test of `make test`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from jumpstarter import __version__

ROOT: Final = Path(__file__).parents[2]
[WHEEL] = (ROOT / "dist").glob("jumpstarter-*.whl")
CORE: Final = f"jumpstarter[compat] @ {WHEEL.as_uri()}"
PUBLISHED: Final = "jumpstarter==0.9.0"
DRIVERS: Final = [f"jumpstarter-driver-{name}==0.9.0" for name in ("power", "composite", "shell")]
UV: Final = ROOT / ".venv-compat" / "bin" / "uv"
MINUTES: Final = 240.0  # seconds for downloads that take ten
USE: Final = """
from jumpstarter.common.utils import serve
from jumpstarter_driver_composite.driver import Composite
from jumpstarter_driver_power.driver import MockPower

with serve(Composite(children={"power": MockPower()})) as bench:
    bench.power.on()
    print(type(bench.power).__module__, [reading.voltage for reading in bench.power.read()])
"""
Installer = Callable[..., str]


def output_of(*command: str | Path, status: int = 0) -> str:
    """Return what a command prints on both streams, after its end with a status."""
    done = subprocess.run(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MINUTES,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == status, printed
    return printed


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return the interpreter of a fresh environment."""
    output_of(sys.executable, "-m", "venv", tmp_path / "venv")
    return tmp_path / "venv" / "bin" / "python"


@pytest.fixture(params=["pip", "uv"])
def installer(request: pytest.FixtureRequest, python: Path) -> Installer:
    """Return a function that runs a command of pip, or the same one of uv, in the environment."""
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check"]

    def run(command: str, *arguments: str) -> str:
        if request.param == "pip":
            return output_of(*pip, command, *arguments)
        return output_of(UV, "pip", command, "--python", python, *arguments)

    return run


def version(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('jumpstarter'))"
    return output_of(python, "-c", code).strip()


def test_an_installer_keeps_this_project_beside_published_drivers(
    python: Path, installer: Installer
) -> None:
    installer("install", CORE)
    installer("install", *DRIVERS)
    assert version(python) == __version__
    installer("check")
    assert "grpc" not in installer("list")
    used = output_of(python, "-c", USE)
    assert used.startswith("jumpstarter_driver_power.client [0.0, 5.0]"), used


def test_an_installer_chooses_this_project_if_both_are_requested(
    python: Path, installer: Installer
) -> None:
    installer("install", *DRIVERS, CORE)
    assert version(python) == __version__
    installer("check")


def test_the_published_core_replaces_this_one_on_request_and_is_replaced_again(
    python: Path, installer: Installer
) -> None:
    package = python.parents[1].joinpath("lib").glob("python3.*/site-packages/jumpstarter")
    forced = "--force-reinstall"
    installer("install", "--no-deps", CORE)
    installer("install", "--no-deps", PUBLISHED)
    assert version(python) == __version__  # is enough for that requirement
    installer("install", "--no-deps", forced, PUBLISHED)
    assert version(python) == "0.9.0"
    [directory] = package
    assert not (directory / "errors.py").exists()
    assert (directory / "exporter").exists()
    installer("install", "--no-deps", CORE)
    assert version(python) == __version__
    assert not (directory / "exporter" / "session.py").exists()


@pytest.mark.parametrize("last", [CORE, PUBLISHED], ids=["this", "published"])
def test_a_mixture_says_how_to_get_one_of_the_two(python: Path, last: str) -> None:
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check"]
    both = [CORE, PUBLISHED] if last == PUBLISHED else [PUBLISHED, CORE]
    output_of(*pip, "install", "trio", "msgspec")
    for each in both:
        output_of(*pip, "install", "--no-deps", "--ignore-installed", each)
    printed = output_of(python, "-c", "import jumpstarter.testing", status=1)
    assert "has files of two distributions" in printed
    directory = printed.partition("cannot be imported: ")[2].partition(" has files")[0]
    assert f"delete {directory}," in printed
    while "not installed" not in output_of(*pip, "uninstall", "--yes", "jumpstarter"):
        pass
    shutil.rmtree(directory, ignore_errors=True)
    output_of(*pip, "install", "--no-deps", CORE)
    assert version(python) == __version__
    output_of(python, "-c", "import jumpstarter.testing")
