"""Test that a test waiting for a process fails in time, whatever the process does."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from processes import PATIENCE, running

TESTS: Final = Path(__file__).parent
STUCK: Final = [sys.executable, "-c", "import time; time.sleep(1000)"]
RUN_TO_THEIR_END: Final = {"run", "call", "check_call", "check_output"}

# --------------------------------------------------------------------- the source of the tests


def without_deadline(path: Path) -> Iterator[str]:
    """Yield the lines of a file that wait for a process without a timeout.

    Reading a process's output has no timeout: `processes.running` exists for that. The deadline of
    a test ends any other kind of wait.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and (what := _waits(node)):
            yield f"{path.relative_to(TESTS)}:{node.lineno}: {what} without a timeout"


def _waits(call: ast.Call) -> str:
    if not isinstance(call.func, ast.Attribute):
        return ""
    of, name = ast.unparse(call.func.value), call.func.attr
    if any(keyword.arg in {"timeout", None} for keyword in call.keywords):
        return ""
    if name == "communicate" or (of == "subprocess" and name in RUN_TO_THEIR_END):
        return f"{of}.{name}()"
    return f"{of}.wait()" if name == "wait" and "process" in of and not call.args else ""


def test_each_wait_for_a_process_has_a_deadline() -> None:
    files = sorted(TESTS.rglob("*.py"))
    assert len(files) > 90
    assert [line for path in files for line in without_deadline(path)] == []


WAITS: Final = {
    "run": "subprocess.run(x)",
    "output": "subprocess.check_output(x, text=True)",
    "communicate": "process.communicate()",
    "wait": "self._process.wait()",
}
IN_TIME: Final = """
subprocess.run(x, timeout=1)
subprocess.run(x, **options)
process.communicate(timeout=1)
process.wait(1)
event.wait()
process = subprocess.Popen(x)
"""


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_without_a_deadline_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "TESTS", tmp_path)
    script = tmp_path / "script.py"
    script.write_text(f"{IN_TIME}{wait}\n")
    [found] = without_deadline(script)
    assert found.startswith("script.py:8: ")


# ------------------------------------------------------------------ the behaviour of the tests


def read(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == ""


def wait(process: subprocess.Popen[str]) -> None:
    assert process.wait(PATIENCE) == -signal.SIGKILL


def fail(process: subprocess.Popen[str]) -> None:
    wait(process)
    raise AssertionError("not ready")


def stuck(then: Callable[[subprocess.Popen[str]], None]) -> None:
    with running(STUCK, seconds=0.2, stdout=subprocess.PIPE) as process:
        then(process)


@pytest.mark.parametrize("then", [read, wait])
def test_a_process_is_killed_at_its_deadline_and_fails_its_test(
    then: Callable[[subprocess.Popen[str]], None],
) -> None:
    with pytest.raises(AssertionError, match=r"^the process was killed, after 0\.2 s"):
        stuck(then)


def test_a_failure_past_the_deadline_says_so() -> None:
    with pytest.raises(AssertionError, match="not ready") as caught:
        stuck(fail)
    assert "the process was killed, after 0.2 s" in caught.value.__notes__[0]


def test_a_process_is_over_after_its_block() -> None:
    with running(STUCK) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL


HANGING: Final = {
    "sleep": "import time\ndef test_it():\n    time.sleep(1000)",
    "thread": """
        import threading
        def test_it():
            threading.Event().wait()
        """,
    "trio": "import trio\nasync def test_it():\n    await trio.sleep_forever()",
    "process": """
        import subprocess
        def test_it():
            subprocess.run(["sleep", "1000"])
        """,
    "fixture": """
        import pytest, time
        @pytest.fixture
        def slow():
            yield
            time.sleep(1000)
        def test_it(slow): ...
        """,
}


@pytest.mark.parametrize("script", HANGING.values(), ids=HANGING)
def test_a_test_that_hangs_fails_and_the_next_one_runs(tmp_path: Path, script: str) -> None:
    done = run_tests(tmp_path, textwrap.dedent(script), "-o", "timeout=1")
    assert done.returncode == 1
    assert "Timeout" in done.stdout
    assert "1 passed" in done.stdout.replace("2 passed", "1 passed")


def test_a_test_that_cannot_be_ended_ends_the_run(tmp_path: Path) -> None:
    script = """
import time
def test_it():
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass
"""
    options = ("-o", "timeout=0.5", "-o", "faulthandler_timeout=1")
    done = run_tests(tmp_path, script, *options)
    assert done.returncode == 1
    assert "Timeout (0:00:01)!" in done.stderr
    assert "passed" not in done.stdout


def run_tests(directory: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script's tests, followed by one more, with this project's pytest settings."""
    (directory / "test_it.py").write_text(script)
    (directory / "test_next.py").write_text("def test_next(): ...")
    settings = ("-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(directory))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *settings, *options]
    return subprocess.run(
        [*command, "."],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_deadlines_of_tests_are_longer_than_those_of_processes(
    pytestconfig: pytest.Config,
) -> None:
    of_a_test = float(pytestconfig.getini("timeout"))
    assert 2 * PATIENCE <= of_a_test < float(pytestconfig.getini("faulthandler_timeout"))


# ---------------------------------------------------------------------- inherited signal state

INHERITED: Final = [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD]
SHOW: Final = """
import signal
print(*(n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN))
print(*signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
AS_STARTED: Final = f"""
import os, signal, subprocess, sys
for number in {[int(number) for number in INHERITED]}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def started_badly(script: str) -> list[str]:
    """Run a script with signals ignored and blocked, and return the lines that it prints."""
    command = [sys.executable, "-c", AS_STARTED, "-c", script]
    done = subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout.splitlines()


def test_what_a_process_was_started_with_is_inherited_unless_it_is_restored() -> None:
    python = {str(int(signal.SIGPIPE)), str(int(signal.SIGXFSZ))}
    ignored, blocked = started_badly(SHOW)
    assert set(ignored.split()) - python == {str(int(number)) for number in INHERITED}
    assert blocked != ""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SHOW!r}], check=True)"
    ignored, blocked = started_badly(f"import inherited; inherited.restore()\n{child}")
    assert set(ignored.split()) <= python
    assert blocked == ""


def test_this_process_still_ignores_what_it_was_told_to_ignore() -> None:
    script = """
import inherited, os, signal
inherited.restore()
for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    os.kill(os.getpid(), number)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], {})
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert started_badly(script) == ["interrupted", "3"]


def test_the_tests_run_with_the_defaults() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    ignored = {n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN}
    assert ignored <= {signal.SIGPIPE, signal.SIGXFSZ}
