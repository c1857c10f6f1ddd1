"""Test that the number, files and class of an OSError travel from the driver to its caller."""

from __future__ import annotations

import errno
import io
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from drivers_for_tests import Plain
from helpers import served
from jumpstarter._framing import HEADER_SIZE
from jumpstarter._limits import Limits
from jumpstarter._protocol.codec import decode_error, encode_error
from jumpstarter._protocol.error_codec import exception_from_wire, exception_to_wire
from jumpstarter._protocol.frames import ErrorBody, OSErrorDetails
from jumpstarter.client import DriverClient
from jumpstarter.driver import export, exportstream
from jumpstarter.errors import (
    SYSTEM_ERROR_CLASSES,
    Code,
    DriverConnectionError,
    DriverError,
    DriverErrorGroup,
    DriverFileNotFoundError,
    DriverOSError,
    DriverTimeoutError,
    DriverUnsupportedOperation,
)

ATTRIBUTES: Final = ("errno", "strerror", "filename", "filename2")
MISSING: Final = "/nowhere/ttyUSB0"


def across(exc: BaseException) -> DriverError:
    """Encode and decode an exception, and return the client's error."""
    payload = bytes(encode_error(*exception_to_wire(exc))[HEADER_SIZE:])
    return exception_from_wire(*decode_error(payload, Limits()), "the method")


def said(exc: BaseException) -> list[Any]:
    """Return the values of the OSError attributes of an exception."""
    return [getattr(exc, name) for name in ATTRIBUTES]


# --------------------------------------------------------------------------- single exceptions


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_number_of_the_system_arrives_with_its_class(number: int) -> None:
    exc = OSError(number, os.strerror(number), "a", None, "b")
    error = across(exc)
    assert isinstance(error, type(exc))
    assert said(error) == said(exc) == [number, os.strerror(number), "a", "b"]


@pytest.mark.parametrize("mirror", SYSTEM_ERROR_CLASSES.values(), ids=lambda kind: kind.__name__)
def test_a_class_without_a_number_arrives_too(mirror: type[DriverError]) -> None:
    builtin = mirror.__bases__[1]
    error = across(builtin("only a text"))
    assert type(error) is mirror
    assert error.message == "only a text"
    assert said(error) == [None] * 4


class PortGone(FileNotFoundError):
    """An exception class defined by a driver."""


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (PortGone(2, "No such port", "/dev/ttyUSB0"), DriverFileNotFoundError),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), DriverTimeoutError),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), DriverOSError),
        (ssl.SSLError(1, "handshake failed"), DriverOSError),
        (OSError(99_999, "of no system"), DriverOSError),
    ],
    ids=repr,
)
def test_a_class_of_another_library_is_the_nearest_built_in_one(
    exc: OSError, kind: type[DriverError]
) -> None:
    error = across(exc)
    assert type(error) is kind
    assert error.remote_type == type(exc).__name__
    assert said(error) == said(exc)


def test_an_operation_that_a_file_has_not_is_both_of_its_classes() -> None:
    error = across(io.UnsupportedOperation("not readable"))
    assert type(error) is DriverUnsupportedOperation
    assert isinstance(error, ValueError)
    assert isinstance(error, OSError)


@pytest.mark.parametrize(
    ("name", "arrives"),
    [
        (b"\xff\x00", b"\xff\x00"),
        (Path("/dev/ttyUSB0"), "/dev/ttyUSB0"),
        (5, 5),
        ("\udcff", "\udcff"),
        ("x" * 5000, "x" * 4096 + "... [cut: 5000 characters in all]"),
        (b"x" * 5000, b"x" * 4096),
        (2**40, None),
        (["a list"], None),
    ],
    ids=lambda name: repr(name)[:30],
)
def test_a_files_name_arrives_as_text_bytes_or_descriptor(name: Any, arrives: object) -> None:
    error = across(OSError(2, "No such file or directory", name))
    assert isinstance(error, OSError)
    assert error.filename == arrives


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, "2", 2.0, None])
def test_a_number_that_is_none_is_left_out(number: Any) -> None:
    error = across(OSError(number, "text"))
    assert isinstance(error, DriverOSError)
    assert (error.errno, error.strerror) == (None, "text")


class Unreadable(OSError):
    @property
    def filename(self) -> str:
        raise RuntimeError("not this one")


def test_an_error_that_cannot_be_read_is_described_all_the_same() -> None:
    error = across(Unreadable(5, "Input/output error"))
    assert type(error) is DriverOSError
    assert error.errno is None


def test_a_number_of_another_system_becomes_this_systems() -> None:
    fault = OSErrorDetails("OSError", 9999, "EXDEV", "Cross-device link")
    error = exception_from_wire(Code.OS_ERROR, ErrorBody("OSError", "m", system=fault), "")
    assert isinstance(error, DriverOSError)
    assert error.errno == errno.EXDEV
    fault = OSErrorDetails("OSError", 9999, "ENOTHERE", "of another system")
    error = exception_from_wire(Code.OS_ERROR, ErrorBody("OSError", "m", system=fault), "")
    assert isinstance(error, DriverOSError)
    assert error.errno == 9999


@pytest.mark.parametrize("kind", ["SystemExit", "DriverError", "", "os.system"])
@pytest.mark.parametrize("code", [Code.OS_ERROR, Code.UNKNOWN, Code.CANCELLED, 999])
def test_a_kind_that_is_not_in_the_table_is_what_the_code_says(kind: str, code: int) -> None:
    plain = exception_from_wire(code, ErrorBody("", "m"), "")
    fault = OSErrorDetails(kind, 2, "", None)
    assert type(exception_from_wire(code, ErrorBody("", "m", system=fault), "")) is type(plain)


# -------------------------------------------------------------------------- groups and causes


def caused(exc: Exception, cause: BaseException | None) -> Exception:
    exc.__cause__ = cause
    return exc


def test_members_of_a_group_keep_theirs() -> None:
    missing = OSError(errno.ENOENT, "No such file or directory", MISSING)
    error = across(ExceptionGroup("both", [missing, ConnectionResetError(104, "reset")]))
    assert isinstance(error, DriverErrorGroup)
    first, second = error.exceptions
    assert isinstance(first, FileNotFoundError)
    assert first.filename == MISSING
    assert isinstance(second, ConnectionResetError)
    assert second.errno == 104


def test_a_cause_arrives_as_the_cause() -> None:
    missing = OSError(errno.ENOENT, "No such file or directory", MISSING)
    error = across(caused(RuntimeError("no port"), caused(ValueError("no name"), missing)))
    assert type(error) is DriverError
    assert isinstance(error.__cause__, ValueError)
    assert isinstance(error.__cause__.__cause__, FileNotFoundError)
    assert said(error.__cause__.__cause__) == said(missing)
    assert error.__cause__.__cause__.__cause__ is None


def test_what_an_error_was_only_raised_amid_stays_on_the_exporter() -> None:
    exc = RuntimeError("no port")
    exc.__context__ = ValueError("a detail")
    error = across(exc)
    assert error.__cause__ is None
    assert error.__context__ is None


def test_causes_end_after_eight() -> None:
    exc = ValueError("0")
    for number in range(1, 1000):
        exc = caused(ValueError(str(number)), exc)  # type: ignore[assignment]  # inferred as ValueError
    error: BaseException | None = across(exc)
    texts = []
    while isinstance(error, DriverError):
        texts.append(error.message)
        error = error.__cause__
    assert texts == [str(number) for number in range(999, 990, -1)]


def test_causes_that_go_in_circles_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert isinstance(across(first).__cause__, ValueError)
    first.__cause__ = first
    assert across(first).__cause__ is None


# -------------------------------------------------------------------------- whole connections


class Board(Plain):
    """A driver whose methods of every kind fail with system errors."""

    @export
    def plain(self) -> None:
        Path(MISSING).read_bytes()

    @export
    async def asynchronous(self) -> None:
        await trio.open_file(MISSING)

    @export
    def generator(self) -> Iterator[int]:
        yield 1
        Path(MISSING).read_bytes()

    @export
    async def async_generator(self) -> AsyncGenerator[int, None]:
        yield 1
        await trio.open_file(MISSING)

    @exportstream
    @asynccontextmanager
    async def stream(self) -> AsyncIterator[trio.abc.Stream]:
        await trio.open_file(MISSING)
        yield trio.testing.memory_stream_pair()[0]

    @export
    def wrapped(self) -> None:
        try:
            Path(MISSING).read_bytes()
        except OSError as exc:
            raise RuntimeError("no console") from exc

    @export
    def refused(self, port: int) -> None:
        socket.create_connection(("127.0.0.1", port)).close()

    @export
    async def refused_async(self, port: int) -> None:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()


def through_stream(client: DriverClient) -> None:
    with client.stream("stream") as stream:
        stream.receive()


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.call("plain"),
        lambda client: [client.call("plain") for _ in range(3) if not _fails(client)],
        lambda client: client.call("asynchronous"),
        lambda client: list(client.streamingcall("generator")),
        lambda client: list(client.streamingcall("async_generator")),
        through_stream,
    ],
    ids=["plain", "plain, led", "async", "generator", "async generator", "stream"],
)
def test_a_missing_device_is_a_file_that_was_not_found(
    use: Callable[[DriverClient], object],
) -> None:
    with served(Board()) as client, pytest.raises(FileNotFoundError) as caught:
        use(client)
    assert said(caught.value) == [2, os.strerror(2), MISSING, None]
    assert isinstance(caught.value, DriverOSError)
    assert f"FileNotFoundError: [Errno 2] {os.strerror(2)}: '{MISSING}'" in str(caught.value)


def _fails(client: DriverClient) -> bool:
    with pytest.raises(FileNotFoundError):
        client.call("plain")
    return False


def test_a_wrapped_one_is_the_cause() -> None:
    with served(Board()) as client, pytest.raises(DriverError, match="no console") as caught:
        client.call("wrapped")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert caught.value.__cause__.filename == MISSING


def test_a_refused_connection_says_so_with_its_number() -> None:
    with socket.socket() as bound, served(Board()) as client:  # bound, but not listening
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(ConnectionRefusedError) as caught:
            client.call("refused", port)
        assert caught.value.errno == errno.ECONNREFUSED
        with pytest.raises(OSError, match="all attempts to connect") as wrapped:
            client.call("refused_async", port)
    assert isinstance(wrapped.value.__cause__, ConnectionRefusedError)
    assert isinstance(caught.value, DriverConnectionError)


class Between(Plain):
    """A driver that uses a driver of another exporter, and passes on its errors."""

    def __init__(self, behind: DriverClient) -> None:
        super().__init__()
        self._behind = behind

    @export
    def plain(self) -> None:
        self._behind.call("plain")


def test_an_error_of_another_exporter_is_passed_on_with_all_that_it_says() -> None:
    with (
        served(Board()) as behind,
        served(Between(behind)) as client,
        pytest.raises(FileNotFoundError) as caught,
    ):
        client.call("plain")
    assert said(caught.value) == [2, os.strerror(2), MISSING, None]
