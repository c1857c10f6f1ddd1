"""The command `ls`: show an exporter's tree of drivers, and what they export."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import Signature
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from ..._protocol.frames import Kind
from ..._util.extras import requires_extra
from ..._util.labels import CLIENT_LABEL
from ..._util.text import sanitize_name
from ...client import DriverClient
from ...client._methods import Method, signature_from
from .._connecting import Access, connected, onlooker_options
from .._output import output_option, print_rows
from .._targets import exported, find_driver, split_address

with requires_extra("cli", "the command line"):
    import click

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]

_KINDS: Final = {Kind.UNARY: "call", Kind.GENERATOR: "generator", Kind.STREAM: "stream"}
_ROOT: Final = "."  # the path of the root
_Row: TypeAlias = dict[str, Any]


@click.command("ls")
@click.argument("arguments", nargs=-1, metavar="[ADDRESS] [DRIVER]")
@output_option
@onlooker_options
def command(arguments: tuple[str, ...], output: str | None, access: Access) -> None:
    """Show the drivers of an exporter: their classes, methods, streams and descriptions.

    With DRIVER, show only this one and those below it. ADDRESS is by default $JUMPSTARTER_HOST.
    """
    address, rest = split_address(arguments, 0)
    if len(rest) > 1:
        raise click.UsageError(f"unexpected argument {rest[1]!r}")
    with connected(address, access, import_clients=False, claim=False) as root:
        path = rest[0] if rest else _ROOT
        drivers = list(_drivers(find_driver(root, path), path))
    if output is not None:
        print_rows([each.row for each in drivers], ["path"], output)
    elif sys.stdout.isatty():
        _print_tree(drivers)
    else:
        for each in drivers:
            _print_plain(each)


class _Shown(NamedTuple):
    """A driver of the list.

    Attributes:
        depth: How far it is below the first one.
        name: Its name among its parent's children.
        row: What is known about it, as docs/howto/commands.md lists the keys.
    """

    depth: int
    name: str
    row: _Row

    @property
    def title(self) -> tuple[str, str, str]:
        """Its name, its client class, and a description, each in one line."""
        text = _first_line(self.row["description"] or self.row["doc"])
        name = self.name if self.name == _ROOT else sanitize_name(self.name)
        return name, f"({sanitize_name(self.row['client'])})", text


def _drivers(client: DriverClient, path: str) -> Iterator[_Shown]:
    """Yield a driver and those below it, parents first."""
    waiting = [(0, path, path, client)]
    while waiting:
        depth, name, path, client = waiting.pop()
        row = {
            "path": path,
            "client": client.labels.get(CLIENT_LABEL, ""),
            "description": client.description,
            "doc": client.channel.doc,
            "labels": dict(client.labels),
            "methods": [_method(each, client) for each in exported(client).values()],
        }
        yield _Shown(depth, name, row)
        prefix = "" if path == _ROOT else f"{path}."
        below = [
            (depth + 1, each, prefix + each, client.children[each]) for each in client.children
        ]
        waiting += reversed(below)


def _method(method: Method, client: DriverClient) -> _Row:
    return {
        "name": method.name,
        "kind": _KINDS[method.kind],
        "signature": method.signature or "(*args, **kwargs)",
        "doc": client.methods_description.get(method.name) or method.doc,
        "read_only": method.read_only,
    }


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _call_of(method: _Row) -> tuple[str, str, str]:
    """Return a method's kind (empty for a plain method), its name and signature, and its help."""
    kind = "" if method["kind"] == "call" else f"{method['kind']} "
    if method["read_only"]:
        kind = f"read-only {kind}"
    signature = method["signature"]
    if method["kind"] == "stream":  # how Python annotates a raw stream is of no use here
        signature = str(signature_from(signature).replace(return_annotation=Signature.empty))
    return kind, method["name"] + signature, _first_line(method["doc"])


def _print_plain(driver: _Shown) -> None:
    indent = "  " * driver.depth
    click.echo(indent + _joined(*driver.title))
    for method in driver.row["methods"]:
        kind, call, text = _call_of(method)
        click.echo(f"{indent}    " + _joined(f"{kind}{call}", "", text))


def _joined(name: str, detail: str, text: str) -> str:
    line = f"{name} {detail}".rstrip()
    return f"{line}: {text}" if text else line


def _print_tree(drivers: list[_Shown]) -> None:
    with requires_extra("cli", "the command line"):
        from rich.console import Console  # noqa: PLC0415 - slow, and for terminals only
        from rich.tree import Tree  # noqa: PLC0415 - the same

    branches: list[Tree] = []  # the last driver of each depth
    for driver in drivers:
        name, client, text = driver.title
        label = _styled((name, "bold cyan"), (f" {client}", "dim"), (f"  {text}", "italic"))
        del branches[driver.depth :]
        branches.append(branches[-1].add(label) if branches else Tree(label, guide_style="dim"))
        for method in driver.row["methods"]:
            kind, call, text = _call_of(method)
            call_name, parenthesis, rest = call.partition("(")
            branches[-1].add(
                _styled(
                    (kind, "magenta"),
                    (call_name, "green"),
                    (parenthesis + rest, ""),
                    (f"  {text}", "dim"),
                )
            )
    Console(highlight=False).print(branches[0])


def _styled(*parts: tuple[str, str]) -> Text:
    """Make a text of parts with styles. Not markup, in which a name could change the style."""
    from rich.text import Text  # noqa: PLC0415 - slow, and for terminals only

    return Text.assemble(*(part for part in parts if part[0].strip()))
