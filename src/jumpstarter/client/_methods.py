"""Make the functions that a client has as attributes, one per exported method of its driver.

They come from the exporter's report, which is untrusted. A name becomes an attribute only if it is
an identifier without a leading underscore, so that no exporter can add a name that Python itself
looks for in an object. Texts are shown and never evaluated: a signature is parsed for its names and
kinds, and its defaults and annotations stay text.

Results are cached for the next client of the same driver, since tests connect again and again, so
they are never changed. Long texts are not cached, as their size is the exporter's choice.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from .._protocol.codec import truncate
from .._protocol.frames import MAX_DOC, MAX_SIGNATURE, Kind, Node
from .._util.deferred_signals import DeferAllSignals
from .._util.text import Verbatim

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "CALL_STYLES",
    "Method",
    "as_function",
    "build_help",
    "methods_of",
    "names_of",
    "printable",
    "signature_from",
]

# The method of a client that calls each kind.
CALL_STYLES: Final = {Kind.UNARY: "call", Kind.GENERATOR: "streamingcall", Kind.STREAM: "stream"}

_CACHED: Final = 32  # drivers whose results are cached
_CACHED_SIZE: Final = 16 * 1024  # characters of text that each of them may have
_ANYTHING: Final = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]
)
_HOW: Final = {
    Kind.UNARY: "Calls the driver's {name!r} and returns its result.",
    Kind.GENERATOR: "Iterates over what the driver's {name!r} yields.",
    Kind.STREAM: "Opens the driver's raw stream {name!r}, as a context manager.",
}


class Method(NamedTuple):
    """An exported method, as it was reported.

    Attributes:
        name: An identifier.
        kind: How it is called.
        signature: As in its `def`, or empty.
        doc: Its docstring, or empty.
        read_only: Whether any client may use it while another one holds the exporter.
    """

    name: str
    kind: Kind
    signature: str
    doc: str
    read_only: bool = False


def methods_of(node: Node) -> Mapping[str, Method]:
    """Return the methods that can be attributes of a driver's client, by name."""
    signatures = tuple(node.signatures.get(name, "") for name in node.methods)
    docs = tuple(node.docs.get(name, "") for name in node.methods)
    read_only = frozenset(node.read_only).intersection(node.methods)
    small = _is_small(node.methods, signatures, docs)
    make = _methods_of if small else _methods_of.__wrapped__
    return make(tuple(node.methods.items()), signatures, docs, read_only)


def _is_small(*texts: Collection[str]) -> bool:
    return sum(len(text) for some in texts for text in some) <= _CACHED_SIZE


@functools.lru_cache(maxsize=_CACHED)
def _methods_of(
    kinds: tuple[tuple[str, int], ...],
    signatures: tuple[str, ...],
    docs: tuple[str, ...],
    read_only: frozenset[str],
) -> Mapping[str, Method]:
    return {
        name: Method(name, Kind(kind), printable(signature), printable(doc), name in read_only)
        for (name, kind), signature, doc in zip(kinds, signatures, docs, strict=True)
        if name.isidentifier() and not name.startswith("_") and kind in _KINDS
    }


def printable(text: str) -> str:
    """Cut a text to `MAX_DOC`, and replace characters that would control a terminal."""
    text = truncate(text, MAX_DOC)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text
    )


_KINDS: Final = {int(kind) for kind in Kind}


def as_function(
    method: Method, call: Callable[..., Any], of: str, *, suffix: str = ""
) -> Callable[..., Any]:
    """Make the function that calls a method.

    Args:
        method: The method.
        call: The client's method that calls it; takes the name and the arguments.
        of: Name of the client's class.
        suffix: Added to the method's name for the function's name.
    """

    def function(*args: Any, **kwargs: Any) -> Any:
        return call(method.name, *args, **kwargs)

    function.__name__ = method.name + suffix
    function.__qualname__ = f"{of}.{function.__name__}"
    function.__doc__ = method.doc or _HOW[method.kind].format(name=method.name)
    function.__signature__ = signature_from(method.signature)  # type: ignore[attr-defined]
    return function


def build_help(
    cls: type, driver: str, doc: str, methods: Mapping[str, Method], children: Collection[str]
) -> str:
    """Write the text that `help` shows for a client.

    Args:
        cls: Its class. The names that the class has are not attributes for the driver's methods.
        driver: How messages name the driver.
        doc: The driver's docstring.
        methods: The driver's exported methods.
        children: Names of the clients below, which come before the driver's methods too.
    """
    made = tuple(methods.values())
    texts = ((each.signature, each.doc) for each in made)
    small = _is_small((driver, doc), methods, children, *texts)
    build = _build_help if small else _build_help.__wrapped__
    return build(cls, driver, doc, made, tuple(children))


@functools.lru_cache(maxsize=_CACHED)
def _build_help(
    cls: type, driver: str, doc: str, methods: tuple[Method, ...], children: tuple[str, ...]
) -> str:
    taken = {*names_of(cls), *children}
    shown = [method for method in methods if method.name not in taken]
    lines = [f"The client of {driver}.", ""]
    if doc:
        lines += [doc, ""]
    lines += _of_class(cls)
    if shown:
        lines += ["Each method has a twin for Trio code, with _async at the end of its name.", ""]
    for method in shown:
        text = method.doc or _HOW[method.kind].format(name=method.name)
        lines += _entry(method.name + (method.signature or str(_ANYTHING)), text)
    lines += _shadowed(cls, methods, children)
    lines.append(f"Children: {printable(', '.join(children)) or 'none'}")
    return "\n".join(lines)


def _shadowed(cls: type, methods: tuple[Method, ...], children: tuple[str, ...]) -> list[str]:
    """Explain how to call exported methods whose names the client's own attributes hide."""
    own = names_of(cls) - names_of(_base_of(cls))
    offered = [each for each in methods if each.name in own]
    taken = {*names_of(cls), *children} - own
    hidden = [each for each in methods if each.name in taken]
    lines: list[str] = []
    if offered:
        names = ", ".join(f"{each.name}()" for each in offered)
        text = f"The client class defines {names} itself: use that as described above."
        lines += [f"{text} The driver's own is reached by: {_ways(offered)}", ""]
    ways = [_ways([each]) for each in hidden]
    ways += [f'children["{name}"]' for name in children if name in names_of(cls)]
    if ways:
        lines += [
            f"Not attributes, as every client has others of these names; use: {', '.join(ways)}",
            "",
        ]
    return lines


def _ways(methods: list[Method]) -> str:
    return ", ".join(f'{CALL_STYLES[each.kind]}("{each.name}")' for each in methods)


def _base_of(cls: type) -> type:
    return next(each for each in cls.__mro__ if each.__name__ == "DriverClient")


def _entry(title: str, text: str) -> list[str]:
    return [title, *(f"    {line}".rstrip() for line in text.splitlines()), ""]


@functools.lru_cache(maxsize=128)
def names_of(cls: type) -> frozenset[str]:
    """Return the names of the attributes that a client class defines, and that hide others."""
    names = set(dir(cls))
    if getattr(cls, "cli", None) is None:  # the one that is made, which gives way
        names.discard("cli")
    return frozenset({*names, *getattr(cls, "__dataclass_fields__", ())})


@functools.lru_cache(maxsize=128)
def _of_class(cls: type) -> list[str]:
    """Describe the methods that a client class and its mixins add to those of all clients."""
    lines: list[str] = []
    for name in sorted(names_of(cls) - names_of(_base_of(cls))):
        function = inspect.getattr_static(cls, name, None)
        if inspect.isfunction(function) and not name.startswith("_"):
            lines += _entry(name + _signature_of(function), inspect.getdoc(function) or "")
    return lines


def _signature_of(function: Callable[..., Any]) -> str:
    """Write the signature of a method of a client class, without `self` and quotes."""
    signature = inspect.signature(function)
    shown = [
        each.replace(annotation=_unquoted(each.annotation))
        for each in list(signature.parameters.values())[1:]
    ]
    returns = _unquoted(signature.return_annotation)
    return str(signature.replace(parameters=shown, return_annotation=returns))


def _unquoted(annotation: Any) -> Any:
    return Verbatim(annotation) if isinstance(annotation, str) else annotation


# ---------------------------------------------------------------------- a signature from its text


@functools.lru_cache(maxsize=1024)
def signature_from(text: str) -> inspect.Signature:
    """Parse a signature's names and kinds; `(*args, **kwargs)` if the text is not a signature."""
    if not 0 < len(text) <= MAX_SIGNATURE:
        return _ANYTHING
    with DeferAllSignals():  # a signal handler's exception must not become the cached result
        try:
            return _parsed(f"def _{text}: ...")
        except (SyntaxError, ValueError, MemoryError, RecursionError):  # the parser's errors
            return _ANYTHING


def _parsed(source: str) -> inspect.Signature:
    [function] = ast.parse(source).body
    if not isinstance(function, ast.FunctionDef) or len(function.body) != 1:
        return _ANYTHING
    return inspect.Signature(
        _parameters(function.args, source),
        return_annotation=_source(function.returns, source, inspect.Signature.empty),
    )


def _parameters(args: ast.arguments, source: str) -> list[inspect.Parameter]:
    before = len(args.posonlyargs) + len(args.args) - len(args.defaults)
    defaults = [*[None] * before, *args.defaults]
    only, other = defaults[: len(args.posonlyargs)], defaults[len(args.posonlyargs) :]
    rows: list[tuple[Any, ast.arg, ast.expr | None]] = [
        *(
            (inspect.Parameter.POSITIONAL_ONLY, *row)
            for row in zip(args.posonlyargs, only, strict=True)
        ),
        *(
            (inspect.Parameter.POSITIONAL_OR_KEYWORD, *row)
            for row in zip(args.args, other, strict=True)
        ),
        *([(inspect.Parameter.VAR_POSITIONAL, args.vararg, None)] if args.vararg else []),
        *(
            (inspect.Parameter.KEYWORD_ONLY, *row)
            for row in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        ),
        *([(inspect.Parameter.VAR_KEYWORD, args.kwarg, None)] if args.kwarg else []),
    ]
    empty = inspect.Parameter.empty
    return [
        inspect.Parameter(
            each.arg,
            kind,
            default=_source(default, source, empty),
            annotation=_source(each.annotation, source, empty),
        )
        for kind, each, default in rows
    ]


def _source(node: ast.expr | None, source: str, otherwise: Any) -> Any:
    return otherwise if node is None else Verbatim(ast.get_source_segment(source, node) or "...")
