"""Any text of a peer stays on one line of the log and is short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumpstarter._util.text import indent_text, sanitize_name, sanitize_text

NASTY = {
    "newline": "on\nERROR jumpstarter.exporter: all is lost",
    "return": "on\rERROR",
    "ansi": "\x1b[2J\x1b[31mred",
    "bell": "ding\a",
    "nul": "a\0b",
    "bidi": "safe\u202egnp.exe",
    "isolate": "\u2066x\u2069",
    "line separator": "a\u2028b\u2029c\x85d",
    "c1": "\x9b31m",
    "surrogate": "\ud800",
    "zero width": "a\u200b\ufeffb",
}
nasty = pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
HUGE = "x" * 10_000_000


@nasty
def test_sanitized_text_is_printable(text: str) -> None:
    for made in (sanitize_text(text), sanitize_name(text), *indent_text(text).split("\n    | ")):
        assert made.isprintable()


@nasty
def test_an_escaped_text_differs_from_its_literal_form(text: str) -> None:
    assert sanitize_text(text) == repr(text) != repr(sanitize_text(text))


@given(st.text(max_size=300))
def test_any_text_becomes_one_line_or_lines_that_begin_with_a_bar(text: str) -> None:
    assert sanitize_text(text).isprintable()
    assert sanitize_name(text).isprintable()
    first, *others = indent_text(text).split("\n")
    assert all(line.startswith("    | ") for line in others)
    assert all(line.isprintable() for line in (first, *others))


def test_a_long_text_is_truncated_and_its_length_stated() -> None:
    for made, kept in (
        (sanitize_text(HUGE), 200),
        (sanitize_name(HUGE), 200),
        (indent_text(HUGE), 10_000),
    ):
        assert made.count("x") == kept
        assert made.endswith("... [cut: 10000000 characters in all]")
    assert sanitize_text("x" * 200) == repr("x" * 200)
    assert sanitize_text("abcdef", 3) == "'abc'... [cut: 6 characters in all]"


@pytest.mark.parametrize("name", ["ValueError", "pkg.module.Class", "_x1", "Größe"])
def test_a_valid_name_stays_unchanged(name: str) -> None:
    assert sanitize_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a..b", ".a", "1a", "a(b)", "x" * 201, "a: b"])
def test_any_other_name_is_quoted(name: str) -> None:
    assert sanitize_name(name) == sanitize_text(name) != name


def test_a_sanitized_traceback_stays_readable() -> None:
    text = "Traceback:\n  File 'x', line 1\n    raise it\nKeyError: 'a\tb'\n"
    assert indent_text(text) == (
        "Traceback:\n    |   File 'x', line 1\n    |     raise it\n    | KeyError: 'a\\tb'"
    )
