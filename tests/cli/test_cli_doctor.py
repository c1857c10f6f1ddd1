"""Test what `doctor` notices about an installation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from helpers import PATIENCE
from jumpstarter.cli import _doctor as doctor
from jumpstarter.cli import main


def install(site: Path, name: str, version: str, *requires: str) -> None:
    """Install a distribution, as pip records it in a directory."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory in which distributions can be installed."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def faults(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run the command, check its exit code, and return the faults that it prints."""
    code = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("jumpstarter 0.9.0+trio.1 with Python ")
    found = [each.removeprefix("fault: ") for each in lines if each.startswith("fault: ")]
    assert code == int(bool(found))
    return found


def test_an_installation_without_faults_is_said_to_have_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert faults(capsys) == []


def test_requirements_of_driver_packages_are_looked_for(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requires = ["jumpstarter==0.9.0", "no-such-package>=1", "trio<0.1", 'gone; extra == "test"']
    requires += ['old-backport; python_version < "3"']
    install(site, "jumpstarter-driver-lamp", "0.9.0", *requires)
    install(site, "jumpstarter-driver-fine", "0.9.0", "jumpstarter==0.9.0", "trio")
    missing, old = faults(capsys)
    name = "jumpstarter-driver-lamp 0.9.0"
    remedy = "; pip install jumpstarter-driver-lamp==0.9.0"
    assert missing == f"{name}: no-such-package is not installed{remedy}"
    assert old.startswith(f"{name}: trio ")
    assert old.endswith(f" is installed, and it needs <0.1{remedy}")


def test_requirements_are_looked_for_by_name_without_packaging(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "packaging", None)
    install(site, "jumpstarter-driver-lamp", "0.9.0", "no-such-package>=1", "trio<0.1")
    [missing] = faults(capsys)
    assert "no-such-package is not installed" in missing


def test_two_distributions_of_our_name_are_a_fault(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "jumpstarter", "0.9.0")
    install(site, "jumpstarter-cli", "0.9.0")
    found = faults(capsys)
    both = next(each for each in found if each.startswith("jumpstarter: "))
    assert both.startswith("jumpstarter: two distributions are installed: 0.9.0 in ")
    assert "0.9.0+trio.1 in " in both
    assert any("it installs jmp and j too" in each for each in found)


def test_an_extension_for_another_python_is_a_fault(tmp_path: Path) -> None:
    protocol = tmp_path / "_protocol"
    protocol.mkdir()
    assert list(doctor._other_extensions(tmp_path)) == []
    other = protocol / "codec.cpython-27-x86_64-linux-gnu.so"
    other.touch()
    [fault] = doctor._other_extensions(tmp_path)
    assert fault.is_fault
    assert fault.text.startswith(f"{other.name} was built for another Python")
    shutil.copy(other, protocol / f"codec{EXTENSION_SUFFIXES[0]}")
    assert list(doctor._other_extensions(tmp_path)) == []


def test_missing_extras_are_named_and_a_needed_one_is_a_fault(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extras = ['click>=99; extra == "cli"', 'jumpstarter[cli]; extra == "compat"']
    install(site, "jumpstarter", "0.9.0+trio.1", *extras, 'no-serial; extra == "serial"')
    assert main(["doctor", "-o", "json"]) == 1
    rows = {row["subject"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["extra cli"]["fault"]
    assert "is installed, and it needs >=99" in rows["extra cli"]["text"]
    assert not rows["extra compat"]["fault"]
    assert not rows["extra serial"]["fault"]
    optional = "not installed (optional), for want of no-serial; pip install "
    assert rows["extra serial"]["text"].startswith(optional)
    install(site, "jumpstarter-driver-lamp", "0.9.0")
    assert any(each.startswith("extra compat: ") for each in faults(capsys))


def test_missing_extra_is_a_fault_only_if_published_drivers_cannot_be_imported_without(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extras = ['no-http; extra == "http"', 'jumpstarter[http]; extra == "compat"']
    install(site, "jumpstarter", "0.9.0+trio.1", *extras, 'no-click; extra == "cli"')
    assert faults(capsys) == []
    install(site, "jumpstarter-driver-lamp", "0.9.0")
    assert faults(capsys) == []
    shutil.rmtree(site / "jumpstarter-0.9.0+trio.1.dist-info")
    install(site, "jumpstarter", "0.9.0+trio.1", *extras, 'no-anyio; extra == "compat"')
    [fault] = faults(capsys)
    assert fault.startswith("extra compat: no-anyio is not installed; pip install ")


def test_it_needs_no_extra() -> None:
    script = "import sys; sys.modules.update(click=None, yaml=None, packaging=None)\n"
    script += "from jumpstarter.cli import main; sys.exit(main(['doctor']))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
