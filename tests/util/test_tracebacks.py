"""What pytest shows of an error: the test's line and the driver's, and no frame of this library."""

from __future__ import annotations

import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import jumpstarter
from helpers import PATIENCE
from jumpstarter import serve
from jumpstarter._util.tracebacks import bare, trimmed
from jumpstarter.driver import Driver, export
from jumpstarter.errors import DriverInvalidArgument

HERE = Path(__file__).parents[1]
SRC = Path(jumpstarter.__file__).parent
_LONGEST = 30  # lines of one failure, the test's own source and the driver's traceback included


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Give what pytest prints of each failing test."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    options = ["--confcutdir", str(HERE / "typing"), "-o", "addopts=", "--color=no"]
    done = subprocess.run(
        [*command, *options, str(HERE / "tracebacks_for_tests.py")],
        capture_output=True,
        text=True,
        timeout=6 * PATIENCE,
        check=False,
        cwd=HERE.parent,
    )
    assert " failed in " in done.stdout.splitlines()[-1], done.stdout + done.stderr
    parts = re.split(r"^_{3,} (test_\w+) _{3,}$", done.stdout, flags=re.MULTILINE)
    return {
        name: text.partition("=== short test summary")[0]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_kind_of_failure_is_seen(failures: dict[str, str]) -> None:
    text = (HERE / "tracebacks_for_tests.py").read_text()
    assert sorted(failures) == sorted(re.findall(r"def (test_\w+)", text))
    assert len(failures) >= 20


def test_no_frame_of_this_library_is_shown(failures: dict[str, str]) -> None:
    for name, text in failures.items():
        ours = re.findall(rf"^.*(?:{re.escape(str(SRC))}|src/jumpstarter)/.*$", text, re.MULTILINE)
        assert ours == [], f"{name}:\n{text}"


def test_a_blocking_test_shows_its_own_frame_only(failures: dict[str, str]) -> None:
    for name, text in failures.items():
        if not name.startswith("test_async"):
            frames = re.findall(r"^\S+:\d+: .*$", text, re.MULTILINE)
            assert len(frames) == 1, f"{name}:\n{text}"
            assert "tracebacks_for_tests.py" in frames[0]


def test_a_failure_is_short(failures: dict[str, str]) -> None:
    for name, text in failures.items():
        assert len(text.splitlines()) <= _LONGEST, f"{name}:\n{text}"


def test_the_drivers_own_line_is_there(failures: dict[str, str]) -> None:
    for name in ("test_a_plain_method", "test_async_call"):
        assert 'raise ValueError(f"bad voltage {value}")' in failures[name]
    assert "cannot connect to tcp://127.0.0.1:1" in failures["test_nobody_at_a_port"]


MODULES = sorted(
    path
    for path in SRC.rglob("*.py")
    if path.name not in ("__main__.py", "_version.py") and "def " in path.read_text()
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_each_module_leaves_its_frames_out(path: Path) -> None:
    assert re.search(r"^__tracebackhide__ = True\b", path.read_text(), re.MULTILINE), (
        f"write `__tracebackhide__ = True` above __all__ of {path.name}: without that, its frames "
        "are in the failures of our users' tests"
    )


class Failing(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    async def fail(self) -> None:
        raise ValueError("no")


def test_outside_of_pytest_the_librarys_frames_are_there() -> None:
    with serve(Failing()) as client, pytest.raises(DriverInvalidArgument) as caught:
        client.call_as(int, "fail")
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files[0] == __file__
    assert str(SRC / "client" / "_typed.py") in files
    assert not any("/trio/" in name or name.endswith("/contextlib.py") for name in files)


def test_frames_are_taken_out_and_the_others_kept() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    error = caught.value
    before = traceback.extract_tb(error.__traceback__)
    assert traceback.extract_tb(trimmed(error).__traceback__) == before
    group = ExceptionGroup("all", [error])
    error.__context__ = KeyError("x")
    assert bare(group).exceptions[0].__traceback__ is None
