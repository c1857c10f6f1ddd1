"""Test where the credentials for an OCI registry come from, with files as podman writes them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from jumpstarter.common.oci import (
    OciCredentials,
    parse_oci_registry,
    read_auth_file_credentials,
    resolve_oci_credentials,
)

IMAGE = "oci://quay.io/org/image:tag"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set a home directory without credentials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "OCI_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OCI_PASSWORD", raising=False)
    return tmp_path


def store(path: Path, **auths: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {name.replace("_", "."): auths[name] for name in auths}}))


def basic(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def plain(found: OciCredentials) -> tuple[str | None, str | None]:
    return found.username, found.plain_password


# ------------------------------------------------------------------------- the model


def test_credentials_are_complete_or_empty() -> None:
    found = OciCredentials(username=" me ", password=SecretStr(" secret "))
    assert plain(found) == ("me", "secret")
    assert found.is_authenticated
    assert "secret" not in repr(found)
    assert plain(OciCredentials(username="", password=SecretStr(" "))) == (None, None)
    assert not OciCredentials().is_authenticated
    with pytest.raises(ValidationError, match="requires both"):
        OciCredentials(username="me")
    with pytest.raises(ValidationError, match="frozen"):
        found.username = "you"


# ------------------------------------------------------------------------- the registry


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        (IMAGE, "quay.io"),
        ("quay.io/org/image", "quay.io"),
        ("oci://lab.example:5000/image:tag", "lab.example:5000"),
        ("localhost/image", "localhost"),
        ("localhost:5000/image", "localhost:5000"),
        ("lab:5000", "lab:5000"),
        ("lab:5000/image", "lab:5000"),
        ("ubuntu", "docker.io"),
        ("ubuntu:22.04", "docker.io"),
        ("library/ubuntu", "docker.io"),
        (f"ubuntu@sha256:{64 * 'a'}", "docker.io"),
        (f"quay.io/org/image@sha256:{64 * 'a'}", "quay.io"),
        (f"lab:5000/image@sha256:{64 * 'a'}", "lab:5000"),
    ],
)
def test_registry_of_an_image(image: str, registry: str) -> None:
    assert parse_oci_registry(image) == registry


def test_image_without_a_registry_is_looked_up_in_those_that_podman_searches(home: Path) -> None:
    conf = home / ".config/containers/registries.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text('unqualified-search-registries = ["first.example", "second.example"]\n')
    assert parse_oci_registry("ubuntu") == "first.example"
    store(home / ".docker/config.json", second_example=basic("me:secret"))
    assert plain(read_auth_file_credentials("ubuntu")) == ("me", "secret")


@pytest.mark.parametrize(
    "text", ["not = [toml", "other = 1\n", 'unqualified-search-registries = [""]']
)
def test_configuration_of_podman_that_says_nothing_is_skipped(home: Path, text: str) -> None:
    conf = home / ".config/containers/registries.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(text)
    assert parse_oci_registry("ubuntu") == "docker.io"


# ------------------------------------------------------------------------- files


def test_each_place_is_searched_in_the_order_of_podman(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "given.json"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    places = [
        home / ".docker/config.json",
        home / "docker/config.json",
        home / ".config/containers/auth.json",
        home / "run/containers/auth.json",
        home / "given.json",
    ]
    assert plain(read_auth_file_credentials(IMAGE)) == (None, None)
    for number, place in enumerate(places):  # each one precedes those before it
        store(place, quay_io=basic(f"me{number}:secret"))
        assert plain(read_auth_file_credentials(IMAGE)) == (f"me{number}", "secret")


@pytest.mark.parametrize(
    "entry",
    [
        basic("me:se:cret"),
        {"username": "me", "password": "se:cret"},
        {"auth": "!!!", "username": "me", "password": "se:cret"},
        {**basic(":nobody"), "username": "me", "password": "se:cret"},
    ],
)
def test_entry_has_its_credentials_in_one_field_or_two(home: Path, entry: object) -> None:
    store(home / ".docker/config.json", quay_io=entry)
    assert plain(read_auth_file_credentials(IMAGE)) == ("me", "se:cret")


@pytest.mark.parametrize(
    "entry", [{}, None, "x", basic("me:"), {"auth": 7}, {"username": " ", "password": " "}]
)
def test_entry_without_credentials_is_skipped(home: Path, entry: object) -> None:
    store(home / ".config/containers/auth.json", quay_io=entry)
    store(home / ".docker/config.json", quay_io=basic("me:secret"))
    assert plain(read_auth_file_credentials(IMAGE)) == ("me", "secret")


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"auths": null}', '{"auths": []}'])
def test_file_that_is_damaged_is_skipped(home: Path, text: str) -> None:
    damaged = home / ".config/containers/auth.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text(text)
    store(home / ".docker/config.json", quay_io=basic("me:secret"))
    assert plain(read_auth_file_credentials(IMAGE)) == ("me", "secret")


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"]
)
def test_names_of_docker_hub_are_one_registry(home: Path, key: str) -> None:
    path = home / ".docker/config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"auths": {key: basic("me:secret")}}))
    assert plain(read_auth_file_credentials("ubuntu:22.04")) == ("me", "secret")


def test_port_belongs_to_the_registry(home: Path) -> None:
    path = home / ".docker/config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"auths": {"lab.example:5000": basic("me:secret")}}))
    assert plain(read_auth_file_credentials("lab.example:5000/image")) == ("me", "secret")
    assert plain(read_auth_file_credentials("lab.example/image")) == (None, None)


# ------------------------------------------------------------------------- precedence


def test_arguments_go_before_the_environment_and_that_before_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(home / ".docker/config.json", quay_io=basic("file:secret"))
    assert plain(resolve_oci_credentials(IMAGE)) == ("file", "secret")
    monkeypatch.setenv("OCI_USERNAME", "environment")
    assert plain(resolve_oci_credentials(IMAGE)) == ("file", "secret")  # an incomplete pair
    monkeypatch.setenv("OCI_PASSWORD", "secret")
    assert plain(resolve_oci_credentials(IMAGE)) == ("environment", "secret")
    assert plain(resolve_oci_credentials(IMAGE, "", "")) == ("environment", "secret")
    assert plain(resolve_oci_credentials(IMAGE, "given", "secret")) == ("given", "secret")


@pytest.mark.parametrize("pair", [("me", None), (None, "secret"), ("me", "")])
def test_half_of_a_pair_is_refused(pair: tuple[str | None, str | None]) -> None:
    with pytest.raises(ValueError, match="OCI authentication requires both"):
        resolve_oci_credentials(IMAGE, *pair)


def test_incomplete_environment_has_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OCI_PASSWORD", "secret")
    assert plain(resolve_oci_credentials(IMAGE)) == (None, None)
    assert "only one of OCI_USERNAME and OCI_PASSWORD" in caplog.text
    assert "secret" not in caplog.text
