"""Name the extra to install, where a module of ours needs a package that is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import MissingExtra

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["requires_extra"]


@contextmanager
def requires_extra(extra: str, what: str) -> Iterator[None]:
    """Wrap the imports of optional packages.

    Only a package of somebody else that is not found is converted. A broken package, and a missing
    module of this library, raise what they raise.

    Args:
        extra: The name of the extra that installs the packages.
        what: What needs it, as the first words of the error.

    Raises:
        MissingExtra: A package is missing. It is an ImportError, and its message has the command
            that installs the extra.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] == "jumpstarter":
            raise
        raise MissingExtra.named(extra, what) from exc
