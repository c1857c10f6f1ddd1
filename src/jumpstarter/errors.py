"""All exceptions of the library, in one tree, and their codes on the wire.

    JumpstarterException
    ├── ConfigurationError              a driver or a server was set up wrongly
    ├── ArgumentError                   a caller passed an unusable argument
    │   ├── ArgumentTypeError           (TypeError) its type is not accepted
    │   └── ArgumentValueError          (ValueError) its value is out of range
    ├── ClientImportError               (ImportError) a client class is missing or not allowed
    ├── MissingExtra                    (ImportError) an optional dependency is not installed
    ├── ResourceError                   (ValueError) a lent resource cannot be used (like this)
    ├── EndOfStream                     (EOFError) a blocking stream has ended
    ├── ExporterConnectionError         (ConnectionError) an exporter is out of reach
    │   └── HandshakeError              the peer is not an exporter, or refused us
    ├── ProtocolError                   abstract
    │   ├── LocalProtocolError          we broke the protocol: a bug in this library
    │   └── RemoteProtocolError         the peer broke it; the connection has ended
    ├── FramingError                    not a frame, or a message too deep or too large
    └── DriverError                     a call failed; the class tells whether it ran
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
        ├── CallRefused                 (ExporterConnectionError) never started: may be repeated
        └── CallOutcomeUnknown          (ExporterConnectionError) sent, but no answer arrived

The class tells what the caller can do, the code tells what the peer sent, and the message tells
what was called, on which driver, and what failed. Only the classes in `ERROR_CLASSES` and
`SYSTEM_ERROR_CLASSES` are made from a peer's bytes: the remote type's name is data and is never
looked up.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Sequence
from typing import Any, Final, Self

from . import _mixture  # noqa: F401 - every other module imports this one, so all are checked

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
    "ExporterConnectionError",
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
    """The code in an ERROR, CANCEL or GOAWAY frame.

    0 to 16 are gRPC's numbers (a subset), 17 to 31 are ours and end one call, 32 and up end the
    connection.
    """

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4  # the call's deadline passed on the exporter
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

    REFUSED = 17  # the call was never started
    TIMED_OUT = 18  # the driver's own TimeoutError
    OS_ERROR = 19
    GROUP = 20
    CLOSE = 21  # CANCEL of a raw stream: deliver all data sent, then end

    PROTOCOL_ERROR = 32
    FLOW_CONTROL = 33
    FRAME_SIZE = 34
    HELLO_TIMEOUT = 35
    KEEPALIVE_TIMEOUT = 36
    WRITE_STALL = 37
    VERSION = 38
    TOO_MANY_FRAMES = 39  # of kinds that demand work and have no effect

    @classmethod
    def of(cls, number: int, otherwise: Code) -> Code:
        """Return the code with this number, or `otherwise` if the number is unknown."""
        try:
            return cls(number)
        except ValueError:
            return otherwise


class JumpstarterException(Exception):
    """The base class of all exceptions of this library.

    `str()` is `message`, and the text of the exception that it was raised `from`, if that is new.
    """

    explains_cause: bool = False  # True if `message` has the text of the cause in other words

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message: str = message

    def __str__(self) -> str:
        message, cause = str(self.message), self.__cause__
        said = str(getattr(cause, "message", cause or ""))  # an exception may be its own cause
        is_new = said not in message and not self.explains_cause
        return f"{message} (Caused by: {said})" if is_new else message


class ConfigurationError(JumpstarterException):
    """A driver, a server or a client is configured in a way that cannot work."""


class ArgumentError(JumpstarterException):
    """A caller passed an argument that cannot be used."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument has a type that is not accepted. The message lists the accepted types."""


class ArgumentValueError(ArgumentError, ValueError):
    """An argument is out of range. The message says which values are accepted."""


class ClientImportError(JumpstarterException, ImportError):
    """A driver's client class could not be imported, or the import is not allowed."""


class MissingExtra(JumpstarterException, ImportError):
    """A feature needs an optional package. The message says how to install it."""

    @classmethod
    def named(cls, extra: str, what: str, *, where: str = "") -> MissingExtra:
        """Return the error for an extra of this library, needed by `what`."""
        place = where and f" {where}"
        from ._installed import command_for  # noqa: PLC0415 - slow, and for this text only

        return cls(f"{what} needs the extra {extra!r}{place}: {command_for(extra)}")


class ResourceError(JumpstarterException, ValueError):
    """A resource is unknown, in use, another client's, too large, damaged, or of the other kind."""


class EndOfStream(JumpstarterException, EOFError):
    """The driver has ended its half of a raw stream. All bytes before the end were delivered."""


class ExporterConnectionError(JumpstarterException, ConnectionError):
    """An exporter cannot be reached, or the connection to it was lost."""


class HandshakeError(ExporterConnectionError):
    """No connection was made: nothing answers, or it is not an exporter, or it refused us."""


class ProtocolError(JumpstarterException):
    """The protocol was broken. Abstract: see the two subclasses.

    Attributes:
        code: The `Code` that is, or would be, sent to the peer in GOAWAY.
    """

    def __init__(self, message: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        if type(self) is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError")
        super().__init__(message)
        self.code: Code = code


class LocalProtocolError(ProtocolError):
    """This side broke the protocol. This is a bug in the library: please report it."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol. The connection has ended; all later input was ignored."""


class FramingError(JumpstarterException):
    """The bytes are not a frame, or a message is too deep or has too many items.

    Attributes:
        code: `Code.FRAME_SIZE` for a length over the limit, `Code.RESOURCE_EXHAUSTED` for a message
            over its depth, item or container limits, `Code.INVALID_ARGUMENT` for a malformed
            message, else `Code.PROTOCOL_ERROR`.
    """

    def __init__(self, message: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code: Code = code


class DriverError(JumpstarterException):
    """A call failed. `str()` gives the complete message; the attributes are for programs.

    Attributes:
        message: The text of the remote exception, or of this library.
        code: The `Code` in the answer.
        remote_type: The name of the exception class that the driver raised, as data. Empty if the
            library itself refused or ended the call; quoted and truncated if it is not an
            identifier.
        remote_traceback: The driver's formatted traceback if the exporter sends it, else None.
        context: The method that was called, such as
            `"method 'on' of driver 'power' (mock.PowerDriver)"`.

    A subclass of OSError has the `errno`, `strerror`, `filename` and `filename2` of the driver's
    exception. (They are None if the exporter speaks version 1.0 of the protocol.) `errno` is this
    system's number for the error, even if the exporter's system uses another. `__cause__` is a
    DriverError for the exception that the driver's was raised `from`, if any.
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
        """Copy and pickle the fields that OSError keeps outside of `__dict__` too."""
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            state |= {name: getattr(self, name) for name in _OF_OSERROR}
        return type(self), self.args, state


class DriverMethodNotImplemented(DriverError, NotImplementedError):
    """The method does not exist or has another kind, or the driver raised NotImplementedError."""

    code = Code.UNIMPLEMENTED


class DriverInvalidArgument(DriverError, ValueError):
    """The arguments cannot be sent, do not fit the method, or the driver raised ValueError."""

    code = Code.INVALID_ARGUMENT


class DriverTimeoutError(DriverError, TimeoutError):
    """The call's deadline passed, or the driver raised TimeoutError."""

    code = Code.TIMED_OUT


class DriverConnectionError(DriverError, ConnectionError):
    """The driver raised ConnectionError: the device or service *it* talks to was unavailable."""

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
    """The driver raised BlockingIOError: EAGAIN, or a similar error."""


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
        """Pass the arguments of ExceptionGroup on; `__init__` uses the others."""
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
        del message, exceptions  # set in __new__: these attributes of a group are read-only
        self.remote_type: str = remote_type
        self.remote_traceback: str | None = remote_traceback
        self.context: str = context

    def derive(self, excs: Sequence[Exception]) -> DriverErrorGroup:  # type: ignore[override]
        """Return a group of some of the members, for `except*` and `split`."""
        return DriverErrorGroup(
            self.message,
            excs,
            remote_type=self.remote_type,
            remote_traceback=self.remote_traceback,
            context=self.context,
        )


class CallCancelled(DriverError):
    """The exporter ended the call: it is shutting down, or the driver cancelled itself."""

    code = Code.CANCELLED


class CallRefused(DriverError, ExporterConnectionError):
    """The call never started, so it is safe to make it again."""

    code = Code.REFUSED


class CallOutcomeUnknown(DriverError, ExporterConnectionError):
    """The connection ended after the call was sent and before its answer: it may have run.

    The library never repeats such a call by itself, because it might power-cycle a device twice.
    """

    code = Code.UNAVAILABLE


# The class for each code in an ERROR. Any other code makes a plain DriverError.
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

# The class to use instead if the ERROR names a more specific built-in class.
SYSTEM_ERROR_CLASSES: Final[dict[tuple[type[DriverError], str], type[DriverError]]] = {
    (mirror.__bases__[0], mirror.__bases__[1].__name__): mirror
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
}

# The code for a driver's exception. The first match wins, because TimeoutError and
# ConnectionError are subclasses of OSError.
_CODES: Final[tuple[tuple[type[BaseException], Code], ...]] = (
    (NotImplementedError, Code.UNIMPLEMENTED),
    (ValueError, Code.INVALID_ARGUMENT),
    (TimeoutError, Code.TIMED_OUT),
    (ConnectionError, Code.UNAVAILABLE),
    (OSError, Code.OS_ERROR),
    (BaseExceptionGroup, Code.GROUP),
)


def code_for(exc: BaseException) -> Code:
    """Return the wire code for an exception of a driver; `Code.UNKNOWN` if none fits."""
    return next((code for kind, code in _CODES if isinstance(exc, kind)), Code.UNKNOWN)
