"""Test the commands `config` and `driver`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from jumpstarter.cli import main
from jumpstarter.cli._output import print_rows
from jumpstarter.config.exporter import ExporterConfigV1Alpha1

LAB = "metadata: {name: lab-7}\ndescription: Board 7\nexport:\n  power: {type: MockPower}\n"

pytestmark = pytest.mark.usefixtures("handlers_of_signals")  # of `run`, which ends here


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a configuration to a directory, enter the directory, and return the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    path = tmp_path / "lab.yaml"
    path.write_text(LAB)
    return path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return the directories of the user's configurations and of the system's."""
    own, system = tmp_path / "own", tmp_path / "system"
    monkeypatch.setattr(ExporterConfigV1Alpha1, "BASE_PATH", own)
    monkeypatch.setattr(ExporterConfigV1Alpha1, "SYSTEM_CONFIG_PATH", system)
    return own, system


# --------------------------------------------------------------------------------------- check


def test_a_configuration_without_faults_is_said_to_have_none(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "check", str(lab)]) == 0
    assert capsys.readouterr().out == f"{lab}: no faults\n"


def test_each_fault_is_a_line_and_the_exit_code_is_1(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.write_text("metadata: {nam: x}\ndrivers: {}\nexport: {a: {type: nobody.Power}}\n")
    assert main(["config", "check", "lab.yaml"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "lab.yaml:1: metadata.nam: unknown key; did you mean name?",
        "lab.yaml:2: drivers: unknown key; did you mean export?",
    ]
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("metdata: {name: lab}\n", "1: metdata: unknown key; did you mean metadata?"),
        (
            "metadata: {name: lab}\nexport: {p: {typ: MockPower}}\n",
            "2: export.p.typ: unknown key; did you mean type?",
        ),
        (
            "metadata: {name: lab}\nexport: {n: {type: TcpNetwork, config: {hots: h, port: 1}}}\n",
            (
                "2: driver 'TcpNetwork': TcpNetwork() got an unexpected keyword argument 'hots'; "
                "did you mean host?"
            ),
        ),
    ],
)
def test_a_required_key_that_is_mistyped_is_one_line(
    lab: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    lab.write_text(text)
    assert main(["config", "check", "lab.yaml"]) == 1
    assert capsys.readouterr().out == f"lab.yaml:{told}\n"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("metrics: {address: 0.0.0.0:0}", "metrics: cannot serve metrics at 0.0.0.0:0: other"),
        ("metrics: {address: x}", "metrics: cannot serve HTTP at 'x': give PORT or HOST:PORT"),
        ("status: {address: 'https://x'}", "status: cannot serve HTTP at 'x': give PORT or HOST"),
        (
            "status: {address: 0, tokenFile: absent}",
            "status: cannot read tokenFile absent: ",
        ),
        ("status: {address: 0, tokenFile: empty}", "status: tokenFile empty is empty"),
        ("maxSession: 1h", "maxSession: it is for an exporter in exclusive use"),
        ("operators: [me]", "operators: it is for an exporter in exclusive use"),
        (
            "exclusive: [a, c]",
            "exclusive: 'c' is not a driver of this tree: the root has no driver",
        ),
        ("exclusive: [a, a.b]", "exclusive: 'a' and 'a.b' have drivers in common"),
        ("exclusive: [a.b, r]", "exclusive: 'a.b' and 'r' have drivers in common"),
        ("exclusive: ['.', a]", "exclusive: '.' and 'a' have drivers in common"),
        (
            "exclusive: [a]\nexitOnLeaseEnd: true",
            "exclusive: it names subtrees, and hooks and exitOnLeaseEnd are for sessions",
        ),
    ],
)
def test_what_run_refuses_is_a_fault(
    lab: Path, capfd: pytest.CaptureFixture[str], keys: str, told: str
) -> None:
    Path("empty").touch(0o600)
    export = "export: {a: {children: {b: {type: MockPower}}}, r: {ref: a.b}}"
    lab.write_text(f"metadata: {{name: lab}}\n{export}\n{keys}\n")
    assert main(["config", "check", "lab.yaml"]) == 1
    assert capfd.readouterr().out.startswith(f"lab.yaml:3: {told}")
    address = f"unix:{lab.parent}/socket"
    assert main(["run", "--exporter-config", "lab.yaml", "--address", address]) == 2


def test_modules_of_the_current_directory_are_found(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = lab.parent / "module_of_this_directory.py"
    module.write_text("from jumpstarter.drivers.composite import Composite\n")
    lab.write_text(LAB.replace("MockPower", f"{module.stem}.Composite"))
    assert main(["config", "check", "lab.yaml"]) == 0, capsys.readouterr().out
    lab.write_text(LAB.replace("MockPower", f"{module.stem}.Group"))
    assert main(["config", "check", "lab.yaml"]) == 1
    assert "has no attribute 'Group'" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_an_error(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.unlink()
    assert main(["config", "check", "lab.yaml"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "No such file or directory: 'lab.yaml'" in err
    assert err.count("\n") == 1


# ---------------------------------------------------------------------------------------- list


def test_exporters_are_listed_by_name_with_their_files(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    own, system = places
    assert main(["config", "list", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    for directory in places:
        directory.mkdir()
        (directory / "lab.yaml").write_text(LAB.replace("Board 7", f"in {directory.name}"))
    (system / "broken.yaml").write_text("metadata: {}\n")
    (system / "notes.txt").write_text("not a configuration")
    assert main(["config", "list"]) == 0
    table = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert table == [
        ["NAME", "PATH", "DESCRIPTION"],
        ["broken", str(system / "broken.yaml")],
        ["lab", str(own / "lab.yaml"), "in own"],
    ]
    assert main(["config", "list", "-o", "yaml"]) == 0
    broken, lab = yaml.safe_load(capsys.readouterr().out)
    assert broken["error"] == f"{system / 'broken.yaml'}:1: metadata.name: Field required"
    assert (lab["exporter"], lab["description"]) == ("lab-7", "in own")
    assert main(["config", "list", "-o", "name"]) == 0
    assert capsys.readouterr().out == "broken\nlab\n"


def test_drivers_are_listed_with_their_classes_and_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "jumpstarter_driver_lamp-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jumpstarter-driver-lamp\n")
    points = "[jumpstarter.drivers]\nLamp = lamps.driver:Lamp\nMockPower = lamps.driver:Power\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["driver", "list"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["NAME", "TYPE"]
    assert ["Lamp", "lamps.driver.Lamp"] in table
    assert ["MockPower", "lamps.driver.Power"] in table
    assert ["Shell", "jumpstarter.drivers.shell.Shell"] in table
    assert main(["driver", "list", "-o", "json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["Lamp"]["package"] == "jumpstarter-driver-lamp"
    assert rows["Shell"]["package"] == "jumpstarter"
    assert main(["driver", "list", "-o", "name"]) == 0
    assert capsys.readouterr().out.split() == sorted(rows)


@pytest.mark.parametrize("output", [None, "name"])
def test_listed_names_cannot_control_the_terminal(
    capsys: pytest.CaptureFixture[str], output: str | None
) -> None:
    print_rows([{"name": "a\x1b[2J\nb"}], ("name",), output)
    assert capsys.readouterr().out.removeprefix("NAME\n") == "a\\x1b[2J\\nb\n"


def test_an_installation_without_registered_drivers_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jumpstarter.config._entry_points.registered_drivers", dict)
    assert main(["driver", "list"]) == 1
    assert "not even those of this library: install it again" in capsys.readouterr().err
