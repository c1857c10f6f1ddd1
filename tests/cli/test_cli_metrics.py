"""Test `--metrics` and `--status` of `serve` and `run`, and the keys of a configuration."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import jumpstarter
from exporter_process import PATIENCE, ExporterProcess, exporter, exporter_command
from jumpstarter.cli import main

pytestmark = pytest.mark.usefixtures("handlers_of_signals")

CONFIG = """
metadata: {name: lab}
metrics: {address: 0, tokenFile: token}
status: {address: "127.0.0.1:0", tokenFile: token}
export:
  rail: {type: MockPower}
"""
TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105 - of these tests


def url_of(server: ExporterProcess, what: str = "metrics are served at") -> str:
    """Read the log up to the line that says where something is."""
    while True:
        if found := re.search(rf"{what} (\S+)$", server.log_line()):
            return found[1]


def status_at(url: str, token: str = "") -> dict[str, Any]:
    request = urllib.request.Request(f"{url}status.json")  # noqa: S310 - our own server's
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - the same
        found: dict[str, Any] = json.load(answer)
    return found


def scrape(url: str, token: str = "") -> dict[tuple[str, ...], float]:
    """Return the values of all samples, by name and by the values of their labels."""
    request = urllib.request.Request(url)  # noqa: S310 - our own server's
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - the same
        text = answer.read().decode()
    return {
        (sample.name.removeprefix("jumpstarter_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lab.yaml").write_text(CONFIG)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_real_exporter_is_scraped(tmp_path: Path) -> None:
    with exporter(tmp_path, "--metrics", "0") as server:
        url = url_of(server)
        assert url.startswith("http://127.0.0.1:")
        with jumpstarter.connect(server.address) as client, client.timeout(PATIENCE):
            for _ in range(3):
                client.call("echo")
            found = scrape(url)
        assert found["calls_total", ".", "echo", "returned"] == 3
        assert found["open_sessions",] == 1
        assert found["log_records_dropped_total", "stderr"] == 0
        assert found["log_records_dropped_total", "clients"] == 0
        assert found["loop_delay_seconds_bucket", "+Inf"] >= 0


def test_configuration_serves_metrics_with_a_token(directory: Path) -> None:
    options = ("--exporter-config", "lab.yaml", "--address", f"unix:{directory}/socket")
    with exporter_command("run", *options, cwd=directory) as server:
        url = url_of(server)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            scrape(url)
        with jumpstarter.connect(server.address) as client, client.timeout(PATIENCE):
            client.children["rail"].call("on")
        assert scrape(url, TOKEN)["calls_total", "rail", "on", "returned"] == 1
        url = url_of(server, "the status page is at")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            status_at(url)
        found = status_at(url, TOKEN)
        assert found["name"] == "lab"
        assert [row["path"] for row in found["drivers"]["rows"]] == [".", "rail"]


def test_status_of_a_real_exporter(tmp_path: Path) -> None:
    with exporter(tmp_path, "--status", "0") as server:
        url = url_of(server, "the status page is at")
        with jumpstarter.connect(server.address, name="tester"):
            found = status_at(url)
    assert found["name"] == "exporter_process:Probe"
    assert [row["claimed"] for row in found["sessions"]["rows"]] == ["tester"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--metrics", "0.0.0.0:0"], "other machines reach it, and there is no token"),
        (["--metrics", "nonsense"], "cannot serve HTTP at 'nonsense': give PORT or HOST:PORT"),
        (["--status", "0.0.0.0:0"], "other machines reach it, and there is no token"),
        (["--status-token-file", "token"], "--status-token-file is for --status"),
        (["--metrics-token-file", "token"], "--metrics-token-file is for --metrics"),
        (["--metrics", "0", "--metrics-token-file", "no"], "cannot read --metrics-token-file no"),
    ],
    ids=["exposed", "address", "exposed page", "page's token", "token alone", "no token file"],
)
def test_what_cannot_be_served_is_one_line(
    options: list[str], text: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = f"unix:{directory}/socket"
    driver = "jumpstarter.drivers.power:MockPower"
    assert main(["serve", driver, "--address", address, *options]) == 2
    assert text in capfd.readouterr().err
