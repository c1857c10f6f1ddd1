"""Read YAML, with the line of each value, so that an error can name the place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from .._util.extras import requires_extra
from ..errors import ConfigurationError
from ._keys import explain_unknown_key, meant_key

with requires_extra("cli", "jumpstarter.config"):
    import yaml
    from pydantic import BaseModel, ValidationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Source", "read_source"]

M = TypeVar("M", bound=BaseModel)
_BOOL: Final = "tag:yaml.org,2002:bool"
_STR: Final = "tag:yaml.org,2002:str"
_WORDS: Final = {"on", "off", "yes", "no", "y", "n"}  # booleans in YAML 1.1, but names of methods
_MAX_VALUES: Final = 1_000_000  # of a document: its files can be large, and are read at a start
_Place: TypeAlias = tuple[str | int, ...]  # keys and indices from the root on


class _Loader(yaml.SafeLoader):
    """Names the place of a scalar that its type does not fit, for which PyYAML raises anything."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as exc:
            text = f"{node.value!r:.100} is not a valid {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from exc


class Source:
    """One document of YAML: its value, and where in the text each part of it is.

    Args:
        text: The document.
        name: Its name in messages.

    Raises:
        ConfigurationError: The text is not YAML, or a mapping has a key twice.
    """

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._lines: dict[_Place, int] = {}
        self._key_lines: dict[_Place, int] = {}  # a value may begin on the line after its key
        try:
            self.value: Any = self._construct(_Loader(text))
        except (yaml.MarkedYAMLError, yaml.reader.ReaderError, RecursionError) as exc:
            mark = getattr(exc, "problem_mark", None)
            line = "" if mark is None else f":{mark.line + 1}"
            why = getattr(exc, "problem", None) or exc
            raise ConfigurationError(f"{name}{line}: this is not YAML: {why}") from exc

    def _construct(self, loader: yaml.SafeLoader) -> Any:
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            self._lines.update(self._number((), root))
            self._check_size(root)
            return loader.construct_document(root)
        finally:
            loader.dispose()

    def _number(self, place: _Place, node: yaml.Node) -> Iterator[tuple[_Place, int]]:
        """Yield the line of each part of a document, and check that no key is there twice."""
        waiting: list[tuple[_Place, yaml.Node]] = [(place, node)]
        known: set[int] = set()  # an alias is the same node, and may even contain itself
        while waiting:
            place, node = waiting.pop()
            yield place, node.start_mark.line + 1
            if id(node) in known:
                continue
            known.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                waiting.extend(((*place, index), each) for index, each in enumerate(node.value))
            elif isinstance(node, yaml.MappingNode):
                self._check_keys(node)
                pairs = [(key, each) for key, each in node.value if _is_text(key)]
                waiting.extend(((*place, key.value), each) for key, each in pairs)
                lines = {(*place, key.value): key.start_mark.line + 1 for key, _ in pairs}
                self._key_lines.update(lines)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Check that no key is there twice, and take `on` and `off` for names, not for booleans."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not _is_text(key):
                continue
            if key.tag == _BOOL and key.value.lower() in _WORDS:
                key.tag = _STR
            if key.value in seen:
                text = f"{self._name}:{key.start_mark.line + 1}: the key {key.value!r} is there"
                raise ConfigurationError(f"{text} twice")
            seen.add(key.value)

    def _check_size(self, root: yaml.Node) -> None:
        """Refuse aliases that stand for so many values that reading them would take forever."""
        if _expanded_size(root, {}) > _MAX_VALUES:
            text = f"{self._name}: its aliases stand for more than {_MAX_VALUES:,} values"
            raise ConfigurationError(text)

    def where(self, place: _Place = ()) -> str:
        """Name a place, as in `"lab.yaml:12"`; the nearest one above it that has a line."""
        while place and place not in self._lines:
            place = place[:-1]
        line = self._lines.get(place)
        return self._name if line is None else f"{self._name}:{line}"

    def where_key(self, key: str) -> str:
        """Name the place of an outermost key; that of the document if it has no such key."""
        return self._where_key((key,))

    def load(self, model: type[M]) -> M:
        """Make an instance of a model of the value.

        Raises:
            ConfigurationError: The value does not fit. The text names each fault and its line.
        """
        hidden = self._hidden_keys(model)
        try:
            instance = model.model_validate(self.value)
        except (ValidationError, RecursionError) as exc:
            faults = [*hidden, *self._explain_all(exc, model)]
            # Without the cause, whose text has the values: a token may be among them.
            raise ConfigurationError("\n".join(faults)) from None
        if hidden:
            raise ConfigurationError("\n".join(hidden))
        return instance

    def _hidden_keys(self, model: type[BaseModel]) -> list[str]:
        """Return a fault for each key that only code may set, and no file."""
        if not isinstance(self.value, dict):
            return []
        found = [each for each in self.value if each in getattr(model, "NOT_IN_FILES", ())]
        return [self._unknown((key,), model) for key in found]

    def _unknown(self, place: _Place, model: type[BaseModel]) -> str:
        return f"{self._where_key(place)}: {place[-1]}: {explain_unknown_key(model, place)}"

    def _where_key(self, place: _Place) -> str:
        line = self._key_lines.get(place)
        return self.where(place) if line is None else f"{self._name}:{line}"

    def _explain_all(self, exc: Exception, model: type[BaseModel]) -> list[str]:
        if not isinstance(exc, ValidationError):
            return [f"{self._name}: it is nested too deeply"]
        errors = exc.errors(include_url=False)
        # A key that is mistyped is missing too, which one line says.
        meant = {
            (*loc[:-1], meant_key(model, loc))
            for error in errors
            if error["type"] == "extra_forbidden" and (loc := error["loc"])
        }
        return [
            self._explain(error, model)
            for error in errors
            if error["type"] != "missing" or error["loc"] not in meant
        ]

    def _explain(self, error: Mapping[str, Any], model: type[BaseModel]) -> str:
        """Write one line for a fault that pydantic has found."""
        place: _Place = ()
        shown: list[str] = []
        loc: _Place = tuple(error["loc"])
        for index, part in enumerate(loc):
            is_last = index == len(loc) - 1  # a missing key is in no line
            # A key that is a number has its line under the text that stands in the file.
            step = part if (*place, part) in self._lines else str(part)
            if (*place, step) in self._lines or (is_last and error["type"] == "missing"):
                place = (*place, step)
                shown.append(str(part))
        title = ".".join(shown) or "the document"
        if error["type"] == "extra_forbidden":
            return f"{self._where_key(place)}: {title}: {explain_unknown_key(model, loc)}"
        return f"{self.where(place)}: {title}: {error['msg']}"


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values below a node, those of each alias as often as it is used."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 1  # for an alias within itself, which is refused later
        is_map = isinstance(node, yaml.MappingNode)
        below = [each for pair in node.value for each in pair] if is_map else node.value
        known[id(node)] = 1 + sum(_expanded_size(each, known) for each in below)
    return known[id(node)]


def _is_text(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode)


_MAX: Final = 10 * 1024 * 1024  # bytes of a configuration


def read_source(path: Path) -> Source:
    """Read a file.

    Raises:
        OSError: It cannot be read.
        ConfigurationError: It is not YAML, not UTF-8, or larger than 10 MiB.
    """
    with path.open("rb") as file:
        data = file.read(_MAX + 1)
    if len(data) > _MAX:
        raise ConfigurationError(f"{path}: a configuration of more than 10 MiB is not read")
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: this is not UTF-8: {exc}") from exc
    return Source(text, str(path))
