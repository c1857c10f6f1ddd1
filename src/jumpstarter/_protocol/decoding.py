"""What a decoder refuses, as one error of ours.

The class that msgspec raises for bad bytes depends on its version: text that is not UTF-8 was a
UnicodeDecodeError before msgspec 0.23, and is a DecodeError since. Nothing here looks at the class.
"""

from __future__ import annotations

from typing import NoReturn, TypeVar

import msgspec

from .._framing import scan
from ..errors import ArgumentError, FramingError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["decode_checked", "raise_decode_error"]

T = TypeVar("T")


def decode_checked(
    decoder: msgspec.msgpack.Decoder[T], body: bytes, limits: tuple[int, int, int], said: str
) -> T:
    """Decode a value of the protocol's own.

    Args:
        decoder: Of the type that it must have.
        body: The value, encoded.
        limits: Its depth, items and containers.
        said: How the text of an error begins.

    Raises:
        ArgumentError: It is malformed, beyond a limit, or of another type.
    """
    try:
        scan(body, *limits)
    except FramingError as exc:
        raise ArgumentError(f"{said}: {exc}") from exc
    try:
        return decoder.decode(body)
    except Exception as exc:  # noqa: BLE001 - whichever it is, it is raised again or chained
        raise_decode_error(exc, said)


def raise_decode_error(exc: Exception, said: str) -> NoReturn:
    """Raise ArgumentError for what a decoder has raised: its class depends on msgspec's version.

    A decoder runs no Python code: an exception with a frame of its own is a signal handler's.
    """
    traceback = exc.__traceback__
    if isinstance(exc, MemoryError) or (traceback is not None and traceback.tb_next is not None):
        raise exc
    raise ArgumentError(f"{said}: {exc}") from exc
