"""Test the configuration of a client, and where configurations are."""

from __future__ import annotations

from pathlib import Path

import pytest

from jumpstarter.config import common
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.errors import ConfigurationError


def test_a_client_s_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClientConfigV1Alpha1, "CLIENT_CONFIGS_PATH", tmp_path)
    (tmp_path / "mine.yaml").write_text("drivers: {allow: ['mylab.*'], unsafe: true}\n")
    config = ClientConfigV1Alpha1.load("mine")
    assert (config.alias, config.path) == ("mine", tmp_path / "mine.yaml")
    assert (config.drivers.allow, config.drivers.unsafe) == (["mylab.*"], True)
    with pytest.raises(FileNotFoundError):
        ClientConfigV1Alpha1.load("default")


def test_there_is_nothing_to_lease() -> None:
    with pytest.raises(ConfigurationError, match=r"no leases .* JUMPSTARTER_HOST"):
        ClientConfigV1Alpha1().lease(selector="board=7")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"JMP_CLIENT_CONFIG_HOME": "/lab"}, "/lab"),
        ({"XDG_CONFIG_HOME": "/etc/xdg"}, "/etc/xdg/jumpstarter"),
        ({"XDG_CONFIG_HOME": "relative"}, "/home/me/.config/jumpstarter"),
        ({}, "/home/me/.config/jumpstarter"),
    ],
)
def test_configurations_are_where_the_environment_says(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JMP_CLIENT_CONFIG_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert common._config_path() == Path(expected)
