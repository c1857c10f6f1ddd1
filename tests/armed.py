"""Refuse to run the tests of `make sanitize` without sanitizers. A pytest plugin: `-p armed`.

Without it, a module that was compiled without sanitizers, or a run without their library, would
find no fault and pass.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from jumpstarter import _framing
from jumpstarter._protocol import base

# The functions that instrumented code calls to check reads, writes and arithmetic.
CHECKS: Final = (b"__asan_report_load", b"__asan_report_store", b"__ubsan_handle_")
READ_TOO_FAR: Final = "import ctypes; ctypes.string_at(ctypes.create_string_buffer(16), 4096)"


def missing(module: Path) -> Iterator[str]:
    """Yield the reasons why the sanitizers cannot find faults in this extension module."""
    code = module.read_bytes()
    for check in CHECKS:
        if check not in code:
            yield f"{module} does not call {check.decode()}"
    done = subprocess.run(
        [sys.executable, "-c", READ_TOO_FAR],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "heap-buffer-overflow" not in done.stderr:
        yield "a read beyond the end of a buffer is not detected"


def pytest_configure() -> None:
    reasons: list[str] = []
    for module in (_framing, base):
        assert module.__file__ is not None
        reasons += missing(Path(module.__file__))
    if reasons:
        raise pytest.UsageError(f"the sanitizers are not armed: {'; '.join(reasons)}")
