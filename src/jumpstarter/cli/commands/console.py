"""The command `console`: an interactive console of a driver's raw stream."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

from ..._util.extras import requires_extra
from ...client import DriverClient
from ...common._env import exporter_address
from ...drivers._console_client import ConsoleClient
from .._connecting import Access, access_options, connected
from .._console import run_console
from .._targets import exported, find_driver, find_stream, split_address

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]


@click.command("console")
@click.argument("arguments", nargs=-1, metavar="[ADDRESS] [DRIVER[.METHOD]]")
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="append all received bytes to this file",
)
@click.option(
    "--power",
    metavar="DRIVER",
    help="the power switch that Ctrl-B p cycles; by default the one beside the console",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="read on for so long after the end of a stdin that is not a terminal",
)
@access_options
def command(
    arguments: tuple[str, ...],
    log: Path | None,
    power: str | None,
    timeout: float | None,
    access: Access,
) -> int:
    """Join this terminal to a driver's raw stream, such as a serial console.

    The driver is named by its path in the tree, as in `dut.serial`; by default it is the root. The
    stream is the driver's only one, or `connect`. Ctrl-B three times leaves; Ctrl-B ? lists the
    other keys. If stdin is not a terminal, its bytes are sent, and the device's bytes are printed
    until the device ends the stream. With --no-claim, a recorded console of an exporter in
    exclusive use is only looked at, and nothing is sent. ADDRESS is by default $JUMPSTARTER_HOST.
    """
    address, rest = split_address(arguments, 0)
    if len(rest) > 1:
        raise click.UsageError(f"unexpected argument {rest[1]!r}")
    with ExitStack() as stack:
        # Before connecting, so that a mistake is found before the device notices anything.
        file = None if log is None else stack.enter_context(log.open("ab", buffering=0)).fileno()
        path = rest[0] if rest else ""
        root = stack.enter_context(connected(address, access, path=path))
        client, method = find_stream(root, path)
        switch = _find_power(root, client) if power is None else find_driver(root, power)
        limit = math.inf if timeout is None else timeout
        has_turn = bool(access.claims(exporter_address(address)))
        view = not has_turn and _is_shared_record(root, client)
        return run_console(client, method, log=file, power=switch, timeout=limit, view=view)


def _is_shared_record(root: DriverClient, console: DriverClient) -> bool:
    """Return whether this is a recorded console of an exporter in exclusive use."""
    hello = root.channel.channel.connection.rules.peer
    return hello is not None and hello.exclusive and isinstance(console, ConsoleClient)


def _find_power(root: DriverClient, console: DriverClient) -> DriverClient | None:
    """Return the client of the only power switch that has the same parent as a console.

    A power switch exports `on` and `off`.
    """
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        beside = list(parent.children.values())
        if any(each is console for each in beside):
            found = [each for each in beside if exported(each).keys() >= {"on", "off"}]
            return found[0] if len(found) == 1 else None
        waiting += beside
    return None
