"""Describe the exporter, for the properties in JUnit XML."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from .._util.labels import CLIENT_LABEL, NAME_LABEL
from .._util.text import indent_text
from ..client import DriverClient

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["describe", "drivers", "walk"]

_MOST = 200  # drivers that are listed
_LENGTH = 1000  # characters of a value


def describe(client: DriverClient, name: str, *, from_environment: bool) -> list[tuple[str, str]]:
    """Return the properties of a connection, as names and values.

    Args:
        client: The client of the root driver.
        name: The exporter's name, if its configuration is known; otherwise empty.
        from_environment: True if the environment has the address, and may have the exporter's name
            and labels too, as in `jumpstarter shell`.
    """
    channel = client.channel.channel
    labels = {key: text for key, text in client.labels.items() if not _is_internal(key)}
    if from_environment:
        name = name or os.environ.get("JMP_EXPORTER", "")
        pairs = os.environ.get("JMP_EXPORTER_LABELS", "").split(",")
        labels |= dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    found = [
        ("jumpstarter.exporter", name or client.labels.get(NAME_LABEL, "") or channel.name),
        ("jumpstarter.address", channel.name),
        ("jumpstarter.description", client.description or ""),
    ]
    found += [(f"jumpstarter.label.{key}", text) for key, text in sorted(labels.items())]
    return [(key, indent_text(text, _LENGTH)) for key, text in found if text]


def drivers(client: DriverClient) -> list[tuple[str, str]]:
    """Return a property for each driver: its client class, and the version of its package here."""
    found: list[tuple[str, str]] = []
    for path, each in walk(client):
        if path and len(found) < _MOST:
            cls = type(each)
            name = each.labels.get(CLIENT_LABEL) or f"{cls.__module__}.{cls.__qualname__}"
            text = indent_text(f"{name}{_version(name)}", _LENGTH)
            found.append((f"jumpstarter.driver.{path}", text))
    return found


def _version(class_path: str) -> str:
    """Return the version of the distribution named like a class's package, after a blank."""
    try:
        return f" {version(class_path.partition('.')[0].replace('_', '-'))}"
    except (PackageNotFoundError, ValueError):
        return ""


def _is_internal(label: str) -> bool:
    return label in {CLIENT_LABEL, NAME_LABEL}


def walk(root: DriverClient) -> Iterator[tuple[str, DriverClient]]:
    """Yield the clients of a tree with their paths, parents first, without a limit to its depth."""
    waiting = [("", root)]
    while waiting:
        path, client = waiting.pop()
        yield path, client
        below = reversed(client.children.items())
        waiting += [(f"{path}.{name}".lstrip("."), child) for name, child in below]
