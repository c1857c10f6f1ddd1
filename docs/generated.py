"""Write the parts of the reference that the program itself knows, as Markdown.

A page has a comment `<!-- generated: NAME -->` where one of `PARTS` belongs, and a line that tells
readers of the source where to find it. `conf.py` puts the part in place of both when the site is
built, so the reference has each option, key and limit, with its default, as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal

import click
from pydantic import BaseModel

from jumpstarter import Limits
from jumpstarter.cli import _doctor, _run, _serve
from jumpstarter.cli._commands import COMMANDS
from jumpstarter.config.exporter import (
    ExporterConfigV1Alpha1,
    ExporterConfigV1Alpha1DriverInstance,
    ExporterConfigV1Alpha1DriverInstanceBase,
    ExporterConfigV1Alpha1DriverInstanceComposite,
    ExporterConfigV1Alpha1DriverInstanceProxy,
)
from jumpstarter.driver import Driver

__all__ = ["PARTS", "attributes_of", "fill"]

_MARK: Final = re.compile(r"^<!-- generated: (\w+) -->\n\*.*\*$", re.MULTILINE)
_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.*)$")
_IN_YAML: Final = re.compile(r" ?In YAML it is `\w+`(, and (.*?))?\.")
_KIB: Final = 1024
_NONE: Final = type(None)


def fill(text: str) -> str:
    """Return a page with its generated parts.

    Args:
        text: The page as it is written.

    Raises:
        KeyError: There is no such part.
    """
    return _MARK.sub(lambda match: "\n".join(PARTS[match[1]]()), text)


def attributes_of(thing: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say about each of its attributes."""
    found: dict[str, str] = {}
    for base in reversed(thing.__mro__):
        found |= _attributes_in(inspect.cleandoc(base.__doc__ or ""))
    return found


def _attributes_in(docstring: str) -> dict[str, str]:
    _, _, text = docstring.partition("\nAttributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):  # the next section
            break
        if match := _ATTRIBUTE.match(line):
            name = match[1]
            found[name] = match[2]
        elif line.strip():
            found[name] += " " + line.strip()
    return found


def _item(term: str, *paragraphs: str) -> Iterator[str]:
    """Yield an item of a list of definitions, which needs less width than a row of a table."""
    yield term
    for index, text in enumerate(filter(None, paragraphs)):
        lead = ": " if not index else "  "
        yield from ([] if not index else [""])
        yield lead + text
    yield ""


# ------------------------------------------------------------------------------ the command line


def _command_line() -> Iterator[str]:
    parsers = {"serve": _serve, "run": _run, "doctor": _doctor}
    for name, summary in COMMANDS.items():
        yield f"## `jumpstarter {name}`"
        yield ""
        if name in parsers:
            yield from _of_argparse(parsers[name].make_parser())
        else:
            module = importlib.import_module(f"jumpstarter.cli.commands.{name}")
            yield from _of_click(module.command, f"jumpstarter {name}", summary)


def _of_argparse(parser: argparse.ArgumentParser) -> Iterator[str]:
    parser.formatter_class = partial(argparse.HelpFormatter, width=80)
    yield from _usage(parser.format_usage().removeprefix("usage: "))
    yield from (parser.description or "", "")
    # No public attribute has the options; `jumpstarter.cli._completed` says more about that.
    for action in parser._actions:  # noqa: SLF001 - see above
        if action.dest == "help":
            continue
        metavar = action.metavar or (None if action.nargs == 0 else action.dest.upper())
        if action.choices is not None:
            metavar = "|".join(map(str, action.choices))
        names = [f"{each} {metavar}" if metavar else each for each in action.option_strings]
        help_ = (action.help or "") % {**vars(action), "prog": parser.prog}
        yield from _item(", ".join(f"`{each}`" for each in names or [metavar]), help_)
    yield from (parser.epilog or "", "")


def _of_click(command: click.Command, path: str, summary: str) -> Iterator[str]:
    with click.Context(command, info_name=path) as context:
        usage = " ".join(command.collect_usage_pieces(context))
        yield from _usage(f"{path} {usage}")
        yield from (_unwrapped(inspect.cleandoc(command.help or f"{summary.capitalize()}.")), "")
        for parameter in command.params:  # without --help, and arguments are in the usage
            if isinstance(parameter, click.Option):
                names, help_ = parameter.get_help_record(context) or ("", "")
                yield from _item(f"`{names}`", help_)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                yield from (f"### `{path} {name}`", "")
                yield from _of_click(below, f"{path} {name}", "")


def _unwrapped(text: str) -> str:
    """Show as it is what click does not wrap either."""
    return re.sub(r"^\x08\n((?:.+\n?)+)", r"```text\n\1\n```\n", text, flags=re.MULTILINE)


def _usage(text: str) -> list[str]:
    lines = re.sub(r"\n +", "\n    ", text.strip())
    return ["```text", lines, "```", ""]


# ------------------------------------------------------------------------------- the configuration


def _configuration() -> Iterator[str]:
    """Yield a section for each model that the loader reads a configuration into."""
    titles = {
        ExporterConfigV1Alpha1: "The file",
        ExporterConfigV1Alpha1DriverInstanceBase: "A driver",
        ExporterConfigV1Alpha1DriverInstanceComposite: "A group of drivers",
        ExporterConfigV1Alpha1DriverInstanceProxy: "A second place for a driver",
    }
    for model in _all_models(ExporterConfigV1Alpha1):
        title = titles.get(model) or ", ".join(f"`{key}`" for key in _keys_of(model))
        yield from (f"## {title}", "")
        yield from ((inspect.getdoc(model) or "").partition("\n\nAttributes:")[0], "")
        meanings = attributes_of(model)
        hidden: frozenset[str] = getattr(model, "NOT_IN_FILES", frozenset())
        for name, field in model.model_fields.items():
            if name in hidden:
                continue
            default = "required"
            if not field.is_required():
                default = _default(field.get_default(call_default_factory=True))
            term = f"`{field.alias or name}`: {_kind(field.annotation)}, {default}"
            yield from _item(term, _IN_YAML.sub(_kept_part, meanings[name]).strip())


def _kept_part(match: re.Match[str]) -> str:
    """Keep what the docstring says about the value beside the name of the key."""
    return f" It may be {match[2]}." if match[2] else ""


def _keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys whose value a model describes."""
    return [
        field.alias or name
        for owner in _all_models(ExporterConfigV1Alpha1)
        for name, field in owner.model_fields.items()
        if model in _models(field.annotation)
    ]


def _all_models(first: type[BaseModel]) -> list[type[BaseModel]]:
    found = [first]
    for model in found:
        below = [each for f in model.model_fields.values() for each in _models(f.annotation)]
        found += [each for each in dict.fromkeys(below) if each not in found]
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models within an annotation."""
    if annotation is ExporterConfigV1Alpha1DriverInstance:
        return [
            ExporterConfigV1Alpha1DriverInstanceBase,
            ExporterConfigV1Alpha1DriverInstanceComposite,
            ExporterConfigV1Alpha1DriverInstanceProxy,
        ]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in typing.get_args(annotation) for model in _models(each)]


def _kind(annotation: Any) -> str:
    """Say in words which values an annotation stands for."""
    if annotation is ExporterConfigV1Alpha1DriverInstance:
        return "a driver, a group or a second place"
    if typing.get_args(annotation):
        return _kind_of_form(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a mapping"
    known = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return known.get(annotation) or {"Any": "any value", "Path": "a path"}.get(
        getattr(annotation, "__name__", ""), f"`{getattr(annotation, '__name__', annotation)}`"
    )


def _kind_of_form(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in parts)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_kind(each) for each in parts if each is not _NONE)
    if issubclass(origin, Mapping):
        return f"a mapping of names to {_kind(parts[1])}"
    return f"a list of {_kind(parts[0])}"


def _default(value: object) -> str:
    if value is None:
        return "none by default"
    if isinstance(value, BaseModel):
        return "optional"
    if isinstance(value, (dict, list, tuple)) and not value:
        return "empty by default"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}` by default" if text else "empty by default"


def _driver_fields() -> Iterator[str]:
    """Yield the keys of `config` for each driver that comes with the library."""
    common = {field.name for field in dataclasses.fields(Driver)}
    points = importlib.metadata.entry_points(group="jumpstarter.drivers")
    for point in sorted(points, key=lambda each: each.name):
        if not point.value.startswith("jumpstarter.drivers."):
            continue  # another package of this environment
        driver = point.load()
        yield from (f"### `{point.name}`", "")
        yield from ((inspect.getdoc(driver) or "").splitlines()[0], "")
        meanings, hints = attributes_of(driver), typing.get_type_hints(driver)
        fields = [each for each in dataclasses.fields(driver) if each.init]
        for field in (each for each in fields if each.name not in common):
            kind, default = _kind(hints[field.name]), _field_default(field)
            yield from _item(f"`{field.name}`: {kind}, {default}", meanings[field.name])


def _field_default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return _default(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else _default(field.default)


# -------------------------------------------------------------------------------------- the limits


def _limits() -> Iterator[str]:
    meanings = attributes_of(Limits)
    for field in dataclasses.fields(Limits):
        yield from _item(f"`{field.name}`: {_size(field)}", meanings[field.name])


def _size(field: dataclasses.Field[Any]) -> str:
    """Return a default, and what it is in KiB or MiB if it is a whole number of them."""
    value = field.default
    if isinstance(value, int) and value >= _KIB and not value % _KIB:
        unit = ("MiB", _KIB * _KIB) if not value % (_KIB * _KIB) else ("KiB", _KIB)
        return f"{value:,} ({value // unit[1]} {unit[0]})"
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


PARTS: Final[dict[str, Callable[[], Iterable[str]]]] = {
    "command_line": _command_line,
    "configuration": _configuration,
    "driver_fields": _driver_fields,
    "limits": _limits,
}
