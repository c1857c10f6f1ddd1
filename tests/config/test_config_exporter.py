"""Test reading drivers from YAML, and what errors say about the place in the file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from drivers_for_tests import Echo
from jumpstarter import serve
from jumpstarter.config import _drivers
from jumpstarter.config._yaml import Source
from jumpstarter.config.exporter import (
    ExporterConfigV1Alpha1,
    ExporterConfigV1Alpha1DriverInstance,
    ExporterConfigV1Alpha1DriverInstanceBase,
)
from jumpstarter.drivers.composite import Composite, Proxy
from jumpstarter.drivers.power import MockPower
from jumpstarter.errors import ConfigurationError

from_str = ExporterConfigV1Alpha1DriverInstance.from_str


@pytest.fixture(autouse=True)
def _only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use our own Composite, whatever is installed."""
    monkeypatch.setattr(_drivers, "_PUBLISHED", "package_that_is_not_there")


def test_a_driver_gets_its_fields_descriptions_and_children() -> None:
    driver = from_str(
        """
        type: jumpstarter.drivers.power.MockPower
        description: The rail of board 7
        methods_description:
          on: Power board 7
        config:
          voltage: 5.0
        children:
          echo:
            type: drivers_for_tests.Echo
        """
    ).instantiate()
    assert isinstance(driver, MockPower)
    assert (driver.voltage, driver.description) == (5.0, "The rail of board 7")
    assert driver.methods_description == {"on": "Power board 7"}
    assert isinstance(driver.children["echo"], Echo)


def test_without_a_type_it_is_a_group_and_with_ref_a_second_place() -> None:
    driver = from_str(
        """
        children:
          board:
            children:
              echo:
                type: drivers_for_tests.Echo
          again:
            ref: board.echo
        """
    ).instantiate()
    assert isinstance(driver, Composite)
    assert isinstance(driver.children["board"], Composite)
    assert isinstance(driver.children["again"], Proxy)
    with serve(driver) as client:
        assert client.again.call("echo", 1) == 1
        assert client.board.echo.uuid == client.again.uuid


def test_a_published_composite_is_used_if_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "composite_like_the_published"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "driver.py").write_text(
        "from jumpstarter.drivers.composite import Composite as Base\nclass Composite(Base): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_drivers, "_PUBLISHED", package.name)
    driver = from_str("children: {}").instantiate()
    assert type(driver).__module__ == "composite_like_the_published.driver"


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "echo.yaml"
    path.write_text("type: drivers_for_tests.Echo\n")
    for given in (path, str(path)):
        instance = ExporterConfigV1Alpha1DriverInstance.from_path(given)
        assert isinstance(instance.instantiate(), Echo)
    with pytest.raises(FileNotFoundError):
        ExporterConfigV1Alpha1DriverInstance.from_path(tmp_path / "none.yaml")


def test_an_instance_can_be_made_by_code() -> None:
    child = ExporterConfigV1Alpha1DriverInstance.model_validate({"type": "drivers_for_tests.Echo"})
    made = ExporterConfigV1Alpha1DriverInstance(
        ExporterConfigV1Alpha1DriverInstanceBase(
            type="drivers_for_tests.Echo", children={"child": child}
        )
    )
    driver = made.instantiate()
    assert isinstance(driver.children["child"], Echo)
    keywords: Any = {"type": "drivers_for_tests.Echo", "children": {"child": child}}
    assert ExporterConfigV1Alpha1DriverInstance(**keywords) == made


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("type: [", "<configuration>:1: this is not YAML: expected the node content"),
        ("a: 1\nb: 2\na: 3", "<configuration>:3: the key 'a' is there twice"),
        (
            "type: drivers_for_tests.Echo\nconfig: 5",
            "<configuration>:2: config: Input should be a valid dictionary",
        ),
        (
            "children:\n  a:\n    type: 5\n  b:\n    description: [x]\n    type: x.Y\n",
            "<configuration>:3: children.a.type: Input should be a valid string\n<configuration>:5",
        ),
        (
            "children:\n  a: 5",
            "<configuration>:2: children.a: a driver is a mapping with the key type, children or",
        ),
        ("", "<configuration>: the document: a driver is a mapping with the key type, children"),
        ("5", "<configuration>:1: the document: a driver is a mapping with the key type, children"),
        ("type: !!python/object:os.system x", "<configuration>:1: this is not YAML: could not det"),
        ("a: \x00", "<configuration>: this is not YAML: "),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_str(text)
    assert caught.value.message.startswith(told)


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        (
            "type: Echo",
            ":3: type 'Echo' is neither a dotted path of a driver's class nor a registered name",
        ),
        (
            "type: no_such_package.driver.Echo",
            ":3: driver 'no_such_package.driver.Echo' is not installed: No module named 'no_such_p",
        ),
        (
            "type: jumpstarter.no.Echo",
            ":3: driver 'jumpstarter.no.Echo' is not installed: No modul",
        ),
        ("type: drivers_for_tests.Nobody", ":3: driver 'drivers_for_tests.Nobody' is not there"),
        ("type: drivers_for_tests.__doc__", ":3: drivers_for_tests.__doc__ is a str, not a driver"),
        ("type: builtins.dict", ":3: driver 'builtins.dict' is a dict, not a Driver"),
        (
            "type: jumpstarter.drivers.power.MockPower\n    config: {volts: 5}",
            ":4: driver 'jumpstarter.drivers.power.MockPower': MockPower() got an unexpected",
        ),
        (
            "type: drivers_for_tests.Echo\n    config: {description: x}",
            ":4: driver 'drivers_for_tests.Echo': description belongs beside config, not into it",
        ),
    ],
)
def test_a_driver_that_cannot_be_made_is_named_with_its_line(driver: str, told: str) -> None:
    instance = from_str(f"children:\n  relay:\n    {driver}\n")
    with pytest.raises(ConfigurationError) as caught:
        instance.instantiate()
    assert caught.value.message.startswith("<configuration>" + told)
    assert "pip install jumpstarter " not in caught.value.message  # another project's on PyPI


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("relays.Relay", "put its file into the working directory, or install its package"),
        ("jumpstarter_driver_no_such.driver.Bus", "pip install jumpstarter-driver-no-such"),
    ],
)
def test_a_missing_driver_is_got_by_pip_only_if_its_package_is_known(path: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_str(f"type: {path}\n").instantiate()
    package = path.partition(".")[0]
    assert caught.value.message == (
        f"<configuration>:1: driver {path!r} is not installed: No module named {package!r}; {hint}"
    )


def test_a_missing_module_of_an_installed_driver_is_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published driver may use what only the published core requires, such as aiohttp."""
    (tmp_path / "driver_that_needs_more.py").write_text("import no_such_library.web\n")
    monkeypatch.syspath_prepend(tmp_path)
    instance = from_str("type: driver_that_needs_more.Http\n")
    with pytest.raises(ConfigurationError) as caught:
        instance.instantiate()
    assert caught.value.message == (
        "<configuration>:1: driver 'driver_that_needs_more.Http' needs a module that is not "
        "installed: No module named 'no_such_library'; install the package that has it"
    )


def test_an_exception_of_a_driver_s_class_is_kept_and_its_place_noted(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("\ntype: jumpstarter.drivers.power.MockPower\nconfig:\n  voltage: high\n")
    instance = ExporterConfigV1Alpha1DriverInstance.from_path(path)
    with pytest.raises(ConfigurationError, match="voltage of MockPower") as caught:
        instance.instantiate()
    text = f"{path}:2: driver 'jumpstarter.drivers.power.MockPower' could not be made"
    assert caught.value.__notes__ == [text]


@pytest.mark.parametrize(
    "text",
    [
        "children: {a: &a {children: {}}, b: &b {children: {x: *a, y: *a}}, c: *b}\n",
        "children:\n  x: &x {type: drivers_for_tests.Echo}\n  y: {<<: *x, description: y}\n",
    ],
)
def test_aliases_are_read(text: str) -> None:
    assert isinstance(from_str(text).instantiate(), Composite)


def test_an_alias_that_contains_itself_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"(?i)recursion"):
        from_str("&a\nchildren:\n  x: *a\n")


def test_on_and_off_are_names_of_methods_and_booleans_only_as_values() -> None:
    instance = from_str(
        """
        type: drivers_for_tests.Echo
        methods_description: {on: Power board 7, off: Cut its power, "yes": Agree}
        config: {labels: {no: "1"}}
        """
    )
    driver = instance.instantiate()
    assert list(driver.methods_description) == ["on", "off", "yes"]
    assert driver.labels == {"no": "1"}
    assert Source("a: on\ntrue: 1\n", "x").value == {"a": True, True: 1}


def test_a_file_that_is_no_text_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lab.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        ExporterConfigV1Alpha1DriverInstance.from_path(path)
    monkeypatch.setattr("jumpstarter.config._yaml._MAX", 10)
    path.write_text("description: too long\n")
    with pytest.raises(ConfigurationError, match="10 MiB"):
        ExporterConfigV1Alpha1DriverInstance.from_path(path)


# --------------------------------------------------------------------------- a whole exporter

EXPORTER = """
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata:
  namespace: default
  name: board-7
endpoint: grpc.example.com:443
token: secret
description: Board 7
hooks:
  beforeLease: {script: echo}
export:
  power:
    type: jumpstarter.drivers.power.MockPower
  echo:
    type: drivers_for_tests.Echo
  again:
    ref: echo
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


def test_a_tree_is_made_of_the_configuration_of_an_exporter(
    places: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    own, _ = places
    path = own / "board.yaml"
    path.write_text(EXPORTER)
    config = ExporterConfigV1Alpha1.load("board")
    assert (config.alias, config.path, config.metadata.name) == ("board", path, "board-7")
    text = f"{path}:2: without effect here, since exporters have no controller: endpoint, token"
    expected = ("jumpstarter.config", logging.WARNING, text)
    assert caplog.record_tuples == [expected]
    with serve(config.instantiate()) as client:
        assert client.description == "Board 7"
        assert client.again.call("echo", 1) == 1
        client.power.on()


def test_the_user_s_configuration_goes_before_the_system_s(places: tuple[Path, Path]) -> None:
    own, system = places
    assert not ExporterConfigV1Alpha1.exists("board")
    assert ExporterConfigV1Alpha1.resolve_path("board") == own / "board.yaml"
    (system / "board.yaml").write_text("metadata: {name: of the system}\n")
    assert ExporterConfigV1Alpha1.load("board").metadata.name == "of the system"
    (own / "board.yaml").write_text("metadata: {name: of the user}\n")
    assert ExporterConfigV1Alpha1.load("board").metadata.name == "of the user"
    assert ExporterConfigV1Alpha1.exists("board")


@pytest.mark.parametrize("alias", ["", ".", "..", "a/b", "a\0b"])
def test_an_alias_that_is_no_file_name_is_refused(alias: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an alias"):
        ExporterConfigV1Alpha1.load(alias)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("export: {}", ":1: metadata: Field required"),
        ("metadata: {name: x}\nkind: ClientConfig", ":2: kind: Input should be 'ExporterConfig'"),
        ("metadata: {name: x}\napiVersion: v2", ":2: apiVersion: Input should be 'jumpstarter."),
        (
            "metadata: {name: x}\nexport:\n  power:\n    type: a.B\n    children: 5",
            ":5: export.power.children: Input should be a valid dictionary",
        ),
        ("- 1", ":1: the document: Input should be a valid dictionary or instance of Exporter"),
    ],
)
def test_an_exporter_that_does_not_fit_is_named_with_its_line(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        ExporterConfigV1Alpha1.load_path(path)
    assert caught.value.message.startswith(f"{path}{told}")


def test_a_driver_of_an_exporter_that_cannot_be_made_is_named_with_its_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("metadata: {name: x}\nexport:\n  power:\n    type: nobody.Power\n")
    with pytest.raises(ConfigurationError, match=rf"^{path}:4: driver 'nobody.Power' is not inst"):
        ExporterConfigV1Alpha1.load_path(path).instantiate()


@pytest.mark.parametrize(
    "value", ["2024-99-99", "!!bool x", "!!timestamp x", "!!int ''", "0x_", "1" * 5000]
)
def test_a_scalar_that_its_type_does_not_fit_is_an_error_with_its_line(value: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"lab\.yaml:2: this is not YAML: .* is not a valid "
    ):
        Source(f"a: 1\nb: [{value}]\n", "lab.yaml")
