"""Refuse to run from a directory that has files of the published jumpstarter too.

Both distributions have the same name and the same import package, so an installer replaces one by
the other. `pip install --ignore-installed` and `--target` do not: they write one over the other,
and the result is neither. Importing this module raises ImportError in such a directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["FOREIGN", "refuse_mixture"]

# Modules that only the published package has. Each import of this package looks for them: a few
# microseconds.
FOREIGN: Final = ("exporter/session.py", "client/grpc.py", "common/serde.py", "streams/router.py")


def refuse_mixture(package: Path) -> None:
    """Raise an error if a directory has modules of the published package.

    Args:
        package: The directory of this package.

    Raises:
        ImportError: It has; the message says how to install one of the two again.
    """
    found = [name for name in FOREIGN if (package / name).exists()]
    if found:
        raise ImportError(
            f"jumpstarter cannot be imported: {package} has files of two distributions, this one"
            f" and the published jumpstarter (such as {found[0]}). To get one of them, run `pip"
            f" uninstall --yes jumpstarter` until it finds none, delete {package}, and install"
            " it again",
            name="jumpstarter",
            path=str(package),
        )


refuse_mixture(Path(__file__).parent)
