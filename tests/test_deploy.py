"""Test that the files in `deploy` fit the program: its options, its limits, and each other."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from jumpstarter import Limits
from jumpstarter.cli._run import make_parser
from jumpstarter.config._loading import load_exporter
from pages import PAGES, blocks_of

ROOT: Final = Path(__file__).parents[1]
DEPLOY: Final = ROOT / "deploy"
PAGE: Final = "docs/howto/set-up-an-exporter.md"
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
USER: Final = "jumpstarter"
# A key of a udev rule, which compares (==, !=) or assigns (=, +=) a value in quotes.
RULE: Final = re.compile(r'[A-Z]+(\{\w+\})?(==|!=|=|\+=)"[^"]*"')


class Repeated(dict[str, Any]):
    """Collects the values of a key that a section has several times."""

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, list) and key in self:
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


@pytest.fixture
def service() -> dict[str, list[str]]:
    """Return the section [Service] of the unit for an exporter `lab`: the values of each key."""
    parser = configparser.RawConfigParser(dict_type=Repeated, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # it keeps the case
    parser.read_string((DEPLOY / "jumpstarter@.service").read_text().replace("%i", "lab"))
    return {key: value.splitlines() for key, value in parser["Service"].items()}


def read(arguments: list[str]) -> Any:
    """Read the arguments of `jumpstarter` as the program does; they must be those of `run`."""
    assert arguments[0] == "run"
    return make_parser().parse_args(arguments[1:])


def test_the_unit_runs_an_exporter_with_options_that_it_has(service: dict[str, list[str]]) -> None:
    environment = dict(each.split("=", 1) for each in service["Environment"])
    (line,) = service["ExecStart"]
    program, *words = line.split()
    assert Path(program).name in PROJECT["scripts"]
    given = [environment[word[2:-1]] if word.startswith("${") else word for word in words]
    given.remove("$OPTIONS")
    options = read(given + shlex.split(environment["OPTIONS"]))
    assert options.exporter == "lab"
    (directory,) = service["RuntimeDirectory"]
    assert options.address == f"unix:/run/{directory}/socket"


def test_the_unit_gives_the_exporter_time_and_descriptors(service: dict[str, list[str]]) -> None:
    (line,) = service["ExecStart"]
    grace = float(re.findall(r"--grace (\d+)", line)[0])
    assert int(service["TimeoutStopSec"][0]) >= grace + 30
    assert int(service["LimitNOFILE"][0]) >= 2 * Limits().max_connections
    assert service["KillMode"] == ["mixed"]


def test_the_unit_the_user_and_the_rules_belong_together(service: dict[str, list[str]]) -> None:
    assert service["User"] == service["Group"] == [USER]
    users = (DEPLOY / "jumpstarter.sysusers").read_text().splitlines()
    assert [line.split()[:2] for line in users if line[:1] != "#"] == [["u", USER]]
    rules = (DEPLOY / "jumpstarter.rules").read_text().splitlines()
    rules = [line for line in rules if line and not line.startswith("#")]
    assert rules
    for line in rules:
        keys = line.split(", ")
        assert all(RULE.fullmatch(key) for key in keys), line
        assert any("==" in key for key in keys), line
        assert set(re.findall(r'GROUP="(.*?)"', line)) <= {USER}
        assert ('MODE="0660"' in keys) == (f'GROUP="{USER}"' in keys), line


def test_the_unit_can_read_the_configuration_that_other_users_cannot(
    service: dict[str, list[str]],
) -> None:
    page = PAGES[PAGE]
    command = r"sudo install -D -g (\w+) -m (\d+) board.yaml /etc/jumpstarter/exporters/lab.yaml\n"
    (found,) = re.finditer(command, page)
    assert ([found[1]], found[2]) == (service["Group"], "640")
    assert page.index("sudo systemd-sysusers\n") < found.start()  # which makes the group


def test_the_container_runs_an_exporter_with_options_that_it_has() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    words = {
        name: json.loads(rest)
        for name, rest in re.findall(r"^(ENTRYPOINT|CMD) (.+)$", text, re.MULTILINE)
    }
    assert words["ENTRYPOINT"][0] in PROJECT["scripts"]
    assert read(words["CMD"]).exporter == "lab"
    (extras,) = re.findall(r"pip install .*'\.\[(.+)\]'", text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    (number,) = re.findall(r"useradd --uid (\d+)", text)
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == [number]


def test_the_page_and_the_container_install_what_a_configuration_can_ask_for() -> None:
    page = PAGES[PAGE]
    (named,) = re.findall(r"/opt/jumpstarter/bin/pip install '\.\[(.+)\]'", page)
    container = (DEPLOY / "Containerfile").read_text()
    (installed,) = re.findall(r"pip install .*'\.\[(.+)\]'", container)
    assert named == installed
    assert {"cli", "serial", "metrics"} <= set(named.split(","))


def test_the_configuration_that_the_page_installs_needs_no_other_files(tmp_path: Path) -> None:
    (block,) = [each for each in blocks_of(PAGE) if each.detail == "board.yaml"]
    page = PAGES[PAGE]
    assert "board.yaml /etc/jumpstarter/exporters/lab.yaml\n" in page
    (tmp_path / "lab.yaml").write_text(block.text)
    root = load_exporter(None, tmp_path / "lab.yaml").instantiate()
    modules = {type(each).__module__.partition(".")[0] for each in root.children.values()}
    assert modules == {"jumpstarter"}


def test_the_page_names_files_that_are_there() -> None:
    page = PAGES[PAGE]
    named = set(re.findall(r"deploy/[\w.@]*\w", page))
    assert {ROOT / name for name in named} == set(DEPLOY.iterdir())
    (command,) = re.findall(r"jumpstarter (run --exporter lab (?:\\\n|.)+)", page)
    assert read(shlex.split(command.replace("\\\n", " "))).address == "tls://0.0.0.0:8443"
