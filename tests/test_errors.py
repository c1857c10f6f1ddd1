"""Test the exception tree and its codes, and catching, printing, copying and pickling."""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from collections.abc import Callable
from typing import Any, Final

import pytest

from jumpstarter import errors
from jumpstarter._installed import command_for
from jumpstarter.errors import (
    ERROR_CLASSES,
    ArgumentError,
    ArgumentTypeError,
    ArgumentValueError,
    CallCancelled,
    CallOutcomeUnknown,
    CallRefused,
    ClientImportError,
    Code,
    ConfigurationError,
    DriverConnectionError,
    DriverError,
    DriverErrorGroup,
    DriverInvalidArgument,
    DriverMethodNotImplemented,
    DriverOSError,
    DriverTimeoutError,
    EndOfStream,
    ExporterConnectionError,
    FramingError,
    HandshakeError,
    JumpstarterException,
    LocalProtocolError,
    MissingExtra,
    ProtocolError,
    RemoteProtocolError,
    ResourceError,
    code_for,
)

CLASSES: Final[list[type[BaseException]]] = [
    member
    for member in vars(errors).values()
    if isinstance(member, type)
    and issubclass(member, BaseException)
    and member.__module__ == errors.__name__
]
DRIVER_ERRORS: Final = [
    kind for kind in CLASSES if issubclass(kind, DriverError) and kind is not DriverErrorGroup
]
DETAILS: Final[dict[str, Any]] = {
    "remote_type": "FlashError",
    "remote_traceback": "Traceback (most recent call last): ...",
    "context": "method 'flash' of driver 'storage'",
}


# -------------------------------------------------------------------------------------- the tree


def printed_tree() -> dict[str, tuple[str, ...]]:
    """Return the names of each class's bases, read from the module's docstring."""
    tree: dict[str, tuple[str, ...]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([\u2502\u251c\u2514\u2500 ]*)(\w+)(?: +\((\w+)\))?(?: |$)", line)
        if match is None or match[2] not in vars(errors):
            continue
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        parent = path[depth - 1] if depth else "Exception"
        tree[match[2]] = (parent, match[3]) if match[3] else (parent,)
    return tree


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    real = {kind.__name__: tuple(base.__name__ for base in kind.__bases__) for kind in CLASSES}
    assert printed_tree() == real


def test_everything_public_is_exported() -> None:
    names = {kind.__name__ for kind in CLASSES}
    assert set(errors.__all__) == names | {"Code", "code_for"}


def test_every_exception_is_ours_and_has_a_docstring() -> None:
    for kind in CLASSES:
        assert issubclass(kind, JumpstarterException)
        assert (kind.__doc__ or "").strip().endswith(".")


def test_protocol_error_is_only_a_base_class() -> None:
    with pytest.raises(TypeError, match="raise LocalProtocolError or RemoteProtocolError"):
        ProtocolError("never")
    for kind in (LocalProtocolError, RemoteProtocolError):
        assert isinstance(kind("text"), ProtocolError)
        assert kind("text").code is Code.PROTOCOL_ERROR
        assert kind("text", Code.FLOW_CONTROL).code is Code.FLOW_CONTROL


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ArgumentTypeError, TypeError),
        (ArgumentValueError, ValueError),
        (ClientImportError, ImportError),
        (EndOfStream, EOFError),
        (ExporterConnectionError, ConnectionError),
        (HandshakeError, ConnectionError),
        (MissingExtra, ImportError),
        (ResourceError, ValueError),
        (DriverMethodNotImplemented, NotImplementedError),
        (DriverInvalidArgument, ValueError),
        (DriverTimeoutError, TimeoutError),
        (DriverConnectionError, ConnectionError),
        (DriverOSError, OSError),
        (CallRefused, ConnectionError),
        (CallOutcomeUnknown, ConnectionError),
    ],
)
def test_an_error_is_caught_as_the_builtin_that_it_mirrors(
    kind: type[Exception], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match="text"):
        raise kind("text")


# ------------------------------------------------------------------------------------- the codes


def test_a_code_has_two_bytes_and_is_in_the_range_of_its_kind() -> None:
    grpc, ours, last = range(17), range(17, 32), range(32, 2**16)
    assert {code for code in Code if code in grpc} == {0, 1, 2, 3, 4, 8, 12, 13, 14, 16}
    assert {code.name for code in Code if code in ours} == {
        "REFUSED",
        "TIMED_OUT",
        "OS_ERROR",
        "GROUP",
        "CLOSE",
    }
    assert {code for code in Code if code in last} == set(range(32, 40))


# The client raises a plain DriverError for an ERROR with one of these codes.
PLAIN: Final = {
    Code.OK,
    Code.UNKNOWN,
    Code.INTERNAL,
    Code.UNAUTHENTICATED,
    Code.GROUP,
    Code.CLOSE,
    *(code for code in Code if code >= Code.PROTOCOL_ERROR),
}


def test_every_code_has_a_class_or_is_a_plain_driver_error() -> None:
    assert set(ERROR_CLASSES) | PLAIN == set(Code)
    assert not set(ERROR_CLASSES) & PLAIN


@pytest.mark.parametrize("kind", dict.fromkeys(ERROR_CLASSES.values()))
def test_a_class_for_one_code_has_that_code_by_default(kind: type[DriverError]) -> None:
    assert ERROR_CLASSES[kind("").code] is kind


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (NotImplementedError(), Code.UNIMPLEMENTED),
        (ValueError(), Code.INVALID_ARGUMENT),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "no"), Code.INVALID_ARGUMENT),
        (TimeoutError(), Code.TIMED_OUT),
        (ConnectionError(), Code.UNAVAILABLE),
        (BrokenPipeError(), Code.UNAVAILABLE),
        (ConnectionRefusedError(), Code.UNAVAILABLE),
        (OSError(), Code.OS_ERROR),
        (FileNotFoundError(), Code.OS_ERROR),
        (ExceptionGroup("", [ValueError()]), Code.GROUP),
        (BaseExceptionGroup("", [SystemExit()]), Code.GROUP),
        (KeyError(), Code.UNKNOWN),
        (RuntimeError(), Code.UNKNOWN),
        (SystemExit(), Code.UNKNOWN),
    ],
    ids=repr,
)
def test_a_drivers_exception_gets_the_nearest_code(exc: BaseException, code: Code) -> None:
    assert code_for(exc) is code


# -------------------------------------------------------------------------------------- the text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DriverError(), ""),
        (DriverError("message"), "message"),
        (DriverError("message", remote_type="KeyError"), "KeyError: message"),
        (DriverError("message", context="method 'on'"), "method 'on': message"),
        (DriverOSError("no", remote_type="OSError", context="read"), "read: OSError: no"),
        (DriverErrorGroup("both", [ValueError()], context="off"), "off: both"),
    ],
    ids=str,
)
def test_the_text_names_the_request_and_the_failure(error: DriverError, text: str) -> None:
    assert str(error) == text


def test_the_attributes_are_for_programs() -> None:
    error = DriverInvalidArgument("no", code=Code.INTERNAL, **DETAILS)
    assert error.message == "no"
    assert error.code is Code.INTERNAL
    assert DriverInvalidArgument.code is Code.INVALID_ARGUMENT
    assert {name: getattr(error, name) for name in DETAILS} == DETAILS


@pytest.mark.parametrize("kind", [ConfigurationError, HandshakeError, MissingExtra])
def test_the_text_names_the_cause_once(kind: type[JumpstarterException]) -> None:
    error = kind("no console")
    assert (error.message, str(error)) == ("no console", "no console")
    error.__cause__ = OSError("no port")
    assert (error.message, str(error)) == ("no console", "no console (Caused by: no port)")
    telling = kind("no console: no port")
    telling.__cause__ = OSError("no port")
    assert str(telling) == "no console: no port"
    telling.__cause__ = OSError()
    assert str(telling) == "no console: no port"
    assert (kind().message, str(kind())) == ("", "")


def test_one_except_clause_catches_whatever_cuts_an_exporter_off() -> None:
    for kind in (HandshakeError, CallRefused, CallOutcomeUnknown):
        with pytest.raises(ExporterConnectionError):
            raise kind("gone")


# --------------------------------------------------------------------------- copying and pickling

COPIERS: Final[list[Callable[[BaseException], BaseException]]] = [
    copy.copy,
    copy.deepcopy,
    lambda exc: pickle.loads(pickle.dumps(exc)),  # noqa: S301 - our own data
]


def samples() -> list[BaseException]:
    simple: list[type[JumpstarterException]] = [
        ConfigurationError,
        ArgumentError,
        ArgumentTypeError,
        ArgumentValueError,
        ClientImportError,
        MissingExtra,
        ResourceError,
        EndOfStream,
        ExporterConnectionError,
        HandshakeError,
    ]
    with_code = [LocalProtocolError, RemoteProtocolError, FramingError]
    made: list[BaseException] = [JumpstarterException("text"), *(kind("text") for kind in simple)]
    made += [kind("text", Code.FRAME_SIZE) for kind in with_code]
    made += [kind("text", code=Code.INTERNAL, **DETAILS) for kind in DRIVER_ERRORS]
    for exc in made:
        if isinstance(exc, OSError) and isinstance(exc, DriverError):
            exc.errno, exc.strerror, exc.filename, exc.filename2 = 2, "No such file", "a", b"b"
    member = DriverInvalidArgument("inner", **DETAILS)
    made.append(DriverErrorGroup("text", [member, ValueError("x")], **DETAILS))
    assert {type(exc) for exc in made} == set(CLASSES) - {ProtocolError}
    return made


@pytest.mark.parametrize("duplicate", COPIERS, ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("exc", samples(), ids=lambda exc: type(exc).__name__)
def test_a_copy_has_the_details_of_the_original(
    exc: BaseException, duplicate: Callable[[BaseException], BaseException]
) -> None:
    exc.__notes__ = ["a note"]
    copied = duplicate(exc)
    assert type(copied) is type(exc)
    assert str(copied) == str(exc)
    assert repr(copied) == repr(exc)
    assert vars(copied) == vars(exc)
    if isinstance(exc, DriverError) and isinstance(exc, OSError):
        assert of_oserror(copied) == of_oserror(exc) == [2, "No such file", "a", b"b"]


def of_oserror(exc: BaseException) -> list[Any]:
    return [getattr(exc, name) for name in ("errno", "strerror", "filename", "filename2")]


def test_a_copied_group_has_copies_of_its_members() -> None:
    group = samples()[-1]
    copied = copy.deepcopy(group)
    assert isinstance(group, DriverErrorGroup)
    assert isinstance(copied, DriverErrorGroup)
    for member, original in zip(copied.exceptions, group.exceptions, strict=True):
        assert type(member) is type(original)
        assert vars(member) == vars(original)


# --------------------------------------------------------------------------------------- groups


def group() -> DriverErrorGroup:
    members = [DriverInvalidArgument("value"), DriverOSError("os"), CallCancelled("cancelled")]
    return DriverErrorGroup("three", members, **DETAILS)


def test_a_group_is_a_driver_error_and_an_exception_group() -> None:
    made = group()
    assert made.code is Code.GROUP
    assert made.message == "three"
    assert len(made.exceptions) == 3
    assert isinstance(made, DriverError)
    assert isinstance(made, ExceptionGroup)


def test_a_split_group_keeps_the_details_of_the_call() -> None:
    caught: list[ExceptionGroup[Exception]] = []
    try:
        raise group()
    except* OSError as some:
        caught.append(some)
    except* DriverError as rest:
        caught.append(rest)
    for part, count in zip(caught, (1, 2), strict=True):
        assert isinstance(part, DriverErrorGroup)
        assert len(part.exceptions) == count
        assert {name: getattr(part, name) for name in DETAILS} == DETAILS
        assert str(part) == str(group())


def test_a_group_prints_its_members() -> None:
    lines = "".join(traceback.format_exception(group()))
    for text in ("method 'flash' of driver 'storage': FlashError: three", "value", "cancelled"):
        assert text in lines


def test_the_error_for_a_missing_extra_names_the_place() -> None:
    here = MissingExtra.named("serial", "a serial port")
    assert str(here) == f"a serial port needs the extra 'serial': {command_for('serial')}"
    there = MissingExtra.named("serial", "a serial port", where="on the exporter")
    text = "a serial port needs the extra 'serial' on the exporter: pip install "
    assert str(there).startswith(text)
