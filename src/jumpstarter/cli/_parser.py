"""Parse the arguments of `serve`, `run` and `doctor`, and report an error in one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from .._util.nearest import nearest_names

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["OneLineParser"]

_WRONG: Final = 2  # exit code


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage, as those of the other commands are."""

    def parse_known_args(  # type: ignore[override]  # whose overloads differ in the namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse arguments. An unknown option is an error before one that it may stand for is."""
        for each in args or ():
            if each == "--":
                break
            name = each.partition("=")[0]
            if name.startswith("--") and not self._knows(name):
                self.error(f"No such option {name!r}.{self._suggestion(name)}")
        return super().parse_known_args(args, namespace)

    def _knows(self, name: str) -> bool:
        return any(each.startswith(name) for each in self._option_string_actions)

    def _suggestion(self, name: str) -> str:
        near = nearest_names(name, self._option_string_actions)
        return f" Did you mean {near[0]!r}?" if near else ""

    def error(self, message: str) -> NoReturn:
        """Print a line, and end the program with exit code 2."""
        hint = "" if "Did you mean" in message else f" (see {self.prog} --help)"
        self.exit(_WRONG, f"{self.prog}: error: {message}{hint}\n")
