"""Run a program, or an interactive shell, that uses an exporter: the command `shell`.

The exporter of a configuration runs in this process, in a Trio loop of its own in another thread.
The main thread waits for the program, so that it is free for signals and for the terminal: a driver
that blocks the loop must not keep the user's shell from ending or being stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from .._api.serving import serve_leased
from .._exporter.tree import failed_reset
from .._io.portal import start_blocking_portal
from .._io.sockets import private_socket_path
from .._util.log_lines import LOG_LINE, LineFormatter
from .._util.stderr_log import StderrHandler
from .._util.stdio import standard_streams
from ..client._runner import portal_for
from ..common._env import exporter_address
from ..config._in_use import in_use
from ..config.exporter import ExporterConfigV1Alpha1
from ..driver import Driver
from ..errors import ConfigurationError
from ._configured import load_configured
from ._connecting import Access, connected, places_to
from ._foreground import Files, SignalInbox, run_in_foreground
from ._hooks import HookRunner, hooks_of
from ._notices import ending_told, write_notice
from ._options import SetupError
from ._shells import child_environment, interactive_shell
from ._signals import reset_signals

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Program", "run_at", "run_with"]

_logger: Final = logging.getLogger("jumpstarter.cli")

_ALL: Final = ("*",)  # the drivers are the user's own, and so are their clients


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A program that runs, and the place of its exporter's log.

    Attributes:
        command: The program and its arguments; empty for the user's shell.
        exporter_logs: Whether the exporter's log goes to stderr in any case.
        log_level: The lowest level that is logged.
    """

    command: Sequence[str]
    exporter_logs: bool
    log_level: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Exporter:
    """The facts that a program gets about its exporter."""

    name: str
    environment: Mapping[str, str]
    motd: str = ""


_Tell: TypeAlias = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Lines:
    """Prints lines for the user.

    Attributes:
        place: Called while a client waits for its turn; None for the log.
        notice: Called when its session is about to end, or has ended.
    """

    place: _Tell | None
    notice: _Tell


def run_with(program: Program, name: str | None, file: Path | None) -> int:
    """Serve the exporter of a configuration to a program. Call it in the main thread.

    Args:
        program: The program.
        name: The exporter's name.
        file: The path of a configuration, instead of a name.

    Returns:
        The exit code of the program; 128 + N if signal N arrived before it started.

    Raises:
        ConfigurationError: Nothing can be served.
    """

    def start(stack: ExitStack, _lines: _Lines) -> _Exporter:
        def take(config: ExporterConfigV1Alpha1) -> None:
            """Hold the configuration before its drivers are made, until they are closed."""
            stack.enter_context(in_use(config.path, exclusive=bool(config.exclusive)))

        try:
            driver, config = load_configured(name, file, take)
        except SetupError as exc:
            raise ConfigurationError(str(exc)) from None  # the text has the cause
        path = stack.enter_context(_serving(driver, hooks_of(config)))
        meta = config.metadata
        environment = child_environment(path, meta.name, meta.labels, allow=_ALL)
        return _Exporter(name=meta.name, environment=environment, motd=config.motd or "")

    return _run(program, start)


def run_at(program: Program, address: str, access: Access) -> int:
    """Run a program that uses a running exporter. Call it in the main thread.

    Args:
        program: The program.
        address: The exporter's address, in one of the forms of `JUMPSTARTER_HOST`.
        access: How to reach it.

    Returns:
        The exit code of the program; 128 + N if signal N arrived before it started.

    Raises:
        JumpstarterException: The exporter cannot be reached.
    """

    def start(stack: ExitStack, lines: _Lines) -> _Exporter:
        session = _enter(stack, program, address, access, lines)
        host = exporter_address(address)
        name = _name_of(host)
        environment = child_environment(
            host,
            name,
            {},
            allow=access.allow or None,
            token=access.token(),
            session=session,
            claim=access.claims(host),
        )
        return _Exporter(name=name, environment={**environment, **access.environment()})

    return _run(program, start)


def _enter(
    stack: ExitStack, program: Program, address: str, access: Access, lines: _Lines
) -> str | None:
    """Connect to the exporter, and stay connected if there is a reason to.

    So what is wrong is told here, and not by every `j`; and at an exporter in exclusive use, this
    process waits for a turn, and holds it as long as the program runs.

    Returns:
        The key of the session at an exporter in exclusive use.
    """
    with ExitStack() as connection:
        client = connection.enter_context(connected(address, access, tell=lines.place))
        session = client.channel.channel.session
        if program.exporter_logs:
            connection.enter_context(client.log_stream())
        if session is not None:
            portal = portal_for(client, "shell", "connect_async()")
            told = ending_told(client, lines.notice)
            connection.enter_context(places_to(lines.notice))
            connection.enter_context(portal.wrap_async_context_manager(told))
        if program.exporter_logs or session is not None:
            stack.push(connection.pop_all())
    return session


def _name_of(address: str) -> str:
    """Return a short name for the exporter at an address."""
    scheme, _, rest = address.partition(":")
    return Path(rest).stem if scheme == "unix" else rest.removeprefix("//")


def _run(program: Program, start: Callable[[ExitStack, _Lines], _Exporter]) -> int:
    reset_signals()
    is_interactive = not program.command and os.isatty(0)
    with ExitStack() as stack:
        files = Files()
        stack.callback(files.close)
        inbox = stack.enter_context(SignalInbox())
        try:
            is_quiet = is_interactive and not program.exporter_logs  # a log garbles a terminal
            silence = files.silence if is_quiet else None
            stack.enter_context(_output_of(program, silence))
            lines = _Lines(
                # Otherwise the log, which is on stderr, has it.
                place=files.write_line if is_quiet else None,
                notice=partial(write_notice, files.stderr),
            )
            exporter = start(stack, lines)
        except KeyboardInterrupt:
            return 128 + (inbox.interrupted or signal.SIGINT)
        environment, command = dict(exporter.environment), list(program.command)
        if not command:
            command, environment = interactive_shell(environment, exporter.name)
        if is_interactive and exporter.motd:
            files.write(exporter.motd.rstrip("\n") + "\n")
        return run_in_foreground(command, environment, files, inbox, hang_up=is_interactive)


@contextmanager
def _output_of(program: Program, silence: Callable[[], None] | None) -> Iterator[None]:
    """Send the log, and the output of drivers, to stderr, or nowhere if it is to be silent."""
    if silence is None:
        level = program.log_level.upper()
        with standard_streams(level, LineFormatter(LOG_LINE), until_exit=False):
            for handler in logging.getLogger().handlers:
                if isinstance(handler, StderrHandler):
                    handler.setLevel(level)  # drivers set the levels of their own loggers
            yield
        return
    silence()
    nowhere = logging.NullHandler()  # without any handler, logging prints warnings
    logging.getLogger().addHandler(nowhere)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(nowhere)


@contextmanager
def _serving(driver: Driver, hooks: HookRunner | None) -> Iterator[str]:
    """Serve a driver tree on a private socket, hold a session with it, and yield its path."""
    with private_socket_path() as path, start_blocking_portal(name="exporter") as portal:
        managed = portal.wrap_async_context_manager(serve_leased(driver, f"unix:{path}", hooks))
        try:
            server = managed.__enter__()
        except (Exception, SystemExit) as exc:
            if reason := failed_reset(exc):
                _logger.debug("%s", reason, exc_info=True)
                text = f"{reason}: {type(exc).__name__}: {exc}"
                raise ConfigurationError(" ".join(text.split())) from None
            raise
        with ExitStack() as stack:
            stack.push(managed)
            held = server.hold("jumpstarter shell")
            stack.enter_context(portal.wrap_async_context_manager(held))
            yield str(path)
