"""Read a method's annotations, to convert its arguments, and its signature and docstring, as text.

This happens once, when the export table of a class is built. No default or docstring makes it fail.
An annotation that cannot be resolved, or that no value from the wire can fit, is usually ignored.
With `@export(strict=True)` it is an error, since the author has asked for a check that is not
possible.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .._protocol.annotations import AnnotationKind, classify_annotation, type_name
from .._protocol.codec import truncate
from .._protocol.frames import MAX_DOC, MAX_SIGNATURE
from .._protocol.values import check_type, convert
from .._util.deferred_signals import DeferAllSignals
from .._util.text import Verbatim
from ..errors import ArgumentError, ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ArgumentConverter", "build_converter", "doc_of", "signature_of", "text_of"]

_POSITIONAL: Final = {
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
}
_ANYTHING: Final = (Any, object, typing.Optional[Any], typing.Optional[object])  # noqa: UP045
_NAMED: Final = {
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
}


class ArgumentConverter(msgspec.Struct, frozen=True):
    """Convert arguments to the types of a method's annotations. A type of None converts nothing.

    Attributes:
        positional: Name and type of each parameter that takes a positional argument.
        more: Name and type of `*args`.
        named: Type of each parameter that takes a keyword argument, by its name.
        more_named: Type of each of `**kwargs`.
    """

    positional: list[tuple[str, Any]]
    more: tuple[str, Any]
    named: dict[str, Any]
    more_named: Any

    def __call__(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Convert the arguments in place.

        Raises:
            ArgumentError: One does not fit. The text names the parameter, its type and the path.
        """
        for index, value in enumerate(args):
            if index < len(self.positional):
                name, type_ = self.positional[index]
            else:
                name, type_ = f"{self.more[0]}[{index - len(self.positional)}]", self.more[1]
            if type_ is not None:
                args[index] = _converted(value, type_, name)
        for name, value in kwargs.items():
            type_ = self.named.get(name, self.more_named)
            if type_ is not None:
                kwargs[name] = _converted(value, type_, name)


def _converted(value: object, type_: Any, name: str) -> Any:
    try:
        return convert(value, type_, name)
    except ArgumentError as exc:
        raise ArgumentError(f"argument {name!r} {exc}") from exc


def signature_of(function: Any, *, takes_self: bool) -> inspect.Signature | None:
    """Return a function's signature without `self`; None if it has none."""
    with DeferAllSignals():
        try:
            signature = inspect.signature(function)
        except Exception:  # noqa: BLE001 - a decorator can have put anything there
            return None
    parameters = list(signature.parameters.values())
    if takes_self and parameters and parameters[0].kind in _POSITIONAL:
        parameters = parameters[1:]
    return signature.replace(parameters=parameters)


def build_converter(
    function: Any,
    signature: inspect.Signature | None,
    names: Mapping[str, Any],
    title: str,
    *,
    strict: bool,
) -> ArgumentConverter | None:
    """Build the converter for a method's arguments; None if nothing is to be converted.

    Args:
        function: The method, undecorated.
        signature: Its signature without `self`; None if it has none.
        names: The names in its class, to which annotations may refer.
        title: The method's name in messages.
        strict: Check arguments with plain annotations too.

    Raises:
        ConfigurationError: `strict` is True, and an annotation cannot be checked.
    """
    if signature is None:
        if strict:
            raise ConfigurationError(f"{title}: it has no signature, so strict=True checks nothing")
        return None
    types: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.annotation is parameter.empty:
            continue
        with DeferAllSignals():  # an annotation is any code; and what is left unchecked stays so
            try:
                annotation = _resolved(function, parameter, names)
                kind = classify_annotation(annotation)
                if annotation in _ANYTHING or (kind is AnnotationKind.PLAIN and not strict):
                    continue
                check_type(annotation)
            except Exception as exc:
                if not strict:
                    continue
                text = f"{title}: its parameter {parameter.name!r} cannot be checked: {exc}"
                raise ConfigurationError(
                    f"{text}; annotate it otherwise, or without strict=True"
                ) from exc
        types[parameter.name] = annotation
    return _build(signature, types) if types else None


def _resolved(function: Any, parameter: inspect.Parameter, names: Mapping[str, Any]) -> Any:
    """Evaluate an annotation, which may be a string, independently of the others."""

    def alone() -> None: ...

    alone.__annotations__ = {parameter.name: parameter.annotation}
    known = getattr(function, "__globals__", {})
    # Without the methods of the class, since one may have the name of a type, as `set`.
    beside = {name: thing for name, thing in names.items() if not hasattr(type(thing), "__get__")}
    hints = typing.get_type_hints(alone, known, beside, include_extras=True)
    annotation = hints[parameter.name]
    is_optional = type(None) in typing.get_args(annotation)
    if parameter.default is None and not is_optional:  # `x: int = None` means `int | None`
        return typing.Optional[annotation]  # noqa: UP045 - not every annotation supports `|`
    return annotation


def _build(signature: inspect.Signature, types: Mapping[str, Any]) -> ArgumentConverter:
    positional, named = [], {}
    more, more_named = ("args", None), None
    for name, parameter in signature.parameters.items():
        type_ = types.get(name)
        if parameter.kind in _POSITIONAL:
            positional.append((name, type_))
        if parameter.kind in _NAMED:
            named[name] = type_
        if parameter.kind is parameter.VAR_POSITIONAL:
            more = name, type_
        if parameter.kind is parameter.VAR_KEYWORD:
            more_named = type_
    return ArgumentConverter(positional, more, named, more_named)


def text_of(signature: inspect.Signature | None) -> str:
    """Format a signature as in a `def`, with `...` for defaults that are not plain constants."""
    if signature is None:
        return ""
    with DeferAllSignals():
        try:
            text = _text_of(signature)
        except Exception:  # noqa: BLE001 - an annotation can be an object with any code
            return ""
    return truncate(text) if len(text) <= MAX_SIGNATURE else ""


def _text_of(signature: inspect.Signature) -> str:
    shown = [
        parameter.replace(
            annotation=_source(parameter.annotation), default=_default(parameter.default)
        )
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(shown, return_annotation=_source(signature.return_annotation)))


def _source(annotation: Any) -> Any:
    if annotation is inspect.Signature.empty:
        return annotation
    return Verbatim(annotation if isinstance(annotation, str) else type_name(annotation))


def _default(value: Any) -> Any:
    is_plain = value is None or type(value) in {bool, int, float, str, bytes}
    return value if is_plain or value is inspect.Parameter.empty else Verbatim("...")


def doc_of(thing: Any) -> str:
    """Return a docstring, cleaned and cut; empty for the one that `dataclass` generates."""
    doc = thing.__doc__
    if not isinstance(doc, str) or doc.startswith(f"{getattr(thing, '__name__', '')}("):
        return ""
    return truncate(inspect.cleandoc(doc), MAX_DOC)
