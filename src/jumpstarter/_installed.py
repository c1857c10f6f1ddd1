"""Find out how this library was installed, and the command that adds one of its extras.

The name `jumpstarter` belongs to another project on PyPI: `pip install 'jumpstarter[zstd]'` would
replace this library by that one. The installer has recorded where this one came from (PEP 610,
`direct_url.json`), so the command names that place.
"""

from __future__ import annotations

import json
import shlex
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command_for"]

NAME: Final = "jumpstarter"
_HERE: Final = Path(__file__)
_IN_CHECKOUT: Final = ", in the checkout of this project"


def command_for(extra: str) -> str:
    """Return the command that adds an extra to this installation.

    Args:
        extra: Its name, or several names with commas between them.
    """
    for installed in distributions(name=NAME):
        try:
            record = json.loads(installed.read_text("direct_url.json") or "null")
            if _owns_this_package(installed, record):
                return _command(installed, record, extra)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            continue  # the record is damaged
    return f"pip install '.[{extra}]'{_IN_CHECKOUT}"  # this package runs from its sources


def _owns_this_package(installed: Distribution, record: dict[str, Any] | None) -> bool:
    """Return whether a distribution named like ours contains this file.

    The other project may be installed while this package runs from its sources, by PYTHONPATH.
    """
    if record is not None and record.get("dir_info", {}).get("editable"):
        source = Path(url2pathname(urlsplit(record["url"]).path))
        return source.resolve() in _HERE.resolve().parents
    place = Path(str(installed.locate_file(NAME)))
    files = installed.files
    ours = files is None or any(file.name == _HERE.name for file in files)
    return ours and place.resolve() == _HERE.resolve().parent


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
