"""Slots of Python classes, read by where they lie."""

from __future__ import annotations

import types
from typing import Any

import pytest

from jumpstarter import _members


class Base:
    __slots__ = ("first", "second")

    first: object
    second: object


class Derived(Base):
    __slots__ = ("third",)

    third: object


class Other:
    __slots__ = ("first",)

    plain = "an attribute of the class"

    @property
    def second(self) -> object:
        return None


def member(owner: type, name: str) -> _members.Member:
    found = _members.member_of(owner, name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_a_slot_is_read_as_by_its_name(name: str) -> None:
    derived = Derived()
    for value in (None, "text", object()):
        setattr(derived, name, value)
        assert member(Derived, name).get(derived) is value


def test_a_slot_belongs_to_the_class_that_defines_it_and_those_derived_of_it() -> None:
    base = Base()
    base.first = value = object()
    assert member(Derived, "first").get(base) is value
    for wrong in (Other(), None, Base):
        with pytest.raises(TypeError, match="is not a Base"):
            member(Derived, "first").get(wrong)


def test_an_empty_slot_raises_what_an_attribute_would() -> None:
    with pytest.raises(AttributeError, match="Base"):
        member(Base, "first").get(Base())


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Other, "plain"),
        (Other, "second"),
        (Other, "missing"),
        (types.FunctionType, "__closure__"),  # a field of a class in C, which may be empty
        (types.SimpleNamespace(first=1), "first"),
        (None, "first"),
    ],
)
def test_what_is_no_slot_is_not_found(owner: Any, name: str) -> None:
    assert _members.member_of(owner, name) is None


def test_a_member_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match="member_of"):
        _members.Member()
