"""Prepare a device tree for serving: the drivers' targets, the report, and reset and close."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

import msgspec
import trio

from .._limits import DEFAULT_LIMITS
from .._protocol.codec import decode_nodes, encode_value, truncate
from .._protocol.frames import MAX_DOC, Node
from .._util.background import open_background
from .._util.labels import CLIENT_LABEL
from .._util.wording import worded
from ..driver._base import Driver, family_of, overrides, own_report, walk
from ..driver._export import Exported, exports_of
from ..driver._report import DriverReport
from ..driver._rounds import Family, Round, Turn
from ..driver._signature import doc_of
from ..errors import ArgumentError, ConfigurationError
from .anyio_threads import in_anyio_thread
from .claims import Claims, ThreadClaim

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DeviceTree", "Part", "Target", "failed_reset"]

_logger = logging.getLogger("jumpstarter.exporter")

MAX_DRIVERS: Final = 65535  # a target has two bytes in a CALL, and 0 is the exporter itself
# Characters of all docstrings and signatures in a report, which each client receives at connect.
MAX_TEXTS: Final = 1024 * 1024
_ONE_TEXT: Final = 64  # characters of overhead that are counted for each text

_NOTHING_SERVED: Final = "failed, so nothing is served"

_SHOWN_PATHS: Final = 20  # of drivers, in an error
_SLOW: Final = 5.0  # seconds after which the log names the driver that a start waits for


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


class Part(NamedTuple):
    """A subtree.

    Attributes:
        path: Its place in the tree.
        targets: Its drivers' targets of a CALL.
        family: Its drivers.
    """

    path: str
    targets: frozenset[int]
    family: Family


class DeviceTree:
    """The drivers of one exporter.

    Attributes:
        targets: All drivers. The first one is target 1 of a CALL; 0 is the exporter itself.
        nodes: The drivers' parts of the report, in the same order.
        paths: The names from the root's children down, with dots between them, in the same order;
            `.` is the root.
    """

    def __init__(self, root: Driver) -> None:
        rows = list(islice(walk(root), MAX_DRIVERS + 1))
        if len(rows) > MAX_DRIVERS:
            raise ConfigurationError(f"a device tree has at most {MAX_DRIVERS:,} drivers")
        if not rows:
            raise ConfigurationError(f"enumerate() of {type(root).__name__} has listed no driver")
        self._family = family_of((driver, parent) for driver, parent, _ in rows)
        self._titles: dict[int, str] = {}  # how messages name each driver
        self._claims: Claims | None = None
        self._running: dict[Round, Turn] = {}  # what runs, for the log
        self.targets: list[Target] = []
        self.nodes: list[Node] = []
        self.paths: list[str] = []
        # Makes `anyio.from_thread` of a driver's `reset` or `close` lead to its loop; without it,
        # to Trio.
        self.leads_to_loop: Callable[[Driver, str], AbstractContextManager[object]] = (
            lambda _driver, _verb: nullcontext()
        )
        self._texts = MAX_TEXTS  # characters that are left for texts in the report
        addresses: dict[int, int] = {}
        for driver, parent, name in rows:
            address = len(self.targets) + 1
            above = None if parent is None else addresses[id(parent)]
            addresses[id(driver)] = address
            self._titles[id(driver)] = _title(driver, name)
            self._add(driver, address, above, parent, name)
        for driver in self._family.drivers.values():
            self._titles.setdefault(id(driver), _title(driver, "stand-in"))
        try:
            decode_nodes(bytes(encode_value(self.nodes, b"")), DEFAULT_LIMITS)
        except ArgumentError as exc:
            text = f"a tree of {len(self.nodes):,} drivers is too large to be reported: {exc}"
            raise ConfigurationError(text) from exc

    def _add(
        self, driver: Driver, address: int, above: int | None, parent: Driver | None, name: str
    ) -> None:
        report = _report_of(driver, parent, name)
        client: object = report.labels.get(CLIENT_LABEL)
        if not isinstance(client, str):
            text = f"{type(driver).__name__}.client() gave a {type(client).__name__}"
            raise ConfigurationError(f"{text}; it must give the dotted path of the client class")
        exports = exports_of(type(driver))
        title = self._titles[id(driver)]
        self.targets.append(Target(driver, exports, title))
        described = report.methods_description or {}
        node = Node(
            target=address,
            parent=above,
            name=name,
            uuid=report.uuid,
            labels=dict(report.labels),
            client=client,
            methods={export.name: int(export.kind) for export in exports.values()},
            doc=self._text(doc_of(type(driver))),
            signatures=self._of_methods({name: each.signature for name, each in exports.items()}),
            docs=self._of_methods({name: each.doc for name, each in exports.items()}),
            description=self._text(truncate(report.description or "", MAX_DOC)),
            methods_description=self._of_methods(
                {name: truncate(text, MAX_DOC) for name, text in described.items()}
            ),
            read_only=[each.name for each in exports.values() if self._is_shown_read_only(each)],
        )
        self.nodes.append(_readable(node, title))
        self.paths.append("." if above is None else _join(self.paths[above - 1], name))

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

    def _is_shown_read_only(self, export: Exported) -> bool:
        return export.read_only and bool(self._text(export.name))

    def part(self, path: str) -> Part:
        """Return the drivers of a subtree.

        Args:
            path: Its place in the tree, as in `paths`.

        Raises:
            ConfigurationError: There is no such driver.
        """
        if path not in self.paths:
            names = ", ".join(self.paths[1 : _SHOWN_PATHS + 1]) or "the root alone, '.'"
            text = f"{worded('exclusive=')} names {path!r:.100}, which is not a driver of this tree"
            raise ConfigurationError(f"{text}; it has: {names}")
        family = self._family.part(self.targets[self.paths.index(path)].instance)
        numbers = [
            number
            for number, target in enumerate(self.targets, 1)
            if id(target.instance) in family.drivers  # a driver may be in several places
        ]
        return Part(path, frozenset(numbers), family)

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
        drivers = self._family.drivers.items()
        self._claims = Claims([(driver, self._titles[key]) for key, driver in drivers], place)
        try:
            yield
        finally:
            self._claims.release()

    async def reset(self) -> None:
        """Run every driver's `reset`, parents before children. A checkpoint.

        Raises:
            BaseException: The first that one of them raises. Those after it do not run.
        """
        await self._run_all(self._reset_of(None), None)

    async def reset_for_clients(self, part: Part | None = None) -> None:
        """Run `reset`, and log a driver that takes long, since clients wait. A checkpoint.

        Args:
            part: The drivers; None for all. Parts that share no driver may be reset together.

        Raises:
            BaseException: As `reset` raises.
        """
        round_ = self._reset_of(part)
        async with open_background() as nursery:
            nursery.start_soon(self._log_slow, round_)
            await self._run_all(round_, None)

    def _reset_of(self, part: Part | None) -> Round:
        family = self._family if part is None else part.family
        return Round("reset", Driver.reset, family, around=partial(self._around, "reset"))

    async def _log_slow(self, round_: Round) -> None:
        logged = ""
        while True:
            await trio.sleep(_SLOW)
            turn = self._running.get(round_)
            running = "" if turn is None else f"the {turn.round.verb}() of {self.title_of(turn)}"
            if running not in ("", logged):
                logged = running
                _logger.warning("clients wait for %s, which takes long", logged)

    async def end(self, grace: float) -> None:
        """Run every driver's `close`, parents before children, and log what they raise.

        A checkpoint, shielded from cancellation. If one takes longer than `grace` seconds, log it,
        abandon its thread, and go on with the next.
        """
        closing = Round(
            "close",
            Driver.close,
            self._family,
            failed=self._log_failure,
            caught=BaseException,  # in a worker thread, where no signal handler runs
            around=partial(self._around, "close"),
        )
        with trio.CancelScope(shield=True):
            await self._run_all(closing, grace)

    async def _run_all(self, round_: Round, grace: float | None) -> None:
        try:
            with round_.watched():
                for driver in round_.family.drivers.values():
                    if round_.begin(driver) and round_.overrides(driver):
                        turn = self._running[round_] = Turn(round_)
                        await self._run(driver, turn, grace)
        finally:
            self._running.pop(round_, None)
        await trio.lowlevel.checkpoint()

    async def _run(self, driver: Driver, turn: Turn, grace: float | None) -> None:
        """Run one driver's `reset` or `close`, and what that asks for, in a thread."""
        claim = None if self._claims is None else self._claims.for_thread(driver)
        try:
            async with open_background() as nursery:
                if grace is not None:
                    nursery.start_soon(self._abandon_after, grace, turn, nursery.cancel_scope)
                await trio.to_thread.run_sync(
                    in_anyio_thread(partial(self._attempt, claim, driver, turn)),
                    abandon_on_cancel=grace is not None,
                    limiter=trio.CapacityLimiter(1),  # a hung driver must not block the next
                )
        finally:
            if claim is not None:  # it was cancelled, or out of threads, before a thread began
                claim.withdraw()

    def _attempt(self, claim: ThreadClaim | None, driver: Driver, turn: Turn) -> None:
        """Run one driver's `reset` or `close` in a worker thread."""
        with (
            nullcontext(True) if claim is None else claim.running() as runs,
            turn.round.watched(),  # for as long as the thread runs, even if it is abandoned
        ):
            if not runs:
                return
            try:
                turn.attempt(driver)
            except BaseException as exc:
                culprit = driver if turn.failure is None else turn.failure[1]
                title = self._titles[id(culprit)]
                exc.add_note(f"{turn.round.verb}() of {title} {_NOTHING_SERVED}")
                raise

    async def _abandon_after(self, grace: float, turn: Turn, scope: trio.CancelScope) -> None:
        """Cancel a scope when one driver has run for a time, with no other begun meanwhile."""
        progress = None
        while progress != turn.round.progress:
            progress = turn.round.progress
            await trio.sleep(grace)
        text = "%s of %s did not end within %g s"
        _logger.error(text, turn.round.verb, self.title_of(turn), grace)
        scope.cancel()

    def title_of(self, turn: Turn) -> str:
        """Return the name of the driver whose method a thread runs."""
        running = list(turn.running)
        return self._titles[id(running[-1])] if running else "a driver"

    @contextmanager
    def _around(self, verb: str, driver: Driver) -> Iterator[object]:
        """Keep a driver claimed while a thread runs its method, and lead to the driver's loop."""
        claims = self._claims
        with (
            nullcontext() if claims is None else claims.for_thread(driver).running() as runs,
            self.leads_to_loop(driver, verb),
        ):
            yield runs

    def _log_failure(self, driver: Driver, exc: BaseException) -> None:
        _logger.error("close of %s failed", self._titles[id(driver)], exc_info=exc)


def failed_reset(exc: BaseException) -> str:
    """Return which driver's `reset` has raised an exception; "" if none has."""
    notes = reversed(getattr(exc, "__notes__", []))
    return next((note for note in notes if note.endswith(_NOTHING_SERVED)), "")


def _report_of(driver: Driver, parent: Driver | None, name: str) -> DriverReport:
    if overrides(driver, "report"):
        return driver.report(parent=parent, name=name or None)
    return own_report(driver, parent, name)


def _join(path: str, name: str) -> str:
    return name if path == "." else f"{path}.{name}"


def _title(driver: Driver, name: str) -> str:
    cls = type(driver)
    return f"driver {name or 'root'!r} ({cls.__module__}.{cls.__qualname__})"


def _readable(node: Node, title: str) -> Node:
    """Check that clients can read a node, since a driver's author chooses labels and names."""
    try:
        decode_nodes(bytes(encode_value([node], b"")), DEFAULT_LIMITS)
    except ArgumentError as exc:
        raise ConfigurationError(f"{title} cannot be reported: {exc}") from exc
    return node
