"""Test that short runs of the fuzzer pass for every target, and that it finds injected faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fuzz import __main__ as fuzz
from fuzz import framing, live, rules
from fuzz.campaign import Target, run, smallest
from fuzz.mutation import Mutator
from jumpstarter._framing import scan
from jumpstarter._protocol.send_queue import SendQueue
from jumpstarter.errors import Code
from wire import PYTHON_RULES

SHORT = 300  # cases


@pytest.mark.parametrize("target", fuzz.TARGETS, ids=lambda target: target.name)
def test_a_few_cases_find_nothing(target: Target) -> None:
    report = run(target, "short", 60, SHORT)
    assert report.error is None, report
    assert report.cases == SHORT
    assert report.units > SHORT


def test_an_exporter_outlives_a_few_batches() -> None:
    with live.ServerContext() as exporter:
        target = Target("live", "connections", live.batches, exporter.check)
        report = run(target, "short", 60, 5)
    assert report.error is None, report
    assert report.units == 5 * live.CONNECTIONS


@pytest.mark.parametrize(
    "cases", [framing.streams, framing.messages, rules.to_client, live.batches]
)
def test_a_seed_makes_the_same_cases_again(
    cases: Callable[[Mutator], Iterator[list[bytes]]],
) -> None:
    one, same, other = (cases(Mutator(seed)) for seed in ("1", "1", "2"))
    first = [next(one) for _ in range(20)]
    assert [next(same) for _ in range(20)] == first
    assert [next(other) for _ in range(20)] != first


def test_the_cases_reach_all_that_can_happen() -> None:
    """The cases include valid and invalid values, and most events of both roles."""
    messages = framing.messages(Mutator("1"))
    verdicts = {framing.judged(m, framing.NARROW) for _ in range(500) for m in next(messages)}
    assert {Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, 1, 2, 18, 19} <= verdicts
    for target, role in ((rules.to_server, rules.Server), (rules.to_client, rules.Client)):
        seen: set[str] = set()
        frames = target(Mutator("1"))
        for _ in range(500):
            heard = role().listen(*_split(next(frames)))
            seen.update(type(event).__name__ for event in heard)
        assert len(seen) >= 8, seen


def _split(frames: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    return [b"".join(frames[1:])], frames[:1]


def wrong_about_maps(batch: list[bytes]) -> int:
    for message in batch:
        if b"\xdf" in message:
            scan(b"\xdf" + bytes(3), 1, 1, 1)
    return len(batch)


def test_what_is_wrong_is_found_and_made_small() -> None:
    target = Target("maps", "messages", framing.messages, wrong_about_maps)
    report = run(target, "1", 60)
    assert report.case == [b"\xdf"]
    assert "cut short" in str(report.error)


@PYTHON_RULES
def test_a_fault_in_the_rules_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault keeps the credit of a slot that has ended, which only cases with CREDIT reveal."""
    add_message = SendQueue.add_message

    def keep_credit(
        self: SendQueue, type_: int, slot: int, buffer: bytearray, terminal: bool = False
    ) -> None:
        credit = self._credit.get(slot)
        add_message(self, type_, slot, buffer, terminal=terminal)
        if terminal and credit:
            self._credit[slot] = credit

    monkeypatch.setattr(SendQueue, "add_message", keep_credit)
    target = fuzz.TARGETS[2]
    report = run(target, "1", 60)
    assert isinstance(report.error, AssertionError)


def test_what_fails_for_two_pieces_together_keeps_both() -> None:
    def check(case: list[bytes]) -> int:
        assert not ({b"\x01", b"\x02"} <= {piece[:1] for piece in case})
        return 1

    case = [bytes([number, 9, 9]) for number in range(20)]
    assert smallest(case, check, float("inf")) == [b"\x01", b"\x02"]


@pytest.mark.parametrize("wrong", [False, True])
def test_the_command_says_what_it_did_and_how_to_do_it_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, wrong: bool
) -> None:
    target = Target("scan", "messages", framing.messages, wrong_about_maps)
    monkeypatch.setattr(fuzz, "TARGETS", (target,) if wrong else fuzz.TARGETS)
    monkeypatch.setattr("sys.argv", ["fuzz", "--target", "scan", "--seed", "7", "--seconds", "1"])
    assert fuzz.main() == wrong
    out, err = capfd.readouterr()
    assert out.startswith("seed 7\nscan ")
    assert ("seed 7: python -m fuzz --target scan --case df" in out) is wrong
    assert ("cut short" in err) is wrong
    monkeypatch.setattr("sys.argv", ["fuzz", "--target", "scan", "--case", "df,c0"])
    assert fuzz.main() == wrong
