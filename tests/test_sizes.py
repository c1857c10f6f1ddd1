"""The sizes that `make sizes` prints are counted as its docstring says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sizes import Size, classes, functions, main, modules


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
