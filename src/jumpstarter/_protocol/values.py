"""Python's types to and from what the wire carries: the one place that converts.

Outward, msgspec writes most types by itself; `to_wire` gives the nearest form of the others, and
`fault` says what of a value has none, and where it is. Inward, a value has been decoded to plain
types, and `convert` makes of it the type that somebody has asked for, or says what does not fit,
and where. Which annotations of existing code ask for that is `weigh`'s decision: what they took
as plain values before, they go on taking.

pydantic is never imported: a model is known by the methods that all models have. This file knows
no frames, drivers or clients.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import re
import sys
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from typing import Any, Final, Literal, Union

import msgspec

from .._util.conversion_errors import ModelError, as_argument_error, exception_from, is_model_error
from .._util.deferred_signals import DeferAllSignals
from ..errors import ArgumentError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "AnnotationKind",
    "check_type",
    "classify_annotation",
    "convert",
    "explain_encode_error",
    "to_wire",
    "type_name",
]

_MAX_PATH: Final = 500  # characters of a path to what cannot be sent; it is not followed further
_MAX_VALUES: Final = 20  # of an enum that are listed in a message
_MAX_ENUMS: Final = 3
_PLACE: Final = re.compile(r" - at `\$([^`]*)`$")  # as msgspec says it
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_MAX_TITLE: Final = 200  # characters of a type's name in a message
_MAX_FAULTS: Final = 100  # of a model's value that are told one by one


# ------------------------------------------------------------------------------------- outward


def to_wire(value: Any) -> Any:
    """Give a form that msgspec can write, of a value that it cannot.

    Raises:
        TypeError: There is none.
    """
    if isinstance(value, PurePath):
        return _path_to_wire(value)
    if _is_model(type(value)):
        return value.model_dump(by_alias=False, round_trip=True)
    for plain in _PLAIN_BASES:
        if isinstance(value, plain):  # of a class derived from it, which msgspec does not look at
            return plain.__getnewargs__(value)[0]  # the value itself, whatever that class redefines
    raise TypeError(f"{_described(value)} cannot be encoded")


_PLAIN_BASES: Final[tuple[Any, ...]] = (str, int, float, bytes)


def _path_to_wire(path: PurePath) -> str | bytes:
    """A name that is no UTF-8 goes as bytes, which lose nothing."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogateescape")
    return text


def explain_encode_error(
    exc: Exception, value: object, encode: Callable[[object], object], root: str
) -> ArgumentError:
    """Give the error for a value that cannot be encoded: what of it, why, and where in it that is.

    Args:
        exc: What `encode` failed with.
        value: What it refuses.
        encode: The encoder. It is tried on ever smaller parts.
        root: How the text names the value itself.

    Raises:
        Exception: What a signal handler has raised, see `refused`.
    """
    return as_argument_error(exc, partial(encode, value), partial(_fault, value, encode, root))


def _fault(value: object, encode: Callable[[object], object], root: str) -> str:
    path = root
    with suppress(Exception):  # of the value's own code, when it is looked at: nothing disturbs us
        while (step := _step_to_fault(value, encode)) is not None and len(path) < _MAX_PATH:
            path += step[0]
            value = step[1]
    failure = exception_from(partial(encode, value))
    try:
        if isinstance(failure, RecursionError):
            return f"{_described(value)} is nested too deeply, or contains itself"
        reason = _reason_of_key(value, encode) or _reason(value, failure)
        return reason if path == root else f"{reason} - at `{path}`"
    finally:
        del failure  # whose traceback has this frame, and with it the value


def _step_to_fault(value: object, encode: Callable[[object], object]) -> tuple[str, object] | None:
    """Give the first part that cannot be encoded, with the way to it; None if it is no part."""
    for step, part in _parts(value):
        if exception_from(partial(encode, part)) is not None:
            return step, part
    return None


def _reason(value: object, exc: Exception | None) -> str:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "an integer is outside -2**63 to 2**64-1; send it as a string"
    if isinstance(value, str) and (bad := _first_surrogate(value)) is not None:
        return f"a string is not valid Unicode ({bad.reason} at {bad.start}); send bytes instead"
    title = type_name(type(value))
    return str(exc) if title in str(exc) else f"{_described(value)} cannot be encoded: {exc}"


def _described(value: object) -> str:
    return f"an object of type {type_name(type(value))}"


def _first_surrogate(text: str) -> UnicodeEncodeError | None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        return exc
    return None


def _reason_of_key(value: object, encode: Callable[[object], object]) -> str:
    """Say which of a dict's keys is none, though it could be sent as a value."""
    with suppress(Exception):  # of the value's own code, as above
        for key in value if isinstance(value, dict) else ():
            sent_alone = exception_from(partial(encode, key)) is None
            if sent_alone and exception_from(partial(encode, {key: None})) is not None:
                return f"{_described(key)} cannot be the key of a dict; use a str or an int"
    return ""


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """Give what a value consists of, each with the step that leads to it."""
    if isinstance(value, dict):
        yield from ((f"[key {key!r:.50}]", key) for key in value)
        yield from ((f"[{key!r:.50}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif not isinstance(value, type):
        names: Any = getattr(type(value), "__struct_fields__", ())
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
        elif hasattr(type(value), "__attrs_attrs__"):
            names = [attribute.name for attribute in type(value).__attrs_attrs__]
        yield from ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))


# -------------------------------------------------------------------------------------- inward


def convert(value: object, type_: Any, name: str) -> Any:
    """Make a value of the type that was asked for from what the wire has carried.

    It runs what such a type runs when one is made, a `__post_init__` or a validator.

    Args:
        value: As `decode_value` gave it.
        type_: A type that `check_type` has passed.
        name: How messages name the value, where they say the path to what is wrong in it.

    Raises:
        ArgumentError: It "does not fit", as the text begins; it goes on with the type and the path.
    """
    _bound(value, _most_parts(type_), name, type_)
    try:
        return _made(value, type_)
    except Exception as exc:  # whatever the type's own code raises, the value did not fit it
        text = partial(_misfit, exc, value, type_, name)
        raise as_argument_error(exc, partial(_made, value, type_), text) from exc


def _made(value: object, type_: Any) -> Any:
    # Not msgspec.convert, which leaves a map's keys as they are where a hook is to make them.
    return _decoder_for(type_).decode(msgspec.msgpack.encode(value))


@functools.lru_cache(maxsize=1024)
def _decoder_for(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    with DeferAllSignals():  # msgspec swallows some of what is raised while it looks at a type
        return msgspec.msgpack.Decoder(type_, dec_hook=_from_wire)


def _misfit(exc: Exception, value: object, type_: Any, name: str) -> str:
    detail = str(exc) if isinstance(exc, msgspec.MsgspecError) else f"{exc!r}"
    detail += _allowed(value, type_, detail)
    detail = detail.replace("`$", f"`{name}")  # msgspec's sign for the value as a whole
    return f"does not fit {type_name(type_)}: {detail}"


def _allowed(value: Any, type_: Any, detail: str) -> str:
    """Say what the enum has that a value does not fit; nothing where it is not about one."""
    at = _PLACE.search(detail)
    with suppress(LookupError, TypeError, ValueError):  # a set, whose parts have no place
        for name, index in _STEP.findall(at[1] if at else ""):
            value = value[name] if name else value[int(index)]
    text = ""
    for each in _enums_in(type_):
        values = [member.value for member in each]
        named = each.__members__.get(value) if isinstance(value, str) else None
        is_near = values and isinstance(value, dict | list | type(values[0]))
        is_none = is_near and detail.startswith("Invalid enum value") and value not in values
        if not (named or is_none):
            continue
        more = f" and {len(values) - _MAX_VALUES} more" if len(values) > _MAX_VALUES else ""
        listed = ", ".join(f"{value!r:.50}" for value in values[:_MAX_VALUES])
        text += f"; {type_name(each)} has {listed}{more}"
        if named:
            text += f", and {value!r} is the name of {named.value!r:.50}"
    return text


def _enums_in(type_: Any) -> list[type[enum.Enum]]:
    """Give the enums that a type is made of, as many as a message may name."""
    enums = (info.cls for info in _infos(type_) if isinstance(info, msgspec.inspect.EnumType))
    return list(dict.fromkeys(enums))[:_MAX_ENUMS]


def _infos(type_: Any) -> Iterator[msgspec.inspect.Type | msgspec.inspect.Field]:
    """Walk through all that a type is made of, each once; nothing of one that none is made of."""
    rest: list[Any] = []
    with DeferAllSignals(), suppress(Exception):  # of a type's own code; what comes of it is kept
        rest = [msgspec.inspect.type_info(type_)]
    seen: set[int] = set()
    while rest:
        info = rest.pop()
        if isinstance(info, tuple):
            rest += info
        elif (
            isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field) and id(info) not in seen
        ):
            seen.add(id(info))
            yield info
            rest += (getattr(info, name) for name in info.__struct_fields__)


def _bound(value: object, most: int, name: str, type_: Any) -> None:
    """Refuse what would take too long to be made into sets and maps. Without recursion."""
    rest = [value] if most < sys.maxsize else []
    while rest:
        each = rest.pop()
        if isinstance(each, list | dict):
            if len(each) > most:
                text = f"does not fit {type_name(type_)}: it has {len(each)} parts, and what is put"
                raise ArgumentError(f"{text} in such sets or maps has {most} at most - in `{name}`")
            rest += each.values() if isinstance(each, dict) else each


@functools.lru_cache(maxsize=1024)
def _most_parts(type_: Any) -> int:
    """Give how many parts the containers of a value may have, for the sets and maps in its type.

    The hash of a str is seeded and cannot be chosen. That of an int can, at a microsecond for each;
    others can be all alike, which costs the square of their number.
    """
    most = sys.maxsize
    for info in _infos(type_):
        if isinstance(info, _HASHING):
            key = getattr(info, "key_type", getattr(info, "item_type", None))
            most = min(most, *map(_most_keys, getattr(key, "types", (key,))))
    return most


def _most_keys(key: Any) -> int:
    if isinstance(key, _SEEDED) or issubclass(getattr(key, "cls", object), PurePath):
        return sys.maxsize
    return _MOST_INTS if isinstance(key, _INTS) else _MOST_OTHERS


_HASHING: Final = (
    msgspec.inspect.SetType,
    msgspec.inspect.FrozenSetType,
    msgspec.inspect.DictType,
)
_SEEDED: Final = (
    msgspec.inspect.StrType,
    msgspec.inspect.BytesType,
    msgspec.inspect.EnumType,
    msgspec.inspect.LiteralType,
    msgspec.inspect.BoolType,
    msgspec.inspect.NoneType,
)
_INTS: Final = (msgspec.inspect.IntType, msgspec.inspect.FloatType, msgspec.inspect.AnyType)
_MOST_INTS: Final = 128 * 1024
_MOST_OTHERS: Final = 2048


def _from_wire(type_: Any, value: Any) -> Any:
    """Make a value of a type that msgspec does not know."""
    if isinstance(type_, type) and issubclass(type_, PurePath):
        if isinstance(value, bytes):
            value = value.decode(errors="surrogateescape")
        return type_(value)
    if _is_model(type_):
        return _model(type_, value)
    if type_ is object or (isinstance(type_, type) and isinstance(value, type_)):
        return value
    raise ValueError(f"a value from the wire cannot be converted to {type_name(type_)}")


def _model(type_: Any, value: object) -> object:
    try:
        return type_.model_validate(value, by_alias=True, by_name=True)
    except ValueError as exc:
        if not is_model_error(exc):
            raise
        with DeferAllSignals():  # pydantic swallows some of what is raised while it finds the words
            text = _faults_of(exc)
        raise ModelError(text) from exc


def _faults_of(exc: Any) -> str:
    """Say what of a model's value is wrong. A peer can make it wrong in a million places."""
    count = exc.error_count()
    if count > _MAX_FAULTS:
        return f"{count:,} parts of it are wrong"
    faults = [(".".join(map(str, each["loc"])) or "it", each["msg"]) for each in exc.errors()]
    return "; ".join(f"{where:.{_MAX_PATH}}: {what:.{_MAX_PATH}}" for where, what in faults)


def check_type(type_: Any) -> None:
    """See to it that `convert` can make this type.

    Raises:
        ArgumentError: It cannot: the type is none of those that cross the wire, a union that
            cannot be told apart there, a name in it is not defined, or it is no type but a str.
    """
    if isinstance(type_, str):
        text = f"{type_!r:.100} is a str, where a type was expected"
        raise ArgumentError(f"{text}: the type comes first, and then the method's name")
    if classify_annotation(type_) is AnnotationKind.UNKNOWN:
        text = f"a value from the wire cannot be converted to {type_name(type_)}"
        raise ArgumentError(f"{text}; docs/values.md lists the types that can be used")
    try:
        _decoder_for(type_)
    except Exception as exc:  # of the type's own code, too
        told = f"no value can be made to fit {type_name(type_)}: {exc}"
        raise as_argument_error(exc, partial(_decoder_for, type_), lambda: told) from exc


# ----------------------------------------------------------------------------- what is asked for


class AnnotationKind(enum.IntEnum):
    """What an annotation asks of a value. Of a compound one, the greatest among its parts."""

    PLAIN = 0  # nothing, or one of the types in which the wire carries values
    RICH = 1  # a type that a value must be converted to
    UNKNOWN = 2  # what no value from the wire can become


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
# In what the wire has only one array and one map for; `set`'s kin must be made.
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
    """Tell what an annotation asks for. Gives an answer for anything.

    Args:
        annotation: A type, or what typing has made of some.
        within: The aliases that it is part of: one may be made of itself.
    """
    if isinstance(annotation, typing.NewType):
        return classify_annotation(annotation.__supertype__, within)
    if type(annotation).__name__ == "TypeAliasType":  # of a `type` statement
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
        weights = [classify_annotation(part, within) for part in parts if part is not ...]
        return max([_COMPOUND[origin], *weights])
    return _weigh_class(annotation if origin is None else origin)


def _weigh_class(cls: Any) -> AnnotationKind:
    if not isinstance(cls, abc.Hashable):
        return AnnotationKind.UNKNOWN
    if cls in _PLAIN or cls in _COMPOUND:
        return AnnotationKind.PLAIN if cls in _PLAIN else _COMPOUND[cls]
    if not isinstance(cls, type):
        return AnnotationKind.UNKNOWN
    is_record = dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__")
    return (
        AnnotationKind.RICH
        if is_record or issubclass(cls, _RICH) or _is_model(cls)
        else AnnotationKind.UNKNOWN
    )


def _is_model(cls: Any) -> bool:
    """Tell if something is a pydantic model's class."""
    names = ("__pydantic_validator__", "model_dump", "model_validate")
    return isinstance(cls, type) and all(hasattr(cls, name) for name in names)


def type_name(type_: Any) -> str:
    """Name a type for a message."""
    return f"{inspect.formatannotation(type_):.{_MAX_TITLE}}"
