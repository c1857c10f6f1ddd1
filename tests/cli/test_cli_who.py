"""Test how processes share a board in exclusive use: `who`, `kick`, and holders that die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trustme

import jumpstarter
from delaying_proxy import delaying_proxy
from exporter_process import TESTS, ExporterProcess, exporter, exporter_command
from jumpstarter.cli import main
from jumpstarter.cli._arguments import with_values
from jumpstarter.cli._exclusive import _checked
from jumpstarter.cli._serve import make_parser
from jumpstarter.client._claim import warn
from jumpstarter.errors import CallRefused, DriverError
from jumpstarter.utils.env import env
from processes import PATIENCE, running
from ptys import at_a_terminal, user
from sharing_drivers import ledger_of

LEDGER = "sharing_drivers:Ledger"
# How long a client may be silent, so that a test need not wait for half a minute. A client that
# is only slow, on a busy machine, answers in this time.
QUICK = ("--limit", "ping_interval=0.5", "--limit", "ping_timeout=6")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@contextmanager
def shared(directory: Path, *options: str, exclusive: bool = True) -> Iterator[ExporterProcess]:
    """Run an exporter of a ledger in exclusive use."""
    terms = ("--exclusive",) if exclusive else ()
    prefix = ("env", f"LEDGER={directory}/ledger")
    with exporter(directory, *terms, *options, driver=LEDGER, prefix=prefix) as process:
        yield process


class Client:
    """A process that uses the board."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self.process = process

    def until_in(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "in\n"

    def until_waits(self) -> str:
        """Return what it says about its place."""
        assert self.process.stderr is not None
        line: str = self.process.stderr.readline()
        assert line.startswith("waiting for "), line
        return line

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0


@pytest.fixture
def start() -> Iterator[Callable[..., Client]]:
    """Start clients, which are killed at the end of the test."""
    with ExitStack() as stack:

        def run(
            process: ExporterProcess, name: str, *words: str, address: str | None = None
        ) -> Client:
            script = str(TESTS / "script_of_sharing.py")
            command = [sys.executable, script, address or process.address, name, *words]
            pipe = subprocess.PIPE
            return Client(
                stack.enter_context(running(command, stdin=pipe, stdout=pipe, stderr=pipe))
            )

        yield run


def until_in_ledger(path: Path, text: str, client: Client) -> None:
    while text not in ledger_of(path):
        assert client.process.poll() is None


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process."""
    code = main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def who(capsys: pytest.CaptureFixture[str], process: ExporterProcess) -> list[dict[str, Any]]:
    code, out, _ = run(capsys, "who", process.address, "-o", "json")
    assert code == 0
    rows: list[dict[str, Any]] = json.loads(out)
    return rows


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_holder_that_dies_or_is_stopped_is_out_before_the_next_enters(
    tmp_path: Path, ledger: Path, start: Callable[..., Client], number: signal.Signals
) -> None:
    with shared(tmp_path, *QUICK) as process:
        ada = start(process, "ada", "block")
        ada.until_in()
        until_in_ledger(ledger, "ada begins", ada)
        bob = start(process, "bob")
        assert ", says 'ada' since " in bob.until_waits()
        ada.process.send_signal(number)
        bob.until_in()
        bob.leave()
    expected = ["reset", "ada", "ada begins", "ada ends", "ada is gone", "reset", "bob"]
    assert ledger_of(ledger) == expected


def test_a_holder_whose_cable_is_pulled_is_out_before_the_next_enters(
    tmp_path: Path, ledger: Path, start: Callable[..., Client]
) -> None:
    with (
        shared(tmp_path, "--address", "tcp://127.0.0.1:0", *QUICK) as process,
        delaying_proxy(int(process.address.rpartition(":")[2]), seconds=0) as proxy,
    ):
        ada = start(process, "ada", "block", address=f"tcp://127.0.0.1:{proxy.port}")
        ada.until_in()
        until_in_ledger(ledger, "ada begins", ada)
        bob = start(process, "bob")
        bob.until_waits()
        proxy.hold_answers()  # no question of the exporter arrives, and so no answer comes
        bob.until_in()
        bob.leave()
        proxy.release_answers()
    expected = ["reset", "ada", "ada begins", "ada ends", "ada is gone", "reset", "bob"]
    assert ledger_of(ledger) == expected


BOARDS = ("--exclusive=left", "--exclusive=right")


@pytest.mark.parametrize("end", ["killed", "cable pulled"])
def test_a_lost_holder_of_one_board_is_out_and_the_other_holder_notices_nothing(
    tmp_path: Path,
    ledger: Path,
    start: Callable[..., Client],
    capsys: pytest.CaptureFixture[str],
    end: str,
) -> None:
    prefix = ("env", f"LEDGER={ledger}")
    options = (*BOARDS, *QUICK, "--address", "tcp://127.0.0.1:0")
    with (
        exporter(tmp_path, *options, driver="sharing_drivers:bench", prefix=prefix) as process,
        delaying_proxy(int(process.address.rpartition(":")[2]), seconds=0) as proxy,
        jumpstarter.connect(process.address, name="bob", claim="right") as bob,
        closing(bob.children["right"].streamingcall("use_slowly", 0)) as items,
    ):
        assert next(items) == 0  # a call of the other holder, which goes on
        before = [row for row in who(capsys, process) if row["subtree"] == "right"]
        through = f"tcp://127.0.0.1:{proxy.port}"
        ada = start(process, "ada", "block", "claim=left", address=through)
        ada.until_in()
        until_in_ledger(ledger, "left ada begins", ada)
        cleo = start(process, "cleo", "claim=left")
        assert "left is held by" in cleo.until_waits()
        if end == "killed":
            ada.process.kill()
        else:
            proxy.hold_answers()  # no question of the exporter arrives, and so no answer comes
        cleo.until_in()
        after = [row for row in who(capsys, process) if row["subtree"] == "right"]
        assert [row["connection"] for row in after] == [row["connection"] for row in before]
        assert list(items) == [1, 2]
        bob.children["right"].call("note", "bob goes on")
        cleo.leave()
        proxy.release_answers()
    reset = ["left reset", "left.part reset"]
    used = ["left ada", "left ada begins", "left ada ends", "left ada is gone"]
    lines = ledger_of(ledger)
    assert [line for line in lines if line.startswith("left")] == [
        *reset,
        *used,
        *reset,
        "left cleo",
    ]
    number = before[0]["connection"]
    used = [f"right begin {number}", f"right end {number}", "right bob goes on"]
    rights = [line for line in lines if line.startswith("right")]
    assert rights == ["right reset", "right.part reset", *used]


def test_a_kicked_holder_is_out_before_the_next_enters(
    tmp_path: Path,
    ledger: Path,
    start: Callable[..., Client],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shared(tmp_path) as process:
        ada = start(process, "ada", "block")
        ada.until_in()
        until_in_ledger(ledger, "ada begins", ada)
        bob = start(process, "bob")
        bob.until_waits()
        code, out, err = run(capsys, "kick", process.address)
        assert (code, out[-13:]) == (0, ", says 'ada'\n")
        assert out.startswith(f"ended the session of uid {os.getuid()}, pid ")
        assert "it runs 'block' of driver 'root' (sharing_drivers.Ledger), which is" in err
        assert err.endswith("waiting until that has ended; a plain method goes on to its end\n")
        assert "ada ends" in ledger_of(ledger)
        bob.until_in()
        assert ada.process.wait(PATIENCE) == 1
        assert ada.process.stderr is not None
        assert "the session was ended by uid" in ada.process.stderr.read()
        bob.leave()
    expected = ["reset", "ada", "ada begins", "ada ends", "ada is gone", "reset", "bob"]
    assert ledger_of(ledger) == expected


def test_who_shows_the_holder_and_the_queue(
    tmp_path: Path, start: Callable[..., Client], capsys: pytest.CaptureFixture[str]
) -> None:
    with shared(tmp_path) as process:
        assert run(capsys, "who", process.address) == (
            0,
            "",
            "nobody holds the exporter, and nobody waits\n",
        )
        ada = start(process, "ada")
        ada.until_in()
        bob = start(process, "bob\x1b[2J")
        bob.until_waits()
        first, second = who(capsys, process)
        assert (first["state"], first["claimed"]) == ("holds", "ada")
        assert first["verified"]["pid"] == ada.process.pid
        assert first["verified"]["uid"] == os.geteuid()
        assert (second["state"], second["claimed"]) == ("waits", "bob\x1b[2J")
        code, out, _ = run(capsys, "who", process.address)
        assert code == 0
        head, *lines = out.splitlines()
        assert head.split() == ["CONNECTION", "STATE", "FOR", "VERIFIED", "SAYS"]
        assert f"uid {os.geteuid()}, pid {ada.process.pid}" in lines[0]
        assert lines[0].endswith("ada")
        assert lines[1].endswith(r"bob\x1b[2J")
        assert run(capsys, "who", process.address, "extra")[0] == 2


def test_a_command_can_fail_instead_of_waiting_or_use_what_is_read_only(
    tmp_path: Path, start: Callable[..., Client], capsys: pytest.CaptureFixture[str]
) -> None:
    with shared(tmp_path) as process:
        ada = start(process, "ada")
        ada.until_in()
        code, _, err = run(capsys, "call", process.address, "note", "x", "--no-wait")
        assert code == 1
        assert ", says 'ada' since " in err
        assert "to wait for it, connect without --no-wait, " in err
        code, out, _ = run(capsys, "call", process.address, "lines", "--no-claim")
        assert (code, out) == (0, "reset\nada\n")
        code, _, err = run(capsys, "call", process.address, "note", "x", "--no-claim")
        assert code == 1
        assert "this one has not claimed it; held by uid" in err
        assert run(capsys, "ls", process.address)[0] == 0
        ada.leave()
        assert run(capsys, "call", process.address, "note", "x", "--no-wait")[0] == 0


def test_a_command_that_waits_says_for_whom(
    tmp_path: Path, ledger: Path, start: Callable[..., Client]
) -> None:
    with shared(tmp_path) as process:
        ada = start(process, "ada")
        ada.until_in()
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "jumpstarter", "call", process.address, "note", "call"]
        with running(command, stdout=pipe, stderr=pipe) as waiting:
            place = Client(waiting).until_waits()
            assert ", says 'ada' since " in place
            assert place.endswith(", you are next\n")
            ada.leave()
            assert waiting.wait(PATIENCE) == 0
    assert ledger_of(ledger) == ["reset", "ada", "reset", "call"]


def test_the_programs_of_a_shell_share_its_session(
    tmp_path: Path, ledger: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with shared(tmp_path) as process:
        program = "j note one; j note two; jumpstarter who -o name; jumpstarter call note three"
        environment = os.environ.get("PATH", os.defpath)
        scripts = str(Path(sys.executable).parent)
        command = [sys.executable, "-m", "jumpstarter", "shell", "--address", process.address]
        done = subprocess.run(
            [*command, "--", "sh", "-ec", program],
            env={**os.environ, "PATH": f"{scripts}{os.pathsep}{environment}"},
            timeout=PATIENCE,
            check=False,
        )
    said = capfd.readouterr()
    assert done.returncode == 0, said.err
    assert said.out.strip().isdecimal()  # one claim: that of the shell
    assert ledger_of(ledger) == ["reset", "one", "two", "three"]


def test_the_programs_of_a_shell_without_a_turn_claim_none(
    tmp_path: Path, ledger: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "test_board.py"
    test.write_text("def test_board(device): device.call('note', 'four')\n")
    program = (
        "! j note one; j lines; ! jumpstarter call note two; jumpstarter call lines; "
        f"! {sys.executable} -m pytest -q -p no:cacheprovider -p no:randomly {test}; "
        "jumpstarter shell --address $JUMPSTARTER_HOST -- j lines"
    )
    with shared(tmp_path) as process, jumpstarter.connect(process.address, name="ada") as ada:
        ada.call("note", "ada")
        command = ("shell", "--address", process.address, "--no-claim", "--", "sh", "-ec", program)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        done = subprocess.run(
            [sys.executable, "-m", "jumpstarter", *command],
            # Of a shell around this one; it is not for the program.
            env={**os.environ, "PATH": path, "JMP_SESSION": "key"},
            timeout=PATIENCE,
            check=False,
        )
        said = capfd.readouterr()
        assert done.returncode == 0, said.err
        assert said.out.count("reset\nada\n") == 3
        refusals = (said.out + said.err).count("this one has not claimed it")
        assert refusals >= 3, said  # pytest shows one more than once
        assert "1 failed" in said.out
        assert "waiting for" not in said.err
        ada.call("note", "still")
    assert ledger_of(ledger) == ["reset", "ada", "still"]


def until_told(text: str) -> str:
    """Return a script that waits for a line on its stderr, which is a file."""
    told = f"grep -q '{text}' /proc/$$/fd/2"
    return f"n=0; until {told}; do n=$((n+1)); [ $n -lt 600 ] || exit 9; sleep 0.1; done"


def test_the_user_of_a_shell_is_told_when_the_session_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    program = (
        "jumpstarter kick $JUMPSTARTER_HOST; ! j note one; "
        f"{until_told('start a new shell')}; exit 7"
    )
    with shared(tmp_path) as process:
        command = ("--address", process.address, "--log-level", "error", "--", "sh", "-c", program)
        code = main(["shell", *command])
    said = capfd.readouterr()
    assert code == 7  # the program's own
    start = f"the session at {process.address} is over: the session was ended by uid "
    [ended] = [line for line in said.err.splitlines() if line.startswith(start)]
    assert ended.endswith("; exit, and start a new shell")
    refusal = next(line for line in said.err.splitlines() if line.startswith("j: "))
    assert "the session to join has ended: the session was ended by uid " in refusal


def test_the_user_of_a_shell_is_warned_before_the_session_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    with shared(tmp_path) as process:

        def warn_soon() -> None:
            fifo.read_bytes()  # until the program runs
            goes_on = SimpleNamespace(finished=trio.Event())
            channel: Any = SimpleNamespace(name=process.address, connection=goes_on)
            trio.run(warn, channel, 0.01)

        warns = threading.Thread(target=warn_soon, daemon=True)
        warns.start()
        program = f"echo > {fifo}; {until_told('ends this session in')}"
        command = ("--address", process.address, "--log-level", "error", "--", "sh", "-c", program)
        assert main(["shell", *command]) == 0
        warns.join(PATIENCE)
    assert f"the exporter at {process.address} ends this session in" in capfd.readouterr().err


def test_the_user_of_an_interactive_shell_is_told_when_the_session_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", "jumpstarter", "shell", "--address"]
    environment = {**os.environ, "SHELL": shutil.which("bash") or "/bin/sh", "TERM": "dumb"}
    with (
        shared(tmp_path) as process,
        user() as someone,
        at_a_terminal(someone, [*arguments, process.address], env=environment) as job,
    ):
        someone.see("➤ ".encode())
        assert run(capsys, "kick", process.address)[0] == 0
        someone.see(f"\r\nthe session at {process.address} is over: ".encode())
        someone.see(b"; exit, and start a new shell")
        someone.type(b"exit 3\n")
        assert job.wait() == 3


def test_a_refused_turn_is_of_one_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with shared(tmp_path) as process:
        monkeypatch.setenv("JMP_NO_CLAIM", "1")
        monkeypatch.setenv("JUMPSTARTER_HOST", process.address)
        assert run(capsys, "call", "note", "one")[0] == 1
        with env() as board, pytest.raises(CallRefused, match="this one has not claimed it"):
            board.call("note", "two")
        monkeypatch.setenv("JUMPSTARTER_HOST", "unix:/of/another")
        assert run(capsys, "call", process.address, "note", "three")[0] == 0


def test_a_configuration_can_ask_for_exclusive_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(
        "metadata: {name: lab}\nexclusive: true\nmaxSession: 1h30m\n"
        f"export: {{board: {{type: {LEDGER.replace(':', '.')}}}}}\n"
    )
    address = f"unix:{tmp_path}/socket"
    options = ("--exporter-config", str(file), "--address", address)
    environment = {"LEDGER": f"{tmp_path}/ledger"}
    with (
        exporter_command("run", *options, environment=environment) as process,
        jumpstarter.connect(process.address, name="ada"),
    ):
        assert [row["state"] for row in who(capsys, process)] == ["holds"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--max-session", "2h"], "--max-session is for an exporter in exclusive use"),
        (["--operator", "ops"], "--operator is for an exporter in exclusive use: add"),
        (["--max-session=2h", "--operator=ops"], "--max-session and --operator are for an"),
        (["--exclusive", "--operator", "ops"], "give --tls-client-ca"),
        (["--exclusive", "--max-session", "soon"], "is not a duration"),
    ],
)
def test_options_that_have_no_effect_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], text: str
) -> None:
    command = ["serve", LEDGER, "--address", f"unix:{tmp_path}/socket", *options]
    done = subprocess.run(
        [sys.executable, "-m", "jumpstarter", *command], cwd=TESTS, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert text in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--exclusive", "--excl", "--e", "--excl=left"])
def test_the_option_for_exclusive_use_can_be_abbreviated(option: str) -> None:
    arguments = with_values(["--address", "unix:/socket", option, LEDGER])
    options = make_parser().parse_args(arguments)
    assert options.exclusive == [option.partition("=")[2]]
    assert options.driver == LEDGER


def test_an_exporter_that_is_shared_has_no_holder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with shared(tmp_path, exclusive=False) as process:
        for command in ("who", "kick"):
            code, _, err = run(capsys, command, process.address)
            assert code == 1
            assert "is not in exclusive use: its clients share it" in err


def test_commands_that_need_no_turn_have_no_options_for_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--no-wait", "--no-claim")
    for command in ("who", "kick"):
        shown = run(capsys, command, "--help")[1]
        assert "--token-file FILE" in shown
        assert not any(each in shown for each in options)
        for each in options:
            code, _, err = run(capsys, command, "unix:/no/such/socket", each)
            assert code == 2
            assert f"No such option: {each}" in err or f"No such option '{each}'" in err
    shown = run(capsys, "call", "--help")[1]
    assert all(each in shown for each in options)


def test_nobody_is_kicked_if_nobody_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with shared(tmp_path) as process:
        code, _, err = run(capsys, "kick", process.address)
        assert code == 1
        assert "nobody holds the exporter" in err
        code, _, err = run(capsys, "kick", process.address, "left")
        assert code == 1
        assert "there is no board 'left'; the whole exporter is in exclusive use" in err


def test_a_certificate_names_the_holder_and_the_operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    for name in ("ada", "ops"):
        pem = authority.issue_cert(f"{name}@lab", common_name=name).private_key_and_cert_chain_pem
        pem.write_to_path(str(tmp_path / f"{name}.pem"))

    def access(name: str) -> list[str]:
        return ["--tls-ca", f"{tmp_path}/ca.pem", "--tls-cert", f"{tmp_path}/{name}.pem"]

    options = ("--address", "tls://localhost:0", "--tls-cert", f"{tmp_path}/server.pem")
    terms = ("--tls-client-ca", f"{tmp_path}/ca.pem", "--operator", "ops")
    with shared(tmp_path, *options, *terms) as process, ExitStack() as stack:
        code, _, err = run(capsys, "kick", process.address, *access("ada"))
        assert (code, "--operator names" in err) == (1, True)  # whether somebody holds it or not
        command = [sys.executable, "-m", "jumpstarter", "shell", "--address", process.address]
        holder = stack.enter_context(
            running(
                [*command, *access("ada"), "--", "sh", "-c", "echo in; cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        Client(holder).until_in()
        code, out, _ = run(capsys, "who", process.address, *access("ada"), "-o", "json")
        assert code == 0
        assert ["commonName", "ada"] in json.loads(out)[0]["verified"]["subject"]
        code, out, _ = run(capsys, "who", process.address, *access("ada"))
        assert "commonName=ada" in out
        code, _, err = run(capsys, "kick", process.address, *access("ada"))
        assert code == 1
        assert "--operator names" in err
        code, out, _ = run(capsys, "kick", process.address, *access("ops"))
        assert (code, out[:20]) == (0, "ended the session of")
        code, out, _ = run(capsys, "who", process.address, *access("ops"), "-o", "json")
        assert json.loads(out) == []


ENTRY = {
    "connection": 1,
    "state": "holds",
    "verified": {"uid": 0, "subject": [["commonName", "ada"]]},
    "claimed": "ada",
    "agent": "",
    "seconds": 1.5,
    "joined": 0,
    "calls": [],
}


@pytest.mark.parametrize(
    "wrong",
    [{"connection": "1"}, {"verified": {"subject": 7}}, {"verified": {"subject": [7]}}, None],
    ids=repr,
)
def test_an_entry_that_cannot_be_read_is_an_error(wrong: dict[str, Any] | None) -> None:
    assert _checked(ENTRY) == ENTRY
    with pytest.raises(DriverError, match="cannot be read"):
        _checked(None if wrong is None else {**ENTRY, **wrong})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[str]:
    """Serve two boards that are used independently, and a lamp; yield the address."""
    file = tmp_path / "bench.yaml"
    rail = "{children: {rail: {type: MockPower}}}"
    file.write_text(
        "metadata: {name: bench}\nexclusive: [left]\n"
        f"export: {{left: {rail}, right: {rail}, lamp: {{type: MockPower}}}}\n"
    )
    options = ("--exporter-config", str(file), "--address", f"unix:{tmp_path}/socket")
    boards = ("--exclusive=left", "--exclusive=right")  # instead of the configuration's
    with exporter_command("run", *options, *boards) as process:
        yield process.address


def test_commands_use_a_board_while_another_client_uses_another(
    bench: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with jumpstarter.connect(bench, claim="left", name="ada"):
        assert run(capsys, "call", bench, "right.rail.on")[0] == 0
        assert run(capsys, "call", bench, "lamp.on")[0] == 0
        code, _, err = run(capsys, "call", "--no-wait", bench, "left.rail.on")
        assert (code, "left is held by" in err) == (1, True)
        code, _, err = run(capsys, "call", "--claim", "right", bench, "left.rail.on")
        assert (code, "left is held by" in err) == (1, True)
        code, _, err = run(capsys, "call", "--claim", "r", "--no-claim", bench, "lamp.on")
        assert (code, "--claim and --no-claim exclude each other" in err) == (2, True)
        monkeypatch.setenv("JUMPSTARTER_HOST", bench)
        monkeypatch.setenv("JMP_CLAIM", "right")
        with env() as client:
            client.children["right"].children["rail"].call("on")
            code, out, _ = run(capsys, "who", bench)
            assert out.split()[:2] == ["CONNECTION", "SUBTREE"]
            code, _, err = run(capsys, "kick", bench)
            assert (code, "the boards are left, right (left is held by" in err) == (1, True)
            code, out, _ = run(capsys, "kick", bench, "right")
            assert (code, out.endswith(", at right\n")) == (0, True)
            assert out.startswith(f"ended the session of uid {os.getuid()}, pid {os.getpid()}")
            with pytest.raises(CallRefused, match="the session was ended by"):
                client.children["right"].children["rail"].call("on")
        code, _, err = run(capsys, "kick", bench, "lamp")
        assert (code, "there is no board 'lamp'; the boards are" in err) == (1, True)
        code, _, err = run(capsys, "kick", bench, "right")
        assert (code, "nobody holds right" in err) == (1, True)
        shell = ("shell", "--claim", "right", "--address", bench, "--")
        assert run(capsys, *shell, "j", "right", "rail", "on")[0] == 0
    other = ("-m", "jumpstarter", "call", "--claim", "left", bench, "left.rail.on")
    assert run(capsys, *shell, sys.executable, *other)[0] == 0


def test_boards_and_the_whole_exporter_exclude_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--exclusive", "--exclusive=left", LEDGER, "--address", f"unix:{tmp_path}/socket")
    assert run(capsys, "serve", *words)[0] == 2
