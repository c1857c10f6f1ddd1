"""Tests of admission control: few slots for pending connections, more for clients, none leaks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jumpstarter._exporter.admission import AdmissionControl


class FakeConnection:
    """A connection that records its eviction."""

    def __init__(self, control: AdmissionControl) -> None:
        self.admission = control
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True


def arrived(control: AdmissionControl, count: int) -> list[FakeConnection]:
    connections = [FakeConnection(control) for _ in range(count)]
    for connection in connections:
        control.arrive(connection)
    return connections


def test_a_new_connection_evicts_the_oldest_pending_one() -> None:
    control = AdmissionControl(max_admitted=10, max_pending=3)
    connections = arrived(control, 5)
    assert [connection.evicted for connection in connections] == [True, True, False, False, False]


def test_an_admitted_connection_takes_no_pending_slot_and_is_never_evicted() -> None:
    control = AdmissionControl(max_admitted=10, max_pending=2)
    (client,) = arrived(control, 1)
    assert control.admit(client)
    arrived(control, 20)
    assert not client.evicted


def test_an_evicted_connection_cannot_be_admitted() -> None:
    control = AdmissionControl(max_admitted=10, max_pending=1)
    slow, _ = arrived(control, 2)
    assert slow.evicted
    assert not control.admit(slow)


def test_a_rejected_connection_is_evicted_first_and_stays_until_then() -> None:
    control = AdmissionControl(max_admitted=10, max_pending=3)
    connections = arrived(control, 3)
    control.reject(connections[1])
    assert not any(connection.evicted for connection in connections)
    connections += arrived(control, 1)
    assert [connection.evicted for connection in connections] == [False, True, False, False]
    assert not control.admit(connections[1])
    assert control.admit(connections[0])


def test_an_evicted_connection_cannot_be_rejected_into_a_slot() -> None:
    control = AdmissionControl(max_admitted=10, max_pending=1)
    first, second = arrived(control, 2)
    control.reject(first)
    (third,) = arrived(control, 1)
    assert second.evicted
    assert not third.evicted


def test_no_more_than_the_maximum_are_admitted() -> None:
    control = AdmissionControl(max_admitted=2, max_pending=10)
    connections = arrived(control, 4)
    assert [control.admit(connection) for connection in connections] == [True, True, False, False]
    assert not any(connection.evicted for connection in connections)
    control.leave(connections[0])
    assert control.admit(connections[2])


def test_leaving_frees_the_slot_in_each_state() -> None:
    control = AdmissionControl(max_admitted=1, max_pending=1)
    for is_admitted in (True, False, True, False):
        (connection,) = arrived(control, 1)
        assert not is_admitted or control.admit(connection)
        control.leave(connection)
        control.leave(connection)
        assert not connection.evicted


@given(st.lists(st.sampled_from(["arrive", "admit", "reject", "leave"]), max_size=60), st.data())
def test_there_are_never_more_connections_than_slots(steps: list[str], data: st.DataObject) -> None:
    control = AdmissionControl(max_admitted=3, max_pending=2)
    pending: list[FakeConnection] = []
    admitted: list[FakeConnection] = []
    rejected: list[FakeConnection] = []
    for step in steps:
        if step == "arrive":
            pending += arrived(control, 1)
            pending = [connection for connection in pending if not connection.evicted]
            rejected = [connection for connection in rejected if not connection.evicted]
        elif step == "admit" and pending:
            connection = data.draw(st.sampled_from(pending))
            assert control.admit(connection) == (len(admitted) < 3)
            if len(admitted) < 3:
                pending.remove(connection)
                admitted.append(connection)
        elif step == "reject" and pending:
            control.reject(connection := pending.pop())
            rejected.append(connection)
        elif step == "leave" and (
            groups := [each for each in (pending, admitted, rejected) if each]
        ):
            control.leave(data.draw(st.sampled_from(groups)).pop())
        assert len(pending) + len(rejected) <= 2
        assert not any(connection.evicted for connection in admitted)
