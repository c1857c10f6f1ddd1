"""The command `call`: call one exported method.

Scripts start it again and again. So it imports nothing that it does not need to make a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from ..._protocol.frames import Kind
from ..._util.click_groups import CommandWithNumbers
from ..._util.extras import requires_extra
from ...client._commands import RAW_HELP, print_value
from ...client._methods import Method, signature_from
from ...client._parameters import read_value
from .._connecting import Access, access_options, connected
from .._targets import exported, find_method, split_address

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]

_NAMED: Final = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@click.command("call", cls=CommandWithNumbers)
@click.argument("arguments", nargs=-1, metavar="[ADDRESS] DRIVER.METHOD [ARGUMENT]...")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["json"]),
    help="print a text and None as JSON too",
)
@click.option("--raw", is_flag=True, help=RAW_HELP)
@access_options
def command(arguments: tuple[str, ...], output: str | None, raw: bool, access: Access) -> None:
    """Call an exported method, and print the result.

    Arguments are read by the method's signature, which `ls` shows: as JSON, and as plain text where
    the parameter is a str. NAME=VALUE passes a keyword argument. A text is printed as it is, bytes
    too, None is not printed, and any other result as JSON, in which bytes are base64. The items of
    a generator are printed one per line until Ctrl-C. Options after `--` are arguments. ADDRESS is
    by default $JUMPSTARTER_HOST.
    """
    address, (path, *texts) = split_address(arguments, 1)
    show = partial(print_value, raw=raw, as_json=output == "json")
    with connected(address, access, import_clients=False, path=path) as root:
        client, name = find_method(root, path)
        method = exported(client)[name]
        if method.kind is Kind.STREAM:
            raise click.ClickException(f"{path!r} is a raw stream: use `console` or `forward`")
        args, kwargs = _read(method, path, texts)
        if method.kind is Kind.UNARY:
            show(client.call(name, *args, **kwargs))
            return
        with client.streamingcall(name, *args, **kwargs) as items:
            for item in items:
                show(item)


def _read(
    method: Method, path: str, texts: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read the arguments by the method's signature.

    Raises:
        click.UsageError: They do not fit it.
    """
    signature = signature_from(method.signature)
    positional: list[str] = []
    named: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if sign and _takes_name(signature, name):
            if name in named:
                raise click.UsageError(f"{name} is given twice")
            named[name] = value
        else:
            positional.append(text)
    try:
        bound = signature.bind(*positional, **named)
    except TypeError as exc:
        raise click.UsageError(f"{path}{signature}: {exc}") from exc
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        read = partial(read_value, parameter)
        if parameter.kind is parameter.VAR_POSITIONAL:
            bound.arguments[name] = tuple(map(read, value))
        elif parameter.kind is parameter.VAR_KEYWORD:
            bound.arguments[name] = {each: read(text) for each, text in value.items()}
        else:
            bound.arguments[name] = read(value)
    return bound.args, bound.kwargs


def _takes_name(signature: inspect.Signature, name: str) -> bool:
    """Return whether a method takes a keyword argument of this name."""
    parameter = signature.parameters.get(name)
    if parameter is not None and parameter.kind in _NAMED:
        return True
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    return takes_any and name.isidentifier()
