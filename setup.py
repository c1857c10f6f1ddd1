"""Build the extension modules; pyproject.toml has all other settings of the package.

Each .pxd file in a package has the C types for the .py file of the same name, and turns it into an
extension module. The .py file stays the source, and runs as it is if there is no such module.

To turn on a switch, set its environment variable to 1:
    JUMPSTARTER_PURE        compile only the .pyx files: all others run as Python code
    JUMPSTARTER_TRACE       enable line tracing, for coverage of the .pyx
    JUMPSTARTER_SANITIZE    enable AddressSanitizer and UndefinedBehaviorSanitizer
    JUMPSTARTER_STRICT      fail the build on any Cython warning. CI sets it. It is off by default,
                            so that a new warning of a later Cython does not break installations
    JUMPSTARTER_ANNOTATE    write an HTML page next to the generated C, which shows how much each
                            line interacts with Python

Modules are kept in build/modules, and compiled again only if their C code or the compiler's options
have changed. `make clean` removes them, for example after an upgrade of the compiler.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import zlib
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = Path("src/jumpstarter")
TYPES = list(PACKAGE.glob("*/*.pxd"))
KEPT = Path("build/modules")

switches = {name for name, value in os.environ.items() if value == "1"}
directives = {
    "language_level": "3",
    "annotation_typing": False,  # the .pxd files have the types; an annotation is not a C type
    "auto_pickle": False,
    "nonecheck": True,  # of an attribute of None, which would end the process
}
# For the .pyx files, which check for None themselves. Of the .py files, which ruff and mypy check,
# Cython would warn of what Python code does every day.
of_framing = dict.fromkeys(["warn.unused", "warn.unused_result", "warn.maybe_uninitialized"], True)
of_framing["nonecheck"] = False
macros = []
compile_args = ["-Wall", "-Wextra", "-g0"]  # debug information is ten times the code
link_args = []
Options.warning_errors = "JUMPSTARTER_STRICT" in switches

if "JUMPSTARTER_TRACE" in switches:
    directives["linetrace"] = True
    tracing = ("CYTHON_TRACE", "CYTHON_TRACE_NOGIL")
    macros = [(name, "1") for name in tracing] + [("CYTHON_USE_SYS_MONITORING", "0")]
if "JUMPSTARTER_SANITIZE" in switches:
    link_args = ["-fsanitize=address,undefined"]
    compile_args += ["-O0", "-g1", "-UNDEBUG", *link_args, "-fno-omit-frame-pointer"]

modules = []
if "JUMPSTARTER_PURE" not in switches:
    modules = sorted(filter(Path.exists, (path.with_suffix(".py") for path in TYPES)))


# Taken before the files are compiled, or an edit meanwhile would go unnoticed.
checksums = "".join(
    f"{zlib.crc32(path.read_bytes()):08x} {path.relative_to(PACKAGE)}\n"
    for path in sorted([*modules, *TYPES, *PACKAGE.glob("*.p[xy][dx]")])
)


def module(source: Path) -> Extension:
    """Describe the extension module that is built from a source file."""
    return Extension(
        ".".join(source.with_suffix("").parts[1:]),
        [str(source)],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )


class BuildExtensions(build_ext):
    """Keep modules of an earlier build out: they would run instead of newer Python code."""

    def run(self) -> None:
        """Build the extension modules."""
        self._remove_modules_in(Path(self.build_lib, PACKAGE.name))
        super().run()

    def copy_extensions_to_source(self) -> None:
        """Put the modules into the source tree, with a list of what they were built from."""
        self._remove_modules_in(PACKAGE)
        super().copy_extensions_to_source()
        if modules:
            Path(PACKAGE, f"built{self.get_ext_filename('')}.txt").write_text(checksums)

    def build_extension(self, ext: Extension) -> None:
        """Compile a module, or take the one that was compiled in the same way."""
        target = Path(self.get_ext_fullpath(ext.name))
        kept = KEPT / ext.name / self._key_of(ext)
        if kept.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(kept, target)
            return
        super().build_extension(ext)
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        shutil.copy(target, unfinished)
        unfinished.replace(kept)
        for old in sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-8]:
            old.unlink(missing_ok=True)

    def _key_of(self, ext: Extension) -> str:
        """Return a digest of all that a module is made from, except the compiler itself."""
        key = hashlib.sha256()
        programs = [getattr(self.compiler, name, None) for name in ("compiler_so", "linker_so")]
        options = [ext.define_macros, ext.extra_compile_args, ext.extra_link_args]
        key.update(repr([sys.version, ext.name, programs, options]).encode())
        for source in ext.sources:
            key.update(Path(source).read_bytes())
        return key.hexdigest()

    def _remove_modules_in(self, directory: Path) -> None:
        suffix = self.get_ext_filename("")
        for path in [*directory.glob(f"*/*{suffix}"), *directory.glob(f"**/built{suffix}.txt")]:
            path.unlink()


def processors() -> int:
    """Return how many processors this process may use, or has, where the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Time stamps do not reflect the switches, so always compile the files again.
settings = {"build_dir": "build", "force": True, "annotate": "JUMPSTARTER_ANNOTATE" in switches}
extensions = cythonize(
    list(map(module, PACKAGE.rglob("*.pyx"))),
    compiler_directives=directives | of_framing,
    **settings,
)
if modules:
    extensions += cythonize(list(map(module, modules)), compiler_directives=directives, **settings)
setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildExtensions},
    options={"build_ext": {"force": True, "parallel": processors()}},
)
