"""Tests of our exporter under short attacks, and unit tests of the attacker and its measurements.

The attacks' tests assert that the good client never fails, that the exporter survives with bounded
memory, and that its log contains no internal errors and no forbidden executions. They assert
nothing about speed, because a fraction of a second on a busy machine is too short to measure it;
`make hostile` does.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hostile import table
from hostile.__main__ import _extent, main
from hostile.attacker import Attacker, Cut, Over, attack
from hostile.attacks import ATTACKS, PEACE, Attack, Setting
from hostile.peer import Peer
from hostile.peer_ours import PEER
from hostile.preambles import CLIENT_HELLO, PREAMBLES
from hostile.target import Measured, Step, Target, _waited, prepare

SECONDS = 0.3
BOUND = 512.0  # MiB; twice the memory that one connection may occupy
SHORT = 1.0  # seconds: an attack that ends by its time
OURS = tuple(attack for attack in ATTACKS if attack.name in PEER.functions)
GOOD = Measured(
    frames=1000,
    connections=2,
    cuts=1,
    grew=1.0,
    logged=0.5,
    calls=[0.001] * 100,
    newcomers=[0.005] * 10,
    failures=[],
    died=False,
)


# --- the attacks ---


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile")
    prepare(path)
    return path


@pytest.fixture(scope="module")
def target(request: pytest.FixtureRequest, directory: Path) -> Iterator[Target]:
    """Run the exporter that all attacks on one setting share."""
    with Target.running(PEER, request.param, directory) as target:
        yield target


@pytest.mark.parametrize(
    ("target", "attack"),
    [pytest.param(attack.setting, attack, id=attack.name) for attack in OURS],
    indirect=["target"],
    scope="module",
)
def test_an_exporter_survives_and_its_good_client_never_fails(
    target: Target, attack: Attack
) -> None:
    assert target.alive, "it did not survive an earlier attack"
    measured = target.attacked(attack, SECONDS)
    print(table.line(attack, measured))
    assert target.alive
    assert measured.failures == []
    assert measured.calls
    assert measured.grew < BOUND
    log = target.log()
    assert "internal error" not in log
    assert "was executed" not in log


def test_every_attack_of_ours_is_told_of_and_none_is_left_out() -> None:
    names = {attack.name for attack in ATTACKS}
    assert set(PEER.functions) - names == set()
    assert names - set(PEER.functions) == {"decompression bomb"}
    assert len(names) == len(ATTACKS)


def test_there_are_twenty_other_protocols() -> None:
    assert len(set(PREAMBLES)) == 20
    assert int.from_bytes(CLIENT_HELLO[3:5], "big") == len(CLIENT_HELLO) - 5


# --- the attacker ---


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(5)
        yield sock


@pytest.fixture
def attacker(server: socket.socket) -> Iterator[Attacker]:
    attacker = Attacker(server.getsockname(), 5)
    yield attacker
    attacker.hang_up()


def test_what_it_sends_is_counted_once_it_has_left(
    attacker: Attacker, server: socket.socket
) -> None:
    line = attacker.dial()
    line.send(b"abc", 3)
    peer, _ = server.accept()
    with peer:
        assert peer.recv(10) == b"abc"
    assert (attacker.frames, attacker.connections, attacker.cuts) == (3, 1, 0)


def test_it_notices_that_it_was_cut_and_counts_that_once(
    attacker: Attacker, server: socket.socket
) -> None:
    line = attacker.dial()
    server.accept()[0].close()
    with pytest.raises(Cut):
        line.receive()
    with pytest.raises(Cut):
        line.receive()
    assert not line.alive
    assert attacker.cuts == 1


def test_who_holds_its_connections_sees_them_cut_without_reading(
    attacker: Attacker, server: socket.socket
) -> None:
    attacker.dial_many(3)
    for _ in range(3):
        peer, _ = server.accept()
        peer.send(b"unread")
        peer.close()
    attacker.hold()
    assert attacker.cuts == 3


def test_a_flood_ends_with_its_time_though_nobody_reads(server: socket.socket) -> None:
    attacker = Attacker(server.getsockname(), SHORT)
    line = attacker.dial(4096)
    with pytest.raises(Over):
        line.flood(bytes(2**20), 1)
    attacker.hang_up()


def test_an_attack_comes_back_until_its_time_is_over(server: socket.socket) -> None:
    attacker = Attacker(server.getsockname(), SHORT)
    rounds = 0

    def function(attacker: Attacker) -> None:
        nonlocal rounds
        attacker.dial()
        rounds += 1
        server.accept()[0].close()  # makes room for the next one
        raise Cut

    attack(function, attacker)
    assert rounds > 1
    assert attacker.connections == rounds


def test_one_that_is_not_let_in_is_cut(server: socket.socket) -> None:
    attacker = Attacker(server.getsockname(), 5)
    server.close()
    with pytest.raises(Cut):
        attacker.dial()
    attacker.hang_up()


# --- measurements ---


def test_a_slow_call_counts_for_those_that_it_kept_from_being_made() -> None:
    steps = [Step("call", 0.0, 0.035, ""), Step("newcomer", 0.0, 0.01, "")]
    assert _waited(steps, "call") == pytest.approx([0.035, 0.025, 0.015, 0.005])
    assert _waited(steps, "newcomer") == [0.01]
    assert _waited([Step("call", 0.0, 5.0, "too late")], "call") == []


def test_a_server_that_dies_is_seen(directory: Path) -> None:
    with Target.running(PEER, "plain", directory) as target:
        timer = threading.Timer(0.1 * SHORT, target.kill)
        timer.start()
        measured = target.attacked(PEACE, 2 * SHORT)
        timer.join()
    assert measured.died
    assert measured.failures
    assert table.verdict(measured) == "died"


def test_a_server_that_does_not_begin_is_told_of(directory: Path) -> None:
    def command(_: Setting, __: Path) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit('no such luck')"]

    peer: Peer = replace(PEER, command=command)
    with (
        pytest.raises(RuntimeError, match=r"jumpstarter is not ready: '';.*no such luck"),
        Target.running(peer, "plain", directory),
    ):
        pass


# --- the tables ---


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (GOOD, "ok"),
        (replace(GOOD, calls=[0.001] * 98 + [0.5] * 2), "slow (500 ms)"),
        (replace(GOOD, newcomers=[0.3]), "slow to connect (300 ms)"),
        (replace(GOOD, grew=16.5), "grew (16 MiB)"),
        (replace(GOOD, failures=["call: no", "call: no"]), "failed (2)"),
        (replace(GOOD, failures=["x"], grew=99.0), "failed (1), grew (99 MiB)"),
        (replace(GOOD, failures=["x"], died=True), "died"),
    ],
)
def test_a_verdict_says_all_that_was_not_well(measured: Measured, expected: str) -> None:
    assert table.verdict(measured) == expected


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(100)]
    assert table.percentile(values, 0.5) == 50.0
    assert table.percentile(values, 0.99) == 99.0
    assert table.percentile([7.0], 0.99) == 7.0
    assert table.percentile([], 0.99) == 0.0


def test_a_comparison_has_a_column_for_each_server() -> None:
    other = Attack("other", "A2", "else")
    results: dict[str, dict[str, Measured | None]] = {
        "ours": {"peace": GOOD, "other": GOOD},
        "theirs": {"peace": None},
    }
    lines = table.comparison((PEACE, other), results).splitlines()
    assert lines[0] == "| attack | row | what it does | ours | theirs |"
    assert lines[1] == "|---|---|---|---|---|"
    assert lines[2].endswith("| ok | n/a |")
    assert lines[3] == "| other | A2 | else | ok | n/a |"


def test_where_peace_was_slow_the_table_says_that_the_machine_was() -> None:
    slow = replace(GOOD, calls=[0.5])
    assert table.caveat({"ours": GOOD, "theirs": None}) == ""
    assert "busy to say who was slow: theirs had" in table.caveat({"ours": GOOD, "theirs": slow})


def test_all_cells_of_a_line_have_a_head() -> None:
    line = table.line(PEACE, GOOD)
    assert line.count("|") == table.HEAD.splitlines()[0].count("|")


# --- the command line ---


def test_it_runs_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "figures.json"
    seconds = str(SECONDS)
    options = ["--only", "ping flood", "--only", "decompression bomb", "--peer", "jumpstarter"]
    assert main([*options, "--seconds", seconds, "--json", str(raw)]) == 0
    shown = capsys.readouterr().out
    extent = "2 attacks x 1 peers (jumpstarter), 1 of which can be made: less than a minute"
    assert shown.splitlines()[1] == extent
    assert "| ping flood | A3 |" in shown
    assert "| n/a |" in shown
    (figures,) = json.loads(raw.read_text())["peers"]["jumpstarter"]
    assert figures["attack"] == "ping flood"
    assert figures["frames"] > 0
    assert figures["failures"] == []


def test_it_says_how_long_it_will_take() -> None:
    assert _extent([PEACE] * 30, [PEER, PEER], 3.5).endswith("60 of which can be made: about 6 min")


def test_it_says_at_once_that_the_machine_is_too_busy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "MAX_WAIT", 0.0)
    assert main(["--only", "peace", "--peer", "jumpstarter", "--seconds", str(SECONDS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    [place] = [number for number, line in enumerate(lines) if line.startswith("| peace | - | 0")]
    busy = "The machine was too busy to say who was slow: jumpstarter had no peace."
    assert lines[place + 1] == f"<!-- {busy} -->"
    assert lines[-1] == busy


def test_an_unknown_attack_is_answered_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--only", "magic"]) == 2
    assert "slow-loris" in capsys.readouterr().out
