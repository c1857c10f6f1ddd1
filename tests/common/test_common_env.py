"""Test that `env` connects to the exporter that the environment names."""

from __future__ import annotations

import re
import ssl
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from exporter_thread import served_at
from jumpstarter import serve
from jumpstarter.common import utils
from jumpstarter.common._env import allowed_clients, exporter_address, exporter_tls
from jumpstarter.common.exceptions import EnvironmentVariableNotSetError
from jumpstarter.common.utils import env
from jumpstarter.driver import Driver, export
from jumpstarter.errors import ArgumentError, ConfigurationError, HandshakeError
from jumpstarter.utils.env import env as other_env


class Board(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: Any) -> Any:
        return value


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUMPSTARTER_HOST", "JMP_DRIVERS_ALLOW", "JMP_GRPC_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("JMP_GRPC_INSECURE", "JUMPSTARTER_GRPC_INSECURE"):
        monkeypatch.delenv(name, raising=False)


def served(address: str, **options: Any) -> AbstractContextManager[str]:
    """Serve a board from another thread; yield the address."""
    return served_at(address, Board(), **options)


def test_both_paths_are_one_function() -> None:
    assert env is other_env is utils.env
    assert utils.serve is serve


@pytest.mark.parametrize("form", ["{path}", "unix:{path}"])
def test_socket_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    with served(f"unix:{tmp_path}/socket"):
        monkeypatch.setenv("JUMPSTARTER_HOST", form.format(path=tmp_path / "socket"))
        with env() as client:
            assert client.call("echo", 1) == 1
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("JUMPSTARTER_HOST", "socket")
        with env() as client:
            assert client.call("echo", 2) == 2


def test_port_is_reached_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with served("tcp://127.0.0.1:0", token="right") as address:  # noqa: S106
        monkeypatch.setenv("JUMPSTARTER_HOST", address.removeprefix("tcp://"))
        monkeypatch.setenv("JMP_GRPC_INSECURE", "1")
        monkeypatch.setenv("JMP_GRPC_PASSPHRASE", "right")
        with env() as client:
            assert client.call("echo", 1) == 1
        monkeypatch.setenv("JMP_GRPC_PASSPHRASE", "wrong")
        with pytest.raises(HandshakeError), env():
            pytest.fail("the token is wrong")


def test_port_is_reached_by_tls_unless_it_is_said_to_be_insecure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert exporter_address("lab.example:8082") == "tls://lab.example:8082"
    assert exporter_address("[::1]:8082") == "tls://[::1]:8082"
    monkeypatch.setenv("JUMPSTARTER_GRPC_INSECURE", "1")
    assert exporter_address("lab.example:8082") == "tcp://lab.example:8082"
    assert exporter_address("tls://lab.example:8082") == "tls://lab.example:8082"
    assert exporter_address("/run/lab:1") == "unix:/run/lab:1"
    with served("tcp://127.0.0.1:0") as address:
        monkeypatch.delenv("JUMPSTARTER_GRPC_INSECURE")
        monkeypatch.setenv("JUMPSTARTER_HOST", address.removeprefix("tcp://"))
        with pytest.raises((HandshakeError, ssl.SSLError)), env():
            pytest.fail("the exporter has no certificate")


@pytest.mark.parametrize(
    "host",
    ["tpc://lab:1", "unix//run/lab", "tcp:/lab:1", "Unix:/run/lab", "http://lab", "lab:1/socket"],
)
def test_an_address_with_a_mistyped_scheme_is_no_path(host: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(f"{host!r} is not an address")) as raised:
        exporter_address(host)
    assert "begins with unix:, tcp://, tls://, or is HOST:PORT" in str(raised.value)
    assert exporter_address(f"./{host}").startswith("unix:/")


@pytest.fixture
def tls_files(tmp_path: Path) -> dict[str, Path]:
    """The files of two certificates of one authority, and a key with a passphrase."""
    authority = trustme.CA()
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "both", "locked")}
    authority.cert_pem.write_to_path(str(files["ca"]))
    own, other = authority.issue_cert("own@lab"), authority.issue_cert("other@lab")
    own.cert_chain_pems[0].write_to_path(str(files["cert"]))
    own.private_key_pem.write_to_path(str(files["key"]))
    other.private_key_and_cert_chain_pem.write_to_path(str(files["both"]))
    key = serialization.load_pem_private_key(own.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    files["locked"].write_bytes(locked)
    return files


def test_files_for_tls_are_of_no_use_without_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JMP_TLS_CA", "/no/such/file")
    with served(f"unix:{tmp_path}/socket"):
        monkeypatch.setenv("JUMPSTARTER_HOST", f"{tmp_path}/socket")
        with env() as client:
            assert client.call("echo", 1) == 1
    with pytest.raises(ConfigurationError, match="cannot use /no/such/file for TLS"):
        exporter_tls("tls://lab:1")


def test_each_file_for_tls_is_by_default_the_environments(
    tls_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exporter_tls("tls://lab:1") is None
    monkeypatch.setenv("JMP_TLS_CERT", str(tls_files["cert"]))
    monkeypatch.setenv("JMP_TLS_KEY", str(tls_files["ca"]))
    with pytest.raises(ConfigurationError, match=r"ca\.pem .*cert\.pem .*ca\.pem for TLS"):
        exporter_tls("tls://lab:1", ca=tls_files["ca"])  # the environment's certificate counts
    monkeypatch.setenv("JMP_TLS_KEY", str(tls_files["key"]))
    assert exporter_tls("tls://lab:1", ca=tls_files["ca"]) is not None
    # The key of the environment is that of its certificate.
    assert exporter_tls("tls://lab:1", cert=tls_files["both"]) is not None


def test_key_that_cannot_be_used_is_an_error(tls_files: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"key\.pem is given without its certificate"):
        exporter_tls("tls://lab:1", key=tls_files["key"])
    with pytest.raises(ConfigurationError, match=r"locked\.pem: the key has a passphrase"):
        exporter_tls("tls://lab:1", cert=tls_files["cert"], key=tls_files["locked"])


def test_allowed_classes_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(allowed_clients()) == ["jumpstarter_driver_*"]
    for text, allowed in {
        "": [],
        "lab.*": ["lab.*"],
        "lab.*, other.Client,": ["lab.*", "other.Client"],
        "UNSAFE": ["*"],
        "lab.*,UNSAFE": ["*"],
    }.items():
        monkeypatch.setenv("JMP_DRIVERS_ALLOW", text)
        assert allowed_clients() == allowed


@pytest.mark.parametrize("host", [None, ""])
def test_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, host: str | None) -> None:
    if host is not None:
        monkeypatch.setenv("JUMPSTARTER_HOST", host)
    with pytest.raises(EnvironmentVariableNotSetError, match="JUMPSTARTER_HOST is not set"), env():
        pytest.fail("there is no exporter")


def test_value_that_is_no_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOST", "tcp://nowhere")
    with pytest.raises(ArgumentError, match="cannot use the address 'tcp://nowhere'"), env():
        pytest.fail("there is no exporter")
