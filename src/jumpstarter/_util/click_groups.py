"""Groups of click commands that suggest names, and that make a command when it is requested."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Final

from .extras import requires_extra

with requires_extra("cli", "a command line"):
    import click
    from click.shell_completion import CompletionItem

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LazyGroup", "SuggestingGroup", "suggestion"]

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
        if not name.startswith("-") and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            if name not in known and self.get_command(ctx, name) is None:
                ctx.fail(f"No such command {name!r}.{suggestion(name, known)}")
        return super().resolve_command(ctx, args)


class LazyGroup(SuggestingGroup):
    """A group that lists its commands, for the help and for completion, without making them."""

    @abstractmethod
    def list_described(self) -> list[tuple[str, str]]:
        """Return the names of the commands, each with its description in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - of click.Group
        """Return the names of the commands."""
        return [name for name, _ in self.list_described()]

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - of click.Group
        formatter: click.HelpFormatter,
    ) -> None:
        """List the commands in the help."""
        if rows := self.list_described():
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command, or an option."""
        items = [
            CompletionItem(name, help=text)
            for name, text in self.list_described()
            if name.startswith(incomplete)
        ]
        return items + click.Command.shell_complete(self, ctx, incomplete)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a question with the known names that look like a name, or "" if none does."""
    from difflib import get_close_matches  # noqa: PLC0415 - for an error only

    near = get_close_matches(name, list(known), _MAX_NAMES)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
