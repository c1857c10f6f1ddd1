"""Settings of the documentation site, which `make docs` builds with warnings as errors."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import textwrap
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent))
import generated

project = "jumpstarter"
author = "the jumpstarter contributors"
version = release = importlib.metadata.version("jumpstarter")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.mermaid",
]
html_theme = "furo"
html_title = "jumpstarter"

# Links between the pages work on GitHub too. A link to a file of the repository leads to a copy of
# it in the site. A link that leads nowhere is a warning, and so an error.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

default_role = "name"
add_module_names = False
python_display_short_literal_types = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 80
autodoc_default_options = {
    "members": True,
    "undoc-members": True,  # an alias has no docstring, and belongs on the page
    "show-inheritance": True,
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a class lists its attributes, and the index does not repeat them

# References within this package must resolve. Other projects are not searched, since a build
# needs no network. Private names occur in signatures as base classes, and have no page.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!jumpstarter\b)(.|\n)*"),
    ("py:.*", r"jumpstarter\.(\w+\.)*_\w+(\.\w+)*"),
    ("py:class", r"jumpstarter\.(\w+\.)*RootModel\[Any\]"),  # pydantic's, which is imported there
]


_ROOT: Final = Path(__file__).parents[1]
_LINK: Final = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def complete_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the generated parts into a page, and let each of its links stay within the site."""
    here = _ROOT / "docs" / f"{docname}.md"
    text = source[0]
    if docname == "readme":  # it is a page of the site: a copy of the file would be a dead end
        here = _ROOT / "README.md"
        text = here.read_text(encoding="utf-8")
        app.env.note_dependency(str(here))
    source[0] = _LINK.sub(partial(_stay_in_site, here, docname), generated.fill(text))


def _stay_in_site(here: Path, docname: str, link: re.Match[str]) -> str:
    """Return a link whose target is a page, or a copy of a file. A directory has no copy.

    A link that leads nowhere stays as it is, and is a warning.
    """
    text, target, anchor = link[1], (here.parent / link[2]).resolve(), link[3] or ""
    docs, up = _ROOT / "docs", "../" * docname.count("/")
    if target == _ROOT / "README.md":
        return f"[{text}]({up}readme.md{anchor})"
    if target.is_dir():
        return text
    if target.is_relative_to(docs):
        return f"[{text}]({up}{target.relative_to(docs)}{anchor})"
    if target.is_file():
        return f"[{text}](path:{up}../{target.relative_to(_ROOT)})"
    return link[0]


class Name(PyXRefRole):
    """Link text in single backticks to the public name that it gives, if there is one."""

    def process_link(
        self,
        env: BuildEnvironment,
        refnode: nodes.Element,
        has_explicit_title: bool,
        title: str,
        target: str,
    ) -> tuple[str, str]:
        """Keep the text as it is: the base class would shorten `.local` and `~user`."""
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        return title, target.removesuffix("()")

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Take text such as `list <x>` as code too, and not as a title with its target."""
        self.text = self.title = self.target = self.text.strip()
        self.disabled = self.has_explicit_title = False
        self.refdomain, self.reftype = "py", "obj"
        self.classes = ["xref", "py", "py-obj"]
        return self.create_xref_node()


def quote_examples(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Show each indented block of a docstring, set off by a blank line, as it is written.

    reStructuredText asks for `::` above such a block, and readers of `help()` do not.
    """
    result: list[str] = []
    indent = 0  # of the last line that is not blank
    rest = list(lines)
    while rest:
        if result and not result[-1].strip() and _indent(rest[0]) >= indent + 4 and rest[0].strip():
            block = list(takewhile(partial(_is_deeper, indent), rest))
            language = "python" if _is_python(block) else "text"
            result += [" " * indent + f".. code-block:: {language}", "", *block]
            del rest[: len(block)]
        else:
            result.append(rest.pop(0))
            indent = _indent(result[-1]) if result[-1].strip() else indent
    lines[:] = result


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_deeper(indent: int, line: str) -> bool:
    return not line.strip() or _indent(line) > indent


def _is_python(block: list[str]) -> bool:
    try:
        ast.parse(textwrap.dedent("\n".join(block)))
    except SyntaxError:
        return False
    return True


def hide_constructors(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str
) -> tuple[str, str] | None:
    """Leave out the signature of a class that only the library makes: it documents no arguments."""
    if signature and what in {"class", "exception"} and "Args:" not in (obj.__doc__ or ""):
        return "", returns
    return None


def setup(app: Sphinx) -> None:
    """Register what this site adds to Sphinx."""
    app.add_lexer("vector", TextLexer)  # the test vectors of the wire
    app.add_role("name", Name())
    app.connect("source-read", complete_page)
    app.connect("autodoc-process-docstring", quote_examples, priority=400)  # napoleon has 500
    app.connect("autodoc-process-signature", hide_constructors)
