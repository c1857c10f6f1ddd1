"""Frame types, flags and the structures that frames carry; `codec` encodes them."""

from __future__ import annotations

import enum
from typing import Any, Final

import msgspec

from .._framing import HEADER_SIZE
from .._limits import Limits

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "HEADER_SPACE",
    "KEYWORDS",
    "MAGIC",
    "MAX_DOC",
    "MAX_METHOD_NAME",
    "MAX_SIGNATURE",
    "MAX_TEXT",
    "NESTED",
    "NIL",
    "VERSION",
    "CallHead",
    "ErrorBody",
    "Flag",
    "FrameType",
    "Goaway",
    "Hello",
    "Kind",
    "Node",
    "OSErrorDetails",
]

MAGIC: Final = b"JMPS"
# A peer with another major version is refused. A higher minor version adds keys and elements.
VERSION: Final = (1, 2)
MAX_METHOD_NAME: Final = 255  # bytes of UTF-8: its length crosses the wire in one byte
MAX_DOC: Final = 4096  # characters of a docstring in a report
MAX_SIGNATURE: Final = 1024  # characters of a signature in a report: parsing a deep one recurses
MAX_TEXT: Final = 1024 * 1024  # characters of an error's text, notes and traceback, each
KEYWORDS: Final = 0x80  # bit of a CALL's kind: the last argument is a map of keyword arguments
NESTED: Final = 0x40  # bit of a CALL's kind: a driver's code makes the call
HEADER_SPACE: Final = bytes(HEADER_SIZE)
NIL: Final = b"\xc0"  # MessagePack's None


class FrameType(enum.IntEnum):
    """The low four bits of a header's fourth byte."""

    HELLO = 0
    CALL = 1
    RESULT = 2
    ERROR = 3
    ITEM = 4
    ACCEPT = 5
    DATA = 6
    CREDIT = 7
    CANCEL = 8
    PING = 9
    GOAWAY = 10


class Flag(enum.IntEnum):
    """The high four bits of a header's fourth byte, in place."""

    NONE = 0x00
    END = 0x10  # DATA: it ends the sender's half of the stream
    MORE = 0x20  # CALL, RESULT, ERROR, ITEM: the message goes on in the next frame
    ACK = 0x40  # PING, GOAWAY: this is the answer


class Kind(enum.IntEnum):
    """The kind of call that a CALL opens."""

    UNARY = 0
    GENERATOR = 1
    STREAM = 2


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame of each side: its limits, and its name.

    Attributes:
        version: (major, minor).
        max_frame, max_message, max_calls, stream_window: See `Limits`.
        ping_ms: Milliseconds of silence after which the sender sends PING; 0 for never.
        agent: Name and version of the software, for logs.
        token: A shared secret, or empty.
        name: The name that a client gives itself, or empty. Since version 1.1.
        exclusive: An exporter's: one client at a time may use the drivers, and claims them first.
            Since version 1.2.
    """

    version: tuple[int, int] = VERSION
    max_frame: int
    max_message: int
    max_calls: int
    stream_window: int
    ping_ms: int
    agent: str = ""
    token: str = ""
    name: str = ""
    exclusive: bool = False

    @classmethod
    def of(
        cls,
        limits: Limits,
        agent: str = "",
        token: str = "",
        name: str = "",
        *,
        exclusive: bool = False,
    ) -> Hello:
        """Make the HELLO that offers `limits`."""
        return cls(
            max_frame=limits.max_frame,
            max_message=limits.max_message,
            max_calls=limits.max_calls,
            stream_window=limits.stream_window,
            ping_ms=int(limits.ping_interval * 1000),
            agent=agent,
            token=token,
            name=name,
            exclusive=exclusive,
        )


class CallHead(msgspec.Struct, frozen=True, gc=False):
    """The fixed part of a CALL."""

    timeout_ms: int
    target: int
    kind: Kind
    keywords: bool
    nested: bool
    method: str


class OSErrorDetails(msgspec.Struct, frozen=True, array_like=True):
    """The fields of an ERROR that describe an OSError. Since version 1.1.

    Attributes:
        kind: Name of the nearest built-in class, such as `"FileNotFoundError"`.
        errno: The number on the sender's system.
        symbol: The number's name, such as `"ENOENT"`, because numbers differ between systems. Empty
            if the number is not one of the system's.
        strerror: The text for the number.
        filename, filename2: The files that it names: text, bytes or a file descriptor. A peer may
            send any value.
        undecodable: Which of the two are text that is not valid UTF-8 and is therefore sent as
            bytes: 1 for `filename`, plus 2 for `filename2`. Sent only if it is not 0.
    """

    kind: str
    errno: int | None = None
    symbol: str = ""
    strerror: str | None = None
    filename: Any = None
    filename2: Any = None
    undecodable: int = 0


class ErrorBody(msgspec.Struct, frozen=True, array_like=True):
    """The content of an ERROR beside its code.

    Attributes:
        type: Name of the exception's class; empty if the library itself reports the error.
        message: `str()` of the exception.
        notes: Its `__notes__`.
        traceback: Its formatted traceback, if the exporter is configured to send it.
        members: Code and body of each member, for an exception group.
        system: Further fields of an OSError. Since version 1.1.
        cause: Code and body of the exception that it was raised `from`. Since version 1.1.
    """

    type: str
    message: str
    notes: list[str] = []
    traceback: str | None = None
    members: list[tuple[int, ErrorBody]] = []
    system: OSErrorDetails | None = None
    cause: tuple[int, ErrorBody] | None = None


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """One driver in the exporter's report of its device tree.

    A report may omit the fields that have a default: they are for people, and the exporter limits
    their total size.

    Attributes:
        target: Its address in a CALL, 1 to 65,535.
        parent: Its parent's target, None for the root.
        name: Its name among its parent's children, empty for the root.
        uuid: In the usual hyphenated form.
        labels: As the driver was given them.
        client: Dotted path of its client class.
        methods: The exported names, each with the `Kind` by which it is called.
        doc: The docstring of the driver's class.
        signatures: The signature of an exported method, such as `"(volts: float = 3.3) -> None"`.
        docs: The docstring of an exported method.
        description: What the configuration says about the driver. Since version 1.2.
        methods_description: What it says about methods, by their names or those of commands.
            Since version 1.2.
        read_only: The methods that any client may use while another one holds the exporter in
            exclusive use. Since version 1.2.
    """

    target: int
    parent: int | None
    name: str
    uuid: str
    labels: dict[str, str]
    client: str
    methods: dict[str, int]
    doc: str = ""
    signatures: dict[str, str] = {}
    docs: dict[str, str] = {}
    description: str = ""
    methods_description: dict[str, str] = {}
    read_only: list[str] = []


class Goaway(msgspec.Struct, frozen=True):
    """Why the sender accepts no new calls, and how long it lets the present ones finish."""

    code: int
    grace_ms: int
    text: str
