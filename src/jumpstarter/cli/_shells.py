"""The environment of programs that use an exporter, and how each interactive shell is started."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ..config.env import (
    JMP_CLAIM,
    JMP_DRIVERS_ALLOW,
    JMP_EXPORTER,
    JMP_EXPORTER_LABELS,
    JMP_GRPC_PASSPHRASE,
    JMP_NO_CLAIM,
    JMP_SESSION,
    JUMPSTARTER_HOST,
)

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["child_environment", "interactive_shell"]

_SUPPRESS_WARNINGS: Final = "_JMP_SUPPRESS_DRIVER_WARNINGS"
_UNSAFE: Final = "UNSAFE"  # allows every client class
# Characters that no shell expands in a prompt.
_EXPANDED: Final = re.compile(r"[^\w ./:@+,=~\[\]-]")


def child_environment(
    host: str,
    name: str,
    labels: Mapping[str, str],
    *,
    allow: Sequence[str] | None,
    token: str | None = None,
    session: str | None = None,
    claim: bool | str = True,
) -> dict[str, str]:
    """Return the environment of a program that uses an exporter.

    Args:
        host: The exporter's address, or the path of its socket.
        name: The exporter's name.
        labels: The exporter's labels.
        allow: Patterns of client classes that may be imported; `["*"]` allows all. None leaves it
            to the environment of this process.
        token: The exporter's token, if it has one.
        session: The session that the program takes part in, at an exporter in exclusive use.
        claim: False lets the program use such an exporter without a turn. A text is the path of
            the driver at whose board it has one.
    """
    environment = {
        **os.environ,
        JUMPSTARTER_HOST: host,
        JMP_EXPORTER: name,
        _SUPPRESS_WARNINGS: "1",
    }
    for each in (
        JMP_EXPORTER_LABELS,
        JMP_GRPC_PASSPHRASE,
        JMP_CLAIM,
        JMP_NO_CLAIM,
        JMP_SESSION,
    ):  # of a shell around this one
        environment.pop(each, None)
    if token:
        environment[JMP_GRPC_PASSPHRASE] = token
    if session:
        environment[JMP_SESSION] = session
    if isinstance(claim, str):
        environment[JMP_CLAIM] = claim
    if not claim:
        environment[JMP_NO_CLAIM] = "1"
    if labels:
        pairs = (f"{key}={value}" for key, value in sorted(labels.items()))
        environment[JMP_EXPORTER_LABELS] = ",".join(pairs)
    if allow is not None:
        environment[JMP_DRIVERS_ALLOW] = _UNSAFE if "*" in allow else ",".join(allow)
    _make_j_found(environment)
    return environment


def _make_j_found(environment: dict[str, str]) -> None:
    """Append the directory of `j` to PATH, if an environment was used without activating it."""
    path = environment.get("PATH", os.defpath)
    scripts = Path(sys.executable).parent
    if shutil.which("j", path=path) is None and (scripts / "j").exists():
        environment["PATH"] = f"{path}{os.pathsep}{scripts}"


def interactive_shell(
    environment: Mapping[str, str], context: str
) -> tuple[list[str], dict[str, str]]:
    """Return the command of the user's shell, and its environment with a prompt.

    Args:
        environment: The environment of its programs. `SHELL` is the user's shell.
        context: What the prompt names.
    """
    shell = environment.get("SHELL") or "/bin/sh"
    name = Path(shell).name
    context = _EXPANDED.sub("?", context)
    has_colors = environment.get("TERM", "dumb") != "dumb" and not environment.get("NO_COLOR")
    if name == "bash":
        codes = (f"\\[\033[{code}m\\]" if has_colors else "" for code in (90, 93, 0))
        prompt = _prompt("\\W ", context, *codes)
        return [shell, "--norc", "--noprofile"], {**environment, "PS1": prompt}
    if name == "zsh":
        colors = ("%F{8}", "%F{yellow}", "%f") if has_colors else ("", "", "")
        return [shell, "--no-rcs"], {**environment, "PS1": _prompt("%1~ ", context, *colors)}
    if name == "fish":  # set_color looks at the terminal itself
        steps = (f"; set_color {each}; printf '%s' '" for each in ("brblack", "yellow", "normal"))
        body = _prompt("';  prompt_pwd; printf ' ", context, *(f"'{each}" for each in steps))
        function = f"function fish_prompt; printf '{body}'; end"
        return [shell, "--init-command", function], dict(environment)
    return [shell], {**environment, "PS1": f"⚡{context} ➤ "}


def _prompt(directory: str, context: str, grey: str, yellow: str, plain: str) -> str:
    return f"{grey}{directory}{yellow}⚡{plain}{context} {yellow}➤{plain} "
