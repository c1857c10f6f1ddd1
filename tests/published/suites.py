"""The published driver packages that have tests, and how to run each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import distributions
from typing import Final

from .identity import PREFIX

__all__ = ["QUICK", "UnknownPackage", "arguments_of", "installed", "limit_of", "selected"]

_LIMIT: Final = 120.0  # seconds; most suites take three
_LIMITS: Final = {"mitmproxy": 300.0}  # starts mitmdump, a slow program, for most of its tests

# What the configuration of a package says to pytest. It is not in the wheel, but its tests need it.
_ARGUMENTS: Final = {
    # The tests of a module that can be collected run, even if another module cannot.
    "corellium": ["--continue-on-collection-errors"],
    "tftp": ["-o", "asyncio_mode=auto"],
}

# Suites that serve their drivers, and that take few seconds each.
QUICK: Final = (
    "composite",
    "gpiod",
    "http",
    "network",
    "opendal",
    "power",
    "pyserial",
    "shell",
    "tftp",
)


class UnknownPackage(ValueError):
    """A package was selected that is not installed."""


def installed() -> list[str]:
    """Return the driver packages of this environment, in short: `power` for its `..._power`."""
    names = {each.metadata["Name"].lower().replace("-", "_") for each in distributions()}
    return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))


def selected(names: Iterable[str], available: Sequence[str]) -> list[str]:
    """Return the packages to run: those named, in any spelling of theirs, or all.

    Raises:
        UnknownPackage: A name is not that of an installed package, or none is installed.
    """
    wanted = [name.lower().replace("-", "_").removeprefix(PREFIX) for name in names]
    unknown = [name for name in wanted if name not in available]
    if unknown or not available:
        raise UnknownPackage(
            f"no driver package {', '.join(unknown)} is installed here; there are:"
            f" {', '.join(available) or 'none'}"
        )
    return [name for name in available if name in wanted] if wanted else list(available)


def limit_of(package: str) -> float:
    """Return how many seconds the suite of a package may take."""
    return _LIMITS.get(package, _LIMIT)


def arguments_of(package: str) -> list[str]:
    """Return what pytest is told for the suite of a package."""
    return list(_ARGUMENTS.get(package, ()))
