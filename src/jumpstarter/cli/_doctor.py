"""The command `doctor`: look for faults of this installation. It needs no extra."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any, Final, NamedTuple

from .._installed import command_for
from .._version import __version__
from ._parser import OneLineParser

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Finding", "doctor", "examine", "make_parser"]

_OURS: Final = "jumpstarter"
_PACKAGE: Final = Path(__file__).parents[1]
_DRIVERS: Final = "jumpstarter-driver-"
_COMMANDS: Final = "jumpstarter-cli"  # the published package that has `jmp` and `j` too
_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?([^;]*)(?:;(.*))?")
_EXTRA: Final = re.compile(r"""extra\s*==\s*["']([\w.-]+)["']""")

_EXTRAS: Final = (
    "cli",
    "compat",
    "http",
    "metrics",
    "pexpect",
    "progress",
    "pytest",
    "serial",
    "zstd",
)
_MORE: Final = ("http", "progress", "zstd")  # of `compat`, and not needed to import a driver
_MISSING: Final = " is not installed"


class Finding(NamedTuple):
    """Something that the command has noticed.

    Attributes:
        is_fault: It has to be corrected; otherwise it is only worth knowing.
        subject: What it is about.
        text: What is wrong, and what to do.
    """

    is_fault: bool
    subject: str
    text: str


def doctor(arguments: Sequence[str]) -> int:
    """Print what is wrong with this installation.

    Args:
        arguments: The arguments after the name of the command.

    Returns:
        The exit code: 1 if there is a fault.

    Raises:
        SystemExit: The arguments are wrong, or only ask for help.
    """
    options = make_parser().parse_args(arguments)
    findings = list(examine())
    if options.output == "json":
        rows = [
            {"fault": each.is_fault, "subject": each.subject, "text": each.text}
            for each in findings
        ]
        _print(json.dumps(rows, indent=2))
    else:
        python = ".".join(map(str, sys.version_info[:3]))
        _print(f"jumpstarter {__version__} with Python {python}, in {_PACKAGE}")
        for each in findings:
            _print(f"{'fault' if each.is_fault else 'note'}: {each.subject}: {each.text}")
    return int(any(each.is_fault for each in findings))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    parser = OneLineParser(
        prog="jumpstarter doctor",
        description="Look for faults of this installation: a mixture with the published package, "
        "driver packages without their requirements. The exit code is 1 if there is one. It also "
        "notes extras that are not installed, which is not a fault.",
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=["json"],
        help="print a list of objects with fault, subject and text",
    )
    return parser


def examine() -> Iterator[Finding]:
    """Yield what is wrong, and what is worth knowing."""
    yield from _other_distributions()
    yield from _other_extensions(_PACKAGE)
    packages = [each for each in distributions() if _name(each).startswith(_DRIVERS)]
    yield from _extras(has_published=bool(packages))
    for package in sorted(packages, key=_name):
        for text in _unmet(package, ""):
            name = f"{_name(package)} {package.version}"
            yield Finding(True, name, f"{text}; pip install {_name(package)}=={package.version}")


def _other_distributions() -> Iterator[Finding]:
    """Look for a second distribution with our name, and for the published commands."""
    places = {
        Path(str(each.locate_file(""))).resolve(): each.version
        for each in distributions(name=_OURS)
    }
    if len(set(places.values())) > 1:
        told = " and ".join(f"{version} in {place}" for place, version in places.items())
        text = f"two distributions are installed: {told}; uninstall both, and install one again"
        yield Finding(True, _OURS, text)
    try:
        version = distribution(_COMMANDS).version
    except PackageNotFoundError:
        return
    text = "it installs jmp and j too, and needs the published core: pip uninstall jumpstarter-cli"
    yield Finding(True, f"{_COMMANDS} {version}", text)


def _other_extensions(package: Path) -> Iterator[Finding]:
    """Look for compiled modules that this Python cannot load, and for none that it can."""
    for directory in (package, package / "_protocol"):
        built = [*directory.glob("*.so")]
        usable = {each.name for each in built if "".join(each.suffixes) in EXTENSION_SUFFIXES}
        others = sorted({each.name for each in built} - usable)
        if others and not usable:
            text = f"{others[0]} was built for another Python, so the Python code runs, slowly"
            yield Finding(True, f"{_OURS} in {directory}", f"{text}; install it again")


def _extras(*, has_published: bool) -> Iterator[Finding]:
    """Look for extras that are not installed, or with another version than they need.

    An extra that is missing is a fault only if something that is installed needs it: the published
    driver packages need `compat`, except for the extras in it by which clients do more.
    """
    try:
        own = distribution(_OURS)
    except PackageNotFoundError:  # it runs from its sources
        return
    unmet = {extra: list(_unmet(own, extra)) for extra in _EXTRAS}
    needed = {text for text in unmet["cli"] if not text.endswith(_MISSING)}
    if has_published:
        more = {text for extra in _MORE for text in unmet[extra]} - set(unmet["cli"])
        needed |= set(unmet["compat"]) - more
    used = {"cli", "compat"} if has_published else {"cli"}
    for extra, texts in unmet.items():
        faults = [each for each in texts if each in needed and extra in used]
        if faults:
            yield Finding(True, f"extra {extra}", f"{faults[0]}; {command_for(extra)}")
        elif texts:
            names = ", ".join(dict.fromkeys(each.removesuffix(_MISSING) for each in texts))
            text = f"not installed (optional), for want of {names}; {command_for(extra)}"
            yield Finding(False, f"extra {extra}", text)


def _unmet(package: Distribution, extra: str) -> Iterator[str]:
    """Yield the requirements of a distribution, or of an extra of it, that are not met."""
    for line in package.requires or ():
        if (match := _REQUIREMENT.fullmatch(line)) is None:
            continue
        name, extras, versions, marker = match.groups(default="")
        if not _applies(marker, extra):
            continue
        if name == _OURS and package.metadata["Name"] == _OURS:
            for each in extras.split(","):
                yield from _unmet(package, each.strip())
            continue
        try:
            found = distribution(name).version
        except PackageNotFoundError:
            yield f"{name}{_MISSING}"
            continue
        if not _allows(versions.strip(), found):
            yield f"{name} {found} is installed, and it needs {versions.strip()}"


def _applies(marker: str, extra: str) -> bool:
    """Return True if a requirement is one of the extra, or of none if that is empty."""
    named = _EXTRA.search(marker)
    if (named[1] if named else "") != extra:
        return False
    packaging = _packaging("markers")
    if packaging is None or not marker.strip():
        return True
    result: bool = packaging.Marker(marker).evaluate({"extra": extra})
    return result


def _allows(versions: str, found: str) -> bool:
    """Return True if a version is allowed, or if no `packaging` is there to compare them."""
    packaging = _packaging("specifiers")
    if packaging is None or not versions:
        return True
    allowed: bool = packaging.SpecifierSet(versions).contains(found, prereleases=True)
    return allowed


def _packaging(module: str) -> Any:
    """Import a module of `packaging`, which pytest installs, or return None."""
    try:
        from packaging import markers, specifiers  # noqa: PLC0415 - it may be missing
    except ImportError:
        return None
    return {"markers": markers, "specifiers": specifiers}[module]


def _name(package: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", package.metadata["Name"] or "").lower()


def _print(text: str) -> None:
    print(text)  # noqa: T201 - the answer
