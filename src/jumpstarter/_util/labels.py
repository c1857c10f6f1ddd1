"""The labels in which a report has a driver's client class and name, and the attribute `name`."""

from __future__ import annotations

from typing import Any, Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CLIENT_LABEL", "NAME_LABEL", "NameOfLabel"]

CLIENT_LABEL: Final = "jumpstarter.dev/client"
NAME_LABEL: Final = "jumpstarter.dev/name"


class NameOfLabel:
    """The name in the labels of a driver or client, as its attribute `name`.

    It has no `__set__`, and no value on the class itself, so that a subclass may have a field of
    this name.
    """

    def __get__(self, instance: Any, owner: type) -> str:
        if instance is None:
            text = f"type object {owner.__name__!r} has no attribute 'name'"
            raise AttributeError(text, name="name", obj=owner)
        name: str = instance.labels.get(NAME_LABEL, "unknown")
        return name
