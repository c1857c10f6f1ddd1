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
from typing import Final, Generic, TypeVar, cast
from uuid import UUID

from .._io.portal import BlockingPortal
from .._protocol.frames import Node
from .._util.checks import raise_type_error
from .._util.deferred_signals import raised_by_signal_handler
from .._util.text import sanitize_name, sanitize_text
from ..errors import ClientImportError, ConfigurationError, HandshakeError
from ._base import DriverClient
from ._channel import Channel
from ._methods import methods_of, printable
from ._remote import DriverRef
from ._stub import StubDriverClient

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DEFAULT_ALLOW", "Wanted", "build_tree", "check_allow"]

C = TypeVar("C", bound=DriverClient)

_logger = logging.getLogger("jumpstarter.client")

_OWN: Final = "jumpstarter.*"  # whoever runs this has imported it
DEFAULT_ALLOW: Final = ("jumpstarter_driver_*",)  # packages that follow the ecosystem's naming
_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_MAX_TEXTS: Final = 4 * 1024 * 1024  # characters of docstrings and signatures in a report
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
        allow: Patterns (as in `fnmatch`) of the class paths that may be imported beside this
            library's own; None allows all.

    Raises:
        HandshakeError: The report is no tree.
    """
    _check(nodes)
    _check_texts(nodes)
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


class Wanted(Generic[C]):
    """Which client the caller asks for: of what class, and which classes may be imported for it.

    Args:
        kind: The class of the root; None takes any.
        allow: As for `build_tree`.

    Raises:
        ArgumentError: `kind` is no client class.
    """

    def __init__(self, kind: type[C] | None, allow: Sequence[str] | None) -> None:
        given: object = kind
        if given is not None and not (isinstance(given, type) and issubclass(given, DriverClient)):
            raise_type_error("client", given, "a subclass of DriverClient, or None")
        self._kind = kind
        self._allow = allow

    def build(
        self, nodes: Sequence[Node], channel: Channel, portal: BlockingPortal | None = None
    ) -> C:
        """Build the client objects, and give the root.

        Raises:
            HandshakeError: The report is no tree.
            ClientImportError: The root is not of the class.
        """
        kind, allow = self._kind, self._allow
        if kind is not None and allow is not None:
            allow = (*allow, _path_of(kind))
        root = build_tree(nodes, channel, portal=portal, allow=allow)
        if kind is not None and not isinstance(root, kind):
            if isinstance(root, StubDriverClient):
                raise ClientImportError(root.missing)
            wanted, given = _path_of(kind), _path_of(type(root))
            text = f"{channel.name} gives a {given} for its root driver, not the {wanted}"
            raise ClientImportError(f"{text} that client= asks for; is it the right exporter?")
        return cast("C", root)


def _path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _check_texts(nodes: Sequence[Node]) -> None:
    """Refuse a report whose texts, which are kept, are more than any exporter of ours sends."""
    texts = (
        text
        for node in nodes
        for text in (node.doc, *node.docs.values(), *node.signatures.values())
    )
    if (size := sum(map(len, texts))) > _MAX_TEXTS:
        text = f"the exporter's report has {size} characters of documentation"
        raise HandshakeError(f"{text}, and {_MAX_TEXTS} are allowed")


def check_allow(allow: Sequence[str]) -> tuple[str, ...]:
    """Give the patterns that a caller passed, once they are certainly patterns.

    One text would be taken for a pattern of each of its letters, `*` among them.

    Raises:
        ConfigurationError: They are no sequence of texts.
    """
    if not isinstance(allow, list | tuple | set | frozenset) or not all(
        isinstance(pattern, str) for pattern in allow
    ):
        raise ConfigurationError(f'allow={allow!r}: must be a list of patterns, like ["mylab.*"]')
    return tuple(allow)


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
            name = sanitize_text(node.name, 100)
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
    who = f"driver {sanitize_text(node.name or 'root', 100)} ({sanitize_name(node.client)})"
    try:
        uuid = UUID(node.uuid)
    except ValueError:
        raise HandshakeError(f"the exporter's report: {who} has no valid uuid") from None
    remote = DriverRef(channel, node.target, who, methods_of(node), printable(node.doc))
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
        raise ClientImportError(f"{who}: {sanitize_text(path)} is no dotted path of a client class")
    if allow is not None and not any(fnmatchcase(path, pattern) for pattern in (_OWN, *allow)):
        text = f"{who}: its client class may not be imported here"
        raise ClientImportError(f"{text}; if you trust it, connect with allow=[{path!r}]")
    module_name, _, class_name = path.rpartition(".")
    try:
        cls = getattr(_module(module_name), class_name)
    except ModuleNotFoundError as exc:
        text = f"{who}: its client class cannot be imported: {exc}"
        raise ClientImportError(
            f"{text}; install the package that has it ({path.partition('.')[0]}), or put its "
            "directory on PYTHONPATH"
        ) from exc
    except (Exception, SystemExit) as exc:  # of the module's own code
        if raised_by_signal_handler(exc):
            raise
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
