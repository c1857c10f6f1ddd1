"""Test `completion`: what real shells offer when the user presses Tab."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers_for_tests import Plain
from exporter_thread import served_at
from jumpstarter.cli import j, main
from jumpstarter.driver import export
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.power import MockPower
from ptys import User, at_a_terminal, user

EXEC = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"


class Relay(Plain):
    @export
    def turn_left(self, by: int = 1, *, quickly: bool = False) -> None:
        """Turn."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    children = {"relay": Relay(), "relative": MockPower(), "other": MockPower()}
    with served_at(f"unix:{tmp_path}/socket", Composite(children=children)) as address:
        yield address


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the console scripts in a directory that comes first in PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, function in [("jumpstarter", "main"), ("jmp", "main"), ("j", "j")]:
        script = f"#!{sys.executable}\nimport sys\nfrom jumpstarter.cli import {function}\n"
        (directory / name).write_text(f"{script}sys.exit({function}())\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "dumb")
    for name in ("XDG_CONFIG_HOME", "JMP_CLIENT_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return directory


def offers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], program: Any, line: str
) -> list[str]:
    """Return the completions of a program, as bash gets them."""
    name = "_J_COMPLETE" if program is j else "_JUMPSTARTER_COMPLETE"
    words = line.split(" ")
    monkeypatch.setenv(name, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit) as raised:
        sys.exit(program([]))
    assert raised.value.code == 0
    out, err = capfd.readouterr()
    assert err == ""
    return [line.split(",")[1] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("j ", ["relay", "relative", "other"]),
        ("j rel", ["relay", "relative"]),
        ("j relay ", ["turn-left"]),
        ("j relay turn-left --q", ["--quickly"]),
        ("j nothing ", ["relay", "relative", "other"]),
    ],
)
def test_j_completes_from_the_exporter(
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    line: str,
    offered: list[str],
) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOST", address)
    assert offers(monkeypatch, capfd, j, line) == offered


def test_j_completes_nothing_without_an_exporter(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("_J_COMPLETE", "bash_complete")
    for host in ("", str(tmp_path / "nothing")):
        monkeypatch.setenv("JUMPSTARTER_HOST", host)
        assert j([]) == 1
        assert capfd.readouterr() == ("", "")


def test_commands_are_completed_without_importing_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "jumpstarter.cli.commands.shell", raising=False)
    assert offers(monkeypatch, capfd, main, "jumpstarter she") == ["shell"]
    assert "jumpstarter.cli.commands.shell" not in sys.modules
    assert offers(monkeypatch, capfd, main, "jumpstarter completion f") == ["fish"]


def test_names_of_configurations_are_completed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1  # noqa: PLC0415 - beside its use

    for name in ("lab-1", "lab-2", "other"):
        (tmp_path / f"{name}.yaml").touch()
    monkeypatch.setattr(ExporterConfigV1Alpha1, "BASE_PATH", tmp_path)
    line = "jumpstarter shell --exporter lab"
    assert offers(monkeypatch, capfd, main, line) == ["lab-1", "lab-2"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("serve --tls-c", ["--tls-cert", "--tls-client-ca"]),
        ("serve --log-level w", ["warning"]),
        ("serve power:Power --gr", ["--grace"]),
        ("run --exporter lab", ["lab-1"]),
        ("run --exporter-config ", [""]),  # click's mark for the path of a file
        ("run --tls-grpc-i", ["--tls-grpc-insecure"]),
        ("doctor --o", ["--output"]),
    ],
)
def test_options_of_serve_run_and_doctor_are_completed(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    line: str,
    offered: list[str],
) -> None:
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1  # noqa: PLC0415 - beside its use

    (tmp_path / "lab-1.yaml").touch()
    monkeypatch.setattr(ExporterConfigV1Alpha1, "BASE_PATH", tmp_path)
    assert offers(monkeypatch, capfd, main, f"jumpstarter {line}") == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_completes_all_three_programs(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capfd.readouterr().out
    for program in ("jumpstarter", "jmp", "j"):
        assert f"_{program.upper()}_COMPLETE={shell}_complete" in script


def test_shell_without_a_script_is_an_error_of_usage(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "cmd"]) == 2
    assert "'cmd' is not one of 'bash', 'zsh', 'fish'" in capfd.readouterr().err


STARTS = {
    "bash": (["--norc", "--noprofile"], 'eval "$(jumpstarter completion bash)"'),
    "zsh": (["--no-rcs"], 'autoload compinit; compinit -u; eval "$(jumpstarter completion zsh)"'),
    "fish": (["--no-config"], "jumpstarter completion fish | source"),
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.usefixtures("programs")
def test_tab_completes_in_a_real_shell(
    shell: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    monkeypatch.setenv("JUMPSTARTER_HOST", address)
    options, load = STARTS[shell]
    with user() as someone, at_a_terminal(someone, ["-c", EXEC, shell, *options]) as job:
        sum_ = "(math 40 + 2)" if shell == "fish" else "$((40 + 2))"
        someone.type(f"{load}; echo loaded {sum_}\n".encode())
        someone.see(b"loaded 42")
        completes(someone, b"jmp comp", b"letion ")
        completes(someone, b"j relay turn", b"-left ")
        completes(someone, b"j ot", b"her ")
        someone.type(b"exit 3\n")
        assert job.wait() == 3


def completes(someone: User, typed: bytes, rest: bytes) -> None:
    """Type the beginning of a line and Tab, and see the rest; then discard the line."""
    someone.type(typed + b"\t")
    someone.see(rest.rstrip())
    someone.type(b"\x15")  # Ctrl-U
