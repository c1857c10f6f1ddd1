"""Test that a configuration is read strictly: each fault is named, with its line."""

from __future__ import annotations

import contextlib
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jumpstarter.config._check import find_faults
from jumpstarter.config._yaml import Source
from jumpstarter.config.common import ObjectMeta
from jumpstarter.config.exporter import ExporterConfigV1Alpha1, HookInstanceConfigV1Alpha1
from jumpstarter.errors import ConfigurationError

COMPLETE = """
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata:
  name: lab
  namespace: default
  labels: {board: imx8, "location": desk}
endpoint: grpc.example.com:443
token: secret
tls: {ca: "", insecure: true}
grpcOptions: {grpc.keepalive_time_ms: 5000}
description: The lab
motd: |
  Board 7 is slow today.
hooks:
  beforeLease: {exec: /bin/bash, script: j power on, timeout: 30, onFailure: endLease}
  afterLease: {script: j power off}
failureDetection: {maxRapidFailures: 3, rapidFailureWindow: 30}
exitOnLeaseEnd: true
export:
  board:
    children:
      power:
        type: jumpstarter.drivers.power.MockPower
        description: The rail
        methods_description: {on: Power the board}
        config: {voltage: 5}
        children: {}
  power: {ref: board.power}
"""


def faults(text: str) -> list[str]:
    """Return what reading a document tells, with the lines only."""
    with pytest.raises(ConfigurationError) as caught:
        ExporterConfigV1Alpha1.from_source(Source(text, "lab.yaml"))
    assert "Caused by" not in str(caught.value)
    return caught.value.message.split("\n")


def test_all_keys_are_read() -> None:
    config = ExporterConfigV1Alpha1.from_source(Source(COMPLETE, "lab.yaml"))
    before, after = config.hooks.before_lease, config.hooks.after_lease
    assert before == HookInstanceConfigV1Alpha1(
        exec="/bin/bash", script="j power on", timeout=30, onFailure="endLease"
    )
    assert after is not None
    assert (after.exec_, after.timeout, after.on_failure) == (None, 120, "warn")
    assert config.failure_detection.max_rapid_failures == 3
    assert config.exit_on_lease_end
    assert list(config.instantiate().children) == ["board", "power"]


def test_keys_for_a_controller_are_named_in_one_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ExporterConfigV1Alpha1.from_source(Source(COMPLETE, "lab.yaml"))
    [record] = caplog.records
    assert record.getMessage() == (
        "lab.yaml:2: without effect here, since exporters have no controller: endpoint, "
        "failureDetection, grpcOptions, tls, token"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("drivers:\n  a: {}", "2: drivers: unknown key; did you mean export?"),
        ("grpcConfig: {}", "2: grpcConfig: unknown key; did you mean grpcOptions?"),
        ("Hooks: {}", "2: Hooks: unknown key; did you mean hooks?"),
        ("alias: x", "2: alias: unknown key; the keys here are apiVersion, kind, metadata, "),
        ("path: x", "2: path: unknown key; the keys here are apiVersion, kind, metadata, "),
        (
            "hooks: {before_leese: {}}",
            "2: hooks.before_leese: unknown key; did you mean beforeLeas",
        ),
        (
            "hooks:\n  beforeLease:\n    script: x\n    on_failur: exit",
            "5: hooks.beforeLease.on_failur: unknown key; did you mean onFailure?",
        ),
        (
            "hooks: {afterLease: {command: x, script: y}}",
            "2: hooks.afterLease.command: unknown key; did you mean script?",
        ),
        ("tls:\n  insecur: 1", "3: tls.insecur: unknown key; did you mean insecure?"),
        (
            "export:\n  a:\n    type: a.B\n    params: {}",
            "5: export.a.params: unknown key; did you mean config?",
        ),
        (
            "export:\n  a:\n    children:\n      b:\n        children: {}\n        description: x",
            "7: export.a.children.b.description: unknown key; the keys here are children",
        ),
        (
            "export:\n  a: {ref: b, description: x}",
            "3: export.a.description: unknown key; the keys here are ref",
        ),
        ("1: 2", "2: 1: Keys should be strings"),
        ("hooks: {beforeLease: {script: x, timeout: 0}}", "2: hooks.beforeLease.timeout: Input sh"),
        ("hooks: {beforeLease: {script: x, onFailure: die}}", "2: hooks.beforeLease.onFailure: In"),
        ("hooks: {beforeLease: {}}", "2: hooks.beforeLease.script: Field required"),
        ("exitOnLeaseEnd: maybe", "2: exitOnLeaseEnd: Input should be a valid boolean"),
    ],
)
def test_a_key_or_value_that_is_not_accepted_is_named(text: str, told: str) -> None:
    [fault] = faults(f"metadata: {{name: lab}}\n{text}\n")
    assert fault.startswith(f"lab.yaml:{told}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("metadata: {}", "1: metadata.name: Field required"),
        ("metadata: {name: ''}", "1: metadata.name: String should have at least 1 character"),
        ("metadata: {name: a, nmae: b}", "1: metadata.nmae: unknown key; did you mean name?"),
        ('metadata: {name: "a\\0b"}', "1: metadata.name: it must have printable characters only"),
        ('metadata: {name: "\\e[31m"}', "1: metadata.name: it must have printable characters only"),
        ('metadata: {name: a, labels: {b: "\\n"}}', "1: metadata.labels: it must have printable"),
        ("metadata: {name: a, labels: {b: 'c,d'}}", "1: metadata.labels: a comma separates label"),
        ("metadata: {name: a, labels: {b: 7}}", "1: metadata.labels.b: Input should be a valid s"),
    ],
)
def test_metadata_is_read_strictly(text: str, told: str) -> None:
    [fault] = faults(text)
    assert fault.startswith(f"lab.yaml:{told}")


def test_all_faults_are_told_together() -> None:
    told = faults("kind: Exporter\nmetadata: {nam: x}\ndrivers: {}\nalias: me\n")
    assert [each.split(": ")[0] for each in told] == [
        "lab.yaml:4",
        "lab.yaml:1",
        "lab.yaml:2",
        "lab.yaml:3",
    ]


def test_a_fault_does_not_show_the_token() -> None:
    told = "\n".join(faults("metadata: {name: x}\ntoken: [geheim]\nendpont: geheim\n"))
    assert "geheim" not in told


def test_code_may_pass_the_metadata_of_any_configuration() -> None:
    config = ExporterConfigV1Alpha1(metadata=ObjectMeta(name="lab"), alias="desk")  # type: ignore[arg-type]
    assert (config.metadata.name, config.metadata.labels, config.alias) == ("lab", {}, "desk")


# ---------------------------------------------------------------------------------- references

MOCK = "{type: jumpstarter.drivers.power.MockPower}"


@pytest.mark.parametrize(
    ("export", "told"),
    [
        (
            f"a: {MOCK}\n  b: {{ref: aa}}",
            ["4: ref 'aa' of 'b': the root has no driver 'aa' below it"],
        ),
        (
            f"board: {{children: {{power: {MOCK}}}}}\n  b:\n    ref: board.pwoer",
            ["5: ref 'board.pwoer' of 'b': board has no driver 'pwoer' below it; did you mean p"],
        ),
        ("a: {ref: a}", ["3: ref 'a' of 'a': it leads back to itself"]),
        (
            "a: {ref: b}\n  b: {ref: a}",
            ["3: ref 'b' of 'a': it leads back", "4: ref 'a' of 'b': it leads back"],
        ),
        (
            "board:\n    children:\n      again: {ref: board}",
            ["5: ref 'board' of 'board.again': it leads back to itself"],
        ),
        (f"a: {MOCK}\n  b: {{ref: ''}}", ["4: ref '' of 'b': the root has no driver '' below it"]),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(
    export: str, told: list[str], tmp_path: Path
) -> None:
    text = f"metadata: {{name: lab}}\nexport:\n  {export}\n"
    config = ExporterConfigV1Alpha1.from_source(Source(text, "lab.yaml"))
    with pytest.raises(ConfigurationError) as caught:
        config.instantiate()
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    found = caught.value.message.split("\n")
    assert [line.replace(str(path), "lab.yaml") for line in find_faults(path)] == found
    assert len(found) == len(told)
    for line, start in zip(found, told, strict=True):
        assert line.startswith(f"lab.yaml:{start}")


def test_a_reference_may_lead_to_what_a_class_makes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boards_with_parts.py").write_text(
        "from jumpstarter.drivers.composite import Composite\n"
        "from jumpstarter.drivers.power import MockPower\n"
        "class Board(Composite):\n"
        "    def __post_init__(self):\n"
        "        super().__post_init__()\n"
        "        self.children['power'] = MockPower()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "lab.yaml"
    path.write_text(
        "metadata: {name: lab}\nexport:\n  board: {type: boards_with_parts.Board}\n"
        "  power: {ref: board.power}\n"
    )
    assert find_faults(path) == []
    tree = ExporterConfigV1Alpha1.load_path(path).instantiate()
    assert list(tree.children) == ["board", "power"]
    path.write_text(path.read_text().replace("board.power", "board.pwoer"))
    with pytest.raises(ConfigurationError, match=r"did you mean power\?"):
        ExporterConfigV1Alpha1.load_path(path).instantiate()


# --------------------------------------------------------------------------------- any document

_KEYS = st.sampled_from(
    [
        *("metadata", "name", "labels", "export", "type", "children", "ref", "config", "hooks"),
        *("beforeLease", "script", "timeout", "tls", "token", "kind", "<<", "on", "description"),
    ]
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["jumpstarter.drivers.power.MockPower", "ExporterConfig", "*a", "&a x", "=x"]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


def read(text: str) -> None:
    """Read a document as a command does; only a ConfigurationError may come of it."""
    with contextlib.suppress(ConfigurationError):
        ExporterConfigV1Alpha1.from_source(Source(text, "lab.yaml")).refs()


@given(_VALUES)
@settings(deadline=None)
def test_any_value_is_read_or_refused(value: object) -> None:
    import yaml  # noqa: PLC0415 - of an extra

    read(yaml.safe_dump(value))


@given(st.text(alphabet=string.printable + "é\0\u2028\ufeff", max_size=60))
@settings(deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    read(text)


@given(st.text(alphabet="{}[]:,&*a!<- \n?|>#'\"%1.T0e~=", max_size=40))
@settings(deadline=None)
def test_any_signs_of_yaml_are_read_or_refused(text: str) -> None:
    read(f"metadata: {{name: x}}\nexport: {text}")


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert find_faults(Path(file.name))


@pytest.mark.parametrize(
    "text",
    [
        "a: 0001-01-01T00:00:00+23:59",
        "a: !!timestamp {x: y}",
        "a: !!float [1]",
        "a: !!binary é",
        "? {a: b}\n: c",
        "? [a]\n: c",
        "<<: 5",
        "<<: [1]",
        "a: !!omap {x: y}",
        "a: !!set [x]",
        "a: !<x> y",
        "%TAG ! x\n--- a",
        "--- a\n--- b",
        "&a {<<: *a}",
        "&a [*a]",
        "&a\n? *a\n: b",
        "metadata: &m {name: x, labels: *m}",
        "export: &e\n  a: {children: *e}",
        "[" * 2000,
        "{children: {a: " * 300 + "x" + "}}" * 300,
        "{a: " * 90 + "x" + "}" * 90,
        "? ? ? ? ? ? ? ? a",
    ],
)
def test_a_document_that_pyyaml_stumbles_over_is_refused(text: str) -> None:
    read(text)
    read(f"metadata: {{name: x}}\nexport:\n  a:\n    type: a.B\n    config: {{b: {text}}}\n")


def test_aliases_that_stand_for_millions_of_values_are_refused() -> None:
    lines = ["a0: &a0 {children: {}}"]
    lines += [f"a{n}: &a{n} {{children: {{x: *a{n - 1}, y: *a{n - 1}}}}}" for n in range(1, 40)]
    with pytest.raises(ConfigurationError, match="stand for more than 1,000,000 values"):
        Source("\n".join(lines), "lab.yaml")
