"""The command line of a client: its own `cli()`, or one made from the exporter's report.

A made group has a command for each exported method and for each child. It makes them when they are
requested: a command of one driver must not wait for those of fifty others, and a `cli()` that fails
must not disable the others. The help lists the children by what the report says about them.
"""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeAlias

from .._protocol.frames import Kind
from .._util.click_groups import CommandWithNumbers, LazyGroup
from .._util.extras import requires_extra
from .._util.text import escape_json, escape_lines
from ..errors import ConfigurationError
from ._methods import Method, printable, signature_from
from ._parameters import arguments_of, parameters_of
from ._remote import DriverRef

with requires_extra("cli", "the command line of a client"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["RAW_HELP", "ClientGroup", "MethodCommand", "command_of", "consoles", "print_value"]


class Client(Protocol):
    """The part of a `DriverClient` that a command line needs. Its module imports this one."""

    description: str | None
    methods_description: dict[str, str]
    channel: DriverRef

    @property
    def children(self) -> Mapping[str, Client]: ...
    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any: ...
    def streamingcall(
        self, method: str, /, *args: Any, **kwargs: Any
    ) -> AbstractContextManager[Iterator[Any]]: ...


# Opens a console on a client's raw stream. It gets the client, the name of the method, and the
# method's positional and keyword arguments, and returns the exit code.
Console: TypeAlias = Callable[[Any, str, Sequence[Any], Mapping[str, Any]], int]

RAW_HELP: Final = "print control characters as they are, on a terminal too"
_PUBLISHED_GROUP: Final = "jumpstarter_driver_composite.client"
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SECTIONS: Final = {"Args:", "Attributes:", "Example:", "Examples:", "Raises:", "Returns:"}
_MADE: Final = "{program}: {reason} (until then, its commands are those of the exported methods)"
_ON_STREAM: Final = "Open a console on the raw stream {name!r}."

_console: ContextVar[Console | None] = ContextVar("jumpstarter_console", default=None)


@contextmanager
def consoles(console: Console) -> Iterator[None]:
    """Let the commands of raw streams open a console, for the length of a block.

    Elsewhere raw streams have no commands, since a console needs the terminal.
    """
    token = _console.set(console)
    try:
        yield
    finally:
        _console.reset(token)


def command_of(client: Client) -> click.Command:
    """Return a client's command line. It may call the driver, if the client's own `cli()` does.

    Raises:
        ConfigurationError: The client's `cli()` does not give a click command.
        Exception: Its `cli()` has raised it.
    """
    if _stands_in(client):
        return _StubGroup(client)
    own = getattr(type(client), "cli", None)
    if own is None or getattr(own, "__module__", "") == _PUBLISHED_GROUP:
        # The published group calls the cli() of all its children, some of which call their driver.
        return ClientGroup(client)
    command: object = own(client)
    if not isinstance(command, click.Command):
        text = f"cli() of {type(client).__name__} gave a {type(command).__name__}"
        raise ConfigurationError(f"{text}; it must give a click command")
    return command


class ClientGroup(LazyGroup):
    """The commands of a client: its children's, and those of the methods that its driver exports.

    As among the client's attributes, a child comes before a method of the same name. Commands that
    are added to the group come before both.

    Args:
        client: The client.
        hidden: Names of methods that have no command, since a command of the client does more.
    """

    def __init__(self, client: Client, hidden: Collection[str] = ()) -> None:
        super().__init__(
            name="cli",
            help=_summary(client) or None,
            params=[_log_level()] if client.children else [],
        )
        self._client = client
        self._hidden = hidden

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - of click.Group
        """Return the names of the children, of added commands, and of the methods' commands."""
        return list(dict.fromkeys((*self._client.children, *self.commands, *self._methods())))

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, whose help the driver's `methods_description` can replace."""
        super().add_command(cmd, name)
        cmd.help = self._client.methods_description.get(cmd.name or "") or cmd.help

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - of click.Group
        cmd_name: str,
    ) -> click.Command | None:
        """Make a command. The name of a method may have underscores, as in Python."""
        if added := self.commands.get(_command_name(cmd_name)):
            return added
        if cmd_name in self._client.children:
            return command_of(self._client.children[cmd_name])
        methods = self._methods()
        method = methods.get(cmd_name) or methods.get(_command_name(cmd_name))
        return None if method is None else MethodCommand(self._client, method)

    def list_described(self) -> list[tuple[str, str]]:
        """Return the names and descriptions of the commands, without calling any `cli()`."""
        children = self._client.children.items()
        rows = [(printable(name), _short(each)) for name, each in children]
        rows += [(name, each.get_short_help_str(60)) for name, each in self.commands.items()]
        for name, method in self._methods().items():
            if name not in self._client.children and name not in self.commands:
                rows.append((name, MethodCommand(self._client, method).get_short_help_str(60)))
        return rows

    def _methods(self) -> dict[str, Method]:
        """Return the methods by the names of their commands."""
        exported = self._client.channel.methods
        methods: dict[str, Method] = {}
        for method in exported.values():
            if method.name in self._hidden:
                continue
            if method.kind is not Kind.STREAM or _console.get() is not None:
                name = _command_name(method.name)
                is_taken = name in methods or (name in exported and name != method.name)
                methods[method.name if is_taken else name] = method
        return methods


class _StubGroup(ClientGroup):
    """The commands of a client whose class could not be imported. It says so, and what to do."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Print why there are no other commands, unless a shell asks for completions."""
        if not extra.get("resilient_parsing"):
            client: Any = self._client
            program = info_name if parent is None else parent.find_root().info_name
            reason = " ".join(printable(client.missing).split())
            click.echo(_MADE.format(program=program, reason=reason), err=True)
        return super().make_context(info_name, args, parent, **extra)


class MethodCommand(CommandWithNumbers):
    """The command that calls an exported method.

    It prints the result: a text as it is, nothing for None, and JSON for other values. Of a
    generator it prints each item on a line of its own, until the generator ends or is interrupted.
    For a raw stream it opens a console.

    Args:
        client: The client.
        method: The method.
    """

    def __init__(self, client: Client, method: Method) -> None:
        self._client = client
        self._method = method
        self._parameters = parameters_of(signature_from(method.signature))
        name = _command_name(method.name)
        described = client.methods_description
        text = described.get(name) or described.get(method.name) or method.doc
        if not text and method.kind is Kind.STREAM:
            text = _ON_STREAM.format(name=method.name)
        super().__init__(
            name=name,
            callback=self._run,
            params=[each.command for each in self._parameters] + self._raw_option(),
            help=_described(text) or None,
        )

    def _raw_option(self) -> list[click.Parameter]:
        taken = {name for each in self._parameters for name in each.command.opts}
        if self._method.kind is Kind.STREAM or "--raw" in taken:
            return []
        return [click.Option(["raw", "--raw"], is_flag=True, help=RAW_HELP)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Describe the arguments, which click does not, and the options."""
        rows = [
            (each.title, each.described)
            for each in self._parameters
            if isinstance(each.command, click.Argument)
        ]
        if rows:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        super().format_options(ctx, formatter)

    def _run(self, raw: bool = False, **_: object) -> int:
        name = self._method.name
        args, kwargs = arguments_of(self._parameters, click.get_current_context())
        if self._method.kind is Kind.STREAM:
            console = _console.get()
            assert console is not None, "the group had no command for a stream without a console"
            return console(self._client, name, args, kwargs)
        if self._method.kind is Kind.GENERATOR:
            with self._client.streamingcall(name, *args, **kwargs) as items:
                for item in items:
                    print_value(item, raw=raw)
        else:
            print_value(self._client.call(name, *args, **kwargs), raw=raw)
        return 0


def print_value(value: Any, *, raw: bool = False, as_json: bool = False) -> None:
    """Print a result or an item to stdout, see `MethodCommand`. Bytes are written as they are.

    On a terminal, characters that are not printable are escaped, apart from line breaks and tabs: a
    device's escape sequences would act on the terminal.

    Args:
        value: The value.
        raw: Escape nothing, on a terminal too.
        as_json: Print a text, bytes and None as JSON too.

    Raises:
        BrokenPipeError: The reader of stdout has gone.
    """
    is_shown = not raw and sys.stdout.isatty()
    if as_json or not isinstance(value, str | bytes | None):
        text = json.dumps(value, ensure_ascii=False, default=_plain_value)
        click.echo(escape_json(text) if is_shown else text)
    elif isinstance(value, str):
        click.echo(escape_lines(value) if is_shown else value)
    elif value is not None:
        shown = escape_lines(value.decode(errors="backslashreplace")) if is_shown else value
        click.echo(shown, nl=False)


def _plain_value(value: Any) -> Any:
    """Return what stands for a value that JSON does not have."""
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    isoformat = getattr(value, "isoformat", str)  # of a date or a time
    return isoformat() if isoformat is not str else str(value)


# ------------------------------------------------------------------------------------------- texts


def _command_name(name: str) -> str:
    """Return the name that click gives to the command of a function."""
    return name.lower().replace("_", "-")


def _short(client: Client) -> str:
    """Describe a child in one line."""
    command = click.Command(None, help=_summary(client))
    missing = "its client class is missing here" if _stands_in(client) else type(client).__name__
    return command.get_short_help_str(60) or missing


def _stands_in(client: Client) -> bool:
    """Return True for a client whose class is missing: its module imports this one."""
    return getattr(type(client), "_jmp_stands_in", False)


def _summary(client: Client) -> str:
    """Return the client's description, or else the first paragraph of the driver's docstring."""
    if client.description:
        return _described(client.description)
    first = client.channel.doc.partition("\n\n")[0]
    return "" if first.partition("\n")[0].strip() in _SECTIONS else _described(first)


def _described(text: str) -> str:
    """Return a docstring as the help of a command, which keeps the lines of indented blocks."""
    paragraphs: list[str] = []
    for each in text.replace("\f", " ").split("\n\n"):
        is_block = any(line[:1].isspace() for line in each.splitlines())
        paragraphs.append(f"\b\n{each}" if is_block else each)
    return "\n\n".join(paragraphs).strip()


# ---------------------------------------------------------------------------------------- the log


def _log_level() -> click.Option:
    """Make the option that the published groups have too."""
    return click.Option(
        ["--log-level"],
        type=click.Choice(_LEVELS, case_sensitive=False),
        help="print log records of this level and above to stderr",
        expose_value=False,
        callback=_set_log_level,
    )


def _set_log_level(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    logging.basicConfig(level=value)
    root = logging.getLogger()
    root.setLevel(value)
    for name in list(_loggers(root)):  # a client sets the level of its own logger
        logging.getLogger(name).setLevel(value)


def _loggers(root: logging.Logger) -> Sequence[str]:
    return [name for name in root.manager.loggerDict if name.partition(".")[0] == "client"]
