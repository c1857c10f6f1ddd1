"""The places of an exporter: few for strangers, more for clients, and all of them given back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jumpstarter._exporter.admission import AdmissionControl


class Someone:
    """A connection that hangs up when it is asked to."""

    def __init__(self, door: AdmissionControl) -> None:
        self.admission = door
        self.gave_way = False

    def evict(self) -> None:
        self.gave_way = True


def arrived(door: AdmissionControl, count: int) -> list[Someone]:
    guests = [Someone(door) for _ in range(count)]
    for guest in guests:
        door.arrive(guest)
    return guests


def test_the_one_who_has_waited_longest_gives_way_to_the_next() -> None:
    door = AdmissionControl(inside=10, outside=3)
    guests = arrived(door, 5)
    assert [guest.gave_way for guest in guests] == [True, True, False, False, False]


def test_who_was_admitted_takes_no_place_outside_and_never_gives_way() -> None:
    door = AdmissionControl(inside=10, outside=2)
    (friend,) = arrived(door, 1)
    assert door.admit(friend)
    arrived(door, 20)
    assert not friend.gave_way


def test_who_gave_way_is_not_admitted_any_more() -> None:
    door = AdmissionControl(inside=10, outside=1)
    slow, _ = arrived(door, 2)
    assert slow.gave_way
    assert not door.admit(slow)


def test_who_was_refused_gives_way_first_and_stays_until_then() -> None:
    door = AdmissionControl(inside=10, outside=3)
    guests = arrived(door, 3)
    door.refuse(guests[1])
    assert not any(guest.gave_way for guest in guests)
    guests += arrived(door, 1)
    assert [guest.gave_way for guest in guests] == [False, True, False, False]
    assert not door.admit(guests[1])
    assert door.admit(guests[0])


def test_who_gave_way_cannot_be_refused_into_a_place() -> None:
    door = AdmissionControl(inside=10, outside=1)
    first, second = arrived(door, 2)
    door.refuse(first)
    (third,) = arrived(door, 1)
    assert second.gave_way
    assert not third.gave_way


def test_no_more_are_admitted_than_there_are_places_inside() -> None:
    door = AdmissionControl(inside=2, outside=10)
    guests = arrived(door, 4)
    assert [door.admit(guest) for guest in guests] == [True, True, False, False]
    assert not any(guest.gave_way for guest in guests)
    door.leave(guests[0])
    assert door.admit(guests[2])


def test_leaving_gives_the_place_back_whichever_it_was() -> None:
    door = AdmissionControl(inside=1, outside=1)
    for admitted in (True, False, True, False):
        (guest,) = arrived(door, 1)
        assert not admitted or door.admit(guest)
        door.leave(guest)
        door.leave(guest)
        assert not guest.gave_way


@given(st.lists(st.sampled_from(["arrive", "admit", "refuse", "leave"]), max_size=60), st.data())
def test_there_are_never_more_than_the_places(steps: list[str], data: st.DataObject) -> None:
    door = AdmissionControl(inside=3, outside=2)
    outside: list[Someone] = []
    inside: list[Someone] = []
    refused: list[Someone] = []
    for step in steps:
        if step == "arrive":
            outside += arrived(door, 1)
            outside = [guest for guest in outside if not guest.gave_way]
            refused = [guest for guest in refused if not guest.gave_way]
        elif step == "admit" and outside:
            guest = data.draw(st.sampled_from(outside))
            assert door.admit(guest) == (len(inside) < 3)
            if len(inside) < 3:
                outside.remove(guest)
                inside.append(guest)
        elif step == "refuse" and outside:
            door.refuse(guest := outside.pop())
            refused.append(guest)
        elif step == "leave" and (groups := [each for each in (outside, inside, refused) if each]):
            door.leave(data.draw(st.sampled_from(groups)).pop())
        assert len(outside) + len(refused) <= 2
        assert not any(guest.gave_way for guest in inside)
