"""Test the forms of the exporter's log: text without control characters, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

import jumpstarter
from exporter_process import PATIENCE, ExporterProcess, exporter, exporter_command
from jumpstarter.cli import main
from jumpstarter.errors import DriverError

MODULE = r"""
import os, subprocess, sys
from jumpstarter.driver import Driver, export

class Noisy(Driver):
    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

    @export
    def speak(self, text):
        self.logger.warning("the device says %s", text)

    @export
    def fail(self, text):
        raise RuntimeError(text)

    @export
    def print(self):
        print("printed \x1b[31mred")
        subprocess.run(["sh", "-c", "echo from a program"], check=True)

    @export
    def write(self, data):
        os.write(2, data)
"""
FORGED = "on\n2026-01-01 00:00:00,000 ERROR driver.Other: forged\x1b[2J\x07\x9b"
CONFIG = """
metadata: {name: lab}
logFormat: json
export:
  noisy: {type: noisy.Noisy}
"""

pytestmark = pytest.mark.usefixtures("handlers_of_signals")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "noisy.py").write_text(MODULE)
    (tmp_path / "lab.yaml").write_text(CONFIG)
    return tmp_path


def log_of(server: ExporterProcess, *names: str, last: bytes = b"the end\n") -> str:
    """Let the driver log and print, end the exporter, and return its log."""
    with jumpstarter.connect(server.address) as root, root.timeout(PATIENCE):
        client = root
        for name in names:
            client = client.children[name]
        client.call("speak", FORGED)
        with pytest.raises(DriverError):
            client.call("fail", FORGED)
        client.call("print")
        client.call("write", last)
    server.send(SIGTERM)
    assert server.wait() == 0
    return server.rest_of_log()


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_text_has_no_control_characters_and_no_line_that_is_forged(directory: Path) -> None:
    with exporter(directory, driver="noisy:Noisy", cwd=directory) as server:
        log = log_of(server)
    lines = [line for line in log.splitlines() if "printed" not in line]  # as a driver prints it
    assert all(line.replace("\t", "").isprintable() for line in lines)
    assert not [line for line in lines if line.startswith("2026-01-01")]
    assert "    | 2026-01-01 00:00:00,000 ERROR driver.Other: forged\\x1b[2J\\x07\\x9b" in lines
    assert sum("Traceback (most recent call last)" in line for line in lines) == 1


def test_json_has_an_object_on_each_line_and_wraps_what_drivers_print(directory: Path) -> None:
    options = ("--log-format", "json", "--log-level", "debug")
    with exporter(directory, *options, driver="noisy:Noisy", cwd=directory) as server:
        found = objects(log_of(server, last=b"\xff without an end"))
    said = {each["message"]: each for each in found}
    spoken = said[f"the device says {FORGED}"]
    assert (spoken["driver"], spoken["method"], spoken["level"]) == (".", "speak", "WARNING")
    ended = {each["method"]: each for each in found if "duration" in each and "driver" in each}
    assert {name: each["outcome"] for name, each in ended.items()} == {
        "speak": "returned",
        "fail": "raised",
        "print": "returned",
        "write": "returned",
    }
    assert ended["speak"]["call"] == spoken["call"]
    printed = [each["message"] for each in found if each["logger"] == "output"]
    assert printed == ["printed \x1b[31mred", "from a program", "\\xff without an end"]


def test_configuration_chooses_the_form_and_an_option_overrides_it(directory: Path) -> None:
    address = ("--address", f"unix:{directory}/socket")
    command = ("serve", "--config", "lab.yaml", *address)
    with exporter_command(*command, cwd=directory) as server:
        found = objects(log_of(server, "noisy"))
    assert any(each.get("driver") == "noisy" for each in found)
    command = ("run", "--exporter-config", "lab.yaml", *address)
    with exporter_command(*command, "--log-format", "text", cwd=directory) as server:
        assert "INFO jumpstarter.cli: the drivers of exporter 'lab'" in log_of(server, "noisy")


def test_error_before_serving_is_an_object_too(
    directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["serve", "noisy:Nobody", "--address", f"unix:{directory}/s"]
    assert main([*arguments, "--log-format", "json"]) == 2
    (found,) = objects(capfd.readouterr().err)
    assert found["message"].startswith("jumpstarter serve: cannot make a driver of 'noisy:Nobody'")
    assert found["level"] == "ERROR"
