"""Run the hooks of an exporter's configuration at the beginning and the end of each session.

A hook's script runs in a process group of its own, with `JUMPSTARTER_HOST` in its environment, so
that `j` works in it. Its output goes to the log. At its timeout the group gets SIGTERM, and five
seconds later SIGKILL.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import trio

from ..config.exporter import ExporterConfigV1Alpha1, HookInstanceConfigV1Alpha1
from ..drivers._spawn import Program, end_program, spawn
from ._shells import child_environment

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["HookRunner", "hooks_of"]

_logger: Final = logging.getLogger("jumpstarter.hooks")
_MAX_LINE: Final = 4096  # bytes of a line in the log
# Seconds to read on after a hook has ended, if its children still hold its pipes open.
_OUTPUT_GRACE: Final = 1.0
_SHELL: Final = "/bin/sh"
_FAILED: Final = 1  # exit code of an exporter that a hook ends
# For programs that would ask questions or draw on a terminal.
_NOT_INTERACTIVE: Final = {
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
    "GIT_TERMINAL_PROMPT": "0",
}


class HookRunner:
    """Runs the hooks of one exporter. It is the runner of `_exporter.lease`.

    Args:
        config: The exporter's configuration.
        token: The exporter's token; empty for none.

    Attributes:
        exit: Set when the exporter is to end, since a hook has failed, or a session has ended.
        exit_code: The exporter's exit code then.
    """

    def __init__(self, config: ExporterConfigV1Alpha1, token: str = "") -> None:
        self.exit: trio.Event = trio.Event()
        self.exit_code: int = 0
        self._config = config
        self._token = token
        self._numbers: Iterator[int] = itertools.count(1)
        self._lease = ""  # its name

    async def begin(self, host: str, client: str) -> str:
        """Run `beforeLease`; see `LeaseRunner`."""
        self._lease = f"{self._config.metadata.name}-{next(self._numbers)}"
        return await self._run("beforeLease", self._config.hooks.before_lease, host, client)

    async def end(self, host: str, client: str) -> None:
        """Run `afterLease`; see `LeaseRunner`."""
        await self._run("afterLease", self._config.hooks.after_lease, host, client)
        if self._config.exit_on_lease_end:
            _logger.info("the session has ended, and exitOnLeaseEnd ends the exporter")
            self.exit.set()

    async def _run(
        self, name: str, hook: HookInstanceConfigV1Alpha1 | None, host: str, client: str
    ) -> str:
        """Run a hook, and return the reason why the session cannot begin, or an empty text."""
        if hook is None or not hook.script.strip():
            return ""
        _logger.info("%s runs for session %s of %s", name, self._lease, client)
        failure = await _execute(name, hook, self._environment(host, client))
        if not failure:
            _logger.info("%s has ended", name)
            return ""
        if hook.on_failure == "warn":
            _logger.warning("%s %s; onFailure: warn continues", name, failure)
            return ""
        _logger.error("%s %s; onFailure: %s", name, failure, hook.on_failure)
        if hook.on_failure == "exit":
            self.exit_code = _FAILED
            self.exit.set()
        return f"the exporter's {name} hook {failure}"

    def _environment(self, host: str, client: str) -> Mapping[str, str]:
        meta = self._config.metadata
        # Any class, since it is that of one of the exporter's own drivers.
        variables = child_environment(host, meta.name, meta.labels, allow=["*"], token=self._token)
        variables.pop("PS1", None)
        own = {"LEASE_NAME": self._lease, "CLIENT_NAME": client}
        return {**variables, **_NOT_INTERACTIVE, **own}


def hooks_of(config: ExporterConfigV1Alpha1, token: str = "") -> HookRunner | None:
    """Return the runner of a configuration's hooks, or None if it has none."""
    hooks = config.hooks
    has_any = hooks.before_lease is not None or hooks.after_lease is not None
    return HookRunner(config, token) if has_any or config.exit_on_lease_end else None


def _words(hook: HookInstanceConfigV1Alpha1) -> list[str]:
    """Return the program of a hook and its arguments."""
    script = hook.script.strip()
    if "\n" in script or not Path(script).is_file():
        return [hook.exec_ or _SHELL, "-c", hook.script]
    python = sys.executable if script.endswith(".py") else _SHELL
    return [hook.exec_ or python, script]


async def _execute(
    name: str, hook: HookInstanceConfigV1Alpha1, environment: Mapping[str, str]
) -> str:
    """Run a hook's script to its end or its timeout, and return how it has failed, if it has."""
    words = _words(hook)
    try:
        program = await spawn(words, environment=environment)
    except OSError as exc:
        return f"cannot run {words[0]}: {exc.strerror or exc}"
    try:
        with trio.move_on_after(hook.timeout):
            return await _follow(name, program)
        return f"was ended after {hook.timeout} s"
    finally:
        try:
            await end_program(program, f"the {name} hook", _logger)
        finally:
            program.close()


async def _follow(name: str, program: Program) -> str:
    """Log the output of a script until it ends, and return how it has failed, if it has."""
    async with program.stdout, program.stderr, trio.open_nursery() as nursery:
        nursery.start_soon(_log_lines, name, program.stdout)
        nursery.start_soon(_log_lines, name, program.stderr)
        try:
            code = await program.wait()
        except ChildProcessError as exc:
            return f"has ended, but {exc.strerror}"
        finally:
            nursery.cancel_scope.deadline = trio.current_time() + _OUTPUT_GRACE
    if code < 0:
        return f"was killed by signal {-code}"
    return f"failed with exit code {code}" if code else ""


async def _log_lines(name: str, stream: trio.abc.ReceiveStream) -> None:
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _MAX_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            _log_line(name, line)
    if rest:
        _log_line(name, rest)


def _log_line(name: str, line: bytes) -> None:
    text = line[:_MAX_LINE].decode(errors="replace").rstrip()
    # Without control characters, which could change what a terminal shows of the log.
    printable = "".join(each if each.isprintable() else " " for each in text)
    if printable.strip():
        _logger.info("%s: %s", name, printable)
