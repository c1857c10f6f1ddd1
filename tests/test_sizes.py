"""Test that modules and classes stay below the limits, and test the counts of `make sizes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sizes import CLASS_LIMIT, MODULE_LIMIT, Size, classes, functions, main, modules


def test_no_module_is_too_long() -> None:
    assert [size for size in modules() if size.lines > MODULE_LIMIT] == []
    assert len(modules()) > 50


def test_no_class_is_too_long() -> None:
    assert [size for size in classes() if size.lines > CLASS_LIMIT] == []
    assert len(classes()) > 100


def test_sizes_are_counted_as_documented(tmp_path: Path) -> None:
    lines = ["@decorator", "def f():", '    """One."""', "    # Two.", "    return 1"]
    text = "\n".join([*lines, "", "", "class C:", "    x = 1", ""])
    (tmp_path / "module.py").write_text(text)
    assert functions(tmp_path) == [Size(3, "module.py: f")]
    assert classes(tmp_path) == [Size(2, "module.py: C")]
    assert modules(tmp_path) == [Size(9, "module.py")]


def test_the_table_names_the_largest_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    table = capsys.readouterr().out
    for size in (max(modules()), max(classes()), max(functions())):
        assert str(size) in table
