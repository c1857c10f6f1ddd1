"""Convert Python values to the types that the wire carries, and back.

Sending: msgspec encodes most types itself. `to_wire` converts the others, and
`explain_encode_error` finds the part of a value that cannot be encoded. Receiving: a value is
decoded to plain types, and `convert` makes the requested type of it, or says which part does not
fit. `annotations` says which annotations request that.

This module knows no frames, drivers or clients.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from typing import Any, Final

import msgspec

from .._util.conversion_errors import ModelError, as_argument_error, exception_from, is_model_error
from .._util.deferred_signals import DeferAllSignals
from ..errors import ArgumentError
from .annotations import AnnotationKind, classify_annotation, is_model, type_name

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["check_type", "convert", "explain_encode_error", "to_wire"]

_MAX_PATH: Final = 500  # characters of the path to a fault; longer ones are not followed
_MAX_VALUES: Final = 20  # of an enum, listed in a message
_MAX_ENUMS: Final = 3
_PLACE: Final = re.compile(r" - at `\$([^`]*)`$")  # as msgspec's messages give it
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_MAX_MODEL_ERRORS: Final = 100  # errors of a model that a message lists


# ------------------------------------------------------------------------------------- sending


def to_wire(value: Any) -> Any:
    """Convert a value that msgspec cannot encode to one that it can.

    Raises:
        TypeError: The value cannot be encoded.
    """
    if isinstance(value, PurePath):
        return _path_to_wire(value)
    if is_model(type(value)):
        return value.model_dump(by_alias=False, round_trip=True)
    for plain in _PLAIN_BASES:
        if isinstance(value, plain):  # msgspec rejects subclasses of these
            # The plain value, whatever the subclass overrides.
            return plain.__getnewargs__(value)[0]
    raise TypeError(f"{_described(value)} cannot be encoded")


_PLAIN_BASES: Final[tuple[Any, ...]] = (str, int, float, bytes)


def _path_to_wire(path: PurePath) -> str | bytes:
    """Return a path as text, or as bytes if it is not valid UTF-8: bytes lose nothing."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogateescape")
    return text


def explain_encode_error(
    exc: Exception, value: object, encode: Callable[[object], object], root: str
) -> ArgumentError:
    """Return the error for a value that cannot be encoded: which part of it, and why.

    Args:
        exc: The exception that `encode` raised.
        value: The value.
        encode: The encoder. It is tried on ever smaller parts of the value.
        root: The name of the value in the message.

    Raises:
        Exception: The exception of a signal handler, see `as_argument_error`.
    """
    return as_argument_error(exc, partial(encode, value), partial(_find_fault, value, encode, root))


def _find_fault(value: object, encode: Callable[[object], object], root: str) -> str:
    path = root
    seen = {id(value)}
    with suppress(Exception):  # raised by the value's own code: no signal handler runs now
        while (step := _step_to_fault(value, encode)) is not None and len(path) < _MAX_PATH:
            path += step[0]
            value = step[1]
            if id(value) in seen:  # it contains itself: going on would find no other fault
                break
            seen.add(id(value))
    failure = exception_from(partial(encode, value))
    try:
        if isinstance(failure, RecursionError):
            return f"{_described(value)} is nested too deeply, or contains itself"
        reason = _reason_of_key(value, encode) or _reason(value, failure)
        return reason if path == root else f"{reason} - at `{path}`"
    finally:
        del failure  # its traceback refers to this frame, and so to the value


def _step_to_fault(value: object, encode: Callable[[object], object]) -> tuple[str, object] | None:
    """Return the first part that cannot be encoded, and the step to it; None if all parts can."""
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
    """Name a key of a dict that can be encoded as a value, but not as a key."""
    with suppress(Exception):  # raised by the value's own code, as above
        for key in value if isinstance(value, dict) else ():
            sent_alone = exception_from(partial(encode, key)) is None
            if sent_alone and exception_from(partial(encode, {key: None})) is not None:
                return f"{_described(key)} cannot be the key of a dict; use a str or an int"
    return ""


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """Yield the parts of a value, each with the step that leads to it."""
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


# ----------------------------------------------------------------------------------- receiving


def convert(value: object, type_: Any, name: str) -> Any:
    """Convert a value that the wire has carried to the type that was requested.

    Runs the code that creating an object of the type runs, such as `__post_init__` or a validator.

    Args:
        value: The value, as `decode_value` returned it.
        type_: A type that `check_type` has accepted.
        name: The name of the value in error messages; the path to the fault begins with it.

    Raises:
        ArgumentError: The value does not fit. The message begins with "does not fit", followed by
            the type and the path.
    """
    _check_container_sizes(value, _max_parts(type_), name, type_)
    try:
        return _converted(value, type_)
    except Exception as exc:  # of any class: the type's own code may raise it
        text = partial(_describe_misfit, exc, value, type_, name)
        raise as_argument_error(exc, partial(_converted, value, type_), text) from exc


def _converted(value: object, type_: Any) -> Any:
    # Not msgspec.convert: it does not call the hook for a dict's keys.
    return _decoder_for(type_).decode(msgspec.msgpack.encode(value))


@functools.lru_cache(maxsize=1024)
def _decoder_for(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    with DeferAllSignals():  # msgspec swallows some exceptions while it inspects a type
        return msgspec.msgpack.Decoder(type_, dec_hook=_from_wire)


def _describe_misfit(exc: Exception, value: object, type_: Any, name: str) -> str:
    detail = str(exc) if isinstance(exc, msgspec.MsgspecError) else f"{exc!r}"
    detail += _describe_enums(value, type_, detail)
    detail = detail.replace("`$", f"`{name}")  # msgspec writes the value as $
    return f"does not fit {type_name(type_)}: {detail}"


def _describe_enums(value: Any, type_: Any, detail: str) -> str:
    """List an enum's values for a message, if the value was meant to be one of them."""
    at = _PLACE.search(detail)
    with suppress(LookupError, TypeError, ValueError):  # a set's members have no path
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
    """Return the enums that a type refers to, as many as a message may list."""
    enums = (info.cls for info in _type_infos(type_) if isinstance(info, msgspec.inspect.EnumType))
    return list(dict.fromkeys(enums))[:_MAX_ENUMS]


def _type_infos(type_: Any) -> Iterator[msgspec.inspect.Type | msgspec.inspect.Field]:
    """Walk through all parts of a type, each once. Yields nothing for an unsupported type."""
    rest: list[Any] = []
    with DeferAllSignals(), suppress(Exception):  # raised by a type's own code
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


def _check_container_sizes(value: object, most: int, name: str, type_: Any) -> None:
    """Refuse containers whose conversion to sets and maps would take too long. Not recursive."""
    rest = [value] if most < sys.maxsize else []
    while rest:
        each = rest.pop()
        if isinstance(each, list | dict):
            if len(each) > most:
                raise ArgumentError(
                    f"does not fit {type_name(type_)}: it has {len(each)} parts, and the sets and "
                    f"maps of this type may have {most} at most - in `{name}`"
                )
            rest += each.values() if isinstance(each, dict) else each


@functools.lru_cache(maxsize=1024)
def _max_parts(type_: Any) -> int:
    """Return how many parts a container may have that is converted to the sets and maps of a type.

    A peer can choose keys whose hashes collide, except for str, whose hash is seeded. A colliding
    int costs a microsecond. Keys of other types can all have the same hash, at quadratic cost.
    """
    most = sys.maxsize
    for info in _type_infos(type_):
        if isinstance(info, _HASHING):
            key = getattr(info, "key_type", getattr(info, "item_type", None))
            most = min(most, *map(_max_keys, getattr(key, "types", (key,))))
    return most


def _max_keys(key: Any) -> int:
    if isinstance(key, _SEEDED) or issubclass(getattr(key, "cls", object), PurePath):
        return sys.maxsize
    return _MAX_INT_KEYS if isinstance(key, _INTS) else _MAX_OTHER_KEYS


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
_MAX_INT_KEYS: Final = 128 * 1024
_MAX_OTHER_KEYS: Final = 2048


def _from_wire(type_: Any, value: Any) -> Any:
    """Convert a value to a type that msgspec does not know."""
    if isinstance(type_, type) and issubclass(type_, PurePath):
        if isinstance(value, bytes):
            value = value.decode(errors="surrogateescape")
        return type_(value)
    if is_model(type_):
        return _to_model(type_, value)
    if type_ is object or (isinstance(type_, type) and isinstance(value, type_)):
        return value
    raise ValueError(f"a value from the wire cannot be converted to {type_name(type_)}")


def _to_model(type_: Any, value: object) -> object:
    try:
        return type_.model_validate(value, by_alias=True, by_name=True)
    except ValueError as exc:
        if not is_model_error(exc):
            raise
        with DeferAllSignals():  # pydantic swallows some exceptions while it formats the error
            text = _describe_model_errors(exc)
        raise ModelError(text) from exc


def _describe_model_errors(exc: Any) -> str:
    """List the errors in a model's value. A peer can cause a million of them."""
    count = exc.error_count()
    if count > _MAX_MODEL_ERRORS:
        return f"{count:,} parts of it are wrong"
    faults = [(".".join(map(str, each["loc"])) or "it", each["msg"]) for each in exc.errors()]
    return "; ".join(f"{where:.{_MAX_PATH}}: {what:.{_MAX_PATH}}" for where, what in faults)


def check_type(type_: Any) -> None:
    """Check that `convert` supports this type.

    Raises:
        ArgumentError: It does not: no value can be converted to the type, a union in it is
            ambiguous on the wire, a name in it is undefined, or it is a str and no type.
    """
    if isinstance(type_, str):
        text = f"{type_!r:.100} is a str, where a type was expected"
        raise ArgumentError(f"{text}: the type comes first, and then the method's name")
    if classify_annotation(type_) is AnnotationKind.UNKNOWN:
        text = f"a value from the wire cannot be converted to {type_name(type_)}"
        raise ArgumentError(f"{text}; docs/values.md lists the types that can be used")
    try:
        _decoder_for(type_)
    except Exception as exc:  # of any class: the type's own code may raise it
        message = f"no value can be converted to {type_name(type_)}: {exc}"
        raise as_argument_error(exc, partial(_decoder_for, type_), lambda: message) from exc
