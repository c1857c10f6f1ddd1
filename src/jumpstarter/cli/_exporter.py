"""Serve the driver tree that the options of a command name, until a signal ends the exporter.

`cli._serve` describes what a program that starts an exporter can rely on.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import math
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from .._api.serving import serve_leased
from .._exporter.metrics import Metrics
from .._exporter.server import Server
from .._exporter.tree import failed_reset
from .._io.addresses import parse_address
from .._util.stdio import StandardStreams, standard_streams
from ..driver import Driver
from ..errors import JumpstarterException
from ._collector import collect_rarely
from ._log_format import TEXT, log_formatter
from ._metrics import load_http, metrics_served, status_served
from ._options import (
    ServeConfig,
    SetupError,
    check_certificate,
    check_options,
    check_sharing,
    load_driver,
    load_limits,
    load_tls,
    read_exclusive,
    read_token,
    startup_warnings,
)
from ._shortage import explain_shortage
from ._signals import Signals, reset_signals

if TYPE_CHECKING:  # they need an extra
    from ..config.exporter import ExporterConfigV1Alpha1
    from ._hooks import HookRunner

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["run_exporter"]

_logger = logging.getLogger("jumpstarter.cli")

_CANNOT_SERVE: Final = 2  # exit code


def run_exporter(options: argparse.Namespace, program: str, *, until_exit: bool = False) -> int:
    """Serve a driver tree until a signal ends the exporter.

    Call it in the program's main thread, since it handles signals.

    Args:
        options: The options of `serve` or `run`.
        program: The name of the command in messages.
        until_exit: This is the whole program, and drivers may print until it exits.

    Returns:
        The exit code.
    """
    reset_signals()
    level, line = options.log_level.upper(), log_formatter(options.log_format or TEXT)
    with ExitStack() as stack:
        try:
            streams = stack.enter_context(standard_streams(level, line, until_exit=until_exit))
        except (OSError, RuntimeError) as exc:
            if text := explain_shortage(exc):
                sys.stderr.write(f"{program}: {text}\n")
                return _CANNOT_SERVE
            raise
        if until_exit:
            atexit.register(stack.pop_all().close)
        try:
            with ExitStack() as held:
                return _run(options, streams, held, until_exit=until_exit)
        except (SetupError, JumpstarterException) as exc:
            streams.write_line(f"{program}: {exc}")
            return _CANNOT_SERVE
        except KeyboardInterrupt:  # while the driver was made, before signals are handled
            return 128 + signal.SIGINT


def _run(
    options: argparse.Namespace, streams: StandardStreams, held: ExitStack, *, until_exit: bool
) -> int:
    is_ready = False

    def announce(address: str) -> None:
        nonlocal is_ready
        is_ready = True
        if until_exit:
            collect_rarely()
        streams.announce(f"ready: {address}")

    try:
        config = _config_of(options, streams, held)
        return trio.run(_serve, config, options, streams, announce)
    except (Exception, SystemExit) as exc:
        if reason := failed_reset(exc):
            _logger.exception("%s", reason)
            raise SetupError(f"{reason}: {type(exc).__name__}: {exc}") from exc
        if isinstance(exc, SetupError | JumpstarterException):
            _logger.debug("nothing can be served", exc_info=True)
        elif not is_ready and (text := explain_shortage(exc)):
            raise SetupError(text) from exc
        raise


def _config_of(
    options: argparse.Namespace, streams: StandardStreams, held: ExitStack
) -> ServeConfig:
    """Read everything that the options name, and make the drivers. For the arguments see `_load`.

    Raises:
        SetupError: An option cannot be used.
    """
    address = parse_address(options.address)
    check_options(address, options)
    limits = load_limits(options.limit)
    token = read_token(options.token_file) or options.passphrase or ""
    context = load_tls(address, options)
    options.exclusive = read_exclusive(options.exclusive)
    loaded = _load(options, token, streams, held)
    check_sharing(options)
    metrics, status = (load_http(options, loaded.config, each) for each in ("metrics", "status"))
    check_certificate(address, options, metrics, status)
    return ServeConfig(
        address=address,
        limits=limits,
        token=token,
        context=context,
        driver=loaded.driver,
        hooks=loaded.hooks,
        metrics=metrics,
        status=status,
        name=options.driver or (loaded.config.metadata.name if loaded.config else ""),
    )


class _Loaded(NamedTuple):
    """An exporter that a module or a configuration describes."""

    driver: Driver
    hooks: HookRunner | None = None
    config: ExporterConfigV1Alpha1 | None = None


def _load(
    options: argparse.Namespace, token: str, streams: StandardStreams, held: ExitStack
) -> _Loaded:
    """Make the driver tree of a module, or of a configuration, and the runner of its hooks.

    Args:
        options: The command's options, to which those of the configuration are added.
        token: The secret of clients.
        streams: Where the log goes.
        held: Holds the configuration while its drivers are served.
    """
    if options.driver is not None:
        return _Loaded(load_driver(options.driver))
    from ..config._in_use import in_use  # noqa: PLC0415 - it needs an extra
    from ._configured import load_configured  # noqa: PLC0415 - the same
    from ._hooks import hooks_of  # noqa: PLC0415 - the same

    def take(config: ExporterConfigV1Alpha1) -> None:
        """Use what the configuration says, unless an option does, before its drivers are made."""
        if not options.exclusive:
            options.exclusive = config.exclusive
        if options.max_session is None:
            options.max_session = config.max_session
        options.operator = options.operator or config.operators
        if options.log_format is None and config.logFormat is not None:
            streams.use(log_formatter(config.logFormat))
        for other in held.enter_context(in_use(config.path, exclusive=bool(options.exclusive))):
            text = "%s serves %s too, and each resets the drivers under the clients of the other; "
            text += "if they are not virtual, end one of the two"
            _logger.warning(text, other, config.path)

    driver, config = load_configured(options.exporter, options.config, take)
    _logger.info("the drivers of exporter %r are those of %s", config.metadata.name, config.path)
    return _Loaded(driver, hooks_of(config, token), config)


async def _serve(
    config: ServeConfig,
    options: argparse.Namespace,
    streams: StandardStreams,
    announce: Callable[[str], None],
) -> int:
    signals = Signals()
    with signals.startup:
        async with (
            metrics_served(config, lambda: streams.lost_lines) as metrics,
            _serving(config, options, metrics) as server,
            status_served(config, server),
        ):
            if not signals.started():
                return signals.exit_code
            for warning in startup_warnings(config, options):
                _logger.warning("%s", warning)
            announce(server.address)
            await _until_end(signals, config.hooks)
            with signals.hurry:
                await server.drain(options.grace)
    return signals.exit_code or (config.hooks.exit_code if config.hooks is not None else 0)


def _serving(
    config: ServeConfig, options: argparse.Namespace, metrics: Metrics | None
) -> AbstractAsyncContextManager[Server]:
    return serve_leased(
        config.driver,
        options.address,
        config.hooks,
        limits=config.limits,
        threads=options.threads,
        token=config.token,
        ssl_context=config.context,
        insecure=options.insecure,
        send_tracebacks=options.send_tracebacks,
        users=options.allow_user,
        async_library=options.async_library,
        metrics=metrics,
        exclusive=options.exclusive,
        max_session=options.max_session or math.inf,
        operators=options.operator or (),
    )


async def _until_end(signals: Signals, hooks: HookRunner | None) -> None:
    """Wait until a signal or a hook ends the exporter."""
    async with trio.open_nursery() as nursery:
        if hooks is not None:

            async def watch(runner: HookRunner) -> None:
                await runner.exit.wait()
                signals.drain()
                _logger.info("shutting down after running calls, as the configuration says")

            nursery.start_soon(watch, hooks)
        await signals.first.wait()
        nursery.cancel_scope.cancel()
