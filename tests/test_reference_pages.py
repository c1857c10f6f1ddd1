"""Test that the reference has each error and metric, and what the program itself knows."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from drivers_for_tests import Plain
from jumpstarter import Limits, connect_async, errors, serve_async
from jumpstarter.cli._commands import COMMANDS
from jumpstarter.client import DriverClient
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.console import RecordedConsole
from jumpstarter.observe import Metrics
from jumpstarter.observe._exposition import exposition

DOCS: Final = Path(__file__).parents[1] / "docs"
NAME: Final = re.compile(r"`(\w+)`")
ITEM: Final = re.compile(r"^(`\w+`.*)\n: ", re.MULTILINE)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("generated")


def page(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")


def test_each_error_has_a_cause_and_a_cure() -> None:
    items = ITEM.findall(page("errors"))
    described = [name for item in items for name in NAME.findall(item)]
    public = [getattr(errors, name) for name in errors.__all__]
    expected = [each.__name__ for each in public if _is_error(each)]
    assert sorted(described) == sorted(expected)
    abstract = 2  # the base of all, and that of the two protocol errors
    assert page("errors").count("*Cause*: ") == len(items) - abstract
    assert page("errors").count("*Cure*: ") == len(items) - abstract


def _is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseException)


async def test_each_metric_has_its_type_and_labels(tmp_path: Path) -> None:
    metrics = Metrics()
    tree = Composite(children={"plain": Plain(), "console": RecordedConsole(command=["cat"])})
    served = serve_async(tree, f"unix:{tmp_path}/s", metrics=metrics, exclusive=True)
    async with served as server, connect_async(server.address) as client:
        plain, console = client.children["plain"], client.children["console"]
        assert isinstance(plain, DriverClient)
        assert isinstance(console, DriverClient)
        with pytest.raises(errors.DriverMethodNotImplemented):
            await plain.call_async("missing")
        await console.call_async("status")
        async with console.stream_async("connect"):
            pass
        text = exposition(metrics).decode()
    found = set()
    for family in text_string_to_metric_families(text):
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        suffix = "_total" if family.type == "counter" else ""
        found.add((family.name + suffix, family.type, frozenset(labels)))
    documented = set()
    for item in ITEM.findall(page("metrics")):
        term, _, names = item.partition("; ")
        kind = term.partition(": ")[2]
        documented.add((NAME.findall(term)[0], kind, frozenset(NAME.findall(names))))
    assert documented == found


def test_generated_parts_have_each_command_key_and_limit(generated: ModuleType) -> None:
    cli = generated.fill(page("cli"))
    for command in COMMANDS:
        assert f"\n## `jumpstarter {command}`\n" in cli
    assert "\n`--grace SECONDS`\n: " in cli
    assert "\n### `jumpstarter config check`\n" in cli
    configuration = generated.fill(page("configuration"))
    for name, field in ExporterConfigV1Alpha1.model_fields.items():
        if name not in ExporterConfigV1Alpha1.NOT_IN_FILES:
            assert f"\n`{field.alias or name}`: " in configuration
    assert "\n`exclusive`: true or false or a list of text, `false` by default\n: " in configuration
    assert "\n`timeout`: a whole number, `120` by default\n: " in configuration
    assert "\n`baudrate`: a whole number, `115200` by default\n: " in configuration
    limits = generated.fill(page("limits"))
    for limit in dataclasses.fields(Limits):
        assert f"\n`{limit.name}`: {limit.default:,}".removesuffix(".0") in limits
    assert "generated:" not in cli + configuration + limits


def test_part_that_does_not_exist_is_an_error(generated: ModuleType) -> None:
    with pytest.raises(KeyError):
        generated.fill("<!-- generated: something -->\n*It is in the site.*\n")
