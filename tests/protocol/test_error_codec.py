"""Tests of the error codec: any exception of a driver, and any ERROR of a peer."""

from __future__ import annotations

import traceback
from pathlib import PurePosixPath
from typing import Any, Final, NoReturn

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from jumpstarter._framing import HEADER_SIZE
from jumpstarter._limits import Limits
from jumpstarter._protocol.codec import decode_error, encode_error
from jumpstarter._protocol.error_codec import exception_from_wire, exception_to_wire
from jumpstarter._protocol.frames import ErrorBody, OSErrorDetails
from jumpstarter.errors import (
    ERROR_CLASSES,
    SYSTEM_ERROR_CLASSES,
    CallCancelled,
    CallOutcomeUnknown,
    CallRefused,
    Code,
    DriverConnectionError,
    DriverConnectionRefusedError,
    DriverError,
    DriverErrorGroup,
    DriverInvalidArgument,
    DriverMethodNotImplemented,
    DriverOSError,
    DriverPermissionError,
    DriverTimeoutError,
)

LIMITS: Final = Limits()
CONTEXT: Final = "method 'flash' of driver 'storage'"


def across(exc: BaseException, **options: Any) -> DriverError:
    """Encode an exception, and return the exception that the client would raise."""
    payload = bytes(encode_error(*exception_to_wire(exc, **options))[HEADER_SIZE:])
    return exception_from_wire(*decode_error(payload, LIMITS), CONTEXT)


def raised(exc: BaseException) -> BaseException:
    """Raise and catch an exception, and return it with its traceback."""
    try:
        raise exc
    except BaseException as caught:  # noqa: BLE001 - SystemExit too
        return caught


def notes_of(exc: BaseException) -> list[str]:
    return getattr(exc, "__notes__", [])


# ---------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize(
    ("exc", "kind", "code"),
    [
        (NotImplementedError("m"), DriverMethodNotImplemented, Code.UNIMPLEMENTED),
        (ValueError("m"), DriverInvalidArgument, Code.INVALID_ARGUMENT),
        (UnicodeError("m"), DriverInvalidArgument, Code.INVALID_ARGUMENT),
        (TimeoutError("m"), DriverTimeoutError, Code.TIMED_OUT),
        (ConnectionError("m"), DriverConnectionError, Code.UNAVAILABLE),
        (ConnectionRefusedError("m"), DriverConnectionRefusedError, Code.UNAVAILABLE),
        (OSError("m"), DriverOSError, Code.OS_ERROR),
        (PermissionError("m"), DriverPermissionError, Code.OS_ERROR),
        (RuntimeError("m"), DriverError, Code.UNKNOWN),
        (AssertionError("m"), DriverError, Code.UNKNOWN),
        (SystemExit("m"), DriverError, Code.UNKNOWN),
        (KeyboardInterrupt("m"), DriverError, Code.UNKNOWN),
    ],
    ids=repr,
)
def test_an_exception_arrives_as_the_class_that_mirrors_it(
    exc: BaseException, kind: type[DriverError], code: Code
) -> None:
    error = across(exc)
    assert type(error) is kind
    assert error.code is code
    assert error.remote_type == type(exc).__name__
    assert error.message == "m"
    assert str(error) == f"{CONTEXT}: {type(exc).__name__}: m"
    assert error.remote_traceback is None
    mirrored = [base for base in type(error).__mro__ if base.__module__ == "builtins"]
    assert all(isinstance(exc, base) for base in mirrored if kind is not DriverError)


def test_an_exception_keeps_its_notes() -> None:
    exc = ValueError("m")
    exc.add_note("first")
    exc.add_note("second\nline")
    assert notes_of(across(exc)) == ["first", "second\nline"]


def test_text_with_surrogates_arrives_with_replacements() -> None:
    error = across(OSError("cannot open \udcff"))
    assert error.message == "cannot open ?"


@pytest.mark.parametrize(
    ("filename", "filename2"),
    [
        ("a\udcff", None),
        ("a", "b\udc80"),
        ("a\udcff", "b\udc80"),
        ("a\udcff", b"b\x80"),
        (b"a\xff", "b"),
        (b"a", b"b\x80"),
    ],
)
def test_a_file_name_that_is_not_utf_8_survives_a_round_trip(
    filename: str | bytes, filename2: str | bytes | None
) -> None:
    error = across(FileNotFoundError(2, "x", filename, None, filename2))
    assert isinstance(error, OSError)
    assert error.filename == filename
    assert error.filename2 == filename2


def test_a_path_that_is_not_utf_8_arrives_as_a_str() -> None:
    error = across(FileNotFoundError(2, "x", PurePosixPath("a\udcff")))
    assert isinstance(error, OSError)
    assert error.filename == "a\udcff"


def test_a_file_name_with_an_undecodable_surrogate_arrives_with_a_mark() -> None:
    error = across(FileNotFoundError(2, "x", "a\ud800"))
    assert isinstance(error, OSError)
    assert error.filename == "a?"


def test_only_names_that_are_not_utf_8_add_an_element() -> None:
    def fields(name: str) -> list[Any]:
        payload = encode_error(*exception_to_wire(FileNotFoundError(2, "x", name)))
        body: list[Any] = msgspec.msgpack.decode(payload[HEADER_SIZE + 2 :])
        fault: list[Any] = body[5]
        return fault

    assert fields("a") == ["FileNotFoundError", 2, "ENOENT", "x", "a", None]
    assert fields("a\udcff") == ["FileNotFoundError", 2, "ENOENT", "x", b"a\xff", None, 1]


@pytest.mark.parametrize("mark", [1, 3, -1, 2**62 + 1])
@pytest.mark.parametrize("name", [b"\xff", b"a", "a", 3, None, [b"a"]])
def test_a_peer_may_mark_any_name(name: object, mark: int) -> None:
    body = [
        "FileNotFoundError",
        "m",
        [],
        None,
        [],
        ["FileNotFoundError", 2, "", "", name, None, mark],
    ]
    payload = Code.OS_ERROR.to_bytes(2, "little") + msgspec.msgpack.encode(body)
    error = exception_from_wire(*decode_error(payload, LIMITS), CONTEXT)
    assert isinstance(error, OSError)
    expected = name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
    assert error.filename == (None if isinstance(name, list) else expected)


def test_a_key_error_shows_its_key_as_python_does() -> None:
    assert str(across(KeyError("rail"))) == f"{CONTEXT}: KeyError: 'rail'"


def test_codes_of_additional_classes_take_precedence() -> None:
    codes = {trio.TooSlowError: Code.TIMED_OUT, ValueError: Code.INTERNAL}
    assert type(across(trio.TooSlowError(), codes=codes)) is DriverTimeoutError
    assert across(ValueError(), codes=codes).code is Code.INTERNAL
    assert type(across(OSError(), codes=codes)) is DriverOSError


# ------------------------------------------------------------------------------------ tracebacks


def test_a_traceback_is_sent_only_on_request() -> None:
    exc = raised(ValueError("m"))
    assert across(exc).remote_traceback is None
    error = across(exc, traceback=True)
    assert error.remote_traceback is not None
    assert "in raised" in error.remote_traceback
    [note] = notes_of(error)
    assert note.startswith("Traceback on the exporter:\nTraceback (most recent call last):\n")
    assert note.endswith("ValueError: m")


def test_the_traceback_shows_when_the_error_is_printed() -> None:
    error = across(raised(ValueError("m")), traceback=True)
    assert "Traceback on the exporter:" in "".join(traceback.format_exception(error))


def test_the_traceback_of_an_upstream_exporter_is_not_forwarded_as_a_note() -> None:
    first = across(raised(ValueError("m")), traceback=True)
    first.add_note("of the driver between")
    assert notes_of(across(first)) == ["of the driver between"]


# ---------------------------------------------------------------------------------------- groups


def test_a_group_keeps_its_tree() -> None:
    inner = ExceptionGroup("inner", [KeyError("b"), TimeoutError("c")])
    inner.add_note("a note")
    error = across(ExceptionGroup("outer", [ValueError("a"), inner]))
    assert isinstance(error, DriverErrorGroup)
    assert (error.message, error.remote_type, error.context) == ("outer", "ExceptionGroup", CONTEXT)
    first, second = error.exceptions
    assert type(first) is DriverInvalidArgument
    assert str(first) == "ValueError: a"
    assert isinstance(second, DriverErrorGroup)
    assert notes_of(second) == ["a note"]
    assert [type(member) for member in second.exceptions] == [DriverError, DriverTimeoutError]


def test_a_group_of_base_exceptions_arrives_as_driver_errors() -> None:
    error = across(BaseExceptionGroup("both", [SystemExit(3), ValueError("a")]))
    assert isinstance(error, DriverErrorGroup)
    assert [type(member) for member in error.exceptions] == [DriverError, DriverInvalidArgument]


def test_a_group_with_one_member_becomes_that_member() -> None:
    nested = ExceptionGroup("nursery", [ExceptionGroup("nursery", [OSError("m")])])
    error = across(nested)
    assert type(error) is DriverOSError
    assert error.message == "m"


def test_a_driver_error_group_arrives_as_one_again() -> None:
    inner = across(ExceptionGroup("both", [ValueError("a"), OSError("b")]))
    outer = across(inner)
    assert isinstance(outer, DriverErrorGroup)
    assert outer.message == "both"
    assert [type(member) for member in outer.exceptions] == [DriverInvalidArgument, DriverOSError]


def deep_group(levels: int) -> ExceptionGroup[Exception]:
    group = ExceptionGroup("innermost", list[Exception]([ValueError("a"), ValueError("b")]))
    for _ in range(levels - 1):
        group = ExceptionGroup("further out", [group, ValueError("beside")])
    return group


@pytest.mark.parametrize("levels", [8, 9, 1500])
def test_a_group_deeper_than_eight_levels_ends_in_text(levels: int) -> None:
    error: BaseException = across(deep_group(levels), traceback=True)
    depth = 0
    while isinstance(error, DriverErrorGroup):
        error = error.exceptions[0]
        depth += 1
    assert depth == 8
    assert isinstance(error, DriverError)
    assert error.message.endswith("(2 sub-exceptions)" if levels > 8 else "a")


def test_a_wide_group_states_the_number_of_omitted_members() -> None:
    error = across(ExceptionGroup("many", [ValueError(str(n)) for n in range(100)]))
    assert isinstance(error, DriverErrorGroup)
    assert [member.message for member in error.exceptions if isinstance(member, DriverError)] == [
        str(n) for n in range(64)
    ]
    assert notes_of(error) == ["36 more members of the group were omitted"]


# ------------------------------------------------------- exceptions whose own code fails or lies


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class ExitingText(Exception):
    def __str__(self) -> NoReturn:
        raise SystemExit(3)


class Closed(Exception):
    def __getattribute__(self, name: str) -> Any:
        if name in {"__notes__", "__cause__"}:
            raise RuntimeError(f"no {name}")
        return super().__getattribute__(name)


@pytest.mark.parametrize("kind", [NoText, ExitingText])
def test_an_exception_whose_text_fails_is_still_described(kind: type[Exception]) -> None:
    error = across(raised(kind()), traceback=True)
    assert error.remote_type == kind.__name__
    assert error.message == "<its str() failed>"


@pytest.mark.parametrize("notes", [5, None, "text", [5, NoText()], ["good", NoText()]])
def test_invalid_notes_are_ignored(notes: Any) -> None:
    exc = ValueError("m")
    exc.__notes__ = notes
    error = across(exc, traceback=True)
    assert error.message == "m"
    assert all(isinstance(note, str) for note in notes_of(error))


def test_unreadable_attributes_of_an_exception_are_omitted() -> None:
    error = across(Closed("m"), traceback=True)
    assert error.message == "m"
    assert error.remote_traceback is None
    assert notes_of(error) == []


def test_a_group_with_an_unreadable_text_keeps_its_members() -> None:
    error = across(ExceptionGroup("both", [NoText(), ValueError("a")]))
    assert isinstance(error, DriverErrorGroup)
    assert [str(member) for member in error.exceptions] == [
        "NoText: <its str() failed>",
        "ValueError: a",
    ]


@pytest.mark.parametrize("code", [99_999, -1, "INTERNAL", None, []])
def test_a_driver_error_with_an_undefined_code_becomes_unknown(code: Any) -> None:
    exc = DriverError("m")
    exc.code = code
    assert across(exc).code is Code.UNKNOWN


# ----------------------------------------------------- errors of calls that a driver has made


def test_a_driver_error_keeps_its_code_and_details() -> None:
    inner = DriverError("broken", code=Code.INTERNAL, remote_type="X", context="method 'a' of 'b'")
    error = across(inner)
    assert error.code is Code.INTERNAL
    assert str(error) == f"{CONTEXT}: DriverError: method 'a' of 'b': X: broken"


@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        (CallRefused("m"), DriverConnectionError),
        (CallRefused("m", code=Code.RESOURCE_EXHAUSTED), DriverConnectionError),
        (CallOutcomeUnknown("m"), DriverConnectionError),
        (CallCancelled("m"), DriverError),
        (DriverTimeoutError("m", code=Code.DEADLINE_EXCEEDED), DriverTimeoutError),
    ],
    ids=repr,
)
def test_a_code_about_an_inner_call_is_not_applied_to_the_outer_one(
    inner: DriverError, kind: type[DriverError]
) -> None:
    error = across(inner)
    assert type(error) is kind
    assert error.code not in {Code.REFUSED, Code.CANCELLED, Code.DEADLINE_EXCEEDED}


# ----------------------------------------------------------------------- arbitrary errors of peers


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "trio.Cancelled", "os.system"])
def test_the_remote_types_name_is_never_looked_up(name: str) -> None:
    error = exception_from_wire(Code.UNKNOWN, ErrorBody(name, "m"), CONTEXT)
    assert type(error) is DriverError
    assert error.remote_type == name


@pytest.mark.parametrize("code", [*Code, 5, 31, 99, 65535])
def test_each_code_becomes_its_class_and_any_other_a_plain_driver_error(code: int) -> None:
    error = exception_from_wire(code, ErrorBody("", "m"), CONTEXT)
    assert type(error) is ERROR_CLASSES.get(code, DriverError)
    assert error.code == (code if code in set(Code) else Code.UNKNOWN)
    assert str(error) == f"{CONTEXT}: m"


def test_an_error_with_members_becomes_a_group_for_any_code() -> None:
    body = ErrorBody("E", "m", members=[(Code.OS_ERROR, ErrorBody("O", "a"))])
    error = exception_from_wire(Code.REFUSED, body, CONTEXT)
    assert type(error) is DriverErrorGroup
    assert [type(member) for member in error.exceptions] == [DriverOSError]


NAMES_OF_FILES: Final = st.none() | st.text() | st.binary() | st.integers() | st.lists(st.text())
faults = st.builds(
    OSErrorDetails,
    st.sampled_from(["FileNotFoundError", "OSError", "SystemExit"]) | st.text(),
    st.none() | st.integers(),
    st.sampled_from(["ENOENT", "errno"]) | st.text(),
    st.none() | st.text(),
    NAMES_OF_FILES,
    NAMES_OF_FILES,
)
claims = st.recursive(
    st.builds(
        ErrorBody,
        st.text(),
        st.text(),
        st.lists(st.text(), max_size=3),
        st.none() | st.text(),
        system=st.none() | faults,
    ),
    lambda inner: st.builds(
        ErrorBody,
        st.text(),
        st.text(),
        members=st.lists(st.tuples(st.integers(), inner), max_size=3),
        cause=st.none() | st.tuples(st.integers(), inner),
    ),
    max_leaves=6,
)
ALLOWED: Final = {
    *ERROR_CLASSES.values(),
    *SYSTEM_ERROR_CLASSES.values(),
    DriverError,
    DriverErrorGroup,
}


@given(st.integers(0, 65535), claims)
def test_any_decoded_error_becomes_one_of_our_exceptions(code: int, body: ErrorBody) -> None:
    found: list[BaseException] = [exception_from_wire(code, body, CONTEXT)]
    for error in found:
        assert type(error) in ALLOWED
        assert isinstance(str(error), str)
        if isinstance(error, DriverErrorGroup):
            found += error.exceptions


@given(st.integers(0, 65535), st.binary(max_size=100))
def test_random_bytes_in_an_error_become_one_of_our_exceptions(code: int, noise: bytes) -> None:
    payload = code.to_bytes(2, "little") + noise
    assert type(exception_from_wire(*decode_error(payload, LIMITS), CONTEXT)) in ALLOWED
