"""The commands of drivers whose client can do more than the driver exports, for `j`.

Each group has a command for every exported method too. The functions take a client, whose module
imports this one.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from .._util.extras import requires_extra
from ..client._commands import RAW_HELP, ClientGroup, print_value
from ._record import ConsoleMark

with requires_extra("cli", "the command line of a driver"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["console_commands", "power_commands", "qmp_commands", "storage_commands"]

_COMPRESS: Final = click.option(
    "--compress", is_flag=True, help="Compress what crosses the connection."
)


if TYPE_CHECKING:
    _ParamType: TypeAlias = click.ParamType[Any]  # type: ignore[type-arg, unused-ignore]
else:
    _ParamType = click.ParamType  # it is not generic in earlier versions, for mypy neither


class _Position(_ParamType):
    """Reads a position in a record: a mark, as `mark` prints it, or an offset."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the position.

        Raises:
            click.BadParameter: The text is none.
        """
        try:
            read = json.loads(value)
            if isinstance(read, int) and not isinstance(read, bool):
                return read
            return msgspec.convert(read, ConsoleMark)
        # In msgspec 0.20 a ValidationError is not a ValueError.
        except (ValueError, RecursionError, msgspec.ValidationError):
            text = f"{value!r} is neither what `mark` prints nor a number of bytes"
            return self.fail(text, param, ctx)


def console_commands(client: Any) -> click.Group:
    """Return the commands of a recorded console."""
    group = ClientGroup(client)
    group.add_command(_tail_command(client))
    group.add_command(_wait_command(client))
    return group


def _tail_command(client: Any) -> click.Command:
    @click.command()
    @click.argument("size", type=click.IntRange(min=0), default=4096)
    @click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
    @click.option("--raw", is_flag=True, help=RAW_HELP)
    def tail(size: int, follow: bool, raw: bool) -> None:
        """Print the last SIZE bytes of the record, 4096 by default."""
        if follow:
            _follow(client, size, raw=raw)
        else:
            print_value(client.tail(size), raw=raw)

    return tail


def _wait_command(client: Any) -> click.Command:
    @click.command("wait-for")
    @click.argument("pattern")
    @click.option(
        "--since",
        type=_Position(),
        required=True,
        metavar="MARK",
        help="Where to begin: what `mark` printed before, or 0 for all that is kept.",
    )
    @click.option("--regex", is_flag=True, help="PATTERN is a regular expression.")
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for it; with 0, look only at what was recorded already.",
    )
    @click.option("--raw", is_flag=True, help=RAW_HELP)
    def wait_for(
        pattern: str, since: ConsoleMark | int, regex: bool, timeout: float, raw: bool
    ) -> None:
        """Wait until the device says PATTERN, and print it."""
        match = client.wait_for(_sought(pattern, regex), since=since, timeout=timeout)
        print_value(match.data + b"\n", raw=raw)

    return wait_for


def _sought(pattern: str, regex: bool) -> bytes | re.Pattern[bytes]:
    """Return what to wait for.

    Raises:
        click.BadParameter: It is not a regular expression.
    """
    text = os.fsencode(pattern)
    if not regex:
        return text
    try:
        return re.compile(text)
    except re.error as exc:
        raise click.BadParameter(f"{pattern!r}: {exc}", param_hint="PATTERN") from exc


def _follow(client: Any, size: int, *, raw: bool) -> None:
    """Print the end of a record, and what is added to it."""
    pieces = _Pieces()
    is_shown = not raw and sys.stdout.isatty()
    with client.watch(last=size) as items:
        for item in items:
            if item.missed:
                click.echo(
                    f"({item.missed} bytes were overwritten before they came here)", err=True
                )
            print_value(pieces.take(item.data) if is_shown else item.data, raw=raw)


class _Pieces:
    """Cuts pieces of a text anew, so that none ends within a character or a line break."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._kept = ""

    def take(self, data: bytes) -> bytes:
        """Take a piece, and return what can be shown now."""
        text = self._kept + self._decoder.decode(data)
        shown = text.removesuffix("\r")
        self._kept = text[len(shown) :]
        return shown.encode()


def storage_commands(client: Any) -> click.Group:
    """Return the commands of a storage."""
    group = ClientGroup(client, hidden={"read", "write"})

    @click.command()
    @click.argument("file")
    @_COMPRESS
    def flash(file: str, compress: bool) -> None:
        """Write the image FILE, or at a URL, and print its SHA-256."""
        click.echo(client.flash(file, compress=compress))

    @click.command()
    @click.argument("file")
    @_COMPRESS
    def dump(file: str, compress: bool) -> None:
        """Read the storage into FILE, and print its SHA-256."""
        click.echo(client.dump(file, compress=compress))

    group.add_command(flash)
    group.add_command(dump)
    return group


def power_commands(client: Any) -> click.Group:
    """Return the commands of a power switch."""
    group = ClientGroup(client)

    @click.command()
    @click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=2.0,
        show_default=True,
        metavar="SECONDS",
        help="How long the power is off.",
    )
    def cycle(wait: float) -> None:
        """Switch off, wait, and switch on."""
        client.cycle(wait)

    group.add_command(cycle)
    return group


def qmp_commands(client: Any) -> click.Group:
    """Return the commands of a QMP socket."""
    group = ClientGroup(client)

    @click.command()
    @click.argument("file", type=click.Path(dir_okay=False))
    def screendump(file: str) -> None:
        """Write a picture of the machine's screen to FILE, as PNG."""
        client.screendump(file)

    group.add_command(screendump)
    return group
