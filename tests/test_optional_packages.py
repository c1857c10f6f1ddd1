"""Test that only the modules for published drivers need packages other than trio and msgspec."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import jumpstarter
from helpers import PATIENCE
from jumpstarter._util.extras import requires_extra
from jumpstarter.errors import MissingExtra
from test_circular_imports import module_names

SRC: Final = Path(jumpstarter.__file__).parent

# The modules that need the extra `compat` when they are imported. All other modules are the core.
COMPAT: Final = {
    "jumpstarter.client.decorators",
    "jumpstarter.client.flasher",
    "jumpstarter.common.oci",
    "jumpstarter.common.resources",
    "jumpstarter.common.storage",
    "jumpstarter.config.client",
    "jumpstarter.config.common",
    "jumpstarter.config.exporter",
    "jumpstarter.streams.common",
    "jumpstarter.streams.encoding",
    "jumpstarter.streams.progress",
}
# The private modules that need an extra. The code that needs one imports it inside a function.
INNER: Final = {
    "jumpstarter._io.anyio_tasks",
    "jumpstarter._util.click_groups",
    "jumpstarter._pytest_plugin.access",
    "jumpstarter._pytest_plugin.bench",
    "jumpstarter._pytest_plugin.places",
    "jumpstarter.cli._app",
    "jumpstarter.cli._completed",
    "jumpstarter.cli._configured",
    "jumpstarter.cli._connecting",
    "jumpstarter.cli._hooks",
    "jumpstarter.cli._j",
    "jumpstarter.cli._output",
    "jumpstarter.cli._session",
    "jumpstarter.cli._targets",
    # Each command is a click command.
    *(name for name in module_names() if name.startswith("jumpstarter.cli.commands.")),
    "jumpstarter.cli.commands.completion",
    "jumpstarter.cli.commands.config",
    "jumpstarter.cli.commands.console",
    "jumpstarter.cli.commands.driver",
    "jumpstarter.cli.commands.shell",
    "jumpstarter.client._commands",
    "jumpstarter.drivers._commands",
    "jumpstarter.client._expect",
    "jumpstarter.client._file_streams",
    "jumpstarter.client._parameters",
    "jumpstarter.client._progress_attribute",
    "jumpstarter.common._sockets",
    "jumpstarter.config._arguments",
    "jumpstarter.config._check",
    "jumpstarter.config._hooks",
    "jumpstarter.config._http",
    "jumpstarter.config._keys",
    "jumpstarter.config._loading",
    "jumpstarter.config._yaml",
    "jumpstarter.observe._exposition",
    "jumpstarter.observe._http",
}

# The packages of all extras, by the names that they are imported by.
OPTIONAL: Final = (
    *("anyio", "backports", "click", "httpx", "pexpect", "pydantic", "rich", "serial", "yaml"),
    *("compression.zstd", "pydantic_core", "httpcore", "ptyprocess", "typing_extensions"),
    *("pytest", "_pytest", "pluggy", "h11", "prometheus_client"),
)

# Imports all modules without the packages. The ones after the blank are each imported in a child,
# after their parents, since a failed import may leave parts behind.
SCRIPT: Final = """
import os, sys
sys.path.insert(0, sys.argv[1])
import trio.testing, msgspec
for name in sys.argv[2].split(","):
    sys.modules[name] = None  # any import of it raises ModuleNotFoundError

def attempt(name):
    try:
        __import__(name)
    except BaseException as exc:
        print(name, type(exc).__name__, exc, flush=True)

blank = sys.argv.index("")
for name in sys.argv[3:blank]:
    attempt(name)
for name in sys.argv[blank + 1:]:
    if os.fork() == 0:
        attempt(name)
        os._exit(0)
    os.wait()
"""


def test_the_core_needs_trio_and_msgspec_only() -> None:
    names = set(module_names())
    assert names >= COMPAT | INNER
    arguments = [*sorted(names - COMPAT - INNER), "", *sorted(COMPAT)]
    command = [sys.executable, "-I", "-c", SCRIPT, str(SRC.parent), ",".join(OPTIONAL), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=6 * PATIENCE, check=True)
    failed = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert failed.keys() == COMPAT, done.stdout
    for name in sorted(COMPAT):
        assert f"{name} MissingExtra " in failed[name]
        extra = "cli" if name.startswith("jumpstarter.config.") else "compat"
        assert f"needs the extra '{extra}'" in failed[name]


def test_a_missing_package_is_an_error_that_names_the_extra() -> None:
    expected = pytest.raises(MissingExtra, match="the client of a board needs the extra 'compat'")
    with expected, requires_extra("compat", "the client of a board"):
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401, PLC0415


def test_a_module_of_ours_that_is_missing_is_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, requires_extra("compat", "this"):
        import jumpstarter.missing  # type: ignore[import-not-found]  # noqa: F401, PLC0415
    assert not isinstance(caught.value, MissingExtra)


def test_a_package_that_is_broken_is_not_a_missing_extra() -> None:
    with pytest.raises(ImportError) as caught, requires_extra("compat", "this"):
        raise ImportError("a wrong version")
    assert not isinstance(caught.value, MissingExtra)
