"""Sizes of functions, classes and modules: `make sizes` prints a table of them for `src`.

A function counts from `def` to its last line, without its docstring and without its decorators. A
class counts from `class` to its last line, and a module counts whole, with docstrings. Comments
count per 100 lines of a module, whether they have a line of their own or stand after code.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["CLASS_LIMIT", "MODULE_LIMIT", "ROOT", "Size", "classes", "functions", "modules"]

ROOT: Final = Path(__file__).parents[1] / "src"
MODULE_LIMIT: Final = 500  # lines
CLASS_LIMIT: Final = 300  # lines


@dataclass(frozen=True, order=True)
class Size:
    """The lines of one function, class or module, and where it is."""

    lines: int
    name: str

    def __str__(self) -> str:
        return f"{self.lines} ({self.name})"


def modules(root: Path = ROOT) -> list[Size]:
    """Measure each Python module below a directory."""
    return [
        Size(len(path.read_text(encoding="utf-8").splitlines()), str(path.relative_to(root)))
        for path in sorted(root.rglob("*.py"))
    ]


def classes(root: Path = ROOT) -> list[Size]:
    """Measure each class, also one that is inside a function or another class."""
    return [size for is_class, size in _definitions(root) if is_class]


def functions(root: Path = ROOT) -> list[Size]:
    """Measure each function, method and nested function."""
    return [size for is_class, size in _definitions(root) if not is_class]


def comments(root: Path = ROOT) -> int:
    """Count the comments of all modules."""
    texts = (path.read_text(encoding="utf-8") for path in root.rglob("*.py"))
    return sum(
        token.type == tokenize.COMMENT
        for text in texts
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
    )


@cache  # the tests ask several times, and to parse every module takes seconds
def _definitions(root: Path) -> tuple[tuple[bool, Size], ...]:
    """Measure each class and each function, with whether it is a class."""
    found = []
    for path, node in _nodes(root):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_class = isinstance(node, ast.ClassDef)
            lines = _lines(node) - (0 if is_class else _docstring_lines(node))
            found.append((is_class, Size(lines, f"{path.relative_to(root)}: {node.name}")))
    return tuple(found)


def _nodes(root: Path) -> Iterator[tuple[Path, ast.AST]]:
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path, node


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _docstring_lines(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return 0 if ast.get_docstring(node) is None else _lines(node.body[0])


def main(root: Path = ROOT) -> None:
    """Print the table."""
    of_functions = sorted(functions(root))
    lines = [size.lines for size in of_functions]
    of_modules = sorted(modules(root))
    total = sum(size.lines for size in of_modules)
    long = [size for size in of_modules if size.lines > MODULE_LIMIT]
    tenths = statistics.quantiles(lines, n=10)
    print(f"modules:    {len(of_modules)}, with {total:,} lines")
    print(f"  > {MODULE_LIMIT} lines: {', '.join(map(str, reversed(long))) or 'none'}")
    print(f"  longest:  {of_modules[-1]}")
    print(f"classes:    largest {max(classes(root))}")
    print(f"functions:  {len(lines):,}")
    print(f"  median:   {statistics.median(lines):g}")
    print(f"  p90:      {tenths[-1]:g}")
    print(f"  longest:  {of_functions[-1]}")
    print(f"comments:   {100 * comments(root) / total:.1f} per 100 lines")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
