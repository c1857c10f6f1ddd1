"""Test serving an exporter's configuration, with `run` and with `serve --config`."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

import jumpstarter
from exporter_process import PATIENCE, ExporterProcess, exporter_command
from jumpstarter.cli import main
from jumpstarter.errors import HandshakeError

LAB = """\
metadata: {name: lab-7}
endpoint: grpc.example.com:443
export:
  power: {type: MockPower}
  lamp: {type: lamps.Lamp}
"""
MODULE = """
import os, signal
from jumpstarter.driver import Driver, export

class Lamp(Driver):
    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

    @export
    def shine(self):
        return "bright"

class Ending(Lamp):
    def reset(self):
        os.kill(os.getpid(), signal.SIGTERM)

class Broken(Lamp):
    def __init__(self, **kwargs):
        raise RuntimeError("the lamp\\nis not plugged in")
"""
SECRET = "a passphrase of some length"  # noqa: S105 - for tests


pytestmark = pytest.mark.usefixtures("handlers_of_signals")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a configuration and its module to a directory, enter it, and return the file."""
    (tmp_path / "lamps.py").write_text(MODULE)
    path = tmp_path / "lab.yaml"
    path.write_text(LAB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "lamps", raising=False)
    monkeypatch.delenv("JMP_GRPC_PASSPHRASE", raising=False)
    return path


def check_served(server: ExporterProcess, **access: Any) -> None:
    """Check that the drivers of `LAB` are served, and that the exporter ends in order."""
    with jumpstarter.connect(server.address, **access) as client:
        assert client.lamp.shine() == "bright"
        client.power.on()
    server.send(signal.SIGTERM)
    assert server.wait() == 0


def cannot_serve(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that ends without serving, and return what it says."""
    try:
        ended: object = main(list(arguments))
    except SystemExit as exc:  # of argparse
        ended = exc.code
    assert ended == 2
    out, err = capfd.readouterr()
    assert out == ""
    return err


# -------------------------------------------------------------------------------- serve --config


def test_serve_serves_a_configuration(lab: Path) -> None:
    address = f"unix:{lab.parent}/socket"
    arguments = ("serve", "--config", "lab.yaml", "--address", address)
    with exporter_command(*arguments, cwd=lab.parent) as server:
        server.until_logged("lab.yaml:1: without effect here")
        server.until_logged("the drivers of exporter 'lab-7' are those of lab.yaml")
        check_served(server)


def test_serve_needs_either_a_module_or_a_configuration(
    lab: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    both = cannot_serve(capfd, "serve", "lamps:Lamp", "--config", str(lab), "--address", "unix:/x")
    assert "not allowed with argument" in both
    neither = cannot_serve(capfd, "serve", "--address", "unix:/x")
    assert "one of the arguments MODULE:NAME --config is required" in neither


def test_serve_names_the_extra_that_a_configuration_needs(lab: Path) -> None:
    script = "import sys; sys.modules['yaml'] = None; from jumpstarter.cli import main; "
    script += "sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "serve", "--config", str(lab), "--address", "unix:/x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("jumpstarter serve: jumpstarter.config needs the extra 'cli'")
    assert done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------- run


def test_run_serves_an_exporter_by_its_name(lab: Path) -> None:
    home = lab.parent / "config" / "jumpstarter" / "exporters"
    home.mkdir(parents=True)
    lab.rename(home / "desk.yaml")
    arguments = ("run", "--exporter", "desk", "--address", f"unix:{lab.parent}/socket")
    environment = {"XDG_CONFIG_HOME": str(lab.parent / "config"), "JMP_CLIENT_CONFIG_HOME": ""}
    with exporter_command(*arguments, cwd=lab.parent, environment=environment) as server:
        check_served(server)


def test_run_listens_with_tls_as_the_published_command_does(lab: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = lab.parent / "cert.pem", lab.parent / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    arguments = ["run", "--exporter-config", "lab.yaml", "--tls-grpc-listener", "127.0.0.1:0"]
    arguments += ["--tls-cert", str(cert), "--tls-key", str(key), "--passphrase", SECRET]
    with exporter_command(*arguments, cwd=lab.parent) as server:
        assert server.address.startswith("tls://127.0.0.1:")
        server.until_logged("all users of this machine can see --passphrase")
        with pytest.raises(HandshakeError, match="not admitted"):
            jumpstarter.connect(server.address, ssl_context=context).__enter__()
        check_served(server, ssl_context=context, token=SECRET)


def test_run_takes_the_passphrase_of_the_environment(lab: Path) -> None:
    arguments = ["run", "--exporter-config", "lab.yaml", "--tls-grpc-listener", "localhost:0"]
    arguments += ["--tls-grpc-insecure"]
    environment = {"JMP_GRPC_PASSPHRASE": "short"}
    with exporter_command(*arguments, cwd=lab.parent, environment=environment) as server:
        assert server.address.startswith("tcp://")
        server.until_logged("the passphrase crosses the network in cleartext: serve at tls://")
        server.until_logged("the passphrase has 5 characters, and can be guessed")
        with pytest.raises(HandshakeError, match="not admitted"):
            jumpstarter.connect(server.address).__enter__()
        check_served(server, token="short")  # noqa: S106 - for tests


def test_programs_of_drivers_do_not_get_the_passphrase(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    del lab
    monkeypatch.setenv("JMP_GRPC_PASSPHRASE", "short")
    cannot_serve(capfd, "run", "--exporter-config", "none.yaml", "--address", "unix:/x")
    assert "JMP_GRPC_PASSPHRASE" not in os.environ


def test_a_signal_at_the_start_ends_run(lab: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lab.write_text(LAB.replace("lamps.Lamp", "lamps.Ending"))
    arguments = ["run", "--exporter-config", "lab.yaml", "--address", f"unix:{lab.parent}/socket"]
    assert main(arguments) == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("listener", "address"),
    [
        ("8443", "tls://0.0.0.0:8443"),
        (":8443", "tls://0.0.0.0:8443"),
        ("lab.example:8443", "tls://lab.example:8443"),
        ("[::1]:8443", "tls://[::1]:8443"),
    ],
)
def test_a_listener_is_an_address(
    lab: Path, listener: str, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("run", "--exporter-config", str(lab), "--tls-grpc-listener", listener)
    told = cannot_serve(capfd, *arguments)
    assert told == f"jumpstarter run: {address}: give --tls-cert, a file with the certificate\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--address", "unix:/x"], "one of the arguments --exporter --exporter-config is required"),
        (["--exporter", "lab"], "there is no controller to register with: give --address, or"),
        (
            ["--exporter", "lab", "--address", "unix:/x", "--tls-grpc-listener", "1"],
            "error: give --address, or --tls-grpc-listener instead of it",
        ),
        (
            ["--exporter", "lab", "--tls-grpc-listener", "localhost:port"],
            "--tls-grpc-listener localhost:port: write [HOST:]PORT, as in 8443",
        ),
        (
            ["--exporter", "lab", "--address", "unix:/x", "--tls-grpc-insecure"],
            "--tls-grpc-insecure is for --tls-grpc-listener: write --address tcp://...",
        ),
        (
            ["--exporter", "lab", "--address", "unix:/x", "--passphrase", ""],
            "--passphrase is empty, which would admit every client",
        ),
        (
            ["--exporter", "x", "--address", "unix:/x", "--passphrase", "a", "--token-file", "b"],
            "--passphrase and --token-file are two secrets: give one of them",
        ),
    ],
)
def test_options_that_contradict_each_other_are_an_error(
    arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert told in cannot_serve(capfd, "run", *arguments)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "metadata: {name: x}\ndrivers: {}\n",
            "lab.yaml:2: drivers: unknown key; did you mean exp",
        ),
        (
            "metadata: {name: x}\nexport:\n  a: {type: lamps.Broken}\n",
            "lab.yaml:3: driver 'lamps.Broken' could not be made: RuntimeError: the lamp is not pl",
        ),
        (
            "metadata: {name: x}\nexport:\n  a: {type: MockPower, config: {voltage: high}}\n",
            "lab.yaml:3: driver 'MockPower' could not be made: ConfigurationError: voltage of",
        ),
        (
            "metadata: {name: x}\nexport:\n  a: {ref: b}\n",
            "lab.yaml:3: ref 'b' of 'a': the root has no driver 'b' below it",
        ),
    ],
)
def test_a_configuration_that_cannot_be_served_is_named_with_its_line(
    lab: Path, text: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    lab.write_text(text)
    arguments = ("run", "--exporter-config", "lab.yaml", "--address", "unix:/nowhere/socket")
    said = cannot_serve(capfd, *arguments)
    assert said.startswith(f"jumpstarter run: {told}")
    assert said.count("\n") == 1


def test_a_file_that_is_not_there_is_named(lab: Path, capfd: pytest.CaptureFixture[str]) -> None:
    del lab
    arguments = ["run", "--exporter-config", "none.yaml", "--address", "unix:/x"]
    told = cannot_serve(capfd, *arguments)
    assert told == "jumpstarter run: cannot read none.yaml: No such file or directory\n"
    arguments[1:3] = ["--exporter", "nobody"]
    assert "there is no exporter 'nobody': neither " in cannot_serve(capfd, *arguments)
