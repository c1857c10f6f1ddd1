"""Decide whether async code is written for Trio or for asyncio.

Trio is this library's own loop. Code for asyncio runs in the asyncio lane of its exporter or
client. The first of these rules that applies decides:

1. Said: the class has `async_library = "trio"` or `"asyncio"`.
2. Switched: serving has the argument `async_library=`, in place of the two guesses below.
3. Seen: the module of the function has something of Trio, or of asyncio or a library for it, among
   its globals. Trio wins.
4. Neither: asyncio, if anything else of the tree is asyncio's, since such code may await it
   directly; otherwise Trio.

This module imports neither Trio nor asyncio, and knows neither drivers nor clients.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ASYNCIO",
    "TRIO",
    "UNDECIDED",
    "Choice",
    "advice_for",
    "choose",
    "first_of_asyncio",
    "innermost",
    "is_in_wrong_loop",
    "library_of_class",
    "library_of_client_class",
    "library_of_function",
    "library_of_manager",
    "said_by",
]

TRIO: Final = "trio"
ASYNCIO: Final = "asyncio"
_ATTRIBUTE: Final = "async_library"
_OURS: Final = __name__.partition(".")[0]
_MAX_LAYERS: Final = 100  # decorators around one function that are examined

# Libraries whose presence in a module says that its code is asyncio's.
_OF_ASYNCIO: Final = (
    "asyncio",
    "aiofiles",
    "aiohttp",
    "aiomqtt",
    "anyio._backends._asyncio",
    "asyncssh",
    "bleak",
    "bumble",
    "opendal",
    "pysnmp",
    "qemu",
    "serial_asyncio",
    "serial_asyncio_fast",
    "websockets",
)


# Texts of the exceptions that code for one library raises in the loop of the other.
_WRONG_LOOP: Final = (
    "no running event loop",
    "There is no current event loop",
    "unrecognized yield message",  # Trio, of an awaited Future
    "must be called from async context",  # Trio's functions outside of Trio
    "Task got bad yield",  # asyncio, of an awaited function of Trio
)


class Choice(NamedTuple):
    """A library, and why it was chosen.

    Attributes:
        library: `"trio"`, `"asyncio"`, or "" if no rule applies.
        reason: Why, to follow "because".
    """

    library: str
    reason: str


UNDECIDED: Final = Choice("", "")
_OUR_OWN: Final = Choice(TRIO, "it is jumpstarter's own")


def said_by(cls: type) -> Choice:
    """Return what a class says of itself.

    Raises:
        ConfigurationError: It says something else than `"trio"` or `"asyncio"`.
    """
    said = getattr(cls, _ATTRIBUTE, None)
    if said is None:
        return UNDECIDED
    name = f"{cls.__module__}.{cls.__qualname__}"
    if said not in (TRIO, ASYNCIO):
        text = f"{_ATTRIBUTE} of {name} is {said!r:.40}; it must be 'trio' or 'asyncio'"
        raise ConfigurationError(text)
    return Choice(said, f"{name} has {_ATTRIBUTE} = {said!r}")


_functions: Final[WeakKeyDictionary[Any, Choice]] = WeakKeyDictionary()


def library_of_function(function: Any) -> Choice:
    """Return which library is seen in the module of a function, below its decorators."""
    function = getattr(function, "__func__", function)
    try:
        found = _functions.get(function)
        if found is None:
            found = _functions[function] = _seen(function)
    except TypeError:  # it cannot be hashed, or cannot be referred to weakly
        return _seen(function)
    return found


def _seen(function: Any) -> Choice:
    module_globals = getattr(innermost(function), "__globals__", None)
    return UNDECIDED if module_globals is None else _seen_in(module_globals)


def library_of_manager(manager: Any) -> Choice:
    """Return which library is seen in the module of an async context manager's function or class.

    Args:
        manager: The context manager, before it was entered.
    """
    function = getattr(manager, "func", None)  # of `asynccontextmanager`
    return library_of_function(type(manager).__aenter__ if function is None else function)


def innermost(function: Any) -> Any:
    """Return the function below partials, decorators, pydantic's checks, and the bound object."""
    for _ in range(_MAX_LAYERS):
        for attribute in ("__func__", "func", "raw_function", "__wrapped__"):
            inner = inspect.getattr_static(function, attribute, None)
            if isinstance(inner, types.MemberDescriptorType | types.GetSetDescriptorType):
                inner = getattr(function, attribute)  # a slot, as of a bound method or a partial
            if callable(inner):
                function = inner
                break
        else:
            break
    if not hasattr(function, "__globals__") and not isinstance(function, type):
        function = inspect.getattr_static(type(function), "__call__", function)
    return function


def _seen_in(module_globals: Mapping[str, Any]) -> Choice:
    module = str(module_globals.get("__name__"))
    if module.partition(".")[0] == _OURS:
        return _OUR_OWN
    asyncio_name = ""
    for name, value in list(module_globals.items()):
        origin = _origin(value)
        if _is_of(origin, (TRIO,)):
            return Choice(TRIO, f"its module {module} has {name!r}, which is of Trio")
        if not asyncio_name and _is_of(origin, _OF_ASYNCIO):
            asyncio_name = name
    if asyncio_name:
        text = f"its module {module} has {asyncio_name!r}, which is of asyncio or a library for it"
        return Choice(ASYNCIO, text)
    return UNDECIDED


def _origin(value: object) -> str:
    """Return the name of the module that a global is or comes from, without running its code."""
    if isinstance(value, types.ModuleType):
        name: object = vars(value).get("__name__")
    elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        name = value.__module__
    else:
        name = type(value).__module__
    return name if isinstance(name, str) else ""


def _is_of(origin: str, libraries: Iterable[str]) -> bool:
    return any(origin == each or origin.startswith(f"{each}.") for each in libraries)


def _find_async(cls: type) -> Iterator[Any]:
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == _OURS:
            continue
        for attribute in vars(base).values():
            function = innermost(attribute)
            code = getattr(function, "__code__", None)
            if isinstance(code, types.CodeType) and code.co_flags & (
                inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
            ):
                yield function


def library_of_class(cls: type) -> Choice:
    """Return what a class says of itself, or what is seen in the modules of its async methods."""
    said = said_by(cls)
    if said.library:
        return said
    seen = [library_of_function(function) for function in _find_async(cls)]
    name = f"{cls.__module__}.{cls.__qualname__}"
    for library in (ASYNCIO, TRIO):
        for choice in seen:
            if choice.library == library:
                return Choice(library, f"{name} is: {choice.reason}")
    return UNDECIDED


def library_of_client_class(cls: type) -> Choice:
    """Return what a client class says of itself, or what is seen in its module.

    Its module, since asyncio code of a client class is often a function within a blocking method.
    """
    said = said_by(cls)
    for base in () if said.library else cls.__mro__:
        module = sys.modules.get(base.__module__)
        seen = UNDECIDED if module is None else _seen_in(vars(module))
        if seen is _OUR_OWN:
            break
        if seen.library:
            return Choice(seen.library, f"{cls.__module__}.{cls.__qualname__} is: {seen.reason}")
    return said


def first_of_asyncio(choices: Iterable[Choice]) -> Choice:
    """Return the first choice that is asyncio, or `UNDECIDED`."""
    return next((each for each in choices if each.library == ASYNCIO), UNDECIDED)


def is_in_wrong_loop(exc: BaseException) -> bool:
    """Return True if code for one library has met the loop of the other."""
    if type(exc) not in (RuntimeError, TypeError):
        return False
    text = str(exc)
    return any(each in text for each in _WRONG_LOOP)


def choose(said: Choice, switch: str | None, seen: Choice, others: Choice) -> Choice:
    """Apply the rules to one function.

    Args:
        said: By its class.
        switch: Passed by the code that serves; None lets the library guess.
        seen: In its module.
        others: The first class of the tree that is asyncio's, if there is one.
    """
    if said.library:
        return said
    if switch and seen is not _OUR_OWN:
        return Choice(switch, f"this exporter was started with {_ATTRIBUTE}={switch!r}")
    if seen.library:
        return seen
    if others.library == ASYNCIO:
        text = "nothing in its module decides, and it is served together with asyncio code"
        return Choice(ASYNCIO, f"{text}: {others.reason}")
    return Choice(TRIO, "nothing in its module is of asyncio, and nothing else of the tree is")


def advice_for(what: str, choice: Choice, *, serves: bool = True) -> str:
    """Explain why code runs in the loop that it does, and how to choose the other one.

    Args:
        what: The code, to begin the sentence.
        choice: Its library.
        serves: True for code of drivers, for which there is a switch.
    """
    other = TRIO if choice.library == ASYNCIO else ASYNCIO
    place = "in the asyncio lane" if choice.library == ASYNCIO else "in Trio"
    text = (
        f"{what} runs {place}, because {choice.reason}. If it is written for {other}, put "
        f'async_library: ClassVar[str] = "{other}" into its class'
    )
    if serves:
        text += (
            f', or serve with async_library="{other}" (on the command line: '
            f"--async-library {other})"
        )
    return text
