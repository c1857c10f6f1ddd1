"""Check the references between the drivers of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ._nearest import did_you_mean

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Ref", "RefChecker"]

N = TypeVar("N")


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A second place for a driver.

    Attributes:
        path: The place: names from the root on.
        target: Where the driver is: names from the root on, with dots between them.
        where: The line in the configuration, for messages.
    """

    path: tuple[str, ...]
    target: str
    where: str


class RefChecker(Generic[N]):
    """Checks references in a tree of drivers, or of their configurations.

    Args:
        root: The root of the tree.
        children_of: Returns what is below a node, by name.
        may_have_more: Says that a node may have children that `children_of` does not list.
    """

    def __init__(
        self,
        root: N,
        children_of: Callable[[N], Mapping[str, N]],
        may_have_more: Callable[[N], bool] = lambda _node: False,
    ) -> None:
        self._root = root
        self._children_of = children_of
        self._may_have_more = may_have_more
        self._targets: dict[int, N] = {}  # by the `id` of the node that refers to it

    def faults(self, refs: Sequence[Ref]) -> Iterator[str]:
        """Yield a line for each reference that leads nowhere, or back to itself."""
        resolved: list[tuple[Ref, N]] = []
        for ref in refs:
            node, _ = self._follow(ref.path)
            target, fault = self._follow(ref.target.split("."))
            if fault:
                yield f"{ref.where}: ref {ref.target!r} of {'.'.join(ref.path)!r}: {fault}"
            elif node is not None and target is not None:
                self._targets[id(node)] = target
                resolved.append((ref, node))
        for ref, node in resolved:
            if self._reaches(self._targets[id(node)], node):
                text = "it leads back to itself, so the tree would have no end"
                yield f"{ref.where}: ref {ref.target!r} of {'.'.join(ref.path)!r}: {text}"

    def fault_at(self, path: str) -> str:
        """Return why there is no node at a path, with dots between names; empty if there is one."""
        return "" if path == "." else self._follow(path.split("."))[1]

    def below(self, path: str) -> set[int]:
        """Return the `id` of the node at a path, and of all below it, also by references.

        Call it after `faults`, which follows the references.
        """
        node = self._root if path == "." else self._follow(path.split("."))[0]
        waiting, seen = [] if node is None else [node], set[int]()
        while waiting:
            node = waiting.pop()
            node = self._targets.get(id(node), node)
            if id(node) not in seen:
                seen.add(id(node))
                waiting.extend(self._children_of(node).values())
        return seen

    def _follow(self, path: Sequence[str]) -> tuple[N | None, str]:
        """Return the node at a path, or None and the reason if there is none."""
        node = self._root
        for index, step in enumerate(path):
            children = self._children_of(node)
            if step not in children:
                if self._may_have_more(node):
                    return None, ""
                place = ".".join(path[:index]) or "the root"
                hint = did_you_mean(step, children, "it has")
                return None, f"{place} has no driver {step!r} below it{hint}"
            node = children[step]
        return node, ""

    def _reaches(self, start: N, end: N) -> bool:
        """Return True if a node is another one, or is above it, also by references."""
        waiting, seen = [start], set[int]()
        while waiting:
            node = waiting.pop()
            if node is end:
                return True
            if id(node) not in seen:
                seen.add(id(node))
                waiting.extend(self._children_of(node).values())
                if id(node) in self._targets:
                    waiting.append(self._targets[id(node)])
        return False
