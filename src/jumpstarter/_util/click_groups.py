"""Click commands that this library's own have in common.

Groups suggest names, and make a command when it is requested. A command may have negative numbers
as arguments.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Final

from .extras import requires_extra
from .nearest import nearest_names

with requires_extra("cli", "a command line"):
    import click
    from click.shell_completion import CompletionItem

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CommandWithNumbers", "LazyGroup", "SuggestingGroup", "suggestion"]

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


class CommandWithNumbers(click.Command):
    """A command for which a negative number is an argument, and no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            click.UsageError: An option is unknown, or the arguments do not fit.
        """
        if not ctx.resilient_parsing:
            self._find_unknown(ctx, args)
        # click would take a number for an option.
        ctx.ignore_unknown_options = any(map(_is_number, args))
        return super().parse_args(ctx, args)

    def _find_unknown(self, ctx: click.Context, args: list[str]) -> None:
        try:
            self.make_parser(ctx).parse_args(["0" if _is_number(each) else each for each in args])
        except click.NoSuchOption as exc:
            text = exc.format_message()
            if any(isinstance(each, click.Argument) for each in self.params):
                end = "" if text.endswith((".", "?")) else "."
                text += f"{end} Put -- before an argument that begins with a dash."
            raise click.UsageError(text, ctx) from exc
        except click.UsageError:
            pass  # `parse_args` of click finds it again


def _is_number(text: str) -> bool:
    return text[:1] == "-" and text[1:2] in set("0123456789.")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a question with the known names that look like a name, or "" if none does."""
    near = nearest_names(name, known, _MAX_NAMES)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
