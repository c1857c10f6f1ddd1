"""Decide whether modules run compiled, or as the Python code that they were built from.

An import prefers an extension module to a .py file of the same name. Two cases need the .py file:

- `JUMPSTARTER_PURE=1` is in the environment: coverage and debuggers do not see compiled code.
- The modules were built in the source tree, and a file that they were built from has changed since.
  Such a build leaves a list of its sources in the directory of `jumpstarter` (setup.py). A wheel
  has no such list, so an installed package only finds out that the list is missing.

All modules have the same form, because a compiled one accesses the fields of the others in C.
"""

from __future__ import annotations

import os
import sys
import zlib
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["VARIABLE", "choose_form", "is_compiled"]

VARIABLE: Final = "JUMPSTARTER_PURE"


def choose_form(directory: str) -> None:
    """Make imports from a package's subpackages use their Python code, if that is necessary.

    Call it before the first of these imports.
    """
    root = Path(directory)
    if os.environ.get(VARIABLE) != "1" and not _is_stale(root):
        return
    for name in {types.parent.name for types in root.glob("*/*.pxd")}:
        # The path finder asks the finder of a directory that this cache has, if it has one. It
        # looks for the same text as in `__path__`, which a Path might change.
        package = f"{directory}/{name}"
        sys.path_importer_cache[package] = FileFinder(
            package,
            (SourceFileLoader, SOURCE_SUFFIXES),
            (SourcelessFileLoader, BYTECODE_SUFFIXES),
        )


def is_compiled(file: str | None) -> bool:
    """Return whether the module that was loaded from this file is an extension module."""
    return file is not None and file.endswith(EXTENSION_SUFFIXES[0])


def _is_stale(directory: Path) -> bool:
    """Return whether a source has changed since the modules were built from it in this place."""
    try:
        text = directory.joinpath(f"built{EXTENSION_SUFFIXES[0]}.txt").read_text()
    except FileNotFoundError:
        return False
    lines = map(str.split, text.splitlines())
    return any(_checksum(directory / name) != checksum for checksum, name in lines)


def _checksum(path: Path) -> str:
    """Return what setup.py has written to the list for this file."""
    try:
        return f"{zlib.crc32(path.read_bytes()):08x}"
    except FileNotFoundError:
        return "missing"
