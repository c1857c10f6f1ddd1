"""A device tree as an exporter serves it: each driver's address, the report, and the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import msgspec
import trio

from .._limits import DEFAULT_LIMITS
from .._messages import Node, decode_nodes, encode_value
from ..errors import ArgumentError, ConfigurationError
from ._base import Driver, run_alone, walk
from ._export import Exported, exports_of

__all__ = ["DeviceTree", "Target"]

_logger = logging.getLogger("jumpstarter.exporter")

MAX_DRIVERS: Final = 65535  # an address has two bytes in a CALL, and 0 is the exporter's

_CLIENT_LABEL = "jumpstarter.dev/client"
_NAME_LABEL = "jumpstarter.dev/name"


class Target(msgspec.Struct, frozen=True):
    """Something that can be called: a driver, or the exporter's own service.

    Attributes:
        instance: Whose methods they are.
        exports: What may be called of it.
        title: How messages name it.
    """

    instance: object
    exports: Mapping[str, Exported]
    title: str


class DeviceTree:
    """The drivers of one exporter.

    Attributes:
        targets: All drivers by their address in a CALL; address 0 is left to the exporter.
        nodes: What is reported of each, in the same order.
    """

    def __init__(self, root: Driver) -> None:
        self._drivers: dict[int, tuple[Driver, str]] = {}  # each once, after all of its parents
        self.targets: list[Target] = []
        self.nodes: list[Node] = []
        addresses: dict[int, int] = {}
        for driver, parent, name in walk(root):
            address = len(self.targets) + 1
            above = None if parent is None else addresses[id(parent)]
            addresses[id(driver)] = address
            self._add(driver, address, above, name)
        try:
            decode_nodes(bytes(encode_value(self.nodes, b"")), DEFAULT_LIMITS)
        except ArgumentError as exc:
            text = f"a tree of {len(self.nodes):,} drivers is too large to be reported: {exc}"
            raise ConfigurationError(text) from exc

    def _add(self, driver: Driver, address: int, parent: int | None, name: str) -> None:
        if address > MAX_DRIVERS:
            raise ConfigurationError(f"a device tree has at most {MAX_DRIVERS:,} drivers")
        client: object = driver.client()
        if not isinstance(client, str):
            text = f"{type(driver).__name__}.client() gave a {type(client).__name__}"
            raise ConfigurationError(f"{text}; it must give the dotted path of the client class")
        exports = exports_of(type(driver))
        labels = {**driver.labels, **driver.extra_labels(), _CLIENT_LABEL: client}
        if name:
            labels[_NAME_LABEL] = name
        cls = type(driver)
        title = f"driver {name or 'root'!r} ({cls.__module__}.{cls.__qualname__})"
        self._drivers.pop(id(driver), None)  # the last of its places is behind all of its parents
        self._drivers[id(driver)] = driver, title
        self.targets.append(Target(driver, exports, title))
        node = Node(
            target=address,
            parent=parent,
            name=name,
            uuid=str(driver.uuid),
            labels=labels,
            client=client,
            methods={export.name: int(export.kind) for export in exports.values()},
        )
        self.nodes.append(_readable(node, title))

    async def reset(self) -> None:
        """Run every driver's `reset`, parents before children. What one raises is logged."""
        await self._visit("reset", grace=None)

    async def end(self, grace: float) -> None:
        """Run every driver's `reset`, then every driver's `close`. What one raises is logged.

        A checkpoint that is not cancelled; one that takes longer than `grace` seconds is left to
        its thread, logged, and the next one's turn comes.
        """
        with trio.CancelScope(shield=True):
            await self._visit("reset", grace)
            await self._visit("close", grace)

    async def _visit(self, verb: str, grace: float | None) -> None:
        for driver, title in self._drivers.values():
            with trio.move_on_after(float("inf") if grace is None else grace) as scope:
                await trio.to_thread.run_sync(
                    _attempt,
                    driver,
                    verb,
                    title,
                    abandon_on_cancel=grace is not None,
                    limiter=trio.CapacityLimiter(1),  # one that hangs keeps no thread from the next
                )
            if scope.cancelled_caught:
                _logger.error("%s of %s did not end within %g s", verb, title, grace)


def _readable(node: Node, title: str) -> Node:
    """Give back a node that clients can read: labels and names come from a driver's author."""
    try:
        decode_nodes(bytes(encode_value([node], b"")), DEFAULT_LIMITS)
    except ArgumentError as exc:
        raise ConfigurationError(f"{title} cannot be reported: {exc}") from exc
    return node


def _attempt(driver: Driver, verb: str, title: str) -> None:
    """Run one driver's verb. Whatever it raises, SystemExit too, the others have their turn."""
    try:
        run_alone(driver, verb)
    except BaseException:
        _logger.exception("%s of %s failed", verb, title)
