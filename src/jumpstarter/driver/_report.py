"""Describe a driver to its clients."""

from __future__ import annotations

import msgspec

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DriverReport"]


class DriverReport(msgspec.Struct, frozen=True, kw_only=True):
    """A driver's part of the report from which a client builds its tree.

    Attributes:
        uuid: The driver's uuid, in the usual form.
        parent_uuid: Its parent's, None for the root.
        labels: Its labels, with the path of its client class and its name among them.
        description: What it is for, or None.
        methods_description: The same for its methods, or for commands.
    """

    uuid: str
    parent_uuid: str | None
    labels: dict[str, str]
    description: str | None
    methods_description: dict[str, str]
