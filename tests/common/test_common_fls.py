"""Test that the installed `fls` is found, and that nothing is downloaded."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from jumpstarter.common import download_fls, fls, get_fls_binary, get_fls_github_url
from jumpstarter.errors import ConfigurationError


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a program `fls`, and nothing else."""
    path = tmp_path / "fls"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return str(path)


@pytest.fixture
def no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_names_of_the_package_are_those_of_the_module() -> None:
    assert get_fls_binary is fls.get_fls_binary
    assert get_fls_github_url is fls.get_fls_github_url
    assert download_fls is fls.download_fls


def test_installed_program_is_found(program: str, caplog: pytest.LogCaptureFixture) -> None:
    assert get_fls_binary() == program
    assert caplog.records == []


def test_installed_program_serves_instead_of_a_download(
    program: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert get_fls_binary(fls_version="0.1.9") == program
    assert "its version is not checked" in caplog.text
    assert "/download/0.1.9/fls-" in caplog.text
    caplog.clear()
    url = "https://lab.example/fls"
    assert get_fls_binary(fls_binary_url=url, allow_custom_binaries=True) == program
    assert url in caplog.text


@pytest.mark.usefixtures("no_program")
def test_missing_program_says_what_to_install() -> None:
    with pytest.raises(
        RuntimeError, match=r"download it from https://github\.com/.*put it on PATH"
    ):
        get_fls_binary()
    with pytest.raises(ConfigurationError, match=r"/download/0\.2\.0/fls-"):
        get_fls_binary("0.2.0")


@pytest.mark.usefixtures("program")
def test_url_needs_a_permission() -> None:
    with pytest.raises(RuntimeError, match="Custom FLS binary URLs are disabled for security"):
        get_fls_binary(fls_binary_url="https://lab.example/fls")


def test_download_says_what_to_do_instead() -> None:
    with pytest.raises(RuntimeError, match=r"download it from https://lab\.example/fls"):
        download_fls("https://lab.example/fls", timeout=1)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("x86_64", "fls-x86_64-linux"),
        ("AMD64", "fls-x86_64-linux"),
        ("arm64", "fls-aarch64-linux-musl"),
        ("aarch64", "fls-aarch64-linux-musl"),
        ("riscv64", "fls-aarch64-linux-musl"),
    ],
)
def test_url_of_a_release_is_for_the_architecture(
    arch: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://github.com/jumpstarter-dev/fls/releases/download/0.1.9/{name}"
    assert get_fls_github_url("0.1.9", arch=arch) == url
    monkeypatch.setattr(platform, "machine", lambda: arch)
    assert get_fls_github_url("0.1.9") == url
