"""List the drivers that installed packages register, by short names.

A package registers its drivers as entry points of the group `jumpstarter.drivers`. Reading them
imports nothing of these packages.
"""

from __future__ import annotations

import functools
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["GROUP", "dotted_path", "registered_drivers"]

GROUP: Final = "jumpstarter.drivers"
_OURS: Final = "jumpstarter.drivers."  # the package of this library's own drivers


def registered_drivers() -> dict[str, list[EntryPoint]]:
    """Return the registered drivers by name, in the order of their names.

    A name has several entry points if packages contradict each other. This library's own drivers
    give way to a package's of the same name, as `MockPower` to that of jumpstarter-driver-power.
    """
    return _read(tuple(sys.path))


@functools.lru_cache(maxsize=1)  # a configuration may have hundreds of drivers
def _read(_path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP)):
        found.setdefault(entry.name, {})[dotted_path(entry)] = entry
    chosen = {}
    for name, by_path in found.items():
        others = [each for path, each in by_path.items() if not path.startswith(_OURS)]
        chosen[name] = others or list(by_path.values())
    return chosen


def dotted_path(entry: EntryPoint) -> str:
    """Return the path of an entry point's class, as in `"jumpstarter.drivers.power.MockPower"`."""
    return entry.value.partition("[")[0].strip().replace(":", ".")
