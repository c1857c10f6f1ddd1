"""Decode MessagePack, and raise one class of error for everything that cannot be decoded.

The class that msgspec raises for bad bytes depends on its version: text that is not UTF-8 is a
UnicodeDecodeError before msgspec 0.23, and a DecodeError since. So this module ignores the class.
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
    decoder: msgspec.msgpack.Decoder[T], body: bytes, limits: tuple[int, int, int], message: str
) -> T:
    """Decode a value whose type the protocol defines.

    Args:
        decoder: A decoder for that type.
        body: The value, encoded.
        limits: The most levels, items and containers that it may have.
        message: The beginning of an error's message.

    Raises:
        ArgumentError: The value is malformed, exceeds a limit, or has another type.
    """
    try:
        scan(body, *limits)
    except FramingError as exc:
        raise ArgumentError(f"{message}: {exc}") from exc
    try:
        return decoder.decode(body)
    except Exception as exc:  # noqa: BLE001 - re-raised or chained
        raise_decode_error(exc, message)


def raise_decode_error(exc: Exception, message: str) -> NoReturn:
    """Raise ArgumentError for an exception that a decoder has raised.

    A decoder runs no Python code. So an exception with a frame of its own was raised by a signal
    handler, and is re-raised unchanged.
    """
    traceback = exc.__traceback__
    if isinstance(exc, MemoryError) or (traceback is not None and traceback.tb_next is not None):
        raise exc
    raise ArgumentError(f"{message}: {exc}") from exc
