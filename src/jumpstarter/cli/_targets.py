"""Find the driver, and the method, that the arguments of a command name.

A path has the names from the root's children down, with dots between them: `dut.power`. A name may
contain dots itself, so the longest child that fits comes first. The root is an empty path, or `.`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from .._protocol.frames import Kind
from .._util.extras import requires_extra
from .._util.nearest import nearest_names
from .._util.text import sanitize_name
from ..client import DriverClient

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["NoSuchName", "exported", "find_driver", "find_method", "find_stream", "split_address"]

_MAX_NAMES: Final = 20  # that an error lists


class NoSuchName(click.ClickException):
    """A driver or method that the exporter does not have. Its exit code is 1."""


def split_address(arguments: Sequence[str], least: int) -> tuple[str | None, list[str]]:
    """Split an optional exporter's address from the arguments after it.

    An address has a `:` or a `/`, which no path of a driver has.

    Args:
        arguments: The arguments of a command.
        least: How many it needs beside the address.

    Returns:
        The address, or None for the one of `JUMPSTARTER_HOST`; and the other arguments.

    Raises:
        click.UsageError: There are fewer.
    """
    first = arguments[0] if arguments else ""
    given = ":" in first or "/" in first
    rest = list(arguments[given:])
    if len(rest) < least:
        what = "an argument is missing" if given else "an address or another argument is missing"
        raise click.UsageError(f"{what}; an address has a ':' or a '/', as in unix:/run/socket")
    return (first if given else None), rest


def find_driver(root: DriverClient, path: str) -> DriverClient:
    """Return the client of the driver at a path.

    Raises:
        NoSuchName: There is none. The message has the nearest name.
    """
    client, rest = _descend(root, "" if path == "." else path)
    if rest:
        raise _no_such_driver(client, path, rest)
    return client


def find_method(root: DriverClient, path: str) -> tuple[DriverClient, str]:
    """Return the client of a driver, and the name of the method, for `driver.method`.

    Raises:
        NoSuchName: The driver does not exist, or does not export the method. The message has the
            nearest name.
    """
    client, method = _descend(root, path)
    methods = exported(client)
    if method in methods:
        return client, method
    if "." in method:
        raise _no_such_driver(client, path, method)
    if not method:
        names = _list(methods)
        raise NoSuchName(f"{path!r} is a driver; add the name of a method: {names}")
    text = f"{client.channel.name} has neither a child nor an exported method {method!r}"
    nearest = _nearest(method, {**methods, **client.children})
    lists = f"its children: {_list(client.children)}; it exports: {_list(methods)}"
    raise NoSuchName(f"{text}{nearest}; {lists}")


def find_stream(root: DriverClient, path: str) -> tuple[DriverClient, str]:
    """Return the client and the method for `driver[.method]`, whose method is a stream.

    Raises:
        NoSuchName: There is no such driver or stream.
    """
    try:
        client = find_driver(root, path)
    except NoSuchName:
        client, method = find_method(root, path)
        if exported(client)[method].kind is not Kind.STREAM:
            raise NoSuchName(f"{path!r} is a method and not a stream: use `call` for it") from None
        return client, method
    streams = [name for name, each in exported(client).items() if each.kind is Kind.STREAM]
    if len(streams) == 1:
        return client, streams[0]
    if "connect" in streams:
        return client, "connect"
    names = f"name one: {', '.join(streams)}" if streams else "it exports no stream"
    raise NoSuchName(f"{client.channel.name} has no stream 'connect'; {names}")


def exported(client: DriverClient) -> Mapping[str, Any]:
    """Return the methods that a driver exports, by name."""
    return client.channel.methods


def _descend(client: DriverClient, path: str) -> tuple[DriverClient, str]:
    """Go down a path as far as there are children. Returns the last client, and the rest."""
    while path:
        fitting = [each for each in client.children if f"{path}.".startswith(f"{each}.")]
        if not fitting:
            break
        name = max(fitting, key=len)
        client, path = client.children[name], path[len(name) + 1 :]
    return client, path


def _no_such_driver(client: DriverClient, path: str, rest: str) -> NoSuchName:
    name = rest.partition(".")[0]
    children = client.children
    text = f"there is no driver {path!r}: {client.channel.name} has no child {name!r}"
    return NoSuchName(f"{text}{_nearest(name, children)}; its children: {_list(children)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    found = nearest_names(name, known)
    return f"; did you mean {found[0]!r}?" if found else ""


def _list(names: Iterable[str]) -> str:
    shown = [sanitize_name(each) for each in names]
    more = f" and {len(shown) - _MAX_NAMES} more" if len(shown) > _MAX_NAMES else ""
    return (", ".join(shown[:_MAX_NAMES]) or "none") + more
