"""The one extension module; everything else about the package is in pyproject.toml.

Switches, each an environment variable set to 1:
    JUMPSTARTER_TRACE       line tracing, for coverage of the .pyx
    JUMPSTARTER_SANITIZE    AddressSanitizer and UndefinedBehaviorSanitizer
    JUMPSTARTER_STRICT      a warning of Cython fails the build. CI sets it; a Cython that warns of
                            something new must not fail the installation for everybody
    JUMPSTARTER_ANNOTATE    an HTML page beside the generated C: how far each line is from plain C
"""

from __future__ import annotations

import os

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

switches = {name for name, value in os.environ.items() if value == "1"}
directives = {"warn.unused": True, "warn.unused_result": True, "warn.maybe_uninitialized": True}
framing = Extension("jumpstarter._framing", ["src/jumpstarter/_framing.pyx"])
framing.extra_compile_args = ["-Wall", "-Wextra"]
Options.warning_errors = "JUMPSTARTER_STRICT" in switches

if "JUMPSTARTER_TRACE" in switches:
    directives["linetrace"] = True
    tracing = ("CYTHON_TRACE", "CYTHON_TRACE_NOGIL")
    framing.define_macros = [(name, "1") for name in tracing] + [("CYTHON_USE_SYS_MONITORING", "0")]
if "JUMPSTARTER_SANITIZE" in switches:
    sanitizers = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    framing.extra_compile_args += ["-O1", "-g", "-UNDEBUG", *sanitizers]
    framing.extra_link_args = sanitizers

# Time stamps know nothing of the switches, so the one file is always compiled anew.
extensions = cythonize(
    framing,
    build_dir="build",
    force=True,
    annotate="JUMPSTARTER_ANNOTATE" in switches,
    compiler_directives=directives,
)
setup(ext_modules=extensions, options={"build_ext": {"force": True}})
