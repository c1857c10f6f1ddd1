"""Compare what a source distribution and a wheel contain with what the checkout has.

The lists come from the files that git tracks, so a new file needs no change here: a source
distribution has all of them, and a wheel has those of the package, with the compiled modules.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["sdist_faults", "wheel_faults"]

# Files that only serve the repository, or the service that hosts it.
OF_THE_REPOSITORY: Final = (".gitignore", ".github/")
# Files that setuptools writes into a source distribution.
OF_SETUPTOOLS: Final = ("PKG-INFO", "setup.cfg", "src/jumpstarter.egg-info/")
PLUGIN: Final = "_jumpstarter_pytestplugin.py"


def sdist_faults(sdist: Path, tracked: Iterable[str]) -> list[str]:
    """Return a line for each file that a source distribution lacks, and for each needless one.

    Args:
        sdist: The archive.
        tracked: The files of the checkout, relative to it.
    """
    expected = {name for name in tracked if not name.startswith(OF_THE_REPOSITORY)}
    with tarfile.open(sdist) as archive:
        names = [member.name for member in archive if member.isfile()]
    found = {name.partition("/")[2] for name in names}
    found = {name for name in found if not name.startswith(OF_SETUPTOOLS)}
    cure = "MANIFEST.in"
    return [
        *(f"{sdist.name} lacks {name}: see {cure}" for name in sorted(expected - found)),
        *(f"{sdist.name} has {name} needlessly: see {cure}" for name in sorted(found - expected)),
    ]


def wheel_faults(wheel: Path, tracked: Iterable[str], version: str) -> list[str]:
    """Return a line for each file that a wheel lacks, and for each needless one.

    Args:
        wheel: The archive.
        tracked: The files of the checkout, relative to it.
        version: The version that the wheel's metadata must have.
    """
    sources = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        found = message_from_bytes(archive.read(metadata))["Version"]
    info = PurePosixPath(metadata).parts[0] + "/"
    modules = {name for name in names if name.endswith(".so")}
    files = {name for name in names - modules if not name.startswith(info)}
    compiled = {name.partition(".")[0] for name in modules}
    to_compile = {name.rpartition(".")[0] for name in sources if _is_compiled(name, sources)}
    faults = [
        *(f"{wheel.name} lacks {name}" for name in sorted(sources - files)),
        *(f"{wheel.name} has {name} needlessly" for name in sorted(files - sources)),
        *(f"{wheel.name} has no compiled {name}" for name in sorted(to_compile - compiled)),
        *(f"{wheel.name} has {name} compiled" for name in sorted(compiled - to_compile)),
    ]
    if found != version:
        faults.append(f"{wheel.name} has the version {found}, and not {version}")
    return faults


def _is_compiled(name: str, sources: set[str]) -> bool:
    """Return whether a source has the name of an extension module that `setup.py` builds."""
    if name.endswith(".pyx"):
        return True
    return name.endswith(".py") and name.removesuffix(".py") + ".pxd" in sources
