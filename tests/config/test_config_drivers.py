"""Test naming drivers in a configuration, by class and by registered name, and 50 of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
from pathlib import Path

import pytest

import jumpstarter.drivers
from jumpstarter import serve
from jumpstarter.config._check import find_faults
from jumpstarter.config._entry_points import GROUP
from jumpstarter.config._yaml import Source
from jumpstarter.config.exporter import (
    ExporterConfigV1Alpha1,
    ExporterConfigV1Alpha1DriverInstance,
)
from jumpstarter.driver import Driver
from jumpstarter.drivers.composite import Proxy
from jumpstarter.drivers.power import MockPower
from jumpstarter.errors import ConfigurationError

from_str = ExporterConfigV1Alpha1DriverInstance.from_str


def install(directory: Path, name: str, **drivers: str) -> None:
    """Install a package that registers drivers, as pip leaves it in a directory."""
    info = directory / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{name} = {path}\n" for name, path in drivers.items()]
    (info / "entry_points.txt").write_text("".join(["[jumpstarter.drivers]\n", *lines]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory in which packages can be installed."""
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(path)
    return path


# ---------------------------------------------------------------------------- registered names


def own_drivers() -> set[str]:
    """Return the paths of the classes of drivers that this library brings."""
    found = set()
    for module in pkgutil.iter_modules(jumpstarter.drivers.__path__, "jumpstarter.drivers."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(cls, Driver) and cls.__module__ == module.name:
                found.add(f"{cls.__module__}.{cls.__name__}")
    return found


def test_each_driver_of_this_library_is_registered() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    registered = {each.replace(":", ".") for each in project["entry-points"][GROUP].values()}
    proxy = {"jumpstarter.drivers.composite.Proxy"}  # written as `ref`
    assert registered >= own_drivers() - proxy


def test_a_type_may_be_a_registered_name(site: Path) -> None:
    install(site, "driver-echo", Echo="drivers_for_tests:Echo")
    assert isinstance(from_str("type: MockPower").instantiate(), MockPower)
    assert type(from_str("type: Echo").instantiate()).__name__ == "Echo"


def test_a_package_s_driver_goes_before_ours_of_the_same_name(site: Path) -> None:
    install(site, "driver-power", MockPower="drivers_for_tests:Echo")
    assert type(from_str("type: MockPower").instantiate()).__name__ == "Echo"


def test_a_name_that_two_packages_register_is_refused_unless_they_agree(site: Path) -> None:
    install(site, "one", Lamp="drivers_for_tests:Echo", Echo="drivers_for_tests:Echo")
    install(site, "two", Lamp="tests:Lamp", Echo="drivers_for_tests:Echo")
    assert type(from_str("type: Echo").instantiate()).__name__ == "Echo"
    with pytest.raises(ConfigurationError) as caught:
        from_str("type: Lamp").instantiate()
    paths = "drivers_for_tests.Echo and tests.Lamp"
    text = f"type 'Lamp' is registered by several packages, as {paths}; write one of these paths"
    assert caught.value.message == f"<configuration>:1: {text}"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"registered name; did you mean MockPower\?"):
        from_str("type: MockPowr").instantiate()
    with pytest.raises(ConfigurationError, match="`jumpstarter driver list` lists the names"):
        from_str("type: Qqqqqqqq").instantiate()


def test_an_exception_of_a_module_is_kept_and_its_place_noted(site: Path) -> None:
    (site / "module_that_raises.py").write_text("raise OSError('the bus is off')\n")
    with pytest.raises(OSError, match="the bus is off") as caught:
        from_str("type: module_that_raises.Bus").instantiate()
    text = "<configuration>:1: the module of driver 'module_that_raises.Bus' could not be imported"
    assert caught.value.__notes__ == [text]


# ------------------------------------------------------------------------------- without making

MODULE = """
from dataclasses import dataclass
from jumpstarter.driver import Driver

@dataclass(kw_only=True)
class Bus(Driver):
    port: str
    speed: int = 5
    ratio: "float | None" = None
    extra: "NowhereToBeFound" = None

    def __post_init__(self):
        raise AssertionError("a check must not make drivers")

    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

@dataclass(kw_only=True)
class Lamp(Driver):
    watts: int = 5
    ratio: float | None = None
    colours: list[str] | None = None

    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

class Unfinished(Driver):
    pass

class Stranger:
    pass

def any_bus(**options):
    raise AssertionError("a check must not make drivers")
"""


def check(site: Path, drivers: str) -> list[str]:
    """Return the faults of a configuration with these drivers, without the file's name."""
    (site / "modules_to_check.py").write_text(MODULE)
    path = site / "lab.yaml"
    path.write_text(f"metadata: {{name: lab}}\nexport:\n{drivers}")
    return [each.removeprefix(f"{path}:") for each in find_faults(path)]


def test_a_check_finds_nothing_in_a_configuration_without_faults(site: Path) -> None:
    assert check(site, "  a: {type: modules_to_check.Bus, config: {port: x, speed: 7}}\n") == []
    assert check(site, "  a: {type: modules_to_check.any_bus, config: {port: x}}\n") == []
    assert check(site, "  a: {type: modules_to_check.Lamp, config: {ratio: 1}}\n") == []
    assert check(site, "  a: {type: modules_to_check.Lamp, config: {colours: 5}}\n") == []


def test_a_check_finds_all_faults_without_making_a_driver(site: Path) -> None:
    (site / "module_that_exits.py").write_text("raise SystemExit('no\\nbus')\n")
    drivers = """\
  a: {type: modules_to_check.Bus}
  b:
    type: modules_to_check.Bus
    config:
      port: x
      sped: 5
  c: {type: modules_to_check.Lamp, config: {watts: bright, ratio: [1]}}
  d: {type: modules_to_check.Nobody}
  e: {type: modules_to_check.Unfinished}
  f:
    children:
      g: {type: modules_to_check.Stranger}
      h: {type: module_that_exits.Bus}
  i: {ref: f.j}
  j: {type: modules_to_check.Lamp, config: {children: {}}}
"""
    bus, lamp = "driver 'modules_to_check.Bus'", "driver 'modules_to_check.Lamp'"
    assert check(site, drivers) == [
        f"3: {bus}: Bus() needs the argument 'port'",
        f"8: {bus}: Bus() got an unexpected keyword argument 'sped'; did you mean speed?",
        (
            f"9: {lamp}: watts is 'bright': input should be a valid integer, unable to parse "
            "string as an integer"
        ),
        f"9: {lamp}: ratio is [1]: input should be a valid number",
        (
            "10: driver 'modules_to_check.Nobody' is not there: module 'modules_to_check' has no "
            "attribute 'Nobody'"
        ),
        "11: driver 'modules_to_check.Unfinished' is abstract: it has no client",
        "14: driver 'modules_to_check.Stranger' is a Stranger, not a Driver",
        "15: driver 'module_that_exits.Bus': its module raised SystemExit: no bus",
        f"17: {lamp}: children belongs beside config, not into it",
        "16: ref 'f.j' of 'i': f has no driver 'j' below it; it has g, h",
    ]


def test_a_class_of_which_no_driver_can_be_made_is_named_by_a_check_and_by_making_it(
    site: Path,
) -> None:
    interface = "jumpstarter.drivers.power.PowerInterface"
    hint = "name a driver's class that implements it, as MockPower"
    of_interface = f"driver {interface!r} is a PowerInterface, not a Driver, but an interface"
    client = "jumpstarter.drivers.power.PowerClient"
    of_client = f"driver {client!r} is a client class: name the class of its driver"
    told = check(site, f"  a: {{type: {interface}}}\n  b: {{type: {client}}}\n")
    assert told == [f"3: {of_interface}: {hint}", f"4: {of_client}"]
    for name, text in [(interface, of_interface), (client, of_client)]:
        with pytest.raises(ConfigurationError, match=re.escape(text)):
            from_str(f"type: {name}").instantiate()


def test_a_check_names_the_extras_that_drivers_need(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "module_of_anyio.py").write_text("import anyio\n")
    (site / "module_of_storage.py").write_text("import jumpstarter.common.storage\n")
    for name in ("anyio", "serial"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "jumpstarter.common.storage", raising=False)
    told = check(
        site,
        """\
  a: {type: module_of_anyio.Bus}
  b: {type: module_of_storage.Bus}
  c: {type: SerialPort, config: {url: /dev/ttyUSB0}}
  d: {type: RecordedConsole, config: {source: /dev/ttyUSB0}}
  e: {type: RecordedConsole, config: {source: unix:/run/console}}
  f: {type: RecordedConsole, config: {command: [cat]}}
  g: {type: RecordedConsole, config: {source: tcp://nowhere}}
""",
    )
    assert [each.partition(":")[0] for each in told] == ["3", "4", "5", "6", "9"]
    for line, extra in zip(told, ["compat", "compat", "serial", "serial"], strict=False):
        assert f"needs the extra {extra!r}" in line
        assert "pip install" in line


def test_a_check_finds_a_method_that_cannot_be_exported(site: Path) -> None:
    text = "    @property\n    @export\n    def on(self): pass\n"
    header = "from jumpstarter.driver import Driver, export\nclass Bus(Driver):\n"
    client = "    @classmethod\n    def client(cls): return 'jumpstarter.client.DriverClient'\n"
    (site / "module_with_property.py").write_text(header + client + text)
    [told] = check(site, "  a: {type: module_with_property.Bus}\n")
    assert told.startswith("3: driver 'module_with_property.Bus': 'on' of module_with_property.Bus")


def test_a_check_finds_faults_of_drivers_beside_those_of_the_format(site: Path) -> None:
    drivers = "  a: {type: nobody.Bus}\n  b: {typ: x}\n  c: 5\ndrivers: {}\n"
    told = check(site, drivers)
    assert [each.partition(":")[0] for each in told] == ["4", "5", "6", "3"]
    assert told[-1].startswith("3: driver 'nobody.Bus' is not installed")


@pytest.mark.parametrize("text", ["[", "5", "", "export: 5", "export: {1: {type: a.B}}"])
def test_a_check_of_another_document_tells_what_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    assert find_faults(path)
    with pytest.raises(FileNotFoundError):
        find_faults(tmp_path / "none.yaml")


# -------------------------------------------------------------------------------- many drivers


def test_fifty_drivers_of_one_file_are_served(tmp_path: Path) -> None:
    drivers = [
        "shell: {type: Shell, config: {commands: {hello: [echo, hello]}}}",
        "web: {type: TcpNetwork, config: {host: localhost, port: 1}}",
        "socket: {type: UnixNetwork, config: {path: /run/none}}",
        "card: {type: FileStorage, config: {path: card.img}}",
        "console: {type: SerialPort, config: {url: /dev/ttyUSB0}}",
        "group: {type: Composite, children: {power: {type: MockPower}}}",
        "again: {ref: group.power}",
    ]
    drivers += [f"power{n}: {{type: MockPower, config: {{voltage: {n}}}}}" for n in range(43)]
    text = "\n".join(["metadata: {name: lab}", "export:", *(f"  {each}" for each in drivers)])
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    assert find_faults(path) == []
    config = ExporterConfigV1Alpha1.from_source(Source(text, "lab.yaml"))
    with serve(config.instantiate()) as client:
        assert len(client.children) == 50
        assert client.shell.run("hello").stdout == b"hello\n"
        client.again.on()
        client.power42.on()
        assert next(client.power42.read()).voltage == 42
        assert client.group.power.uuid == client.again.uuid
    assert isinstance(config.export["again"].instantiate(), Proxy)
