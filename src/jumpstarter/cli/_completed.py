"""Describe the commands that argparse reads to click, whose completion scripts know click only."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._util.extras import requires_extra

with requires_extra("cli", "the command line"):
    import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["complete_exporter", "completed_command"]

_EXPORTER: Final = "exporter"  # the option that takes the name of a configuration


def completed_command(name: str) -> click.Command:
    """Return a command with the options of `serve`, `run` or `doctor`, to complete them only."""
    # No public attribute has the options; but programs that document or complete commands have
    # relied on this one for as long as argparse exists.
    actions = _parser_of(name)._actions  # noqa: SLF001
    parameters = [_parameter(each, f"p{index}") for index, each in enumerate(actions)]
    return click.Command(name, params=parameters, add_help_option=False)


def _parser_of(name: str) -> argparse.ArgumentParser:
    if name == "serve":
        from ._serve import make_parser  # noqa: PLC0415 - it imports the exporter
    elif name == "run":
        from ._run import make_parser  # noqa: PLC0415 - the same
    else:
        from ._doctor import make_parser  # noqa: PLC0415 - for this command only
    return make_parser()


def _parameter(action: argparse.Action, name: str) -> click.Parameter:
    kind: Any = None
    if action.choices is not None:
        kind = click.Choice([str(each) for each in action.choices])
    elif action.type is Path:
        kind = click.Path()
    if not action.option_strings:
        return click.Argument([name], required=False, type=kind)
    return click.Option(
        [name, *action.option_strings],
        is_flag=action.nargs == 0,
        help=action.help,
        type=kind,
        shell_complete=complete_exporter if action.dest == _EXPORTER else None,
    )


def complete_exporter(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of a configuration."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - slow

    from ..config.exporter import ExporterConfigV1Alpha1 as Config  # noqa: PLC0415 - the same

    paths = [
        path
        for directory in (Config.BASE_PATH, Config.SYSTEM_CONFIG_PATH)
        for path in directory.glob("*.yaml")
    ]
    names = sorted({path.stem for path in paths})
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
