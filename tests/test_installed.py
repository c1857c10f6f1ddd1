"""Test the commands that add an extra, for each way of installing this library."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import pytest

import jumpstarter
from jumpstarter import _installed
from jumpstarter._installed import command_for

ROOT = Path(__file__).parent.parent


def installed(
    place: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any] | str | None
) -> None:
    """Make this installation of the library the only one found, with metadata and one record."""
    info = place / "jumpstarter-0.9.0+trio.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: jumpstarter\nVersion: 0.9.0+trio.1\n"
    )
    if record is not None:
        text = record if isinstance(record, str) else json.dumps(record)
        (info / "direct_url.json").write_text(text)
    monkeypatch.setattr("sys.path", [str(place)])
    monkeypatch.setattr(_installed, "_HERE", place / "jumpstarter" / "_installed.py")


def test_a_checkout_is_named_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, {"url": tmp_path.as_uri(), "dir_info": {}})
    assert command_for("zstd") == f"pip install '{tmp_path}[zstd]'"


def test_an_editable_one_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    installed(tmp_path, monkeypatch, record)
    assert command_for("serial,pexpect") == f"pip install -e '{tmp_path}[serial,pexpect]'"


def test_a_path_with_blanks_and_quotes_is_for_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a lab's ünit"
    place.mkdir()
    installed(tmp_path, monkeypatch, {"url": place.as_uri(), "dir_info": {}})
    quoted = str(place).replace("'", "'\"'\"'")
    assert command_for("http") == f"pip install '{quoted}[http]'"


def test_a_wheel_is_named_as_the_file_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "jumpstarter-0.9.0+trio.1-cp311-linux.whl"
    wheel.touch()
    installed(tmp_path, monkeypatch, {"url": wheel.as_uri(), "archive_info": {}})
    assert command_for("http") == f"pip install '{wheel}[http]'"


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (
            {"url": "https://x.example/j.git", "vcs_info": {"vcs": "git", "commit_id": "1234abcd"}},
            "pip install 'jumpstarter[zstd] @ git+https://x.example/j.git@1234abcd'",
        ),
        (
            {"url": "https://x.example/j-0.9.0+trio.1.whl", "archive_info": {}},
            "pip install 'jumpstarter[zstd] @ https://x.example/j-0.9.0+trio.1.whl'",
        ),
        # From an index: pinned, since another project of this name could satisfy it otherwise.
        (None, "pip install 'jumpstarter[zstd]==0.9.0+trio.1'"),
        (
            {"url": "file:///no/such/checkout", "dir_info": {}},
            "pip install '.[zstd]', in the checkout of this project, which was /no/such/checkout",
        ),
        ("damaged", "pip install '.[zstd]', in the checkout of this project"),
        ({"no": "url"}, "pip install '.[zstd]', in the checkout of this project"),
        ("[1]", "pip install '.[zstd]', in the checkout of this project"),
    ],
)
def test_other_sources(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record: dict[str, Any] | str | None,
    command: str,
) -> None:
    installed(tmp_path, monkeypatch, record)
    assert command_for("zstd") == command


FROM_SOURCE = "pip install '.[zstd]', in the checkout of this project"


@pytest.mark.parametrize(
    "record", [None, {"url": "file:///", "dir_info": {}}, {"url": "https://x.example/j.whl"}]
)
def test_metadata_of_another_project_of_our_name_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any] | None
) -> None:
    installed(tmp_path, monkeypatch, record)
    monkeypatch.setattr(_installed, "_HERE", ROOT / "src" / "jumpstarter" / "_installed.py")
    assert command_for("zstd") == FROM_SOURCE


def test_another_project_in_the_same_directory_is_known_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, None)
    files = tmp_path / "jumpstarter-0.9.0+trio.1.dist-info" / "RECORD"
    files.write_text("jumpstarter/__init__.py,,\njumpstarter/common.py,,\n")
    (tmp_path / "jumpstarter").mkdir()
    for name in ("__init__", "common", "_installed"):
        (tmp_path / "jumpstarter" / f"{name}.py").touch()
    assert command_for("zstd") == FROM_SOURCE
    files.write_text("jumpstarter/__init__.py,,\njumpstarter/_installed.py,,\n")
    assert command_for("zstd") == "pip install 'jumpstarter[zstd]==0.9.0+trio.1'"


def test_ours_is_found_behind_another_project_of_our_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, ours = tmp_path / "other", tmp_path / "ours"
    other.mkdir()
    ours.mkdir()
    installed(other, monkeypatch, None)
    installed(ours, monkeypatch, None)
    monkeypatch.setattr("sys.path", [str(other), str(ours)])
    (ours / "jumpstarter-0.9.0+trio.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: jumpstarter\nVersion: 0.2.0\n"
    )
    assert command_for("zstd") == "pip install 'jumpstarter[zstd]==0.2.0'"


def test_an_editable_install_of_another_checkout_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    record = {"url": elsewhere.as_uri(), "dir_info": {"editable": True}}
    installed(tmp_path, monkeypatch, record)
    assert command_for("zstd") == FROM_SOURCE


def test_without_metadata_it_is_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert command_for("zstd") == "pip install '.[zstd]', in the checkout of this project"


def test_the_real_metadata_has_the_extra_that_a_command_names() -> None:
    extras = importlib.metadata.metadata("jumpstarter").get_all("Provides-Extra")
    assert extras is not None
    assert {"zstd", "progress", "http", "pexpect", "serial", "compat", "all"} <= set(extras)
    assert importlib.metadata.version("jumpstarter") == jumpstarter.__version__


def test_no_text_tells_to_install_another_project_of_our_name() -> None:
    sources = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    for folder in ("src", "examples", "tests", "benchmarks"):
        sources += ROOT.joinpath(folder).rglob("*.py")
    wrong = re.compile(r"pip install[^\n]*(?<![./\w])jumpstarter\[")
    here = {Path(__file__), ROOT / "src/jumpstarter/_installed.py", ROOT / "docs/install.md"}
    told = [str(path) for path in sources if path not in here and wrong.search(path.read_text())]
    assert told == []
