"""The exceptions, at the path from which existing drivers import them.

Those with a name of Python's are of that class too, so code that catches either works.
"""

from __future__ import annotations

import builtins
from typing import Any

from ..errors import (
    ArgumentError,
    ClientImportError,
    ConfigurationError,
    ExporterConnectionError,
    HandshakeError,
    JumpstarterException,
)

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ArgumentError",
    "ConfigurationError",
    "ConnectionError",
    "EnvironmentVariableNotSetError",
    "ExporterOfflineError",
    "ExporterUnreachableError",
    "FileNotFoundError",
    "JumpstarterException",
    "MissingDriverError",
    "ReauthenticationFailed",
]

# The exceptions of `connect` and of calls, under the published names.
ConnectionError = ExporterConnectionError  # noqa: A001 - as drivers import it
ExporterUnreachableError = HandshakeError


class ExporterOfflineError(ConnectionError):
    """The connection to an exporter was lost. For code that raises it: this library does not."""


class FileNotFoundError(JumpstarterException, builtins.FileNotFoundError):  # noqa: A001 - as above
    """A file was not found."""


class ReauthenticationFailed(JumpstarterException):
    """A user could not be authenticated again. For code that raises it: this library does not."""


class EnvironmentVariableNotSetError(JumpstarterException):
    """An environment variable that is needed is not set."""


class MissingDriverError(ClientImportError):
    """The class of a driver is not installed.

    Attributes:
        class_path: Its dotted path.
    """

    def __init__(self, message: str, class_path: str) -> None:
        super().__init__(message)
        self.class_path: str = class_path

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the path too."""
        return type(self), (self.message, self.class_path), dict(self.__dict__)
