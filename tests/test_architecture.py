"""Test that the imports of the package follow its layers.

`LAYERS` contains every rule: of our packages, each imports only from itself and from those listed
for it. Imports under TYPE_CHECKING and inside functions count like all others.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

import jumpstarter
from helpers import PATIENCE

SRC: Final = Path(jumpstarter.__file__).parent

_CORE: Final = {"errors", "_limits", "_framing", "_members", "_nonblocking", "_stepping", "_util"}
_SIDES: Final = _CORE | {"_protocol", "_io", "_version"}
_ALL: Final = _SIDES | {"client", "driver", "_exporter", "drivers", "_api"}
# The packages of ours that each package or top-level module may import.
LAYERS: Final[dict[str, set[str]]] = {
    "_version": set(),
    "_installed": set(),
    "_mixture": set(),
    "errors": {"_installed", "_mixture"},
    "_limits": {"errors"},
    "_framing": {"errors"},
    "_members": set(),
    "_nonblocking": set(),
    "_stepping": set(),
    "_util": {"errors", "_members"},
    "_protocol": _CORE,
    "_io": _CORE | {"_protocol"},
    "client": _SIDES,
    "driver": _SIDES,
    "_exporter": _SIDES | {"driver"},
    "drivers": _SIDES | {"client", "driver"},
    "_api": _SIDES | {"client", "driver", "_exporter"},
    "config": _ALL,
    "observe": _SIDES | {"driver", "_exporter", "drivers", "_api"},
    "common": _ALL,
    "streams": _ALL,
    "utils": _ALL | {"common"},
    "portal": _ALL,
    "testing": _ALL,
    "cli": _ALL | {"_installed", "common", "config", "observe"},
    "_pytest_plugin": _ALL | {"common", "config"},
}
# The packages without I/O, which import nothing that waits, measures time or performs I/O.
SANS_IO: Final = {"errors", "_limits", "_framing", "_protocol"}
IO: Final = {
    "asyncio",
    "concurrent",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "trio",
}
# The modules that turn a name into code. Each checks the name first.
IMPORTS_BY_NAME: Final = {
    "client._tree": {"importlib", "importlib.util"},
    "cli._app": {"importlib"},
    "cli._options": {"pkgutil"},
    "config._drivers": {"importlib", "importlib.util"},
}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield each module's name within the package, and its source."""
    for path in sorted(SRC.rglob("*.py*")):
        if path.suffix in {".py", ".pyx", ".pyi"}:
            parts = path.relative_to(SRC).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, path


MODULES: Final = dict(modules())  # a Cython module replaces its stub


def package_of(module: str) -> str:
    return module.partition(".")[0]


def imports_of(name: str, path: Path) -> set[str]:
    """Return the modules that a module imports, with ours named `jumpstarter.<module>`."""
    package = ["jumpstarter", *name.split(".")] if name else ["jumpstarter"]
    if path.stem != "__init__":
        package = package[:-1]
    found = set()
    statements = _of_cython(path) if path.suffix == ".pyx" else _of_python(path)
    for level, module, names in statements:
        base = package[: len(package) - level + 1] if level else []
        target = ".".join([*base, module] if module else base)
        within = target.removeprefix("jumpstarter").removeprefix(".")
        for each in names:
            inner = f"{within}.{each}" if within else each
            ours = target.partition(".")[0] == "jumpstarter" and inner in MODULES
            found.add(f"{target}.{each}" if ours else target)
    return found


def _of_python(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield 0, alias.name, [""]
        elif isinstance(statement, ast.ImportFrom):
            yield statement.level, statement.module or "", [each.name for each in statement.names]


def _of_cython(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    pattern = r"^\s*(?:from\s+(\.*)(\S*)\s+)?c?import\s+\(?([\w.]+)"
    for dots, module, name in re.findall(pattern, path.read_text(), re.MULTILINE):
        yield (len(dots), module, [name]) if dots or module else (0, name, [""])


IMPORTS: Final = {name: imports_of(name, path) for name, path in MODULES.items()}


def ours(module: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    prefix = "jumpstarter."
    return {name.removeprefix(prefix) for name in IMPORTS[module] if name.startswith(prefix)}


# ----------------------------------------------------------------------------------- tests


def test_the_imports_are_found_whatever_they_look_like(tmp_path: Path) -> None:
    python = tmp_path / "module.py"
    python.write_text(
        "import os.path\n"
        "from typing import TYPE_CHECKING\n"
        "from .._protocol import events as ev\n"
        "from .._limits import Limits\n"
        "from ._base import Driver\n"
        "import jumpstarter._protocol.client\n"
        "if TYPE_CHECKING:\n"
        "    from jumpstarter.client import DriverClient\n"
        "def function():\n"
        "    from jumpstarter._io import portal\n"
    )
    assert imports_of("driver._tree", python) == {
        "os.path",
        "typing",
        "jumpstarter._protocol.events",
        "jumpstarter._limits",
        "jumpstarter.driver._base",
        "jumpstarter._protocol.client",
        "jumpstarter.client",
        "jumpstarter._io.portal",
    }
    cython = tmp_path / "module.pyx"
    cython.write_text(
        "cimport cython\n"
        "from libc.string cimport memcpy\n"
        "from .errors import Code\n"
        "    import trio\n"
    )
    assert imports_of("_framing", cython) == {"cython", "libc.string", "jumpstarter.errors", "trio"}


def test_each_package_has_a_rule_and_each_rule_a_package() -> None:
    assert {package_of(name) for name in MODULES} - {"", "__main__"} == set(LAYERS)


def test_the_layers_have_an_order() -> None:
    list(TopologicalSorter(LAYERS).static_order())  # raises CycleError if there is a cycle


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"", "__main__"}))
def test_a_module_imports_only_from_its_own_layer_and_those_below(module: str) -> None:
    package = package_of(module)
    assert {package_of(name) for name in ours(module)} - {package} <= LAYERS[package]


def test_no_imports_form_a_circle() -> None:
    graph = {name: ours(name) - {name} for name in MODULES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_imports_the_top_level_package(module: str) -> None:
    assert "jumpstarter" not in IMPORTS[module], "import from the module itself"


def test_only_main_imports_the_command_line() -> None:
    importers = {name for name in MODULES if "cli" in map(package_of, ours(name))}
    assert {name for name in importers if package_of(name) != "cli"} == {"__main__"}


@pytest.mark.parametrize("module", [name for name in MODULES if package_of(name) in SANS_IO])
def test_a_package_without_io_imports_none(module: str) -> None:
    assert {name.partition(".")[0] for name in IMPORTS[module]} & IO == set()


def test_the_packages_without_io_run_where_there_is_no_trio() -> None:
    names = [name for name in MODULES if package_of(name) in SANS_IO]
    lines = [
        "import sys, types",
        "package = sys.modules['jumpstarter'] = types.ModuleType('jumpstarter')",
        f"package.__path__ = [{str(SRC)!r}]",  # without its __init__, which imports every layer
        "sys.modules['trio'] = sys.modules['asyncio'] = None",  # any import of them fails
        *(f"import jumpstarter.{name}" for name in names),
    ]
    script = "\n".join(lines)
    subprocess.run([sys.executable, "-I", "-c", script], check=True, timeout=3 * PATIENCE)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_listed_modules_turn_names_into_code(module: str) -> None:
    machinery = {"importlib", "importlib.util", "pkgutil", "runpy", "imp"}
    assert IMPORTS[module] & machinery == IMPORTS_BY_NAME.get(module, set())
    assert IMPORTS[module] & {"pickle", "marshal", "shelve", "dill"} == set()
    source = MODULES[module].read_text()
    assert not re.search(r"(?<![\w.])(eval|exec|compile|__import__)\(", source)


# ---------------------------------------------------------------------------- the compiled modules

TYPED: Final = {
    str(path.relative_to(SRC).with_suffix("")): path
    for path in sorted(SRC.glob("*/*.pxd"))
    if path.with_suffix(".py").exists()
}


def declared_fields(path: Path) -> dict[str, set[str]]:
    """Return the fields that a .pxd file declares, by class."""
    found: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        if opened := re.match(r"cdef class (\w+)", line):
            fields = found.setdefault(opened[1], set())
        elif field := re.match(r"    cdef public (?:(?:unsigned )?long long|\w+) ([\w, ]+)$", line):
            fields.update(field[1].split(", "))
    return found


def assigned_fields(cls: ast.ClassDef) -> set[str]:
    """Return the fields that a class's own methods, or a dataclass's annotations, assign."""
    setters = {f.name for f in cls.body if isinstance(f, ast.FunctionDef) and f.decorator_list}
    found = {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    if any(isinstance(each, ast.Name) and each.id == "dataclass" for each in cls.decorator_list):
        fields = [each.target for each in cls.body if isinstance(each, ast.AnnAssign)]
        found |= {each.id for each in fields if isinstance(each, ast.Name)}
    return found - setters


@pytest.mark.parametrize("module", TYPED)
def test_the_types_of_a_compiled_module_declare_each_field_and_no_other(module: str) -> None:
    """The compiled form refuses a field that the .pxd lacks, in whichever form the tests run."""
    declared = {
        name: fields for path in TYPED.values() for name, fields in declared_fields(path).items()
    }
    classes = {
        node.name: node
        for path in TYPED.values()
        for node in ast.parse(path.with_suffix(".py").read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    for name, own in declared_fields(TYPED[module]).items():
        inherited: set[str] = set()
        bases = list(classes[name].bases)
        while bases:
            base = bases.pop()
            if isinstance(base, ast.Name) and base.id in classes:
                inherited |= declared[base.id]
                bases += classes[base.id].bases
        assigned = assigned_fields(classes[name])
        assert assigned - inherited == own, f"{module}.pxd: class {name}"
