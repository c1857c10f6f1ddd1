"""Prepare a device tree for serving: the drivers' targets, the report, and reset and close."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Final

import msgspec
import trio

from .._limits import DEFAULT_LIMITS
from .._protocol.codec import decode_nodes, encode_value, truncate
from .._protocol.frames import MAX_DOC, Node
from .._util.background import open_background
from ..driver._base import Driver, run_single, walk
from ..driver._export import Exported, exports_of
from ..driver._signature import doc_of
from ..errors import ArgumentError, ConfigurationError
from .claims import Claims, ThreadClaim

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DeviceTree", "Target"]

_logger = logging.getLogger("jumpstarter.exporter")

MAX_DRIVERS: Final = 65535  # a target has two bytes in a CALL, and 0 is the exporter itself
# Characters of all docstrings and signatures in a report, which each client receives at connect.
MAX_TEXTS: Final = 1024 * 1024
_ONE_TEXT: Final = 64  # characters of overhead that are counted for each text

_SLOW: Final = 5.0  # seconds after which the log names the driver that a start waits for

_CLIENT_LABEL = "jumpstarter.dev/client"
_NAME_LABEL = "jumpstarter.dev/name"


class Target(msgspec.Struct, frozen=True):
    """Something with methods to call: a driver, or the exporter's own service.

    Attributes:
        instance: The object.
        exports: Its exported methods by name.
        title: Its name in messages.
    """

    instance: object
    exports: Mapping[str, Exported]
    title: str


class DeviceTree:
    """The drivers of one exporter.

    Attributes:
        targets: All drivers. The first one is target 1 of a CALL; 0 is the exporter itself.
        nodes: The drivers' parts of the report, in the same order.
    """

    def __init__(self, root: Driver) -> None:
        self._drivers: dict[int, tuple[Driver, str]] = {}  # each once, after all of its parents
        self._claims: Claims | None = None
        self._running = ""  # the `reset` or `close` that runs, for the log
        self.targets: list[Target] = []
        self.nodes: list[Node] = []
        self._texts = MAX_TEXTS  # characters that are left for texts in the report
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
        self._drivers.pop(id(driver), None)  # its last place in the tree comes after all parents
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
            doc=self._text(doc_of(cls)),
            signatures=self._of_methods({name: each.signature for name, each in exports.items()}),
            docs=self._of_methods({name: each.doc for name, each in exports.items()}),
            description=self._text(truncate(driver.description or "", MAX_DOC)),
            methods_description=self._of_methods(
                {name: truncate(text, MAX_DOC) for name, text in driver.methods_description.items()}
            ),
        )
        self.nodes.append(_readable(node, title))

    def driver_at(self, target: int) -> Driver:
        """Return the driver at a target.

        Raises:
            ValueError: There is none.
        """
        if target not in range(1, len(self.targets) + 1):
            raise ValueError(f"there is no driver at address {target!r:.100}")
        driver = self.targets[target - 1].instance
        assert isinstance(driver, Driver)
        return driver

    def _of_methods(self, texts: dict[str, str]) -> dict[str, str]:
        return {name: text for name in texts if (text := self._text(texts[name]))}

    def _text(self, text: str) -> str:
        """Return a text if it still fits in the report, otherwise an empty one."""
        cost = len(text) + _ONE_TEXT
        if not text or cost > self._texts:
            return ""
        self._texts -= cost
        return text

    @contextmanager
    def claimed(self, place: str) -> Iterator[None]:
        """Claim all drivers for the length of a block, so that no other server serves them.

        Args:
            place: Where they are served, for the error of another server.

        Raises:
            ConfigurationError: One of them is served already.
        """
        self._claims = Claims(self._drivers.values(), place)
        try:
            yield
        finally:
            self._claims.release()

    async def reset(self) -> None:
        """Run every driver's `reset`, parents before children, and log what they raise."""
        await self._run_all("reset", grace=None)

    async def reset_for_clients(self) -> None:
        """Run `reset`, and log a driver that takes long, since clients wait. A checkpoint."""
        async with open_background() as nursery:
            nursery.start_soon(self._log_slow)
            await self.reset()

    async def _log_slow(self) -> None:
        logged = ""
        while True:
            await trio.sleep(_SLOW)
            if self._running not in ("", logged):
                logged = self._running
                _logger.warning("clients wait for %s, which takes long", logged)

    async def end(self, grace: float) -> None:
        """Run every driver's `reset`, then every driver's `close`. Log what they raise.

        A checkpoint, shielded from cancellation. If one takes longer than `grace` seconds, log it,
        abandon its thread, and go on with the next.
        """
        with trio.CancelScope(shield=True):
            await self._run_all("reset", grace)
            await self._run_all("close", grace)

    async def _run_all(self, verb: str, grace: float | None) -> None:
        for driver, title in self._drivers.values():
            self._running = f"the {verb}() of {title}"
            with trio.move_on_after(float("inf") if grace is None else grace) as scope:
                await self._run(driver, verb, title, abandon=grace is not None)
            if scope.cancelled_caught:
                _logger.error("%s of %s did not end within %g s", verb, title, grace)

    async def _run(self, driver: Driver, verb: str, title: str, *, abandon: bool) -> None:
        claim = None if self._claims is None else self._claims.for_thread(driver)
        try:
            await trio.to_thread.run_sync(
                self._attempt,
                claim,
                driver,
                verb,
                title,
                abandon_on_cancel=abandon,
                limiter=trio.CapacityLimiter(1),  # a hung driver must not block the next
            )
        except BaseException:
            if claim is not None:  # cancelled, or out of threads, before a thread began
                claim.withdraw()
            raise

    def _attempt(self, claim: ThreadClaim | None, driver: Driver, verb: str, title: str) -> None:
        """Run one driver's `reset` or `close`; log any exception, so that the others run."""
        with nullcontext(True) if claim is None else claim.running() as runs:
            try:
                if runs:
                    run_single(driver, verb)
            except BaseException:  # in a worker thread, where no signal handler runs
                _logger.exception("%s of %s failed", verb, title)


def _readable(node: Node, title: str) -> Node:
    """Check that clients can read a node, since a driver's author chooses labels and names."""
    try:
        decode_nodes(bytes(encode_value([node], b"")), DEFAULT_LIMITS)
    except ArgumentError as exc:
        raise ConfigurationError(f"{title} cannot be reported: {exc}") from exc
    return node
