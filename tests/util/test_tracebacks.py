"""Tests of pytest's output: it shows the test's line and the driver's, but no library frame."""

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
from jumpstarter._util.tracebacks import strip_tracebacks, trim_traceback
from jumpstarter.driver import Driver, export
from jumpstarter.errors import DriverInvalidArgument

HERE = Path(__file__).parents[1]
SRC = Path(jumpstarter.__file__).parent
_LONGEST = 30  # lines of one failure, the test's own source and the driver's traceback included


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Return the output of pytest for each failing test."""
    plugins = ["-p", "no:cacheprovider", "-p", "no:asyncio"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins]
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


def test_every_kind_of_failure_is_covered(failures: dict[str, str]) -> None:
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


def test_a_failure_shows_the_drivers_line(failures: dict[str, str]) -> None:
    for name in ("test_a_plain_method", "test_async_call"):
        assert 'raise ValueError(f"bad voltage {value}")' in failures[name]
    assert "cannot connect to tcp://127.0.0.1:1" in failures["test_nobody_at_a_port"]


MODULES = sorted(
    path
    for path in SRC.rglob("*.py")
    if path.name not in ("__main__.py", "_version.py") and "def " in path.read_text()
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_each_module_hides_its_frames(path: Path) -> None:
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


def test_library_frames_are_kept_outside_pytest() -> None:
    with serve(Failing()) as client, pytest.raises(DriverInvalidArgument) as caught:
        client.call_as(int, "fail")
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files[0] == __file__
    assert str(SRC / "client" / "_typed.py") in files
    assert not any("/trio/" in name or name.endswith("/contextlib.py") for name in files)


def failed(exc: BaseException, cause: BaseException | None = None) -> BaseException:
    """Return an exception that was raised in this file, so that it has a traceback."""
    try:
        raise exc from cause
    except BaseException as caught:  # noqa: BLE001 - every kind is returned
        return caught


def failed_in(module: str) -> BaseException:
    """Return an exception that was raised by code of another module."""
    with pytest.raises(ZeroDivisionError) as caught:
        exec("1 / 0", {"__name__": module})  # noqa: S102 - a constant
    error = caught.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # without this file's frame
    return error


def test_trimming_keeps_frames_that_are_not_plumbing() -> None:
    error = failed(ZeroDivisionError())
    before = traceback.extract_tb(error.__traceback__)
    assert traceback.extract_tb(trim_traceback(error).__traceback__) == before


def test_stripping_covers_the_exception_its_causes_and_their_members() -> None:
    member = failed_in("trio._highlevel_open_tcp_stream")
    group = failed(ExceptionGroup("all", [member]))  # type: ignore[type-var]
    group.__traceback__ = None
    error = failed(OSError("x"), group)
    assert strip_tracebacks(error) is error
    assert error.__traceback__ is None
    assert member.__traceback__ is None


def test_stripping_leaves_the_exception_that_the_user_is_handling_unchanged() -> None:
    users = failed(ZeroDivisionError())
    error = failed(OSError("x"))
    error.__context__ = users
    before = users.__traceback__
    strip_tracebacks(error)
    assert users.__traceback__ is before is not None


def test_stripping_keeps_the_users_frames_of_a_cause() -> None:
    users = failed(ZeroDivisionError())
    error = failed(OSError("x"), users)
    strip_tracebacks(error)
    assert error.__traceback__ is None
    assert users.__traceback__ is not None


@pytest.mark.timeout(10)
def test_stripping_ends_if_causes_form_a_cycle() -> None:
    first, second = failed_in("trio"), failed_in("jumpstarter.client")
    first.__cause__, second.__cause__ = second, first
    strip_tracebacks(first)
    assert first.__traceback__ is second.__traceback__ is None
    itself = failed_in("socket")
    itself.__cause__ = itself
    assert strip_tracebacks(itself).__traceback__ is None


class Unsendable:
    """A class whose encoding raises an exception that is its own cause."""

    __struct_fields__ = ()
    __pydantic_validator__ = model_validate = None

    def model_dump(self, **_: object) -> object:
        exc = ValueError("cannot be dumped")
        raise exc from exc


@pytest.mark.timeout(10)
def test_a_call_fails_if_its_argument_raises_an_error_that_is_its_own_cause() -> None:
    users = KeyError("the user's own")
    with serve(Failing()) as client:
        try:
            raise users
        except KeyError:
            with pytest.raises(DriverInvalidArgument, match="cannot be dumped"):
                client.call_as(int, "fail", Unsendable())
    assert users.__traceback__ is not None
