"""Test `shell`: exit codes, signals, the environment of the program, and terminals."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import pytest
import trustme

from drivers_for_tests import Plain
from exporter_process import exporter
from exporter_thread import served_at
from jumpstarter.cli import main
from jumpstarter.cli._shells import interactive_shell
from jumpstarter.driver import export
from jumpstarter.drivers.power import MockPower
from processes import PATIENCE, running
from ptys import User, at_a_terminal, user

JUMPSTARTER: Final = [sys.executable, "-m", "jumpstarter"]
J: Final = f"{sys.executable} -c 'import sys; from jumpstarter.cli import j; sys.exit(j())'"
TOKEN: Final = "0123456789abcdef"  # noqa: S105 - of tests only
CONFIG: Final = """
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata:
  name: lab-1
  labels: {{board: imx8, rack: r3}}
motd: |
  Ask before you use the relay.
export:
  power:
    type: jumpstarter.drivers.power.MockPower
  board:
    type: test_cli_shell.Board
    config: {config}
"""


@dataclass(kw_only=True)
class Board(Plain):
    """Writes what happens to it into a file.

    Attributes:
        events: The file.
        fail: Whether `reset` fails.
        hang: A FIFO that `reset` waits for.
    """

    events: str = os.devnull
    fail: bool = False
    hang: str | None = None

    def _note(self, text: str) -> None:
        with Path(self.events).open("a") as file:
            file.write(f"{text}\n")

    def reset(self) -> None:
        self._note("reset")
        if self.hang is not None:
            Path(self.hang).read_text()
        if self.fail:
            raise LookupError("the relay\ndoes not answer")

    @export
    def speak(self) -> str:
        print("printed by the driver")
        self.logger.warning("logged by the driver")
        return "spoken"

    @export
    def start_child(self) -> int:
        """Start a program that an interrupt would end; the next call tells whether it runs."""
        self.child = subprocess.Popen(["sleep", "1000"])  # noqa: S607
        return self.child.pid

    @export
    def child_runs(self) -> bool:
        return self.child.poll() is None

    def close(self) -> None:
        if hasattr(self, "child"):
            self.child.kill()
            self.child.wait()
        self._note("closed")
        super().close()


@dataclass
class Lab:
    """A configuration, and the events of its board."""

    directory: Path
    config: Path
    events_file: Path

    def shell(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        """Return the arguments that run a command with the exporter."""
        separator = ["--", *command] if command else []
        return ["shell", "--exporter-config", str(self.config), *options, *separator]

    def events(self) -> list[str]:
        return self.events_file.read_text().split() if self.events_file.exists() else []


@pytest.fixture
def make_lab(tmp_path: Path) -> Callable[..., Lab]:
    def make(**config: Any) -> Lab:
        events = tmp_path / "events"
        text = CONFIG.format(config={"events": str(events), **config})
        (tmp_path / "lab.yaml").write_text(text.replace("True", "true"))
        return Lab(tmp_path, tmp_path / "lab.yaml", events)

    return make


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.setenv("SHELL", shutil.which("bash") or "/bin/sh")
    monkeypatch.setenv("TERM", "dumb")
    for name in ("JUMPSTARTER_HOST", "JMP_DRIVERS_ALLOW", "JMP_GRPC_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JMP_EXPORTER_LABELS", "of=another")


def completed(arguments: Sequence[str], *, stdin: str = "", **options: Any) -> tuple[int, str, str]:
    """Run `jumpstarter` in a process: exit code, stdout and stderr."""
    with running(
        [*JUMPSTARTER, *arguments], stdin=PIPE, stdout=PIPE, stderr=PIPE, **options
    ) as process:
        out, err = process.communicate(stdin, timeout=PATIENCE)
    return process.returncode, out, err


# --------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 42", 42), ("kill -KILL $$", 137), ("kill -TERM $$", 143)],
)
def test_exit_code_is_the_programs(
    lab: Lab, script: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(lab.shell("sh", "-c", script)) == code
    assert capfd.readouterr() == ("", "")
    assert lab.events() == ["reset", "closed"]


def test_program_that_cannot_run_is_explained(
    lab: Lab, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("not executable")
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "binary").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "binary").chmod(0o755)
    for name, code, why in [
        ("no-such-program", 127, "not found"),
        (str(tmp_path / "nothing"), 127, "not found"),
        (str(tmp_path / "text"), 126, "Permission denied"),
        (str(tmp_path), 126, "Permission denied"),
        (str(tmp_path / "script"), 126, "its interpreter is not there"),
        (str(tmp_path / "binary"), 126, "Exec format error"),
    ]:
        assert main(lab.shell(name)) == code
        assert capfd.readouterr() == ("", f"{name}: {why}\n")


def test_options_after_the_program_are_its_own(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["shell", "--exporter-config", str(lab.config), "echo", "--address", "x", "--"]
    assert main(options) == 0
    assert capfd.readouterr().out == "--address x --\n"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--exporter", "a", "--address", "b"],
        ["--exporter", "a", "--allow", "x"],
        ["--exporter", "a", "--passphrase", "x"],
        ["--exporter", "a", "--tls-grpc-insecure"],
    ],
)
def test_options_that_do_not_fit_are_an_error_of_usage(
    options: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["shell", *options, "--", "true"]) == 2
    assert "Error: " in capfd.readouterr().err


def test_exporter_that_cannot_be_served_is_one_line(
    make_lab: Callable[..., Lab], capfd: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(fail=True)
    assert main(lab.shell("echo", "not run", options=["--log-level", "error"])) == 1
    out, err = capfd.readouterr()
    assert out == ""
    [line] = [each for each in err.splitlines() if each.startswith("jumpstarter: ")]
    assert "reset() of driver 'board'" in line
    assert line.endswith("LookupError: the relay does not answer")
    assert "Traceback" not in err
    assert lab.events() == ["reset", "closed"]


def test_configuration_with_a_fault_is_one_line(
    make_lab: Callable[..., Lab], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(make_lab(unknown=1).shell("true")) == 1
    err = capfd.readouterr().err
    assert "lab.yaml" in err
    assert err.count("\n") == 1
    assert main(["shell", "--exporter", "no-such-lab", "--", "true"]) == 1
    err = capfd.readouterr().err
    assert "there is no exporter 'no-such-lab'" in err
    assert err.count("\n") == 1


# ---------------------------------------------------------------------------------- environment


def test_program_finds_the_exporter_in_its_environment(
    lab: Lab, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JMP_GRPC_PASSPHRASE", "that of a shell around this one")
    script = (
        "echo ${JMP_GRPC_PASSPHRASE-unset};"
        "echo $JMP_EXPORTER; echo $JMP_EXPORTER_LABELS; echo $JMP_DRIVERS_ALLOW;"
        "echo $_JMP_SUPPRESS_DRIVER_WARNINGS; ls -ld $(dirname $JUMPSTARTER_HOST);"
        f"echo $JUMPSTARTER_HOST; {J} power on; {J} board speak"
    )
    assert main(lab.shell("sh", "-c", script)) == 0
    out, err = capfd.readouterr()
    outer, name, labels, allow, suppress, mode, host, spoken = out.splitlines()
    assert outer == "unset"
    assert (name, labels) == ("lab-1", "board=imx8,rack=r3")
    assert (allow, suppress, spoken) == ("UNSAFE", "1", "spoken")
    assert mode.startswith(stat.filemode(stat.S_IFDIR | 0o700))
    assert not Path(host).parent.exists()
    assert "printed by the driver" in err
    assert "logged by the driver" in err
    assert "INFO" not in err


def test_standard_files_are_the_programs(lab: Lab) -> None:
    assert completed(lab.shell("sh", "-c", "cat; echo err >&2"), stdin="text\n") == (
        0,
        "text\n",
        "err\n",
    )


def test_shell_reads_a_script_from_a_pipe(lab: Lab) -> None:
    code, out, err = completed(lab.shell(), stdin=f"{J} board speak\nexit 3\n")
    assert (code, out) == (3, "spoken\n")
    assert "motd" not in err


def test_logs_of_the_exporter_are_shown_if_asked(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    for options, is_shown in [
        (["--exporter-logs", "--log-level", "debug"], True),
        (["--log-level", "error"], False),
    ]:
        assert main(lab.shell("sh", "-c", f"{J} board speak", options=options)) == 0
        err = capfd.readouterr().err
        assert ("DEBUG" in err) == is_shown
        assert ("logged by the driver" in err) == is_shown


def test_j_is_found_without_an_activated_environment(lab: Lab) -> None:
    scripts = Path(sys.executable).parent
    if not (scripts / "j").exists():
        pytest.skip("the console scripts are not installed beside this Python")
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    assert completed(lab.shell("sh", "-c", "j power on"), env=environment) == (0, "", "")


# ------------------------------------------------------------------------------ a running exporter


def test_address_of_a_running_exporter(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with served_at(f"unix:{tmp_path}/lab.sock", MockPower(), token=TOKEN) as address:
        script = f"echo $JMP_EXPORTER $JUMPSTARTER_HOST $JMP_DRIVERS_ALLOW; {J} on"
        options = ["--address", address, "--passphrase", TOKEN, "--allow", "lab.*"]
        assert main(["shell", *options, "--", "sh", "-c", script]) == 0
        assert capfd.readouterr() == (f"lab {address} lab.*\n", "")
        options = ["--address", str(tmp_path / "lab.sock"), "--passphrase", "wrong"]
        assert main(["shell", *options, "--", "echo", "not run"]) == 1
        out, err = capfd.readouterr()
        lines = [line for line in err.splitlines() if "WARNING" not in line]  # the exporter's log
        assert out == ""
        assert len(lines) == 1
        assert lines[0].startswith("jumpstarter: ")


def test_port_is_reached_without_tls_if_asked(capfd: pytest.CaptureFixture[str]) -> None:
    with served_at("tcp://127.0.0.1:0", MockPower()) as address:
        port = address.removeprefix("tcp://")
        options = ["--tls-grpc", port, "--tls-grpc-insecure"]
        script = f"echo $JMP_EXPORTER $JUMPSTARTER_HOST; {J} on"
        assert main(["shell", *options, "--", "sh", "-c", script]) == 0
        assert capfd.readouterr() == (f"{port} {address}\n", "")


def test_program_trusts_the_authority_that_the_options_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cert = authority.issue_cert("localhost")
    cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    options = ["--address", "tls://localhost:0", "--tls-cert", str(tmp_path / "cert.pem")]
    options += ["--token-file", str(tmp_path / "token")]
    with exporter(tmp_path, *options, driver="jumpstarter.drivers.power:MockPower") as serving:
        options = ["--address", serving.address, "--token-file", str(tmp_path / "token")]
        options += ["--tls-ca", str(tmp_path / "ca.pem")]
        assert main(["shell", *options, "--", "sh", "-c", f"{J} on"]) == 0
        assert capfd.readouterr() == ("", "")


def test_log_of_a_running_exporter_is_shown_if_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served_at(f"unix:{tmp_path}/socket", Board()) as address:
        options = ["--address", address, "--exporter-logs"]
        assert main(["shell", *options, "--", "sh", "-c", f"{J} speak"]) == 0
    out, err = capfd.readouterr()
    assert "spoken\n" in out
    assert "exporter:driver: logged by the driver" in err


# --------------------------------------------------------------------------------------- signals


READY: Final = "trap 'echo got TERM; exit 3' TERM; trap 'echo got HUP; exit 4' HUP;"


@pytest.mark.parametrize(
    ("number", "said", "code"), [(signal.SIGTERM, "TERM", 3), (signal.SIGHUP, "HUP", 4)]
)
def test_signal_is_passed_to_the_program(
    lab: Lab, number: signal.Signals, said: str, code: int
) -> None:
    command = [
        *JUMPSTARTER,
        *lab.shell("sh", "-c", f"{READY} echo ready; while :; do read x; done"),
    ]
    with running(command, stdin=PIPE, stdout=PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == (f"got {said}\n", code)
    assert lab.events() == ["reset", "closed"]


def test_interrupt_without_a_terminal_is_passed_to_the_program(lab: Lab) -> None:
    command = [*JUMPSTARTER, *lab.shell("sh", "-c", "echo ready; exec sleep 1000")]
    with running(command, stdout=PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


def test_ignored_signal_stays_ignored(lab: Lab) -> None:
    script = "kill -HUP $PPID $$; echo alive"
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "-", *JUMPSTARTER]
    with running([*command, *lab.shell("sh", "-c", script)], stdout=PIPE) as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("alive\n", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_cancels_the_start(
    make_lab: Callable[..., Lab], tmp_path: Path, number: signal.Signals
) -> None:
    os.mkfifo(tmp_path / "fifo")
    lab = make_lab(hang=str(tmp_path / "fifo"))
    command = [*JUMPSTARTER, *lab.shell("echo", "not run")]
    with running(command, stdout=PIPE, stderr=PIPE, start_new_session=True) as process:
        writer = os.open(tmp_path / "fifo", os.O_WRONLY)  # blocks until reset() reads
        process.send_signal(number)
        os.close(writer)  # reset() returns
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert lab.events() == ["reset", "closed"]


# ------------------------------------------------------------------------------------- terminals


@pytest.fixture
def someone() -> Iterator[User]:
    with user() as someone:
        yield someone


def prompt(someone: User) -> bytes:
    return someone.see("⚡lab-1 ➤ ".encode())


def arguments(lab: Lab, *command: str, options: Sequence[str] = ()) -> list[str]:
    return ["-m", "jumpstarter", *lab.shell(*command, options=options)]


def test_interactive_shell_greets_and_runs_commands(lab: Lab, someone: User) -> None:
    with at_a_terminal(someone, arguments(lab)) as job:
        assert b"Ask before you use the relay.\r\n" in prompt(someone)
        someone.type(f"{J} board speak\n".encode())
        assert b"spoken\r\n" in prompt(someone)
        someone.type(b"sh -c 'echo $((40 + 2)); exec sleep 1000'\n")
        someone.see(b"42\r\n")
        someone.type(b"\x03")  # Ctrl-C ends the sleep only
        prompt(someone)
        someone.type(b"echo $?; exit 7\n")
        someone.see(b"130\r\n")
        assert job.wait() == 7
    assert b"driver" not in someone.seen.replace(b"test_cli", b"")
    assert someone.is_restored()
    assert lab.events() == ["reset", "closed"]


def test_interactive_shell_shows_the_log_if_asked(lab: Lab, someone: User) -> None:
    with at_a_terminal(someone, arguments(lab, options=["--exporter-logs"])) as job:
        prompt(someone)
        someone.type(f"{J} board speak\n".encode())
        someone.see(b"logged by the driver")
        someone.type(b"exit\n")
        assert job.wait() == 0


JOB: Final = """
import signal, sys
signal.signal(signal.SIGCONT, lambda *_: print("runs", flush=True))
print("runs", flush=True)
for line in sys.stdin:
    print("got", line, end="", flush=True)
"""


def test_jobs_of_an_interactive_shell_stop_and_continue(lab: Lab, someone: User) -> None:
    (lab.directory / "job.py").write_text(JOB)
    with at_a_terminal(someone, arguments(lab)) as job:
        prompt(someone)
        someone.type(f"{sys.executable} {lab.directory}/job.py\n".encode())
        someone.see(b"runs\r\n")  # what is typed earlier, the shell reads
        someone.type(b"text\n")
        someone.see(b"got text\r\n")
        someone.type(b"\x1a")  # Ctrl-Z
        someone.see(b"Stopped")
        prompt(someone)
        someone.type(b"fg\n")
        someone.see(b"runs\r\n")
        someone.type(b"more\n")
        someone.see(b"got more\r\n")
        someone.type(b"\x04")
        prompt(someone)
        someone.type(b"exit 5\n")
        assert job.wait() == 5


def test_suspended_shell_stops_the_whole_job(lab: Lab, someone: User) -> None:
    with at_a_terminal(someone, arguments(lab)) as job:
        prompt(someone)
        someone.type(b"suspend\n")
        assert job.wait_stopped()
        job.proceed()
        someone.type(b"echo still $((40 + 2))\n")
        someone.see(b"still 42\r\n")
        someone.type(b"exit 6\n")
        assert job.wait() == 6
        assert someone.is_restored()


def test_terminal_is_restored_when_the_shell_is_killed(lab: Lab, someone: User) -> None:
    with at_a_terminal(someone, arguments(lab)) as job:
        prompt(someone)
        someone.type(b"stty -echo -icanon; kill -KILL $$\n")
        assert job.wait() == 137
        assert someone.is_restored()
    assert lab.events() == ["reset", "closed"]


def test_sigterm_hangs_up_an_interactive_shell(lab: Lab, someone: User) -> None:
    with at_a_terminal(someone, arguments(lab)) as job:
        prompt(someone)
        os.kill(job.pid, signal.SIGTERM)  # an interactive shell ignores it
        assert job.wait() == 129
    assert lab.events() == ["reset", "closed"]


def test_a_hang_up_that_a_shell_misses_is_repeated(
    lab: Lab, someone: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = tmp_path / "sh"
    shell.write_text("#!/bin/bash\ntrap 'trap - HUP' HUP\necho ready\nwhile :; do sleep 1; done\n")
    shell.chmod(0o755)
    monkeypatch.setenv("SHELL", str(shell))
    with at_a_terminal(someone, arguments(lab)) as job:
        someone.see(b"ready")
        os.kill(job.pid, signal.SIGTERM)
        assert job.wait() == 129
    assert lab.events() == ["reset", "closed"]


RAW: Final = """
import os, sys, tty
tty.setraw(0)
print("raw", flush=True)
while os.read(0, 1) != b"q":
    pass
os.kill(os.getpid(), 9 if sys.argv[1:] else 15)
"""


def test_terminal_is_restored_after_a_program_in_raw_mode(lab: Lab, someone: User) -> None:
    with at_a_terminal(someone, arguments(lab, sys.executable, "-c", RAW)) as job:
        someone.see(b"raw")
        assert someone.is_raw()
        someone.type(b"\x03\x1aq")  # neither is a signal now
        assert job.wait() == 143
        assert someone.is_restored()


def test_stopped_program_stops_the_job_and_gets_its_modes_back(lab: Lab, someone: User) -> None:
    stopping = RAW.replace('print("raw"', 'os.kill(0, 20); print("raw"')
    with at_a_terminal(someone, arguments(lab, sys.executable, "-c", stopping)) as job:
        assert job.wait_stopped()  # in line mode
        job.proceed()
        someone.see(b"raw")
        assert someone.is_raw()
        someone.type(b"q")
        assert job.wait() == 143
        assert someone.is_restored()


def test_ctrl_c_reaches_the_program_and_not_what_drivers_run(lab: Lab, someone: User) -> None:
    script = (
        "import signal, sys; from jumpstarter.utils.env import env\n"
        "with env() as client:\n"
        "    client.board.call('start_child')\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        signal.pause()\n"
        "    except KeyboardInterrupt:\n"
        "        print('runs', client.board.call('child_runs'))\n"
    )
    with at_a_terminal(someone, arguments(lab, sys.executable, "-c", script)) as job:
        someone.see(b"ready")
        someone.type(b"\x03")
        someone.see(b"runs True\r\n")
        assert job.wait() == 0


def test_pipeline_keeps_the_terminal(lab: Lab, someone: User) -> None:
    # The last program of the pipeline reads from the terminal, as a pager does.
    command = " ".join(f"'{each}'" for each in [*JUMPSTARTER, *lab.shell("echo", "page")])
    pager = "import sys; print(sys.stdin.read().strip(), open('/dev/tty').readline().strip())"
    script = f"{command} | '{sys.executable}' -c \"{pager}\""
    run = "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])"
    with at_a_terminal(someone, ["-c", run, script]) as job:
        someone.type(b"key\n")
        someone.see(b"page key\r\n")
        assert job.wait() == 0


@pytest.mark.parametrize("name", ["zsh", "fish", "dash"])
@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
def test_other_shells_have_a_prompt_too(
    lab: Lab, someone: User, name: str, terminal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("SHELL", path)
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setenv("HOME", str(lab.directory))
    with at_a_terminal(someone, arguments(lab)) as job:
        someone.see("⚡".encode())
        someone.see(b"lab-1")
        someone.see("➤".encode())
        someone.type(b"exit 9\n")
        assert job.wait() == 9
        assert someone.is_restored()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "sh"])
def test_prompt_contains_nothing_that_a_shell_would_run(shell: str) -> None:
    command, environment = interactive_shell({"SHELL": shell}, "$(id)`id`'\\id!%n")
    assert command[0] == shell
    text = environment.get("PS1", command[-1])
    assert "??id??id???id??n" in text
    assert "?" not in interactive_shell({"SHELL": shell}, "lab-1.example:80 [ä]")[1].get("PS1", "")
