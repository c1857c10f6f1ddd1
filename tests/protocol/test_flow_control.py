"""Tests of credit: its three rules, no stall, no overrun, and a balanced budget."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jumpstarter._protocol.flow_control import (
    GRANTS,
    ITEM_COST,
    MAX_CREDIT,
    Budget,
    ReceiveWindow,
    SendWindow,
)

PLENTY = 10**9


def window(initial: int = 100, limit: int = 1000, budget: Budget | None = None) -> ReceiveWindow:
    return ReceiveWindow(initial, limit, budget or Budget(PLENTY))


# ----------------------------------------------------------------- rule 1: half a window at a time


def test_credit_is_returned_once_half_a_window_was_read() -> None:
    slow = window(initial=100, limit=100)
    slow.receive(100)
    assert [slow.consume(10) for _ in range(10)] == [0, 0, 0, 0, 50, 0, 0, 0, 0, 50]


@given(st.integers(1, 10_000), st.data())
def test_credit_is_returned_in_full_but_not_before_half_a_window(
    size: int, data: st.DataObject
) -> None:
    fixed = window(initial=size, limit=size)
    fixed.receive(size)
    unread, held = size, 0
    while unread:
        amount = data.draw(st.integers(1, unread))
        unread -= amount
        held += amount
        delta = fixed.consume(amount)
        assert delta == (held if held * 2 >= size else 0)
        held -= delta


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_smallest_windows_return_credit_for_the_first_byte_or_two(size: int) -> None:
    tiny = window(initial=size, limit=size)
    tiny.receive(size)
    assert sum(tiny.consume(1) for _ in range(size)) * 2 >= size


def test_received_bytes_use_credit_and_may_overshoot() -> None:
    one = window(initial=100)
    one.receive(70)
    assert one.available == 30
    one.receive(50)
    assert one.available == -20  # the caller decides: an ITEM may overshoot, DATA may not


# ------------------------------------------------ rule 2: a window grows while its reader keeps up


def test_a_window_doubles_when_nothing_is_left_to_read() -> None:
    quick = window(initial=100, limit=1000)
    deltas, sizes = [], []
    for _ in range(5):
        amount = quick.available
        quick.receive(amount)
        deltas.append(quick.consume(amount))
        sizes.append(quick.size)
    assert sizes == [200, 400, 800, 1000, 1000]
    assert deltas == [200, 400, 800, 1000, 1000]  # the bytes that were read, and the growth
    assert quick.available == 1000


def test_a_window_stays_as_it_is_while_something_is_left_to_read() -> None:
    behind = window(initial=100, limit=1000)
    behind.receive(100)
    assert behind.consume(99) == 99
    behind.receive(99)
    assert behind.consume(99) == 99
    assert behind.size == 100


# --------------------------------------------------------- rule 3: one budget for the connection


def test_no_window_grows_once_the_budget_is_used_up() -> None:
    budget = Budget(350)
    first, second = window(100, 1000, budget), window(100, 1000, budget)
    for one in (first, second):
        one.receive(100)
    assert first.consume(100) == 200
    assert second.consume(100) == 100  # 100 are wanted, and 50 are left
    assert (first.size, second.size, budget.left) == (200, 100, 50)
    first.close()
    second.receive(100)
    assert second.consume(100) == 200


def test_the_first_windows_are_promised_and_may_overdraw_the_budget() -> None:
    budget = Budget(150)
    windows = [window(100, 1000, budget) for _ in range(3)]
    assert budget.left == -150
    windows[0].receive(100)
    assert windows[0].consume(100) == 100
    for one in windows:
        one.close()
    assert budget.left == 150


def test_a_budget_never_grants_more_than_it_has() -> None:
    budget = Budget(10)
    assert budget.reserve(10)
    assert not budget.reserve(1)
    assert budget.left == 0


@given(st.integers(0, 5000), st.lists(st.integers(0, 4), max_size=60))
def test_the_budget_returns_to_where_it_began(total: int, reads: list[int]) -> None:
    budget = Budget(total)
    windows = [window(100, 1000, budget) for _ in range(5)]
    for index in reads:
        windows[index].receive(100)
        windows[index].consume(100)
        assert budget.left == total - sum(one.size for one in windows)
        assert budget.left >= min(0, total - 500)
    for one in windows:
        one.close()
    assert budget.left == total


# ----------------------------------------------------------------------------- the sender's side


def test_a_grant_adds_to_the_senders_credit() -> None:
    sending = SendWindow(10)
    assert sending.grant(5)
    assert sending.available == 15


def test_credit_beyond_the_wires_maximum_is_rejected() -> None:
    assert SendWindow(1).grant(MAX_CREDIT - 1)
    assert not SendWindow(1).grant(MAX_CREDIT)


def test_a_grant_first_compensates_an_overshoot() -> None:
    sending = SendWindow(10)
    sending.available -= 1000
    assert sending.grant(995)
    assert sending.available == 5


# ----------------------------------------------------------------------- both sides of one stream


@dataclass
class Stream:
    """A sender, a receiver, and the bytes and credit in transit between them."""

    sender: SendWindow
    receiver: ReceiveWindow
    sent: deque[int] = field(default_factory=deque)
    unread: int = 0
    credit: deque[int] = field(default_factory=deque)

    def send(self, amount: int) -> None:
        self.sender.available -= amount
        self.sent.append(amount)

    def arrive(self) -> None:
        amount = self.sent.popleft()
        self.receiver.receive(amount)
        self.unread += amount

    def read(self, amount: int) -> None:
        self.unread -= amount
        delta = self.receiver.consume(amount)
        if delta:
            self.credit.append(delta)

    def settle(self) -> None:
        """Deliver and read all bytes, and deliver all credit."""
        while self.sent:
            self.arrive()
        if self.unread:
            self.read(self.unread)
        while self.credit:
            assert self.sender.grant(self.credit.popleft())


class FlowControl(RuleBasedStateMachine):
    """Send, deliver and read bytes and items in any order, in portions of any size."""

    @initialize(size=st.integers(1, 300), factor=st.integers(1, 20), total=st.integers(0, 4000))
    def begin(self, size: int, factor: int, total: int) -> None:
        self.budget = Budget(total)
        self.total, self.first, self.limit = total, size, size * factor
        receiver = ReceiveWindow(size, self.limit, self.budget)
        self.stream = Stream(SendWindow(size), receiver)

    @precondition(lambda self: self.stream.sender.available > 0)
    @rule(data=st.data())
    def send_bytes(self, data: st.DataObject) -> None:
        self.stream.send(data.draw(st.integers(1, self.stream.sender.available)))

    @precondition(lambda self: self.stream.sender.available > 0)
    @rule(length=st.integers(0, 500))
    def send_item(self, length: int) -> None:
        self.stream.send(length + ITEM_COST)

    @precondition(lambda self: self.stream.sent)
    @rule()
    def arrive(self) -> None:
        # The receiver's check: credit is left when a message begins.
        assert self.stream.receiver.available > 0
        self.stream.arrive()

    @precondition(lambda self: self.stream.unread)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        self.stream.read(data.draw(st.integers(1, self.stream.unread)))

    @precondition(lambda self: self.stream.credit)
    @rule()
    def credit_arrives(self) -> None:
        assert self.stream.sender.grant(self.stream.credit.popleft())

    @rule()
    def a_reader_that_has_read_everything_never_leaves_the_sender_stuck(self) -> None:
        self.stream.settle()
        assert self.stream.sender.available == self.stream.receiver.available
        assert self.stream.sender.available * 2 > self.stream.receiver.size

    @invariant()
    def both_sides_agree_on_the_credit(self) -> None:
        sent, credit = sum(self.stream.sent), sum(self.stream.credit)
        assert self.stream.sender.available == self.stream.receiver.available - sent - credit

    @invariant()
    def a_window_grows_within_its_limit_and_the_budget(self) -> None:
        size = self.stream.receiver.size
        assert size <= self.limit
        assert self.budget.left == self.total - size
        assert self.budget.left >= 0 or size == self.first

    def teardown(self) -> None:
        if hasattr(self, "stream"):
            self.stream.receiver.close()
            assert self.budget.left == self.total


TestFlowControl = FlowControl.TestCase


def test_grants_are_counted_against_the_frames_that_were_sent() -> None:
    window = SendWindow(100)
    for _ in range(GRANTS):
        assert window.grant(1)
    assert (window.grants, window.available) == (0, 100 + GRANTS)
    window.spend(50, frames=2)
    assert (window.grants, window.available) == (2 * GRANTS, 50 + GRANTS)
    window.grant(1)
    assert window.grants == 2 * GRANTS - 1


def test_returned_credit_never_exceeds_the_wires_maximum() -> None:
    """The largest possible windows: the window's size bounds a peer's credit."""
    receiver = ReceiveWindow(MAX_CREDIT // 2, MAX_CREDIT, Budget(2**40))
    sender = SendWindow(MAX_CREDIT // 2)
    for _ in range(5):
        amount = sender.available
        sender.spend(amount, 1)
        receiver.receive(amount)
        assert sender.grant(receiver.consume(amount))
        assert 0 < sender.available == receiver.available <= MAX_CREDIT
