"""How this library was installed, and so how to add one of its extras.

The name `jumpstarter` belongs to another project on PyPI, and `pip install 'jumpstarter[zstd]'`
would replace this library by that one. The installer has recorded the place from which this one
came (PEP 610, `direct_url.json`), so the command names that place. Knows nothing of the library.
"""

from __future__ import annotations

import json
import shlex
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command_for"]

NAME: Final = "jumpstarter"
_IN_CHECKOUT: Final = ", in the checkout of this project"


def command_for(extra: str) -> str:
    """Give the command that adds an extra to this installation.

    Args:
        extra: Its name, or several with commas between them.
    """
    try:
        installed = distribution(NAME)
        record = json.loads(installed.read_text("direct_url.json") or "null")
        return _command(installed, record, extra)
    except (PackageNotFoundError, ValueError, KeyError, TypeError, OSError):
        # It runs from its sources, or the record is damaged.
        return f"pip install '.[{extra}]'{_IN_CHECKOUT}"


def _command(installed: Distribution, record: dict[str, Any] | None, extra: str) -> str:
    name = installed.metadata["Name"]
    if record is None:  # it came from an index: the version keeps the other project out
        return f"pip install '{name}[{extra}]=={installed.version}'"
    url: str = record["url"]
    if "vcs_info" in record:
        kind, commit = record["vcs_info"]["vcs"], record["vcs_info"]["commit_id"]
        return f"pip install '{name}[{extra}] @ {kind}+{url}@{commit}'"
    if urlsplit(url).scheme != "file":
        return f"pip install '{name}[{extra}] @ {url}'"
    path = Path(url2pathname(urlsplit(url).path))
    if not path.exists():  # a checkout that was moved, or an image's build directory
        return f"pip install '.[{extra}]'{_IN_CHECKOUT}, which was {path}"
    editable = "-e " if record.get("dir_info", {}).get("editable") else ""
    return f"pip install {editable}{shlex.quote(f'{path}[{extra}]')}"
