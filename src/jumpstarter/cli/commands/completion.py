"""The command `completion`: the script that lets a shell complete `jumpstarter`, `jmp` and `j`."""

from __future__ import annotations

from typing import Final

from ..._util.extras import requires_extra

with requires_extra("cli", "the command line"):
    import click
    from click.shell_completion import ShellComplete, get_completion_class

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]

_PROGRAMS: Final = ("jumpstarter", "jmp", "j")


_HELP: Final = """Print a script that completes jumpstarter, jmp and j in SHELL.

\b
bash, in ~/.bashrc:
    eval "$(jumpstarter completion bash)"
zsh, in ~/.zshrc, after compinit:
    eval "$(jumpstarter completion zsh)"
fish, in ~/.config/fish/config.fish:
    jumpstarter completion fish | source
"""


@click.command("completion", help=_HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script."""
    maker = get_completion_class(shell)
    assert maker is not None, "click knows these shells"
    for program in _PROGRAMS:
        variable = f"_{program.upper()}_COMPLETE"
        # Not the method of the class for bash, which runs bash to look at its version.
        script = ShellComplete.source(maker(click.Command(program), {}, program, variable))
        click.echo(script)
