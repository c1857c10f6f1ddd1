"""Define the base class of all drivers: identity, children, logger, reset and close.

It is a plain keyword-only dataclass, so that existing drivers keep working. A subclass with fields
of its own is a `@dataclass(kw_only=True)`, of the standard library or of pydantic; one without is a
plain class. This module knows neither connections nor tasks nor clients: `client()` returns the
name of a class, not the class.
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

# The driver whose `reset` or `close` runs without those below it, since the caller walks the tree.
_alone: Final[ContextVar[Driver | None]] = ContextVar("_alone", default=None)


# Without private members: a subclass, or its client, may have a field of any name.
@dataclass(kw_only=True, eq=False)
class Driver(ABC):
    """The base class of drivers: code that runs on the exporter and controls a device.

    Attributes:
        uuid: The driver's identity; random by default.
        labels: Free text that helps people find the driver; clients can read it.
        children: The drivers below this one, by their names in a client.
        resources: The files and streams that clients have lent to the driver, by handle.
        description: What this driver is for in this setup. Clients can read it, and command lines
            show it as their help.
        methods_description: The same for single methods, by the names of the methods, or of the
            commands that call them.
        log_level: The name of the logger's level, `"INFO"` by default.
        logger: The driver's own logger, `driver.<class>.<start of the uuid>`.
    """

    uuid: UUID = field(default_factory=uuid4)
    labels: dict[str, str] = field(default_factory=dict)
    children: dict[str, Driver] = field(default_factory=dict)
    resources: dict[UUID, Any] = field(init=False, repr=False, default_factory=dict)
    description: str | None = None
    methods_description: dict[str, str] = field(default_factory=dict)
    log_level: str = "INFO"
    logger: logging.Logger = field(init=False, repr=False)

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
        """Return the dotted path of the client class, such as `"package.module.PowerClient"`.

        It is a string so that the exporter need not import a module of the client's machine.
        """

    def resource(
        self, handle: str | UUID, *, max_bytes: int = MAX_BYTES, timeout: float = IDLE
    ) -> Resource:
        """Open a resource that a client has lent to this driver, or a URL, for one block.

        In an `async` method, `async with self.resource(handle) as stream` opens a Trio stream, with
        `receive_some` and `async for`, or with `send_all`. In a plain method, `with
        self.resource(handle) as file` opens a binary file. The client chooses whether it can be
        read or written. Memory use does not depend on the number of bytes. When the block ends,
        everything that was written has been sent. If the block raises an exception, the client gets
        an error, because bytes are missing.

        Args:
            handle: The handle that the client has passed, from its `local_file` or `resource`
                block; it can be used once, within that block. Or an `http://` or `https://` URL,
                which the exporter fetches (with an extra), following at most 5 redirects, and none
                from https to http.
            max_bytes: The largest number of bytes to read, after decompression. By default 64 GiB,
                which is larger than the cards that are flashed.
            timeout: Seconds that the server of a URL may send nothing.

        Returns:
            A context manager for plain code that is also one for `async` code.

        Raises:
            ResourceError: (on entering) This driver has no such resource, it was used already or
                was lent by another client, or the server of a URL does not answer with the file.
            MissingExtra: (on entering) It needs an extra that is not installed.
        """
        return Resource(self.resources, handle, max_bytes=max_bytes, timeout=timeout)

    def extra_labels(self) -> dict[str, str]:
        """Return labels that are found at run time; they take precedence over `labels`."""
        return {}

    def reset(self) -> None:
        """Bring the device into a known state. The base class resets all drivers below.

        A server calls it for each driver of the tree, parents before children, in a worker thread,
        when serving begins and again when it ends. An override need not call `super().reset()`.
        """
        _cascade(self, "reset")

    def close(self) -> None:
        """Release the device. The base class closes all drivers below.

        A server calls it for each driver of the tree, parents before children, in a worker thread,
        when every call has ended, after the last `reset`. An exception is logged, and the other
        drivers are still closed. An override need not call `super().close()`.
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
    texts = driver.methods_description
    check_instance(f"methods_description{of}", texts, dict, "a dict of texts", ConfigurationError)
    for text in (*texts, *texts.values(), driver.description or ""):
        check_instance(f"the descriptions{of}", text, str, "texts", ConfigurationError)
    level: object = driver.log_level
    if isinstance(level, bool):
        raise_type_error(f"log_level{of}", level, "a level's name", ConfigurationError)


def run_single(driver: Driver, verb: str) -> None:
    """Run one driver's `reset` or `close`, without the drivers below it."""
    token = _alone.set(driver)
    try:
        getattr(driver, verb)()
    finally:
        _alone.reset(token)


def _cascade(driver: Driver, verb: str) -> None:
    """Run `reset` or `close` of each driver below once, after all of its parents.

    Raises:
        Exception: Raised by one of them, after all have run; a group if several have raised.
    """
    if _alone.get() is driver:
        return
    # A driver with two parents is in the tree twice; its last place is after both.
    below = {id(other): other for other, _, _ in reversed(list(walk(driver)))}
    del below[id(driver)]
    failures: list[Exception] = []
    for other in reversed(below.values()):
        try:
            run_single(other, verb)
        except Exception as exc:  # noqa: BLE001 - raised when all have run
            failures.append(exc)
    if len(failures) > 1:
        raise ExceptionGroup(f"{verb} of {len(failures)} drivers failed", failures)
    if failures:
        raise failures[0]


def walk(root: Driver) -> Iterator[tuple[Driver, Driver | None, str]]:
    """Walk a device tree, parents before children, children in dict order.

    Yields:
        Each driver with its parent (None for the root) and its name there (`""` for the root). A
        driver in two places is yielded twice.

    Raises:
        ConfigurationError: A driver is its own ancestor, a child is not a driver, or `children` is
            not a dict.
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
