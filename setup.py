"""Build the extension module; pyproject.toml has all other settings of the package.

To turn on a switch, set its environment variable to 1:
    JUMPSTARTER_TRACE       enable line tracing, for coverage of the .pyx
    JUMPSTARTER_SANITIZE    enable AddressSanitizer and UndefinedBehaviorSanitizer
    JUMPSTARTER_STRICT      fail the build on any Cython warning. CI sets it. It is off by default,
                            so that a new warning of a later Cython does not break installations
    JUMPSTARTER_ANNOTATE    write an HTML page next to the generated C, which shows how much each
                            line interacts with Python
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

# Time stamps do not reflect the switches, so always compile the file again.
extensions = cythonize(
    framing,
    build_dir="build",
    force=True,
    annotate="JUMPSTARTER_ANNOTATE" in switches,
    compiler_directives=directives,
)
setup(ext_modules=extensions, options={"build_ext": {"force": True}})
