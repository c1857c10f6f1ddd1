"""Test finding the configuration of an exporter by its name or by its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from jumpstarter import serve
from jumpstarter.config._loading import load_exporter
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.errors import ConfigurationError

LAB = """
metadata: {name: lab-7, labels: {board: imx8}}
motd: Board 7 is slow today.
export:
  echo: {type: drivers_for_tests.Echo}
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return the directories of the user's configurations and of the system's."""
    own, system = tmp_path / "own", tmp_path / "system"
    own.mkdir()
    system.mkdir()
    monkeypatch.setattr(ExporterConfigV1Alpha1, "BASE_PATH", own)
    monkeypatch.setattr(ExporterConfigV1Alpha1, "SYSTEM_CONFIG_PATH", system)
    return own, system


def test_an_exporter_is_found_by_its_name_and_served(places: tuple[Path, Path]) -> None:
    (places[1] / "lab.yaml").write_text(LAB)
    config = load_exporter("lab")
    assert (config.alias, config.metadata.name) == ("lab", "lab-7")
    assert config.metadata.labels == {"board": "imx8"}
    assert config.motd == "Board 7 is slow today."
    with serve(config.instantiate()) as client:
        assert client.echo.call("echo", 7) == 7


def test_a_file_is_read_instead_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "here.yaml"
    path.write_text(LAB)
    config = load_exporter(file=path)
    assert (config.path, config.metadata.name) == (path, "lab-7")


def test_a_name_without_a_file_names_where_it_was_looked_for(places: tuple[Path, Path]) -> None:
    own, system = (path / "lab.yaml" for path in places)
    with pytest.raises(ConfigurationError) as caught:
        load_exporter("lab")
    expected = f"there is no exporter 'lab': neither {own} nor {system} exists"
    assert caught.value.message == expected
    with pytest.raises(ConfigurationError, match="is not an alias"):
        load_exporter("../lab")
    with pytest.raises(ConfigurationError, match="no exporter is named"):
        load_exporter()
