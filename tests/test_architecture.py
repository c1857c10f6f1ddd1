"""Walks the imports of the package, and holds each room to the map in `jumpstarter/__init__.py`.

The map is the order: a room imports only those above it, and on its own line only those to its
left. Imports under TYPE_CHECKING and inside functions count like all others.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import jumpstarter
from helpers import PATIENCE

SRC: Final = Path(jumpstarter.__file__).parent

# They talk to no one: bytes and values in, bytes and values out.
SANS_IO: Final = (
    "_installed",
    "errors",
    "_text",
    "_tracebacks",
    "_copies",
    "_checks",
    "_limits",
    "_framing",
    "_refusals",
    "_values",
    "_decoding",
    "_messages",
    "_faults",
    "_credit",
    "_pieces",
    "_patience",
    "_outbox",
    "_events",
    "_protocol",
    "_roles",
)
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
# What these say of themselves: they know nothing else of the house.
KNOWS_ONLY: Final[dict[str, set[str]]] = {
    "_installed": set(),
    "errors": {"_installed"},
    "_version": set(),
    "_text": set(),
    "_tracebacks": set(),
    "_copies": set(),
    "_checks": {"_text", "errors"},
    "_framing": {"errors"},
    "_shelter": set(),
    "_refusals": {"_shelter", "errors"},
    "_values": {"_refusals", "_shelter", "errors"},
    "_nesting": set(),
    "_pieces": set(),
    "_patience": set(),
    "_signal": set(),
    "_background": set(),
    "_journal": {"_patience"},
    "_writes": set(),
    "_files": {"_fork", "_writes"},
    "_watchdog": set(),
    "_transfer": {"_background", "errors"},
    "_transport": {"_fork"},
    "_portal": {"_copies", "_tracebacks", "_checks"},
    "_fork": set(),
    "_listener": {"_fork"},
    "_sockets": {"_tracebacks", "_checks", "_fork", "_listener", "errors"},
    "_accept": {"_hangup", "_journal", "_listener"},
    "_hangup": set(),
    "_forward": {"_background", "_checks", "_fork", "_hangup", "_listener", "_sockets"},
    "_stderr": {"_fork"},
    "_stdio": {"_fork", "_stderr"},
    "_process": set(),
}
# Where a name becomes code, each behind a check of its own.
IMPORTS_BY_NAME: Final = {"client._tree": {"importlib", "importlib.util"}, "_offer": {"pkgutil"}}


def the_map() -> list[str]:
    """Give the rooms in the order of the map: each line of four blanks begins with some."""
    assert jumpstarter.__doc__ is not None
    lines = re.findall(r"^ {4}((?:\w+, )*\w+)", jumpstarter.__doc__, re.MULTILINE)
    return [room for line in lines for room in line.split(", ")]


def modules() -> Iterator[tuple[str, Path]]:
    """Give each module's name within the package, and its source."""
    for path in sorted(SRC.rglob("*.py*")):
        if path.suffix in {".py", ".pyx", ".pyi"}:
            parts = path.relative_to(SRC).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, path


MODULES: Final = dict(modules())  # of a stub and a Cython module of one name, the latter


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imports_of(name: str, path: Path) -> set[str]:
    """Give what a module imports, ours as `jumpstarter.<module>`."""
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
    """Give the modules of this package which a module imports."""
    prefix = "jumpstarter."
    return {name.removeprefix(prefix) for name in IMPORTS[module] if name.startswith(prefix)}


# ----------------------------------------------------------------------------------- tests


def test_the_imports_are_found_whatever_they_look_like(tmp_path: Path) -> None:
    python = tmp_path / "module.py"
    python.write_text(
        "import os.path\n"
        "from typing import TYPE_CHECKING\n"
        "from .. import _events as ev\n"
        "from .._limits import Limits\n"
        "from ._base import Driver\n"
        "import jumpstarter._roles\n"
        "if TYPE_CHECKING:\n"
        "    from jumpstarter.client import DriverClient\n"
        "def function():\n"
        "    from jumpstarter import _portal\n"
    )
    assert imports_of("driver._tree", python) == {
        "os.path",
        "typing",
        "jumpstarter._events",
        "jumpstarter._limits",
        "jumpstarter.driver._base",
        "jumpstarter._roles",
        "jumpstarter.client",
        "jumpstarter._portal",
    }
    cython = tmp_path / "module.pyx"
    cython.write_text(
        "cimport cython\n"
        "from libc.string cimport memcpy\n"
        "from .errors import Code\n"
        "    import trio\n"
    )
    assert imports_of("_framing", cython) == {"cython", "libc.string", "jumpstarter.errors", "trio"}


def test_the_map_has_every_room_once_and_no_other() -> None:
    rooms = the_map()
    assert len(rooms) == len(set(rooms))
    there = {room_of(name) for name in MODULES} - {"", "__main__", "_version"}
    assert set(rooms) == there


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"", "__main__"}))
def test_each_room_imports_only_rooms_above_it(module: str) -> None:
    rooms = ["_version", *the_map()]
    room = room_of(module)
    above = rooms[: rooms.index(room)]
    assert {room_of(name) for name in ours(module)} - {room} <= set(above)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_room_goes_through_the_front_door(module: str) -> None:
    assert "jumpstarter" not in IMPORTS[module], "import from the room itself"


@pytest.mark.parametrize(("module", "known"), KNOWS_ONLY.items(), ids=KNOWS_ONLY)
def test_the_rooms_that_know_little_know_no_more(module: str, known: set[str]) -> None:
    assert ours(module) == known


def test_drivers_and_clients_never_meet() -> None:
    for one, other in (("driver", "client"), ("client", "driver")):
        for module in MODULES:
            if room_of(module) == one:
                assert other not in {room_of(name) for name in ours(module)}


def test_nobody_imports_the_command_line_but_its_starter() -> None:
    assert {name for name in MODULES if "cli" in ours(name)} == {"__main__"}


@pytest.mark.parametrize("module", SANS_IO)
def test_the_rooms_without_io_import_none(module: str) -> None:
    assert {name.partition(".")[0] for name in IMPORTS[module]} & IO == set()


def test_the_rooms_without_io_run_where_there_is_no_trio() -> None:
    lines = [
        "import sys, types",
        "house = sys.modules['jumpstarter'] = types.ModuleType('jumpstarter')",
        f"house.__path__ = [{str(SRC)!r}]",  # without its front door, which opens all rooms
        "sys.modules['trio'] = sys.modules['asyncio'] = None",  # any import of them fails
        *(f"import jumpstarter.{module}" for module in SANS_IO),
    ]
    script = "\n".join(lines)
    subprocess.run([sys.executable, "-I", "-c", script], check=True, timeout=3 * PATIENCE)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_names_become_code_in_two_places_and_bytes_nowhere(module: str) -> None:
    machinery = {"importlib", "importlib.util", "pkgutil", "runpy", "imp"}
    assert IMPORTS[module] & machinery == IMPORTS_BY_NAME.get(module, set())
    assert IMPORTS[module] & {"pickle", "marshal", "shelve", "dill"} == set()
    source = MODULES[module].read_text()
    assert not re.search(r"(?<![\w.])(eval|exec|compile|__import__)\(", source)
