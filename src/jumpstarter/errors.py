"""Every exception of the library, in one tree, each with its wire code.

    JumpstarterException
    ├── ConfigurationError              a driver or a server was set up wrongly
    ├── ArgumentError                   a caller passed something that cannot be
    │   ├── ArgumentTypeError           (TypeError) something of a type that is not accepted
    │   └── ArgumentValueError          (ValueError) something that is out of range
    ├── ClientImportError               (ImportError) a client class is missing or not allowed
    ├── MissingExtra                    (ImportError) an optional dependency is not installed
    ├── ResourceError                   (ValueError) what was lent cannot be used, or not like this
    ├── EndOfStream                     (EOFError) a blocking stream has ended
    ├── HandshakeError                  (ConnectionError) the peer is no jumpstarter, or refused us
    ├── ProtocolError                   abstract
    │   ├── LocalProtocolError          we broke the wire's rules: a bug in this library
    │   └── RemoteProtocolError         the peer broke them; the connection is over
    ├── FramingError                    bytes that are no frame, or a message too deep or too large
    └── DriverError                     a call failed; says how sure we are that it ran
        ├── DriverMethodNotImplemented  (NotImplementedError)
        ├── DriverInvalidArgument       (ValueError)
        │   └── DriverUnsupportedOperation (UnsupportedOperation)
        ├── DriverTimeoutError          (TimeoutError)
        ├── DriverConnectionError       (ConnectionError)
        │   ├── DriverBrokenPipeError (BrokenPipeError)
        │   ├── DriverConnectionAbortedError (ConnectionAbortedError)
        │   ├── DriverConnectionRefusedError (ConnectionRefusedError)
        │   └── DriverConnectionResetError (ConnectionResetError)
        ├── DriverOSError               (OSError)
        │   ├── DriverBlockingIOError (BlockingIOError)
        │   ├── DriverChildProcessError (ChildProcessError)
        │   ├── DriverFileExistsError (FileExistsError)
        │   ├── DriverFileNotFoundError (FileNotFoundError)
        │   ├── DriverInterruptedError (InterruptedError)
        │   ├── DriverIsADirectoryError (IsADirectoryError)
        │   ├── DriverNotADirectoryError (NotADirectoryError)
        │   ├── DriverPermissionError (PermissionError)
        │   └── DriverProcessLookupError (ProcessLookupError)
        ├── DriverErrorGroup            (ExceptionGroup) the driver raised a group; keeps its tree
        ├── CallCancelled               the exporter ended the call
        ├── CallRefused                 (ConnectionError) certainly never started: safe to try again
        └── CallOutcomeUnknown          (ConnectionError) sent, and no answer came

Rules: a class says what the caller can do about it, the code says what crossed the wire, and the
text says what was asked, of whom, and what went wrong. Only the classes of `ERROR_CLASSES` and
`SYSTEM_ERROR_CLASSES` are ever made from a peer's bytes: the remote type's name is data, never
looked up.
Of the library this file knows only how it was installed.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Sequence
from typing import Any, Final, Self

from ._installed import command_for

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "CallCancelled",
    "CallOutcomeUnknown",
    "CallRefused",
    "ClientImportError",
    "Code",
    "ConfigurationError",
    "DriverBlockingIOError",
    "DriverBrokenPipeError",
    "DriverChildProcessError",
    "DriverConnectionAbortedError",
    "DriverConnectionError",
    "DriverConnectionRefusedError",
    "DriverConnectionResetError",
    "DriverError",
    "DriverErrorGroup",
    "DriverFileExistsError",
    "DriverFileNotFoundError",
    "DriverInterruptedError",
    "DriverInvalidArgument",
    "DriverIsADirectoryError",
    "DriverMethodNotImplemented",
    "DriverNotADirectoryError",
    "DriverOSError",
    "DriverPermissionError",
    "DriverProcessLookupError",
    "DriverTimeoutError",
    "DriverUnsupportedOperation",
    "EndOfStream",
    "FramingError",
    "HandshakeError",
    "JumpstarterException",
    "LocalProtocolError",
    "MissingExtra",
    "ProtocolError",
    "RemoteProtocolError",
    "ResourceError",
    "code_for",
]


_OF_OSERROR: Final = ("errno", "strerror", "filename", "filename2")


class Code(enum.IntEnum):
    """What an ERROR, CANCEL or GOAWAY frame says in two bytes.

    0 to 16 are gRPC's numbers (a subset), 17 to 31 are ours and end one call, 32 and up end the
    connection.
    """

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4  # the call's own deadline, watched by the exporter
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

    REFUSED = 17  # the call was never started
    TIMED_OUT = 18  # the driver's own TimeoutError
    OS_ERROR = 19
    GROUP = 20
    CLOSE = 21  # CANCEL of a raw stream: deliver what I sent, then end

    PROTOCOL_ERROR = 32
    FLOW_CONTROL = 33
    FRAME_SIZE = 34
    HELLO_TIMEOUT = 35
    KEEPALIVE_TIMEOUT = 36
    WRITE_STALL = 37
    VERSION = 38
    TOO_MANY_FRAMES = 39  # of kinds that ask for attention and bring nothing

    @classmethod
    def of(cls, number: int, otherwise: Code) -> Code:
        """Give the code with this number, or another one if a peer has made it up."""
        try:
            return cls(number)
        except ValueError:
            return otherwise


class JumpstarterException(Exception):
    """The root of all exceptions of this library."""


class ConfigurationError(JumpstarterException):
    """A driver, a server or a client was set up in a way that cannot work."""


class ArgumentError(JumpstarterException):
    """A caller passed an argument that cannot be used."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument has a type that is not accepted; the text says which are."""


class ArgumentValueError(ArgumentError, ValueError):
    """An argument is out of range; the text says what is accepted."""


class ClientImportError(JumpstarterException, ImportError):
    """A driver's client class could not be imported here, or is not allowed to be."""


class MissingExtra(JumpstarterException, ImportError):
    """Something needs a package that is installed only where it is asked for; the text says how."""

    @classmethod
    def named(cls, extra: str, what: str, *, where: str = "") -> MissingExtra:
        """Make one for an extra of this library, saying what needs it, and where."""
        place = where and f" {where}"
        return cls(f"{what} needs the extra {extra!r}{place}: {command_for(extra)}")


class ResourceError(JumpstarterException, ValueError):
    """A resource is unknown, taken, of another client, too large, damaged, or of the other kind."""


class EndOfStream(JumpstarterException, EOFError):
    """The driver has ended its half of a raw stream; every byte before the end was delivered."""


class HandshakeError(JumpstarterException, ConnectionError):
    """No connection came about: the peer does not speak this protocol, or refused us."""


class ProtocolError(JumpstarterException):
    """The wire's rules were broken. Never raised itself: see its two subclasses.

    Attributes:
        code: The `Code` that is, or would be, sent to the peer in GOAWAY.
    """

    def __init__(self, message: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        if type(self) is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError")
        super().__init__(message)
        self.code: Code = code


class LocalProtocolError(ProtocolError):
    """This side asked for something that the rules forbid. A bug in this library: report it."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules. The connection is over; nothing after the breach was acted on."""


class FramingError(JumpstarterException):
    """Bytes that are no frame, or a message that is too deep or has too many items.

    Attributes:
        code: `Code.FRAME_SIZE` for a length over the limit, `Code.RESOURCE_EXHAUSTED` for a message
            over its depth or item limits, `Code.INVALID_ARGUMENT` for one cut short, else
            `Code.PROTOCOL_ERROR`.
    """

    def __init__(self, message: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code: Code = code


class DriverError(JumpstarterException):
    """A call failed. `str()` of it is the whole story; the attributes are for programs.

    Attributes:
        message: The remote exception's own text, or this library's.
        code: The `Code` that came with the answer.
        remote_type: The name of the exception class which the driver raised, as data: `""` where
            the library itself refused or ended the call; cut and quoted if it is no identifier.
        remote_traceback: The driver's formatted traceback, where the exporter sends it, else None.
        context: What was called, as `"method 'on' of driver 'power' (mock.PowerDriver)"`.

    One that is an OSError too has `errno`, `strerror`, `filename` and `filename2` as the driver's
    exception had them (from exporters before version 1.1 of the protocol: None). `errno` is this
    system's number for the error, where the exporter's system has another. `__cause__` is a
    DriverError for what the driver's exception was raised `from`, if it was.
    """

    code: Code = Code.UNKNOWN

    def __init__(
        self,
        message: str = "",
        *,
        code: Code | None = None,
        remote_type: str = "",
        remote_traceback: str | None = None,
        context: str = "",
    ) -> None:
        super().__init__(message)
        self.message: str = message
        self.remote_type: str = remote_type
        self.remote_traceback: str | None = remote_traceback
        self.context: str = context
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        kind = f"{self.remote_type}: " if self.remote_type else ""
        where = f"{self.context}: " if self.context else ""
        return f"{where}{kind}{self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it with what OSError keeps apart from an exception's attributes."""
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            state |= {name: getattr(self, name) for name in _OF_OSERROR}
        return type(self), self.args, state


class DriverMethodNotImplemented(DriverError, NotImplementedError):
    """No such exported method, called the wrong way, or the driver raised NotImplementedError."""

    code = Code.UNIMPLEMENTED


class DriverInvalidArgument(DriverError, ValueError):
    """The arguments cannot be sent, do not fit the method, or the driver raised ValueError."""

    code = Code.INVALID_ARGUMENT


class DriverTimeoutError(DriverError, TimeoutError):
    """The call's deadline passed, or the driver raised TimeoutError."""

    code = Code.TIMED_OUT


class DriverConnectionError(DriverError, ConnectionError):
    """The driver raised ConnectionError: what *it* talks to was not there."""

    code = Code.UNAVAILABLE


class DriverOSError(DriverError, OSError):
    """The driver raised OSError."""

    code = Code.OS_ERROR


class DriverUnsupportedOperation(DriverInvalidArgument, io.UnsupportedOperation):
    """The driver raised `io.UnsupportedOperation`."""


class DriverBrokenPipeError(DriverConnectionError, BrokenPipeError):
    """The driver raised BrokenPipeError: EPIPE or ESHUTDOWN."""


class DriverConnectionAbortedError(DriverConnectionError, ConnectionAbortedError):
    """The driver raised ConnectionAbortedError: ECONNABORTED."""


class DriverConnectionRefusedError(DriverConnectionError, ConnectionRefusedError):
    """The driver raised ConnectionRefusedError: ECONNREFUSED."""


class DriverConnectionResetError(DriverConnectionError, ConnectionResetError):
    """The driver raised ConnectionResetError: ECONNRESET."""


class DriverBlockingIOError(DriverOSError, BlockingIOError):
    """The driver raised BlockingIOError: EAGAIN, or a like one."""


class DriverChildProcessError(DriverOSError, ChildProcessError):
    """The driver raised ChildProcessError: ECHILD."""


class DriverFileExistsError(DriverOSError, FileExistsError):
    """The driver raised FileExistsError: EEXIST."""


class DriverFileNotFoundError(DriverOSError, FileNotFoundError):
    """The driver raised FileNotFoundError: ENOENT."""


class DriverInterruptedError(DriverOSError, InterruptedError):
    """The driver raised InterruptedError: EINTR."""


class DriverIsADirectoryError(DriverOSError, IsADirectoryError):
    """The driver raised IsADirectoryError: EISDIR."""


class DriverNotADirectoryError(DriverOSError, NotADirectoryError):
    """The driver raised NotADirectoryError: ENOTDIR."""


class DriverPermissionError(DriverOSError, PermissionError):
    """The driver raised PermissionError: EACCES or EPERM."""


class DriverProcessLookupError(DriverOSError, ProcessLookupError):
    """The driver raised ProcessLookupError: ESRCH."""


class DriverErrorGroup(DriverError, ExceptionGroup[Exception]):
    """The driver raised an exception group; `exceptions` holds its members, each a DriverError."""

    code = Code.GROUP

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        *,
        remote_type: str = "",
        remote_traceback: str | None = None,
        context: str = "",
    ) -> Self:
        """Take what ExceptionGroup wants; `__init__` has the rest."""
        del remote_type, remote_traceback, context
        return super().__new__(cls, message, exceptions)

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        *,
        remote_type: str = "",
        remote_traceback: str | None = None,
        context: str = "",
    ) -> None:
        del message, exceptions  # __new__ has them: attributes of a group are read-only
        self.remote_type: str = remote_type
        self.remote_traceback: str | None = remote_traceback
        self.context: str = context

    def derive(self, excs: Sequence[Exception]) -> DriverErrorGroup:  # type: ignore[override]
        """Make a group of some of the members, as `except*` and `split` need it."""
        return DriverErrorGroup(
            self.message,
            excs,
            remote_type=self.remote_type,
            remote_traceback=self.remote_traceback,
            context=self.context,
        )


class CallCancelled(DriverError):
    """The exporter ended the call: it is shutting down, or the driver was cancelled in itself."""

    code = Code.CANCELLED


class CallRefused(DriverError, ConnectionError):
    """The call certainly never started, so it is safe to make it again."""

    code = Code.REFUSED


class CallOutcomeUnknown(DriverError, ConnectionError):
    """The call was sent and the connection ended before its answer: it may or may not have run.

    The library never repeats such a call by itself: power-cycling twice is a bug.
    """

    code = Code.UNAVAILABLE


# What a peer's ERROR frame may become here. A code that is not in it becomes a plain DriverError.
ERROR_CLASSES: Final[dict[int, type[DriverError]]] = {
    Code.CANCELLED: CallCancelled,
    Code.INVALID_ARGUMENT: DriverInvalidArgument,
    Code.DEADLINE_EXCEEDED: DriverTimeoutError,
    Code.UNIMPLEMENTED: DriverMethodNotImplemented,
    Code.UNAVAILABLE: DriverConnectionError,
    Code.REFUSED: CallRefused,
    Code.RESOURCE_EXHAUSTED: CallRefused,
    Code.TIMED_OUT: DriverTimeoutError,
    Code.OS_ERROR: DriverOSError,
}

# What such a class becomes where the ERROR names a built-in class that is narrower.
SYSTEM_ERROR_CLASSES: Final[dict[tuple[type[DriverError], str], type[DriverError]]] = {
    (kind, builtin.__name__): mirror
    for kind, builtin, mirror in (
        (mirror.__bases__[0], mirror.__bases__[1], mirror)
        for mirror in (
            DriverUnsupportedOperation,
            DriverBrokenPipeError,
            DriverConnectionAbortedError,
            DriverConnectionRefusedError,
            DriverConnectionResetError,
            DriverBlockingIOError,
            DriverChildProcessError,
            DriverFileExistsError,
            DriverFileNotFoundError,
            DriverInterruptedError,
            DriverIsADirectoryError,
            DriverNotADirectoryError,
            DriverPermissionError,
            DriverProcessLookupError,
        )
    )
}

# What a driver's exception becomes on the wire, first match wins: TimeoutError and
# ConnectionError are OSErrors too.
_CODES: Final[tuple[tuple[type[BaseException], Code], ...]] = (
    (NotImplementedError, Code.UNIMPLEMENTED),
    (ValueError, Code.INVALID_ARGUMENT),
    (TimeoutError, Code.TIMED_OUT),
    (ConnectionError, Code.UNAVAILABLE),
    (OSError, Code.OS_ERROR),
    (BaseExceptionGroup, Code.GROUP),
)


def code_for(exc: BaseException) -> Code:
    """Give the wire code for an exception which a driver raised: `Code.UNKNOWN` if none fits."""
    return next((code for kind, code in _CODES if isinstance(exc, kind)), Code.UNKNOWN)
