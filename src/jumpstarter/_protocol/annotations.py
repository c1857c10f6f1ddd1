"""Tell which annotations request a conversion: code for plain values goes on receiving them.

pydantic is never imported: a model is recognized by the methods that all models have.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import types
import typing
import uuid
from collections import abc
from pathlib import PurePath
from typing import Any, Final, Literal, Union

import msgspec

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["AnnotationKind", "classify_annotation", "is_model", "type_name"]

_MAX_TITLE: Final = 200  # characters of a type's name in a message


class AnnotationKind(enum.IntEnum):
    """The kind of an annotation. A compound annotation has the greatest kind of its parts."""

    PLAIN = 0  # no conversion: the types that the wire carries
    RICH = 1  # a conversion to this type
    UNKNOWN = 2  # a type that no value can be converted to


_PLAIN: Final = frozenset(
    {None, types.NoneType, bool, int, float, str, bytes, list, dict, Any, object}
)
_RICH: Final = (
    uuid.UUID,
    decimal.Decimal,
    dt.date,
    dt.time,
    dt.timedelta,
    PurePath,
    enum.Enum,
    msgspec.Struct,
    tuple,
    set,
    frozenset,
    bytearray,
    memoryview,
)
# The wire has one array and one map type: lists and dicts need no conversion, sets and tuples do.
_COMPOUND: Final[dict[Any, AnnotationKind]] = {
    list: AnnotationKind.PLAIN,
    dict: AnnotationKind.PLAIN,
    abc.Collection: AnnotationKind.PLAIN,
    abc.Sequence: AnnotationKind.PLAIN,
    abc.MutableSequence: AnnotationKind.PLAIN,
    abc.Mapping: AnnotationKind.PLAIN,
    abc.MutableMapping: AnnotationKind.PLAIN,
    Union: AnnotationKind.PLAIN,
    types.UnionType: AnnotationKind.PLAIN,
    tuple: AnnotationKind.RICH,
    set: AnnotationKind.RICH,
    frozenset: AnnotationKind.RICH,
    abc.Set: AnnotationKind.RICH,
    abc.MutableSet: AnnotationKind.RICH,
}


def classify_annotation(annotation: Any, within: frozenset[Any] = frozenset()) -> AnnotationKind:
    """Return what an annotation requests. Accepts any object.

    Args:
        annotation: A type, or an object of the typing module.
        within: The type aliases that contain it: an alias may refer to itself.
    """
    if isinstance(annotation, typing.NewType):
        return classify_annotation(annotation.__supertype__, within)
    if type(annotation).__name__ == "TypeAliasType":  # made by a `type` statement
        is_known = annotation in within
        return (
            AnnotationKind.PLAIN
            if is_known
            else classify_annotation(annotation.__value__, within | {annotation})
        )
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner, *metadata = parts
        constrained = any(isinstance(each, msgspec.Meta) for each in metadata)
        return max(
            classify_annotation(inner, within),
            AnnotationKind.RICH if constrained else AnnotationKind.PLAIN,
        )
    if origin is Literal or typing.is_typeddict(annotation):
        return AnnotationKind.PLAIN
    if origin in _COMPOUND:
        kinds = [classify_annotation(part, within) for part in parts if part is not ...]
        return max([_COMPOUND[origin], *kinds])
    return _classify_class(annotation if origin is None else origin)


def _classify_class(cls: Any) -> AnnotationKind:
    if not isinstance(cls, abc.Hashable):
        return AnnotationKind.UNKNOWN
    if cls in _PLAIN or cls in _COMPOUND:
        return AnnotationKind.PLAIN if cls in _PLAIN else _COMPOUND[cls]
    if not isinstance(cls, type):
        return AnnotationKind.UNKNOWN
    is_record = dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__")
    return (
        AnnotationKind.RICH
        if is_record or issubclass(cls, _RICH) or is_model(cls)
        else AnnotationKind.UNKNOWN
    )


def is_model(cls: Any) -> bool:
    """Return whether this is the class of a pydantic model."""
    names = ("__pydantic_validator__", "model_dump", "model_validate")
    return isinstance(cls, type) and all(hasattr(cls, name) for name in names)


def type_name(type_: Any) -> str:
    """Return the name of a type, for messages."""
    return f"{inspect.formatannotation(type_):.{_MAX_TITLE}}"
