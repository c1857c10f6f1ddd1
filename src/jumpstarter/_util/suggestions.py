"""A click group that suggests the nearest name for a command that it does not have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .extras import requires_extra

with requires_extra("cli", "a command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SuggestingGroup", "suggestion"]

_MAX_NAMES: Final = 3  # that one message suggests


class SuggestingGroup(click.Group):
    """A group whose error for an unknown command names those that look like it.

    click suggests names too, from version 8.3 on, but only those in `Group.commands`: of a group
    that makes its commands when they are requested, it knows none.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names, and the arguments after it.

        Raises:
            click.UsageError: There is no such command.
        """
        name = args[0]
        unknown = not name.startswith("-") and self.get_command(ctx, name) is None
        if unknown and not ctx.resilient_parsing:
            ctx.fail(f"No such command {name!r}.{suggestion(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a question with the known names that look like a name, or "" if none does."""
    from difflib import get_close_matches  # noqa: PLC0415 - for an error only

    near = get_close_matches(name, list(known), _MAX_NAMES)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
