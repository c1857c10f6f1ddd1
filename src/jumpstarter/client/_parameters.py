"""Make the parameters of a click command from a signature that an exporter has reported.

The annotations are text from the exporter. They are parsed and never evaluated: the names in them
decide how an argument on the command line is read. A parameter that is not given is not sent, so
the driver's own default holds.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from .._util.extras import requires_extra

with requires_extra("cli", "a command line"):
    import click
    from click.core import ParameterSource
    from click.shell_completion import CompletionItem

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["MethodParameter", "arguments_of", "parameters_of", "read_value"]

# How a value on the command line is read.
_Reading: TypeAlias = Literal[
    "integer", "float", "bool", "null", "JSON array", "JSON object", "bytes", "text", "value"
]

_READINGS: Final[dict[str, _Reading]] = {
    "int": "integer",
    "float": "float",
    "bool": "bool",
    "None": "null",
    "str": "text",
    **dict.fromkeys(("bytes", "bytearray", "memoryview", "Buffer"), "bytes"),
    # Types that the exporter makes of a text.
    **dict.fromkeys(("Path", "PurePath", "PosixPath", "PurePosixPath", "PathLike"), "text"),
    **dict.fromkeys(("UUID", "Decimal", "datetime", "date", "time", "timedelta"), "text"),
    **dict.fromkeys(("list", "List", "tuple", "Tuple", "Sequence", "Iterable"), "JSON array"),
    **dict.fromkeys(("set", "Set", "frozenset", "FrozenSet", "AbstractSet"), "JSON array"),
    **dict.fromkeys(("MutableSequence", "Collection", "deque"), "JSON array"),
    **dict.fromkeys(("dict", "Dict", "Mapping", "MutableMapping"), "JSON object"),
}
_POSITIONAL: Final = {
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
}


class MethodParameter(NamedTuple):
    """A parameter of a method, and the one of its command.

    Attributes:
        method: The method's.
        command: The command's.
    """

    method: inspect.Parameter
    command: click.Parameter

    @property
    def title(self) -> str:
        """How messages and the help name it."""
        is_option = isinstance(self.command, click.Option)
        return self.command.opts[0] if is_option else self.method.name.upper()

    @property
    def described(self) -> str:
        """How a value of it is read, and its default."""
        text = self.command.type.name
        default = self.method.default
        return text if default is inspect.Parameter.empty else f"{text}; default: {default!r}"


if TYPE_CHECKING:
    _ParamType: TypeAlias = click.ParamType[Any]  # type: ignore[type-arg, unused-ignore]
else:
    _ParamType = click.ParamType  # it is not generic in earlier versions, for mypy neither


# Stands for None: before its version 8.3, click takes None for an argument that is missing.
_NONE: Final = object()


class _Value(_ParamType):
    """Reads a value by the names of types in an annotation.

    Args:
        readings: How it may be read.
        choices: The values of `Literal`, which are accepted too.
    """

    def __init__(self, readings: set[_Reading], choices: tuple[Any, ...] = ()) -> None:
        if readings & {"text", "bytes"}:
            readings = readings - {"null"}  # the text "null"
        self._readings = [each for each in _READ if each in readings]
        self._choices = choices
        shown = [each for each in self._readings if each != "null"]
        self.name = " or ".join([*map(str, choices), *shown]) or "null"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Return the value that the driver gets, or `_NONE`.

        Raises:
            click.BadParameter: The text cannot be read as any of the types.
        """
        read = self.read(value, param, ctx)
        return _NONE if read is None else read

    def read(
        self, value: Any, param: click.Parameter | None = None, ctx: click.Context | None = None
    ) -> Any:
        """Return the value that the driver gets; see `convert`."""
        for choice in self._choices:
            if str(choice) == value:
                return choice
        for reading in self._readings:
            try:
                return _READ[reading](value)
            except (ValueError, RecursionError):
                continue
        return self.fail(f"{value!r} is not: {self.name}", param, ctx)

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - of click.ParamType
        param: click.Parameter,  # noqa: ARG002 - likewise
        incomplete: str,
    ) -> list[CompletionItem]:
        """Complete the values of a `Literal`."""
        shown = map(str, self._choices)
        return [CompletionItem(each) for each in shown if each.startswith(incomplete)]


def _integer(text: str) -> int:
    return int(text, 0) if text.lower().startswith(("0x", "0b", "0o")) else int(text)


def _json(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = json.loads(text)
        if not isinstance(value, kind):
            raise ValueError(text)  # noqa: TRY004 - it is the text that is wrong
        return value

    return read


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# How each is read; a ValueError says that the text is another. A union of types is tried in this
# order, since any text could be a text.
_READ: Final[dict[_Reading, Callable[[str], Any]]] = {
    "integer": _integer,
    "float": float,
    "bool": _json(bool),
    "null": _json(type(None)),
    "JSON array": _json(list),
    "JSON object": _json(dict),
    "text": str,
    "bytes": os.fsencode,
    "value": _json_or_text,
}


# ------------------------------------------------------------------------------------ annotations


def _value_of(annotation: Any) -> _Value:
    """Return how the values of an annotation are read."""
    readings: set[_Reading] = set()
    choices: list[Any] = []
    text = "object" if annotation is inspect.Parameter.empty else repr(annotation)
    for each in _alternatives(text):
        if isinstance(each, ast.Constant):
            choices.append(each.value)
        else:
            readings.add(_READINGS.get(_name_of(each), "value"))
    if not readings and not choices:
        readings.add("value")
    return _Value(readings, tuple(choices))


def _alternatives(text: str) -> Iterator[ast.expr]:
    """Yield the parts of a union: types, and as constants the values of a `Literal`."""
    waiting = [_parsed(text)]
    while waiting:
        node = waiting.pop(0)
        name = _name_of(node.value) if isinstance(node, ast.Subscript) else ""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            waiting[:0] = [node.left, node.right]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            waiting.insert(0, _parsed(node.value))  # a quoted annotation
        elif isinstance(node, ast.Constant):
            yield ast.Name(repr(node.value))
        elif not isinstance(node, ast.Subscript):
            yield node
        elif name == "Literal":
            yield from (each for each in _elements(node.slice) if isinstance(each, ast.Constant))
        elif name in {"Optional", "Union"}:
            waiting[:0] = _elements(node.slice)
            waiting += [ast.Name("None")] if name == "Optional" else []
        elif name == "Annotated":
            waiting[:0] = _elements(node.slice)[:1]
        else:
            yield node.value


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # the parser's errors
        return ast.Name("object")


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


# ------------------------------------------------------------------------------------- parameters


def parameters_of(signature: inspect.Signature) -> list[MethodParameter]:
    """Make the parameters of a command, in the order of the method's.

    A flag is an option, and so is each parameter that takes only a keyword argument.
    """
    parameters = list(signature.parameters.values())
    flags = {_flag_of(each) for each in parameters}
    # The methods' names may differ in the case of letters only, which click does not distinguish.
    return [
        MethodParameter(each, _command_parameter(each, f"p{index}", flags))
        for index, each in enumerate(parameters)
    ]


def read_value(parameter: inspect.Parameter, text: str) -> Any:
    """Read one value of a parameter, as on the command line.

    Raises:
        click.BadParameter: The text cannot be read as any of the types in the annotation.
    """
    try:
        return _value_of(parameter.annotation).read(text)
    except click.BadParameter as exc:
        exc.param_hint = parameter.name
        raise


def _command_parameter(parameter: inspect.Parameter, name: str, flags: set[str]) -> click.Parameter:
    """Make one parameter.

    Args:
        parameter: The method's.
        name: The name of the value among those that click has read.
        flags: The options that all parameters of the method would be.
    """
    value = _value_of(parameter.annotation)
    required = parameter.default is parameter.empty
    if parameter.kind is parameter.VAR_POSITIONAL:
        metavar = f"[{parameter.name.upper()}]..."
        return click.Argument([name], nargs=-1, required=False, type=value, metavar=metavar)
    if parameter.kind in _POSITIONAL and value.name != "bool":
        metavar = parameter.name.upper()
        metavar = metavar if required else f"[{metavar}]"
        return click.Argument([name], required=required, type=value, metavar=metavar)
    return _option(parameter, name, value, flags)


def _option(
    parameter: inspect.Parameter, name: str, value: _Value, flags: set[str]
) -> click.Option:
    flag = _flag_of(parameter)
    opposite = f"--no-{flag[2:]}"
    required = parameter.default is parameter.empty
    if parameter.kind is parameter.VAR_KEYWORD:
        named = _Value({"text"})
        return click.Option([name, flag], multiple=True, metavar="NAME=VALUE", type=named)
    text = None if required else f"default: {parameter.default!r}"
    if value.name == "bool" and opposite not in flags:
        decls = [name, f"{flag}/{opposite}"]
        if required:
            return click.Option(decls, is_flag=True, required=True)
        return click.Option(decls, is_flag=True, default=None, help=text)
    metavar = value.name.upper()
    return click.Option([name, flag], type=value, required=required, metavar=metavar, help=text)


def _flag_of(parameter: inspect.Parameter) -> str:
    return "--" + parameter.name.replace("_", "-")


def arguments_of(
    parameters: list[MethodParameter], ctx: click.Context
) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the keyword arguments that the method is called with.

    Raises:
        click.UsageError: An argument is missing before a positional one, and its default is not
            known here; or a `NAME=VALUE` is not.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    by_position = _last_by_position(parameters, ctx)
    gap = False
    for index, each in enumerate(parameters):
        kind, value = each.method.kind, _given(ctx.params[each.command.name or ""])
        if kind is each.method.VAR_POSITIONAL:
            args += map(_given, value)
        elif kind is each.method.VAR_KEYWORD:
            kwargs.update(_named(text, each, ctx) for text in value)
        elif not _is_given(each, ctx):
            gap = True
            if index < by_position:
                args.append(_default_of(each, ctx))
        elif index < by_position or (kind in _POSITIONAL and not gap):
            args.append(value)
        else:
            kwargs[each.method.name] = value
    return args, kwargs


def _given(value: Any) -> Any:
    return None if value is _NONE else value


def _is_given(parameter: MethodParameter, ctx: click.Context) -> bool:
    source = ctx.get_parameter_source(parameter.command.name or "")
    return source is ParameterSource.COMMANDLINE


def _last_by_position(parameters: list[MethodParameter], ctx: click.Context) -> int:
    """Return how many of the parameters must be passed by position."""
    count = 0
    for index, each in enumerate(parameters):
        if each.method.kind is each.method.VAR_POSITIONAL:
            return index if ctx.params[each.command.name or ""] else count
        if each.method.kind is each.method.POSITIONAL_ONLY and _is_given(each, ctx):
            count = index + 1
    return count


def _default_of(parameter: MethodParameter, ctx: click.Context) -> Any:
    value: Any = ...  # as the report has a default that it cannot show
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        value = ast.literal_eval(repr(parameter.method.default))
    if value is ...:
        text = f"{parameter.title} must be given before the arguments that follow it"
        raise click.UsageError(text, ctx)
    return value


def _named(text: str, parameter: MethodParameter, ctx: click.Context) -> tuple[str, Any]:
    """Read `NAME=VALUE`, of a method that takes any keyword argument."""
    name, sign, value = text.partition("=")
    if not (sign and name.isidentifier()):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", ctx, parameter.command)
    kind = _value_of(parameter.method.annotation)
    return name, kind.read(value, parameter.command, ctx)
