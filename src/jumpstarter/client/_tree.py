"""Builds the tree of client objects from an exporter's report.

The report is untrusted. The tree's shape is checked before anything is built, and a client class is
imported only after its path was found to be a dotted path that is allowed.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Generic, TypeVar, cast
from uuid import UUID

from .._io.portal import BlockingPortal
from .._protocol.frames import Node
from .._util.checks import raise_type_error
from .._util.deferred_signals import raised_by_signal_handler
from .._util.text import sanitize_name, sanitize_text
from .._util.wording import worded
from ..errors import ClientImportError, ConfigurationError, HandshakeError
from ._base import DriverClient
from ._channel import Channel
from ._methods import methods_of, printable
from ._remote import DriverRef
from ._stub import StubDriverClient, how_to_import, how_to_install

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DEFAULT_ALLOW", "Wanted", "build_tree", "check_allow"]

C = TypeVar("C", bound=DriverClient)

_logger = logging.getLogger("jumpstarter.client")

_OWN: Final = "jumpstarter.*"  # installed here already, so importing it adds no risk
DEFAULT_ALLOW: Final = ("jumpstarter_driver_*",)  # packages that follow the ecosystem's naming
_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_MAX_TEXTS: Final = 4 * 1024 * 1024  # characters of docstrings and signatures in a report
_MAX_PATH: Final = 200  # characters
_SUPPRESS: Final = "_JMP_SUPPRESS_DRIVER_WARNINGS"
_MAX_LINES: Final = 10  # in the log, for missing client classes


def build_tree(
    nodes: Sequence[Node],
    channel: Channel,
    *,
    portal: BlockingPortal | None = None,
    allow: Sequence[str] | None = DEFAULT_ALLOW,
) -> DriverClient:
    """Build the client objects, and return the root.

    It imports modules, so call it in the thread that connects: that thread may be importing the
    module which a client class is in, and another thread would wait for that import forever.

    Args:
        nodes: The exporter's report.
        channel: The connection to the exporter.
        portal: For the blocking methods; None makes clients for Trio code.
        allow: Patterns (as in `fnmatch`) of class paths that may be imported, in addition to this
            library's own; None allows all.

    Raises:
        HandshakeError: The report does not describe a tree.
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
            path = sanitize_name(node.client)
            missing.append(f"Driver client '{path}' is not available. {client.missing}")
        if node.parent is not None:
            children[node.parent][node.name] = client
    assert client is not None
    _warn_missing(missing)
    return client


class Wanted(Generic[C]):
    """The client that a caller asks for: its class, and the classes that may be imported for it.

    Args:
        kind: The class of the root; None accepts any.
        allow: As for `build_tree`.

    Raises:
        ArgumentError: `kind` is not a client class.
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
        """Build the client objects, and return the root.

        Raises:
            HandshakeError: The report does not describe a tree.
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
    """Refuse a report with more text than our own exporter sends: the client keeps it in memory."""
    texts = (
        text
        for node in nodes
        for text in (
            node.doc,
            node.description,
            *node.docs.values(),
            *node.signatures.values(),
            *chain.from_iterable(node.methods_description.items()),
            *node.read_only,
        )
    )
    if (size := sum(map(len, texts))) > _MAX_TEXTS:
        text = f"the exporter's report has {size} characters of documentation"
        raise HandshakeError(f"{text}, and {_MAX_TEXTS} are allowed")


def check_allow(allow: Sequence[str]) -> tuple[str, ...]:
    """Check the patterns that a caller passed, and return them.

    A str is refused: it would count as one pattern per letter, and `*` may be among them.

    Raises:
        ConfigurationError: They are not a list of str.
    """
    if not isinstance(allow, list | tuple | set | frozenset) or not all(
        isinstance(pattern, str) for pattern in allow
    ):
        raise ConfigurationError(f'allow={allow!r}: must be a list of patterns, like ["mylab.*"]')
    return tuple(allow)


def _warn_missing(missing: list[str]) -> None:
    if os.environ.get(_SUPPRESS):  # set by a shell that has logged them already
        return
    for text in missing[:_MAX_LINES]:
        _logger.warning("%s", text)
    if len(missing) > _MAX_LINES:
        _logger.warning("%d more client classes are missing", len(missing) - _MAX_LINES)


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
            raise HandshakeError(f"the exporter's report is not a tree, at driver {name}")
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
    driver = f"driver {sanitize_text(node.name or 'root', 100)} ({sanitize_name(node.client)})"
    try:
        uuid = UUID(node.uuid)
    except ValueError:
        raise HandshakeError(f"the exporter's report: {driver} has no valid uuid") from None
    remote = DriverRef(channel, node.target, driver, methods_of(node), printable(node.doc))
    given: dict[str, Any] = {
        "uuid": uuid,
        "labels": node.labels,
        "description": printable(node.description) or None,
        "methods_description": {
            printable(name): printable(text) for name, text in node.methods_description.items()
        },
        "channel": remote,
        "children": children,
        "portal": portal,
    }
    try:
        cls = _client_class(node.client, driver, allow)
    except ClientImportError as exc:
        return StubDriverClient(**given, missing=str(exc))
    return cls(**given)


def _client_class(path: str, driver: str, allow: Sequence[str] | None) -> type[DriverClient]:
    if len(path) > _MAX_PATH or not _PATH.fullmatch(path):
        raise ClientImportError(
            f"{driver}: {sanitize_text(path)} is not a dotted path of a client class"
        )
    if allow is not None and not any(fnmatchcase(path, pattern) for pattern in (_OWN, *allow)):
        text = f"{driver}: its client class may not be imported here"
        how = worded("connect with allow=[{}]").format(repr(path))
        raise ClientImportError(f"{text}; if you trust it, {how}")
    module_name, _, class_name = path.rpartition(".")
    try:
        cls = getattr(_module(module_name), class_name)
    except ModuleNotFoundError as exc:
        text = f"{driver}: its client class cannot be imported: {exc}"
        raise ClientImportError(f"{text}; {how_to_import(path, exc.name or path)}") from exc
    except (Exception, SystemExit) as exc:  # of the module's own code
        if raised_by_signal_handler(exc):
            raise
        text = f"{driver}: importing its client class failed: {type(exc).__name__}: {exc}"
        hint = f"; {how_to_install(path)}" if isinstance(exc, AttributeError) else ""
        raise ClientImportError(text + hint) from exc
    if not (isinstance(cls, type) and issubclass(cls, DriverClient)) or cls is StubDriverClient:
        raise ClientImportError(f"{driver}: {path} is not a subclass of DriverClient")
    return cls


def _module(name: str) -> ModuleType:
    """Import a module, or return `__main__` if that is the module: a script must not run twice."""
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
