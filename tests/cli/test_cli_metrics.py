"""Test `--metrics` and `--status` of `serve` and `run`, and the keys of a configuration."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trustme
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import jumpstarter
from exporter_process import PATIENCE, ExporterProcess, exporter, exporter_command
from jumpstarter.cli import main
from jumpstarter.cli._metrics import load_http
from jumpstarter.cli._serve import make_parser

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


def status_at(url: str, token: str = "", context: ssl.SSLContext | None = None) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}status.json")  # noqa: S310 - our own server's
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:  # noqa: S310
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


@pytest.fixture
def trusting(directory: Path) -> ssl.SSLContext:
    """Make a certificate, and return the settings of a client that trusts it."""
    authority = trustme.CA()
    pem = authority.issue_cert("localhost").private_key_and_cert_chain_pem
    pem.write_to_path(str(directory / "server.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_metrics_and_status_are_served_by_tls(directory: Path, trusting: ssl.SSLContext) -> None:
    served = ("--metrics", "https://localhost:0", "--status", "https://localhost:0")
    files = ("--tls-cert", "server.pem", "--metrics-token-file", "token")
    address = ("--address", f"unix:{directory}/socket")
    driver = "jumpstarter.drivers.power:MockPower"
    with exporter_command("serve", driver, *address, *served, *files, cwd=directory) as server:
        metrics = url_of(server)
        page = url_of(server, "the status page is at")
        assert metrics.startswith("https://localhost:")
        assert status_at(page, context=trusting)["name"] == driver
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            status_at(page)
        with pytest.raises((OSError, http.client.HTTPException)):  # an alert of TLS, or nothing
            status_at(page.replace("https", "http"))
        request = urllib.request.Request(metrics)  # noqa: S310 - our own server's
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=PATIENCE, context=trusting)  # noqa: S310
        request.add_header("Authorization", f"Bearer {TOKEN}")
        with urllib.request.urlopen(request, timeout=PATIENCE, context=trusting) as answer:  # noqa: S310
            assert b"jumpstarter_open_sessions" in answer.read()


def test_a_configuration_serves_metrics_by_tls(directory: Path, trusting: ssl.SSLContext) -> None:
    text = CONFIG.replace("address: 0", "address: 'https://localhost:0'")
    (directory / "lab.yaml").write_text(text)
    options = ("--exporter-config", "lab.yaml", "--address", f"unix:{directory}/socket")
    certificate = ("--tls-cert", "server.pem")
    with exporter_command("run", *options, *certificate, cwd=directory) as server:
        url = url_of(server)
        request = urllib.request.Request(url)  # noqa: S310 - our own server's
        request.add_header("Authorization", f"Bearer {TOKEN}")
        with urllib.request.urlopen(request, timeout=PATIENCE, context=trusting) as answer:  # noqa: S310
            assert answer.status == 200
        page = url_of(server, "the status page is at")
        assert status_at(page, TOKEN)["name"] == "lab"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--metrics", "0.0.0.0:0"], "other machines reach it, and there is no token"),
        (["--metrics", "nonsense"], "cannot serve HTTP at 'nonsense': give PORT or HOST:PORT"),
        (["--status", "0.0.0.0:0"], "other machines reach it, and there is no token"),
        (["--status", "http://[::1]:0"], "--status (or status: of the configuration) http://[::1]"),
        (["--metrics", "http://[::1]:0"], "write PORT, HOST:PORT, or https://HOST:PORT with"),
        (["--status-token-file", "token"], "--status-token-file is for --status"),
        (["--metrics-token-file", "token"], "--metrics-token-file is for --metrics"),
        (["--metrics", "0", "--metrics-token-file", "no"], "cannot read --metrics-token-file no"),
        (["--metrics", "https://localhost:0"], "--metrics https://localhost:0: give --tls-cert"),
        (["--metrics", "0", "--tls-cert", "x"], "has no TLS: --tls-cert is for tls://"),
        (["--status", "https://[::1]:0", "--tls-client-ca", "x"], "--tls-client-ca is for tls://"),
        (["--status", "https://[::1]:0", "--tls-cert", "token"], "token: it holds no certificate"),
        (
            ["--status", "https://0.0.0.0:0", "--tls-cert", "server.pem"],
            "other machines reach it, and there is no token",
        ),
    ],
    ids=[
        "exposed",
        "address",
        "exposed page",
        "scheme of the page",
        "scheme of metrics",
        "page's token",
        "token alone",
        "no token file",
        "no certificate",
        "certificate for nothing",
        "authorities for nothing",
        "wrong certificate",
        "exposed by TLS",
    ],
)
@pytest.mark.usefixtures("trusting")
def test_what_cannot_be_served_is_one_line(
    options: list[str], text: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = f"unix:{directory}/socket"
    driver = "jumpstarter.drivers.power:MockPower"
    assert main(["serve", driver, "--address", address, *options]) == 2
    assert text in capfd.readouterr().err


def test_a_certificate_that_the_configuration_has_no_use_for_is_refused(
    directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--address", f"unix:{directory}/socket", "--tls-cert", "token")
    assert main(["run", "--exporter-config", "lab.yaml", *options]) == 2
    text = "has no TLS: --tls-cert is for tls://, or https:// of metrics or of the status page"
    assert text in capfd.readouterr().err


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("0.0.0.0:0", True),
        ("127.0.0.1:0", False),
        ("https://0.0.0.0:0", False),
    ],
)
@pytest.mark.usefixtures("trusting")
def test_a_page_that_others_reach_in_cleartext_is_warned_of(
    directory: Path, address: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    words = [
        "x:y",
        "--address",
        "unix:/x",
        "--status",
        address,
        "--status-token-file",
        f"{directory}/token",
    ]
    options = make_parser().parse_args([*words, "--tls-cert", "server.pem"])
    assert load_http(options, None, "status") is not None
    levels = [record.levelname for record in caplog.records]
    assert levels == (["WARNING"] if warns else [])
    assert ("cleartext: use https://HOST:PORT, with --tls-cert" in caplog.text) == warns
