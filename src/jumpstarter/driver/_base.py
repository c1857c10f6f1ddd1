"""The base of all drivers: identity, children, logger, and an orderly end.

A plain keyword-only dataclass, so that existing drivers keep working: a subclass with fields of its
own is a `@dataclass(kw_only=True)` (stdlib's or pydantic's), one without any is a plain class. It
knows nothing of connections, tasks or clients: `client()` is the name of a class, not the class.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import UUID, uuid4

from .._io.transfer import MAX_BYTES
from .._util.checks import check_instance, raise_type_error, raise_value_error
from .._util.no_copies import ReduceEx, no_copies
from ..errors import ConfigurationError
from ._http import IDLE
from ._mistakes import check_class, explain_missing_attributes, unmade, why_missing
from ._resources import Resource

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Driver", "run_single", "walk"]

# The driver whose verb is being run for it alone: whoever goes through the tree sees to the others.
_alone: Final[ContextVar[Driver | None]] = ContextVar("_alone", default=None)


# Without private members: a subclass, or its client, may have a field of any name.
@dataclass(kw_only=True, eq=False)
class Driver(ABC):
    """What runs on the exporter and holds the device.

    Attributes:
        uuid: Its identity; random unless given.
        labels: Free text for whoever looks for it; both sides see it.
        children: Drivers below it, by the name under which a client finds them.
        log_level: Of its own logger: a level's name, `"INFO"` by default.
        logger: Its own logger, `driver.<class>.<start of the uuid>`.
        resources: What clients have lent it, by handle.
    """

    uuid: UUID = field(default_factory=uuid4)
    labels: dict[str, str] = field(default_factory=dict)
    children: dict[str, Driver] = field(default_factory=dict)
    log_level: str = "INFO"
    logger: logging.Logger = field(init=False, repr=False)
    resources: dict[UUID, Any] = field(init=False, repr=False, default_factory=dict)

    if not TYPE_CHECKING:  # to a type checker, every name would be an attribute then

        def __new__(cls, *args, **kwargs):  # noqa: ANN002, ANN003, ANN204 - as `object` has it
            del args
            check_class(cls, kwargs)
            return super().__new__(cls)

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()  # type: ignore[misc]  # a mixin's, if there is one
        _check_fields(self)
        name = f"driver.{type(self).__name__}.{str(self.uuid)[:8]}"
        self.logger = logging.getLogger(name)
        try:
            if self.logger.level != logging.getLevelName(self.log_level):  # to set it takes long
                self.logger.setLevel(self.log_level)
        except (ValueError, TypeError) as exc:
            raise ConfigurationError(f"{name}: log_level {self.log_level!r}: {exc}") from exc

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a driver",
        "it holds its device; make another one there, of the same class with the same arguments, "
        "or serve this one and connect() from there",
    )

    @classmethod
    @abstractmethod
    def client(cls) -> str:
        """Give the dotted path of the client class, as `"package.module.PowerClient"`.

        A string, so that the exporter need not import what only the test's machine has.
        """

    def resource(
        self, handle: str | UUID, *, max_bytes: int = MAX_BYTES, timeout: float = IDLE
    ) -> Resource:
        """Open what a client has lent to this driver, or a URL, for the length of a block.

        In an `async` method `async with self.resource(handle) as stream` gives a Trio stream, with
        `receive_some` and `async for`, or `send_all`. In a plain one `with self.resource(handle) as
        file` gives a binary file. Whether it can be read or written was the client's choice. Any
        number of bytes passes in constant memory. What was written has all been sent when the block
        is left; leaving it by an exception tells the client that bytes are missing.

        Args:
            handle: What the client passed: what its `local_file` or `resource` block has given, to
                be used once and within that block, or an `http://` or `https://` URL, which this
                exporter fetches (an extra) with at most 5 redirects, and none from https to http.
            max_bytes: How many may be read in all, expanded if they come compressed. 64 GiB:
                larger than the cards that are flashed.
            timeout: Seconds that the server of a URL may be silent.

        Returns:
            Both a context manager and an async one.

        Raises:
            ResourceError: (on entering) There is no such resource at this driver, it was used
                already, was lent by another client, or a server answers with something else.
            MissingExtra: (on entering) It takes an extra that is not installed.
        """
        return Resource(self.resources, handle, max_bytes=max_bytes, timeout=timeout)

    def extra_labels(self) -> dict[str, str]:
        """Give labels that are found out rather than configured; they win over `labels`."""
        return {}

    def reset(self) -> None:
        """Bring the device into its known state; the base class resets all drivers below.

        A server runs it for each driver of the tree, parents before children, when serving begins
        and again when it ends, in a worker thread. An override need not call this one for that.
        """
        _cascade(self, "reset")

    def close(self) -> None:
        """Let go of the device; the base class closes all drivers below.

        A server runs it for each driver of the tree, parents before children, after the last
        `reset`, when every call has ended, in a worker thread. What it raises is logged, and the
        others are still closed. An override need not call this one for that.
        """
        _cascade(self, "close")


explain_missing_attributes(Driver)


def _check_fields(driver: Driver) -> None:
    """Check the fields of the base class; a UUID may come as text, from a configuration."""
    of = f" of {type(driver).__name__}"
    given: object = driver.uuid
    if isinstance(given, str):
        try:
            driver.uuid = UUID(given)
        except ValueError:
            raise_value_error(f"uuid{of}", given, "a UUID", ConfigurationError)
    else:
        check_instance(f"uuid{of}", given, UUID, "a UUID", ConfigurationError)
    check_instance(f"labels{of}", driver.labels, dict, "a dict of texts", ConfigurationError)
    check_instance(f"children{of}", driver.children, dict, "a dict of drivers", ConfigurationError)
    level: object = driver.log_level
    if isinstance(level, bool):
        raise_type_error(f"log_level{of}", level, "a level's name", ConfigurationError)


def run_single(driver: Driver, verb: str) -> None:
    """Run one driver's `reset` or `close`, with nothing passed on to those below."""
    token = _alone.set(driver)
    try:
        getattr(driver, verb)()
    finally:
        _alone.reset(token)


def _cascade(driver: Driver, verb: str) -> None:
    """Run a verb for each driver below: once, after all of its parents, whatever others raise."""
    if _alone.get() is driver:
        return
    # The last place of one that hangs in two is behind both of its parents.
    below = {id(other): other for other, _, _ in reversed(list(walk(driver)))}
    del below[id(driver)]
    failures: list[Exception] = []
    for other in reversed(below.values()):
        try:
            run_single(other, verb)
        except Exception as exc:  # noqa: BLE001 - raised as it is when all have had their turn
            failures.append(exc)
    if len(failures) > 1:
        raise ExceptionGroup(f"{verb} of {len(failures)} drivers failed", failures)
    if failures:
        raise failures[0]


def walk(root: Driver) -> Iterator[tuple[Driver, Driver | None, str]]:
    """Go through a tree, parents before children, children in their order.

    Yields:
        Each driver with its parent (None for the root) and its name there (`""` for the root). A
        driver that hangs in two places comes twice.

    Raises:
        ConfigurationError: A driver is its own ancestor, a child is not a driver, or children are
            no dict.
    """
    stack: list[tuple[object, Driver | None, str, tuple[int, ...]]] = [(root, None, "", ())]
    while stack:
        driver, parent, name, above = stack.pop()
        if not isinstance(driver, Driver):
            raise ConfigurationError(_not_a_driver(driver, parent, name))
        if attribute := unmade(driver):
            raise ConfigurationError(why_missing(type(driver), vars(driver), attribute))
        if id(driver) in above:
            text = f"driver {name!r} ({type(driver).__name__}) is a child of itself"
            raise ConfigurationError(f"{text}; a device tree cannot have circles")
        children = _children_of(driver)
        yield driver, parent, name
        below = (*above, id(driver))
        stack.extend((child, driver, key, below) for key, child in reversed(children.items()))


def _not_a_driver(thing: object, parent: Driver | None, name: str) -> str:
    what = (
        "what is to be served" if parent is None else f"child {name!r} of {type(parent).__name__}"
    )
    if isinstance(thing, type) and issubclass(thing, Driver):
        return f"{what} is the class {thing.__name__}; give an instance: {thing.__name__}()"
    return f"{what} is a {type(thing).__name__}, not a Driver"


def _children_of(driver: Driver) -> dict[str, Driver]:
    children = getattr(driver, "children", None)
    if not isinstance(children, dict):
        text = f"the children of {type(driver).__name__} are a {type(children).__name__}"
        raise ConfigurationError(f"{text}, not a dict; does its __init__ call super().__init__()?")
    return children
