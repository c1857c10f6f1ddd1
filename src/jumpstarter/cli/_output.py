"""Print results: tables on a terminal, plain columns in a pipe, JSON or YAML on demand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from .._util.extras import requires_extra
from .._util.text import escape_text

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["output_option", "print_rows"]

F = TypeVar("F", bound=Callable[..., Any])
_FORMATS: Final = ("json", "yaml", "name")


def output_option(function: F) -> F:
    """Add the option `-o`, which the function gets as `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(_FORMATS),
        help="print JSON, YAML, or the names only, instead of a table",
    )(function)


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: str | None
) -> None:
    """Print a list.

    Args:
        rows: What to print. JSON and YAML show all keys of each row.
        columns: The keys that a table shows, in this order. The first one is the name.
        output: A format of `output_option`, or None for a table.

    Raises:
        BrokenPipeError: The reader of stdout has gone.
    """
    if output == "json":
        click.echo(json.dumps(list(rows), indent=2, default=str))
    elif output == "yaml":
        with requires_extra("cli", "the command line"):
            import yaml  # noqa: PLC0415 - slow, and for this format only
        click.echo(yaml.safe_dump([dict(row) for row in rows], sort_keys=False), nl=False)
    elif output == "name":
        for row in rows:
            click.echo(escape_text(str(row[columns[0]])))
    else:
        _print_table(
            [[escape_text(str(row.get(each, ""))) for each in columns] for row in rows], columns
        )


def _print_table(cells: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    titles = [each.upper() for each in columns]
    if sys.stdout.isatty():
        with requires_extra("cli", "the command line"):
            from rich.console import Console  # noqa: PLC0415 - slow, and for terminals only
            from rich.table import Table  # noqa: PLC0415 - the same
        table = Table(*titles, box=None, pad_edge=False)
        for row in cells:
            table.add_row(*row)
        Console(highlight=False, markup=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for row in [titles, *cells]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())
