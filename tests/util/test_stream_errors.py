"""Test that the errors of streams are anyio's too, if anyio was imported, and only then."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import anyio
import pytest
import trio

from helpers import PATIENCE
from jumpstarter._util.stream_errors import NoAttributes, broken, busy, closed, end_of_stream
from jumpstarter.errors import EndOfStream


@pytest.mark.parametrize(
    ("make", "bases"),
    [
        (broken, (trio.BrokenResourceError, anyio.BrokenResourceError)),
        (busy, (trio.BusyResourceError, anyio.BusyResourceError)),
        (closed, (trio.ClosedResourceError, anyio.ClosedResourceError)),
        (end_of_stream, (EndOfStream, EOFError, anyio.EndOfStream)),
    ],
)
def test_an_error_has_both_classes_and_its_text(
    make: Callable[[str], Exception], bases: tuple[type[Exception], ...]
) -> None:
    error = make("why")
    for base in bases:
        assert isinstance(error, base)
    assert str(error) == "why"
    assert repr(error) == f"{bases[0].__name__}('why')"
    assert type(error) is type(make("again")), "it is made once"


def test_a_stream_without_attributes_has_only_defaults() -> None:
    stream = NoAttributes()
    assert dict(stream.extra_attributes) == {}
    assert stream.extra(anyio.abc.SocketAttribute.raw_socket, None) is None
    with pytest.raises(anyio.TypedAttributeLookupError):
        stream.extra(anyio.abc.SocketAttribute.raw_socket)


WITHOUT: str = """
import sys
import jumpstarter
from jumpstarter._util.stream_errors import NoAttributes, broken, end_of_stream
for each in (broken("why"), end_of_stream("why")):
    assert not [base for base in type(each).__mro__ if base.__module__.startswith("anyio")]
try:
    NoAttributes().extra("any")
except LookupError as exc:
    print(type(exc).__name__, "anyio" in sys.modules)
"""


def test_without_anyio_the_errors_are_trios_and_nothing_imports_anyio() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("LookupError False\n", "")
