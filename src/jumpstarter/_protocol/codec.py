"""Encode and decode the payloads of all frames.

Fixed fields are little-endian structs. Everything of variable shape is MessagePack, by msgspec.
A payload is written into a `bytearray` that begins with space for the frame's header, so a message
is built once and never copied again. User values are encoded and decoded late, by the code that
made or requested them: a bad argument fails its own call, never the connection.

This module has no state. `connection`, `client` and `server` decide which frame may be sent when.
"""

from __future__ import annotations

import functools
import gc
import struct
import sys
import types
from collections.abc import Callable
from typing import Any, Final

import msgspec

from .._framing import HEADER_SIZE, find_tail, scan
from .._limits import MIN_WIRE_FRAME, Limits
from ..errors import ArgumentError, Code, FramingError
from .decoding import decode_checked, raise_decode_error
from .frames import (
    HEADER_SPACE,
    KEYWORDS,
    MAGIC,
    MAX_METHOD_NAME,
    MAX_TEXT,
    NESTED,
    CallHead,
    ErrorBody,
    Goaway,
    Hello,
    Kind,
    Node,
    OSErrorDetails,
)
from .large_message import LARGE, LargeMessage, Message, head_of
from .receive_buffer import Body, ReceiveBuffer
from .values import explain_encode_error, to_wire

__all__ = [
    "call_prefix",
    "decode_call",
    "decode_cancel",
    "decode_credit",
    "decode_error",
    "decode_goaway",
    "decode_hello",
    "decode_nodes",
    "decode_value",
    "encode_call",
    "encode_cancel",
    "encode_error",
    "encode_goaway",
    "encode_hello",
    "encode_message",
    "encode_request",
    "encode_value",
    "set_timeout",
    "truncate",
]

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out
MAX_PATH: Final = 4096  # characters of a file name in an error: the longest path in Linux
# Values in an ERROR: enough for a group with thousands of members.
_MAX_ERROR_VALUES: Final = 65_536
_MAX_GOAWAY_TEXT: Final = 1024  # bytes that we accept; `encode_goaway` sends fewer


class _HelloMap(msgspec.Struct, frozen=True):
    agent: str = ""
    token: str = ""


class _NamedHelloMap(_HelloMap, frozen=True):
    name: str = ""


class _ExclusiveHelloMap(_HelloMap, frozen=True):
    exclusive: bool = False


class _AnyHelloMap(_NamedHelloMap, frozen=True):
    """A HELLO as it is read. The other classes are written: no key without need."""

    exclusive: bool = False


_HELLO: Final = struct.Struct("<4sBBHIIIII")
_CALL: Final = struct.Struct("<IHBB")
_CONSTANT: Final = struct.Struct("<HBB")  # of a CALL: all but the timeout
_CODE: Final = struct.Struct("<H")
_CREDIT: Final = struct.Struct("<I")
_GOAWAY: Final = struct.Struct("<HI")
_TIMEOUT: Final = struct.Struct("<I")
# codec.pxd makes C integers of these two.
_HEAD_SIZE: Final = _CALL.size
_TIMEOUT_SIZE: Final = _TIMEOUT.size
_MAX_HEAD: Final = _CALL.size + MAX_METHOD_NAME
_NO_TIMEOUT: Final = bytes(_TIMEOUT.size)

_TYPES_WITHOUT_KEYS: Final = frozenset({types.NoneType, bool, int, float, str, bytes})
_MAX_SCAN_DEPTH: Final = 512  # levels, the most that `scan` accepts
_MANY: Final = 10_000 if sys.version_info < (3, 12) else sys.maxsize  # values; decoded within 1 ms

_LARGE: Final = LARGE
_LARGEST: Final = 2**32 - 1  # that can be declared
_BYTES: Final = struct.Struct(">BI")  # 0xc6 and the number of bytes of over 64 KiB - 1
_NO_BYTES: Final = b"\xc4\x00"  # b"" on the wire
_BYTES_HEAD: Final = _BYTES.size

_encoder: Final = msgspec.msgpack.Encoder(enc_hook=to_wire)
_decoder: Final = msgspec.msgpack.Decoder()
_hello_decoder: Final = msgspec.msgpack.Decoder(_AnyHelloMap)
_error_decoder: Final = msgspec.msgpack.Decoder(ErrorBody)
_nodes_decoder: Final = msgspec.msgpack.Decoder(list[Node])


# ---------------------------------------------------------------------------------- user values


def encode_value(value: object, prefix: bytes = HEADER_SPACE, root: str = "value") -> bytearray:
    """Encode one value behind `prefix`, which begins with header space.

    Args:
        value: The value to send.
        prefix: The bytes before it.
        root: The name of the value in an error message; the path to the fault begins with it.

    Raises:
        ArgumentError: The value cannot be encoded. The message says which part of it, and why.
    """
    buffer = bytearray(prefix)
    try:
        _encoder.encode_into(value, buffer, len(prefix))
    except Exception as exc:  # raised by the value's own code, or by a signal handler
        raise explain_encode_error(exc, value, _encoder.encode, root) from exc
    return buffer


def encode_message(value: object, root: str) -> Message:
    """Encode one value behind header space, as `encode_value` does. Large bytes are not copied."""
    if type(value) is bytes and _LARGE <= len(value) <= _LARGEST:
        return LargeMessage(bytearray(HEADER_SPACE + _BYTES.pack(0xC6, len(value))), value)
    return encode_value(value, HEADER_SPACE, root)


def decode_value(
    body: Body | bytearray,
    limits: Limits,
    admit: Callable[[int], None] | None = None,
    size: int = 0,
) -> Any:
    """Decode one value that a peer has sent.

    Args:
        body: The value, encoded. A buffer is empty afterwards.
        limits: The limits that it must keep.
        admit: Called with the number of values before any is created. May raise.
        size: The bytes of its message, for errors, if the body is only a part of that.

    Raises:
        ArgumentError: The value is malformed, or exceeds the depth, item or container limits.
    """
    if isinstance(body, ReceiveBuffer):
        return _decode_large(body, limits, admit)
    try:
        count = scan(body, limits.max_depth, limits.max_items, limits.max_containers)
    except FramingError as exc:
        raise ArgumentError(f"the {size or len(body)} bytes cannot be decoded: {exc}") from exc
    if admit is not None:
        admit(count)
    # Up to Python 3.11 a new container can trigger a garbage collection. With many containers these
    # took most of the time, while nothing else could run. The decoder keeps the interpreter's lock,
    # so no other thread is affected. Not in a function: see `raise_decode_error`.
    pause_gc = count > _MANY and gc.isenabled()
    try:
        if pause_gc:
            gc.disable()
        return _decoder.decode(body)
    except Exception as exc:  # noqa: BLE001 - re-raised or chained
        raise_decode_error(exc, f"the {size or len(body)} bytes cannot be decoded")
    finally:
        if pause_gc:
            gc.enable()


def _decode_large(body: ReceiveBuffer, limits: Limits, admit: Callable[[int], None] | None) -> Any:
    """Decode a large value. Bytes in which it ends are copied once, from their frames."""
    size = len(body)
    tail = find_tail(body.first, body.offset, size)
    if tail < 0:
        return decode_value(body.join(), limits, admit)
    head = bytes(body.first[body.offset : tail])
    value = decode_value(head + _NO_BYTES, limits, admit, size)
    body.skip(len(head) + _BYTES_HEAD)
    if not head:
        return body.join()
    value[-1] = body.join()
    return value


# ----------------------------------------------------------------------------------------- CALL


def call_prefix(
    target: int, kind: Kind, method: str, keywords: bool = False, nested: bool = False
) -> bytes:
    """Build a CALL without its timeout and arguments. It is cached: a method's never changes.

    Raises:
        ArgumentError: The name is not a str of 1 to 255 bytes of UTF-8.
    """
    if not isinstance(method, str):
        raise ArgumentError(f"a method's name must be a str, not {type(method).__name__}")
    return _call_prefix(target, kind, method, keywords, nested)


@functools.lru_cache(maxsize=1024)
def _call_prefix(target: int, kind: Kind, method: str, keywords: bool, nested: bool) -> bytes:
    name = method.encode(errors="replace")
    if not 0 < len(name) <= MAX_METHOD_NAME:
        raise ArgumentError(
            f"a method's name must have 1 to {MAX_METHOD_NAME} bytes, not {len(name)}"
        )
    flags = kind | (KEYWORDS if keywords else 0) | (NESTED if nested else 0)
    return HEADER_SPACE + _CALL.pack(0, target, flags, len(name)) + name


def encode_call(prefix: bytes, args: tuple[Any, ...]) -> bytearray:
    """Encode a CALL without a timeout. `args` ends in the keyword map if the prefix says so.

    Raises:
        ArgumentError: As `encode_value`, or a dict has a key that no peer accepts.
    """
    buffer = encode_value(args, prefix, "args")
    for arg in args:
        if type(arg) not in _TYPES_WITHOUT_KEYS:
            _check_keys_of_call(buffer, len(prefix), args)
            break
    return buffer


def encode_request(prefix: bytes, args: tuple[Any, ...]) -> Message:
    """Encode a CALL, as `encode_call` does. Large bytes in which it ends are not copied."""
    if not args or type(args[-1]) is not bytes or not _LARGE <= len(args[-1]) <= _LARGEST:
        return encode_call(prefix, args)
    tail = args[-1]
    buffer = encode_call(prefix, (*args[:-1], b""))
    del buffer[-len(_NO_BYTES) :]
    buffer += _BYTES.pack(0xC6, len(tail))
    if len(buffer) <= MIN_WIRE_FRAME:  # which leaves space for some of them in the first frame
        return LargeMessage(buffer, tail)
    buffer += tail
    return buffer


def _check_keys_of_call(buffer: bytearray, start: int, args: tuple[Any, ...]) -> None:
    try:
        with memoryview(buffer) as view, view[start:] as body:
            _check_keys(body)
    except ValueError as exc:
        raise explain_encode_error(exc, args, _encode_and_check_keys, "args") from exc


def _encode_and_check_keys(value: object) -> None:
    _check_keys(_encoder.encode(value))


def _check_keys(body: bytes | memoryview) -> None:
    """Find a key that our encoder accepts and every peer refuses. Sizes are the peer's to check.

    Raises:
        ValueError: A map has a key that is neither str nor int.
    """
    try:
        scan(body, _MAX_SCAN_DEPTH, sys.maxsize, sys.maxsize)
    except FramingError as exc:
        if exc.code is Code.INVALID_ARGUMENT:
            raise ValueError(str(exc)) from exc


def set_timeout(message: Message, timeout_ms: int) -> None:
    """Write the timeout into a CALL that `encode_call` has built; 0 for none."""
    _TIMEOUT.pack_into(head_of(message), HEADER_SIZE, timeout_ms)


def decode_call(payload: Body) -> tuple[CallHead, Body]:
    """Split a CALL into its head and its encoded arguments.

    A buffer remains one, without the head.

    Raises:
        ArgumentError: The head is cut short, of an unknown kind, or its name is not UTF-8.
    """
    if isinstance(payload, ReceiveBuffer):
        return _decode_large_call(payload)
    data = payload  # which is an object of any type, and slow to look into
    try:
        if len(data) < _HEAD_SIZE:
            raise ValueError(f"a head of {_HEAD_SIZE} bytes in a payload of {len(data)}")
        name_length = data[_HEAD_SIZE - 1]
        end = _HEAD_SIZE + name_length
        if name_length == 0 or end > len(data):
            raise ValueError(f"a name of {name_length} bytes in a payload of {len(data)}")
        head = _head(data[_TIMEOUT_SIZE:end])
    except (ValueError, KeyError) as exc:
        raise ArgumentError(f"malformed CALL: {exc}") from exc
    if not data.startswith(_NO_TIMEOUT):
        (timeout_ms,) = _TIMEOUT.unpack_from(data)
        head = msgspec.structs.replace(head, timeout_ms=timeout_ms)
    return head, data[end:]


def _decode_large_call(buffer: ReceiveBuffer) -> tuple[CallHead, Body]:
    if buffer.first_size < _MAX_HEAD:  # the peer has sent tiny frames
        return decode_call(buffer.join())
    head, rest = decode_call(bytes(buffer.first[buffer.offset : buffer.offset + _MAX_HEAD]))
    buffer.skip(_MAX_HEAD - len(rest))
    return head, buffer


@functools.lru_cache(maxsize=256)  # a client calls the same few methods over and over
def _head(constant: bytes) -> CallHead:
    """Decode the part of a CALL's head that is the same in all calls of a method."""
    target, flags, _name_length = _CONSTANT.unpack_from(constant)
    kind = _KINDS[flags & ~(KEYWORDS | NESTED)]
    method = constant[_CONSTANT.size :].decode()
    return CallHead(0, target, kind, bool(flags & KEYWORDS), bool(flags & NESTED), method)


_KINDS: Final = {int(kind): kind for kind in Kind}


# ---------------------------------------------------------------------------------------- ERROR


def encode_error(code: int, body: ErrorBody) -> bytearray:
    """Encode an ERROR. Long texts are truncated with a mark, and invalid Unicode is replaced."""
    return encode_value(_clean(body), HEADER_SPACE + _CODE.pack(code))


def _clean(body: ErrorBody) -> list[Any]:
    cleaned: list[Any] = [
        truncate(body.type, MAX_METHOD_NAME),
        truncate(body.message),
        [truncate(note) for note in body.notes[:64]],
        None if body.traceback is None else truncate(body.traceback),
        [(code, _clean(member)) for code, member in body.members],
    ]
    if body.system is not None or body.cause is not None:  # version 1.0 had five
        cleaned.append(None if body.system is None else _clean_fault(body.system))
    if body.cause is not None:
        cleaned.append((body.cause[0], _clean(body.cause[1])))
    return cleaned


def _clean_fault(fault: OSErrorDetails) -> list[Any]:
    cleaned: list[Any] = [
        truncate(fault.kind, MAX_METHOD_NAME),
        fault.errno,
        truncate(fault.symbol, MAX_METHOD_NAME),
        None if fault.strerror is None else truncate(fault.strerror),
        _clean_name(fault.filename),
        _clean_name(fault.filename2),
    ]
    return [*cleaned, fault.undecodable] if fault.undecodable else cleaned


def _clean_name(name: Any) -> Any:
    if isinstance(name, bytes):
        return name[:MAX_PATH]
    return truncate(name, MAX_PATH) if isinstance(name, str) else name


def truncate(text: str, length: int = MAX_TEXT) -> str:
    """Truncate `text` to `length` characters with a mark, and replace what cannot be encoded."""
    if len(text) > length:
        text = f"{text[:length]}... [cut: {len(text)} characters in all]"
    return text.encode(errors="replace").decode()


def decode_error(payload: bytes, limits: Limits) -> tuple[int, ErrorBody]:
    """Decode an ERROR's code and body. A body that is malformed becomes text; never raises."""
    if len(payload) < _CODE.size:
        return Code.UNKNOWN, ErrorBody("", "the exporter sent an ERROR without a code")
    (code,) = _CODE.unpack_from(payload)
    limit = (limits.max_depth, _MAX_ERROR_VALUES, limits.max_containers)
    message = "the exporter sent an ERROR that cannot be read"
    try:
        return code, decode_checked(_error_decoder, payload[_CODE.size :], limit, message)
    except ArgumentError as exc:
        return code, ErrorBody("", str(exc))


# ------------------------------------------------------------------------------- the small ones


def encode_hello(hello: Hello) -> bytes:
    """Encode a HELLO's payload."""
    fixed = _HELLO.pack(
        MAGIC,
        *hello.version,
        0,
        hello.max_frame,
        hello.max_message,
        hello.max_calls,
        hello.stream_window,
        hello.ping_ms,
    )
    about = _HelloMap(hello.agent, hello.token)
    if hello.exclusive:  # no client is
        about = _ExclusiveHelloMap(hello.agent, hello.token, hello.exclusive)
    elif hello.name:  # no server has one
        about = _NamedHelloMap(hello.agent, hello.token, truncate(hello.name, MAX_METHOD_NAME))
    return bytes(encode_value(about, fixed))


def decode_hello(payload: bytes) -> Hello:
    """Decode a HELLO of any version.

    Raises:
        ArgumentError: It is not a HELLO of this protocol.
    """
    what = "malformed HELLO"
    if not payload.startswith(MAGIC):
        raise ArgumentError(f"{what}: it begins with {payload[:4]!r}, not {MAGIC!r}")
    try:
        _, major, minor, _, frame, message, calls, window, ping = _HELLO.unpack_from(payload)
    except struct.error as exc:
        raise ArgumentError(f"{what}: {exc}") from exc
    more = decode_checked(_hello_decoder, payload[_HELLO.size :], (8, 256, 32), what)
    return Hello(
        version=(major, minor),
        max_frame=frame,
        max_message=message,
        max_calls=calls,
        stream_window=window,
        ping_ms=ping,
        agent=more.agent,
        token=more.token,
        name=more.name,
        exclusive=more.exclusive,
    )


def decode_credit(payload: bytes) -> int:
    """Decode a CREDIT's delta. A malformed one gives 0, which is a breach as well."""
    return int(_CREDIT.unpack(payload)[0]) if len(payload) == _CREDIT.size else 0


def encode_credit(delta: int) -> bytes:
    """Encode a CREDIT's payload."""
    return _CREDIT.pack(delta)


def encode_cancel(code: int) -> bytes:
    """Encode a CANCEL's payload."""
    return _CODE.pack(code)


def decode_cancel(payload: bytes) -> int | None:
    """Decode a CANCEL's code; None if it is malformed."""
    return int(_CODE.unpack(payload)[0]) if len(payload) == _CODE.size else None


def encode_goaway(goaway: Goaway) -> bytes:
    """Encode a GOAWAY's payload. The text is truncated to fit the smallest `max_frame`."""
    text = goaway.text.encode(errors="replace")[: MIN_WIRE_FRAME - _GOAWAY.size]
    return _GOAWAY.pack(goaway.code, min(goaway.grace_ms, 2**32 - 1)) + text


def decode_goaway(payload: bytes) -> Goaway | None:
    """Decode a GOAWAY; None if it is malformed."""
    if not _GOAWAY.size <= len(payload) <= _GOAWAY.size + _MAX_GOAWAY_TEXT:
        return None
    code, grace_ms = _GOAWAY.unpack_from(payload)
    return Goaway(code, grace_ms, payload[_GOAWAY.size :].decode(errors="replace"))


def decode_nodes(body: Body, limits: Limits) -> list[Node]:
    """Decode the device tree that target 0 reports.

    Raises:
        ArgumentError: It is malformed, or exceeds the limits.
    """
    # Twice as many: most of its keys become fields of a Node, not keys of a dict.
    limit = (limits.max_depth, 2 * limits.max_items, limits.max_containers)
    whole = body.join() if isinstance(body, ReceiveBuffer) else body
    return decode_checked(_nodes_decoder, whole, limit, "the exporter's report cannot be read")
