"""From an exporter's report to a tree of client objects.

The report is a peer's word. A client class is imported only if its path looks like one and is
allowed, before anything is imported; the tree's shape is checked before anything is built.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Final
from uuid import UUID

from .._messages import Node
from .._portal import BlockingPortal
from .._text import named, quoted
from ..errors import ClientImportError, HandshakeError
from ._base import DriverClient, StubDriverClient
from ._channel import Channel
from ._remote import Remote

__all__ = ["DEFAULT_ALLOW", "build_tree"]

_logger = logging.getLogger("jumpstarter.client")

# This library's own classes, and the packages that follow the ecosystem's naming.
DEFAULT_ALLOW: Final = ("jumpstarter.*", "jumpstarter_driver_*")
_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_MAX_PATH: Final = 200  # characters
_MAX_LINES: Final = 10  # of the log, on classes that cannot be had


def build_tree(
    nodes: Sequence[Node],
    channel: Channel,
    *,
    portal: BlockingPortal | None = None,
    allow: Sequence[str] | None = DEFAULT_ALLOW,
) -> DriverClient:
    """Build the client objects, and give the root.

    Runs imports, so call it in the thread of whoever asked: a module that is being imported there
    may be just what a client class is in.

    Args:
        nodes: The exporter's report.
        channel: The way there.
        portal: For the blocking methods; None makes clients for Trio code.
        allow: Patterns (as in `fnmatch`) of the class paths that may be imported; None allows all.

    Raises:
        HandshakeError: The report is no tree.
    """
    _check(nodes)
    children: dict[int, dict[str, DriverClient]] = {node.target: {} for node in nodes}
    missing: list[str] = []
    client: DriverClient | None = None
    for node in reversed(nodes):
        below = children[node.target]
        client = _build(node, channel, portal, dict(reversed(below.items())), allow)
        if isinstance(client, StubDriverClient):
            missing.append(client.missing)
        if node.parent is not None:
            children[node.parent][node.name] = client
    assert client is not None
    _tell(missing)
    return client


def _tell(missing: list[str]) -> None:
    for text in missing[:_MAX_LINES]:
        _logger.warning("%s", text)
    if len(missing) > _MAX_LINES:
        _logger.warning("%d more client classes cannot be had", len(missing) - _MAX_LINES)


def _check(nodes: Sequence[Node]) -> None:
    seen: dict[int, set[str]] = {}
    for index, node in enumerate(nodes):
        siblings = seen.get(node.parent, set()) if node.parent is not None else set()
        is_root = node.parent is None
        if (
            is_root != (index == 0)
            or (not is_root and node.parent not in seen)
            or node.target in seen
            or node.name in siblings
            or not 1 <= node.target <= 65535
        ):
            name = quoted(node.name, 100)
            raise HandshakeError(f"the exporter's report is no tree, at driver {name}")
        siblings.add(node.name)
        seen[node.target] = set()
    if not nodes:
        raise HandshakeError("the exporter's report is empty")


def _build(
    node: Node,
    channel: Channel,
    portal: BlockingPortal | None,
    children: dict[str, DriverClient],
    allow: Sequence[str] | None,
) -> DriverClient:
    who = f"driver {quoted(node.name or 'root', 100)} ({named(node.client)})"
    try:
        uuid = UUID(node.uuid)
    except ValueError:
        raise HandshakeError(f"the exporter's report: {who} has no valid uuid") from None
    remote = Remote(channel, node.target, who)
    try:
        cls = _client_class(node.client, who, allow)
    except ClientImportError as exc:
        return StubDriverClient(
            uuid=uuid,
            labels=node.labels,
            channel=remote,
            children=children,
            portal=portal,
            missing=str(exc),
        )
    return cls(uuid=uuid, labels=node.labels, channel=remote, children=children, portal=portal)


def _client_class(path: str, who: str, allow: Sequence[str] | None) -> type[DriverClient]:
    if len(path) > _MAX_PATH or not _PATH.fullmatch(path):
        raise ClientImportError(f"{who}: {quoted(path)} is no dotted path of a client class")
    if allow is not None and not any(fnmatchcase(path, pattern) for pattern in allow):
        text = f"{who}: its client class may not be imported here"
        raise ClientImportError(f"{text}; if you trust it, connect with allow=[{path!r}]")
    module_name, _, class_name = path.rpartition(".")
    try:
        cls = getattr(_module(module_name), class_name)
    except ModuleNotFoundError as exc:
        text = f"{who}: its client class cannot be imported: {exc}"
        raise ClientImportError(
            f"{text}; install the package that has it, or put its directory on PYTHONPATH"
        ) from exc
    except (Exception, SystemExit) as exc:
        text = f"{who}: importing its client class failed: {type(exc).__name__}: {exc}"
        raise ClientImportError(text) from exc
    if not (isinstance(cls, type) and issubclass(cls, DriverClient)) or cls is StubDriverClient:
        raise ClientImportError(f"{who}: {path} is not a subclass of DriverClient")
    return cls


def _module(name: str) -> ModuleType:
    """Import a module; a script that runs as `__main__` is not run again under its own name."""
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    if main is not None and script is not None and name not in sys.modules:
        same_name = name.rpartition(".")[2] == Path(script).stem
        spec = importlib.util.find_spec(name) if same_name else None
        if (
            spec is not None
            and spec.origin
            and Path(spec.origin).resolve() == Path(script).resolve()
        ):
            return main
    return importlib.import_module(name)
