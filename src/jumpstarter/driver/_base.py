"""Define the base class of all drivers: identity, children, logger, reset and close.

It is a plain keyword-only dataclass, so that existing drivers keep working. A subclass with fields
of its own is a `@dataclass(kw_only=True)`, of the standard library or of pydantic; one without is a
plain class. This module knows neither connections nor tasks nor clients: `client()` returns the
name of a class, not the class.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, TypeAlias, cast
from uuid import UUID, uuid4

from .._io.transfer import MAX_BYTES
from .._util.checks import check_instance, raise_type_error, raise_value_error
from .._util.labels import CLIENT_LABEL, NAME_LABEL, NameOfLabel
from .._util.no_copies import ReduceEx, no_copies
from ..errors import ConfigurationError
from ._export import is_exported
from ._logger import DEFAULT_LEVEL, DriverLogger
from ._mistakes import check_class, explain_missing_attributes, unmade, why_missing
from ._report import DriverReport
from ._resources import Handle, Resource
from ._rounds import Family, Round, Turn, current_turn

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Driver", "family_of", "overrides", "own_report", "walk"]

# The drivers above the one whose `enumerate` runs, by `id`.
_above: Final[ContextVar[tuple[int, ...]]] = ContextVar("jumpstarter_above", default=())


# Without private members: a subclass, or its client, may have a field of any name.
@dataclass(kw_only=True, eq=False)
class Driver(ABC):
    """The base class of drivers: code that runs on the exporter and controls a device.

    Attributes:
        async_library: Which library the class's async code is written for, `"trio"` or
            `"asyncio"`. By default, that is found out: see docs/howto/asyncio-code.md.
        uuid: The driver's identity; random by default.
        labels: Free text that helps people find the driver; clients can read it.
        children: The drivers below this one, by their names in a client.
        resources: The files and streams that clients have lent to the driver, by handle.
        description: What this driver is for in this setup. Clients can read it, and command lines
            show it as their help.
        methods_description: The same for single methods, by the names of the methods, or of the
            commands that call them.
        log_level: The name of the logger's level, `"INFO"` by default.
        logger: The driver's own logger, `driver.<class>`. Its records have the driver's uuid as
            their attribute `uuid`.
        name: The driver's name in its labels, `"unknown"` if they have none.
        driver_type: What kind of driver this is, such as `"storage"`.
    """

    driver_type: ClassVar[str] = "other"
    async_library: ClassVar[str | None] = None

    uuid: UUID = field(default_factory=uuid4)
    labels: dict[str, str] = field(default_factory=dict)
    children: dict[str, Driver] = field(default_factory=dict)
    resources: dict[UUID, Any] = field(init=False, repr=False, default_factory=dict)
    description: str | None = None
    methods_description: dict[str, str] = field(default_factory=dict)
    log_level: str = DEFAULT_LEVEL
    logger: logging.Logger = field(init=False, repr=False)

    if not TYPE_CHECKING:  # to a type checker, every name would be an attribute then

        def __new__(cls, *args, **kwargs):  # noqa: ANN002, ANN003, ANN204 - as `object` has it
            del args
            check_class(cls, kwargs)
            return super().__new__(cls)

    if TYPE_CHECKING:  # a field of a subclass may override a property, but not a descriptor

        @property
        def name(self) -> str: ...

    else:
        name = NameOfLabel()

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()  # type: ignore[misc]  # a mixin's, if there is one
        _check_fields(self)
        name = f"driver.{type(self).__name__}"
        try:
            self.logger = DriverLogger(name, str(vars(self).get("uuid", "")), self.log_level)
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
        self, handle: Handle, timeout: float | None = None, *, max_bytes: int = MAX_BYTES
    ) -> Resource:
        """Open a resource that a client has lent to this driver, or a URL, for one block.

        In an `async` method, `async with self.resource(handle) as stream` opens a Trio stream, with
        `receive_some` and `async for`, or with `send_all`. In a plain method, `with
        self.resource(handle) as file` opens a binary file. The client chooses whether it can be
        read, written, or both. The stream has the methods of an anyio stream too. Memory use does
        not depend on the number of bytes. When the block ends, everything that was written has been
        sent. If the block raises an exception, the client gets an error, because bytes are missing.

        Args:
            handle: The handle that the client has passed, from its `local_file` or `resource`
                block; it can be used once, within that block. Or an `http://` or `https://` URL,
                which the exporter fetches (with an extra), following at most 5 redirects, and none
                from https to http. Or a dict as `jumpstarter.common.resources` makes it: a
                `client_stream` is a loan for both directions; a `presigned_request` is a GET, which
                the driver reads, or a PUT, which it writes, and the exporter makes it (with the
                same extra). It follows at most 10 redirects of a GET, and sends credentials to no
                other origin.
            timeout: For a URL, the seconds that its server may send nothing, 30 by default. For a
                presigned request, the seconds that it may take in all, 7,200 by default.
            max_bytes: The largest number of bytes to read, after decompression. By default 64 GiB,
                which is larger than the cards that are flashed.

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

    def enumerate(
        self, *, root: Driver | None = None, parent: Driver | None = None, name: str | None = None
    ) -> list[Row]:
        """List this driver and all below it, as clients are to see them.

        A server calls it once, for the root of a tree, before it calls `reset`. An override can put
        another driver in this one's place, and what is below that one:

            def enumerate(self, *, root=None, parent=None, name=None):
                return find(root, self.ref).enumerate(root=root, parent=parent, name=name)

        Args:
            root: The root of the tree; None if this is the root.
            parent: The driver above this one; None for the root.
            name: This driver's name there; None for the root.

        Returns:
            For each driver its uuid, its parent, its name there, and itself; parents before their
            children.

        Raises:
            ConfigurationError: A driver is its own ancestor, or a child is not a driver.
        """
        top = self if root is None else root
        return [
            (driver.uuid, above, given, driver)
            for driver, above, given in _list(self, top, parent, name, asks_first=False)
        ]

    def report(self, *, parent: Driver | None = None, name: str | None = None) -> DriverReport:
        """Tell clients what this driver is. A server calls it for each row of `enumerate`.

        Args:
            parent: The driver above this one; None for the root.
            name: This driver's name there; None for the root.

        Returns:
            Its uuid, labels and descriptions. The label ``jumpstarter.dev/client`` has the path of
            its client class.
        """
        return own_report(self, parent, name)

    def reset(self) -> None:
        """Bring the device into a known state. The base class resets all drivers below.

        A server calls it once for each driver of the tree, parents before children, in a worker
        thread, when serving begins. If one raises an exception, the drivers are closed, nothing is
        served, and the exception leaves `serve`. An override need not call `super().reset()`:
        drivers that it has not reset are reset when it returns.
        """
        _cascade(self, "reset")

    def close(self) -> None:
        """Release the device. The base class closes all drivers below.

        A server calls it once for each driver of the tree, parents before children, in a worker
        thread, when every call has ended. An exception is logged, and the other drivers are still
        closed. An override that calls `super().close()` finds the drivers below closed when that
        returns. It need not call it: drivers that it has not closed are closed when it returns.
        """
        _cascade(self, "close")


# The uuid of a driver, its parent, its name there, and the driver.
Row: TypeAlias = tuple[UUID, Driver | None, str | None, Driver]

explain_missing_attributes(Driver)


def _check_fields(driver: Driver) -> None:
    """Check the fields of the base class; a UUID may come as text, from a configuration.

    A field may be missing, if the driver was made by `object.__new__`.
    """
    if "uuid" not in vars(driver):
        return
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


def own_report(driver: Driver, parent: Driver | None, name: str | None) -> DriverReport:
    """Return what `Driver.report` does, of a driver that may export a method of this name."""
    labels = {**driver.labels, **driver.extra_labels(), CLIENT_LABEL: driver.client()}
    if name:
        labels[NAME_LABEL] = name
    return DriverReport(
        uuid=str(driver.uuid),
        parent_uuid=None if parent is None else str(parent.uuid),
        labels=labels,
        description=vars(driver).get("description") or None,
        methods_description=vars(driver).get("methods_description") or {},
    )


def _cascade(driver: Driver, verb: str) -> None:
    """Run `reset` or `close` of each driver below that has not had its turn, after its parents.

    Raises:
        Exception: Raised by one of them, after all have run; a group if several have raised. In a
            server's round, that handles it.
    """
    turn = current_turn(driver, verb)
    if turn is not None:
        turn.pass_on(driver)
        return
    failures: list[BaseException] = []
    family = family_of((each, parent) for each, parent, _ in walk(driver))
    base = getattr(Driver, verb)
    round_ = Round(verb, base, family, failed=lambda _, exc: failures.append(exc))
    round_.begin(driver)
    with round_.watched():
        Turn(round_).pass_on(driver)
    if len(failures) > 1:
        text = f"{verb} of {len(failures)} drivers failed"
        raise ExceptionGroup(text, cast("list[Exception]", failures))
    if failures:
        raise failures[0]


def family_of(rows: Iterable[tuple[Driver, Driver | None]]) -> Family:
    """Return the drivers of a tree.

    A child in whose place `enumerate` has put another driver is in no row, and is reset and closed
    last.
    """
    listed = list(rows)
    known = {id(driver) for driver, _ in listed}
    replaced = [
        (child, driver)
        for driver, _ in listed
        for child in driver.children.values()
        if id(child) not in known and isinstance(child, Driver)
    ]
    return Family([*listed, *replaced])


def walk(root: Driver) -> Iterator[tuple[Driver, Driver | None, str]]:
    """Walk a device tree, parents before children, children in dict order.

    Yields:
        Each driver with its parent (None for the root) and its name there (`""` for the root). A
        driver in two places is yielded twice. If a driver has an `enumerate`, its rows count.

    Raises:
        ConfigurationError: A driver is its own ancestor, a child is not a driver, `children` is not
            a dict, or the rows of an `enumerate` are not a tree.
    """
    for driver, parent, name in _list(root, root, None, None, asks_first=True):
        yield driver, parent, name or ""


def _list(
    first: object, root: Driver, parent: Driver | None, name: str | None, *, asks_first: bool
) -> Iterator[tuple[Driver, Driver | None, str | None]]:
    """Go through a tree, without a limit to its depth.

    Args:
        first: The driver to begin with.
        root: The root of the whole tree, for drivers that enumerate others.
        parent: The driver above the first.
        name: The first's name there.
        asks_first: False if the first's own `enumerate` asks.
    """
    stack: list[tuple[object, Driver | None, str | None, tuple[int, ...]]]
    stack = [(first, parent, name, _above.get())]
    while stack:
        driver, parent, name, above = stack.pop()
        if not isinstance(driver, Driver):
            _raise_not_a_driver(driver, parent, name or "")
        if attribute := unmade(driver):
            raise ConfigurationError(why_missing(type(driver), vars(driver), attribute))
        if id(driver) in above:
            text = f"driver {name!r} ({type(driver).__name__}) is a child of itself"
            raise ConfigurationError(f"{text}; a device tree cannot have circles")
        if (asks_first or driver is not first) and overrides(driver, "enumerate"):
            yield from _ask(driver, root, parent, name, above)
            continue
        children = _children_of(driver)
        yield driver, parent, name
        below = (*above, id(driver))
        stack.extend((child, driver, key, below) for key, child in reversed(children.items()))


def overrides(driver: Driver, method: str) -> bool:
    """Return True if a driver has its own `enumerate` or `report`, and not one for clients."""
    own = getattr(type(driver), method)
    return own is not getattr(Driver, method) and callable(own) and not is_exported(own)


def _ask(
    driver: Driver,
    root: Driver,
    parent: Driver | None,
    name: str | None,
    above: tuple[int, ...],
) -> list[tuple[Driver, Driver | None, str | None]]:
    """Return the rows that a driver gives for itself and those below it."""
    title = f"enumerate() of driver {name or 'root'!r} ({type(driver).__name__})"
    token = _above.set(above)
    try:
        rows = driver.enumerate(root=root, parent=parent, name=name)
    except RecursionError as exc:
        raise ConfigurationError(f"{title} never ends: does it refer to itself?") from exc
    finally:
        _above.reset(token)
    known = {id(parent)}
    for _, over, _, each in rows:
        if id(over) not in known:
            raise ConfigurationError(f"{title} lists a driver before its parent: {each!r:.100}")
        if not isinstance(each, Driver):
            raise ConfigurationError(f"{title} lists a {type(each).__name__}, not a Driver")
        known.add(id(each))
    return [(each, over, given) for _, over, given, each in rows]


def _raise_not_a_driver(thing: object, parent: Driver | None, name: str) -> NoReturn:
    title = (
        "the driver to serve" if parent is None else f"child {name!r} of {type(parent).__name__}"
    )
    hint = ""
    if isinstance(thing, type) and issubclass(thing, Driver):
        hint = f", such as {thing.__name__}()"
    raise_type_error(title, thing, f"an instance of Driver{hint}", ConfigurationError)


def _children_of(driver: Driver) -> dict[str, Driver]:
    children = getattr(driver, "children", None)
    if not isinstance(children, dict):
        text = f"the children of {type(driver).__name__} are a {type(children).__name__}"
        raise ConfigurationError(f"{text}, not a dict; does its __init__ call super().__init__()?")
    return children
