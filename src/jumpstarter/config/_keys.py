"""Find the keys that a model of a configuration accepts, and explain one that it does not.

An error of pydantic for an unknown key has the position of the key, but neither the model nor the
keys that it has. So this module follows the position from the outermost model on.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Final

from .._util.extras import requires_extra
from ._nearest import did_you_mean, nearest_word

with requires_extra("cli", "jumpstarter.config"):
    from pydantic import BaseModel, RootModel, Tag

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["explain_unknown_key", "meant_key"]

# Names that users write instead of a key, by the class that has the key.
_MEANT: Final = {
    "drivers": "export",
    "driver": "export",
    "devices": "export",
    "device": "export",
    "grpcConfig": "grpcOptions",
    "class": "type",
    "module": "type",
    "options": "config",
    "args": "config",
    "arguments": "config",
    "params": "config",
    "parameters": "config",
    "kwargs": "config",
    "path": "ref",
    "target": "ref",
    "command": "script",
    "run": "script",
    "shell": "exec",
    "interpreter": "exec",
    "message": "motd",
}


def explain_unknown_key(model: type[BaseModel], location: Sequence[str | int]) -> str:
    """Say that a key is unknown, which one may be meant, and which keys there are.

    Args:
        model: The model of the whole document.
        location: Where pydantic has found the key: names, indices and tags of unions.
    """
    known = _keys_at(model, location)
    hint = did_you_mean(str(location[-1]), known, "the keys here are", _MEANT)
    return f"unknown key{hint}"


def meant_key(model: type[BaseModel], location: Sequence[str | int]) -> str | None:
    """Return the key that an unknown one is likely to stand for, or None.

    Args:
        model: The model of the whole document.
        location: As for `explain_unknown_key`.
    """
    return nearest_word(str(location[-1]), _keys_at(model, location), _MEANT)


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> Iterable[str]:
    """Return the keys that are accepted where a key is."""
    at: Any = model
    for part in location[:-1]:
        at = _below(at, part)
    return [*_fields(at), *getattr(_only(at), "KEYS_OF_OTHERS", ())]


def _fields(model: Any) -> dict[str, Any]:
    """Return the annotations of a model's fields, by the keys that stand for them."""
    model = _only(model)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return {}
    hidden: frozenset[str] = getattr(model, "NOT_IN_FILES", frozenset())
    fields = model.model_fields.items()
    return {each.alias or name: each.annotation for name, each in fields if name not in hidden}


def _below(annotation: Any, part: str | int) -> Any:
    """Return the annotation at one step below another one."""
    annotation = _only(annotation)
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:  # of tagged models
        tagged = [typing.get_args(each) for each in typing.get_args(annotation)]
        return next((each for each, tag, *_ in tagged if tag == Tag(str(part))), None)
    if typing.get_origin(annotation) is dict:
        return typing.get_args(annotation)[1]
    return _fields(annotation).get(str(part))


def _only(annotation: Any) -> Any:
    """Return what an annotation is about, without `None`, and without a model for its root only."""
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        annotation = annotation.model_fields["root"].annotation
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        some = [each for each in typing.get_args(annotation) if each is not types.NoneType]
        return some[0] if len(some) == 1 else annotation
    return annotation
