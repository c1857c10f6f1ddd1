"""Test the exceptions at the path from which existing drivers import them."""

from __future__ import annotations

import builtins
import copy
import pickle

import pytest

from jumpstarter import connect
from jumpstarter.client.core import ExporterNotReady
from jumpstarter.common import exceptions
from jumpstarter.errors import CallRefused


@pytest.mark.parametrize("name", [n for n in exceptions.__all__ if n != "MissingDriverError"])
def test_each_is_of_our_tree_and_takes_a_message(name: str) -> None:
    kind = getattr(exceptions, name)
    error = kind("text")
    assert isinstance(error, exceptions.JumpstarterException)
    assert (error.message, str(error)) == ("text", "text")
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own data
    assert (type(copied), copied.message) == (kind, "text")


def test_those_with_a_builtin_s_name_are_of_that_class_too() -> None:
    for name in ("ConnectionError", "FileNotFoundError"):
        assert issubclass(getattr(exceptions, name), getattr(builtins, name))


def test_a_missing_driver_has_its_path() -> None:
    error = exceptions.MissingDriverError("not installed", class_path="lab.Relay")
    for each in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301 - ours
        assert (str(each), each.class_path) == ("not installed", "lab.Relay")
    assert isinstance(error, ImportError)


def test_connect_raises_what_published_code_catches() -> None:
    with pytest.raises(exceptions.ExporterUnreachableError), connect("unix:/nowhere/socket"):
        pass
    with pytest.raises(exceptions.ConnectionError), connect("unix:/nowhere/socket"):
        pass


def test_a_refused_call_is_what_published_code_catches() -> None:
    assert ExporterNotReady is CallRefused


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_exception_that_is_its_own_cause_has_a_text() -> None:
    error = exceptions.ConfigurationError("around")
    other = caused(exceptions.ArgumentError("other"), error)
    assert str(caused(error, error)) == "around"
    assert str(caused(error, other)) == "around (Caused by: other)"


def test_text_that_explains_the_cause_does_not_repeat_it() -> None:
    error = caused(exceptions.ArgumentError("failed: 7 V"), ValueError("7 V"))
    assert str(error) == "failed: 7 V"
    other = exceptions.ArgumentError("seven volts")
    other.explains_cause = True
    assert str(caused(other, ValueError("7 V"))) == "seven volts"
