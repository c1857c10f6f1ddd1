"""The command `forward`: a local port, or a Unix socket, of a driver's raw stream."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..._util.extras import requires_extra
from ...client import DriverClient
from ...client._runner import portal_for
from ...client.adapters import TcpPortforwardAdapter, UnixPortforwardAdapter
from ...errors import DriverConnectionError
from .._connecting import Access, access_options, connected
from .._targets import find_stream, split_address
from .._terminal import exit_on_signals

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]

_MAX_PORT: Final = 65535


@click.command("forward")
@click.argument("arguments", nargs=-1, metavar="[ADDRESS] DRIVER[.METHOD] [LOCAL]")
@access_options
def command(arguments: tuple[str, ...], access: Access) -> None:
    """Forward a local port to a driver's raw stream, such as a TCP port of the device.

    LOCAL is PORT, HOST:PORT or unix:PATH, by default any free port of 127.0.0.1. Each connection of
    a program has its own raw stream. `forwarding: LOCAL` is printed once programs can connect. It
    ends at Ctrl-C (exit code 130) or SIGTERM (0), or with the connection to the exporter (1).
    ADDRESS is by default $JUMPSTARTER_HOST.
    """
    address, (path, *others) = split_address(arguments, 1)
    if len(others) > 1:
        raise click.UsageError(f"unexpected argument {others[1]!r}")
    place = _parse_local(others[0] if others else "0")
    with (
        exit_on_signals({signal.SIGTERM: 0, signal.SIGHUP: 128 + signal.SIGHUP}),
        connected(address, access, import_clients=False, path=path) as root,
    ):
        client, method = find_stream(root, path)
        portal = portal_for(client, "forward", "tcp_portforward()")
        with _listening(client, method, place) as where:
            click.echo(f"forwarding: {where}")
            portal.call_in_trio(_until_lost, client)


def _parse_local(text: str) -> Path | tuple[str, int]:
    """Return the path of a socket, or a host and a port.

    Raises:
        click.UsageError: The text is neither.
    """
    if text.startswith("unix:"):
        return Path(text.removeprefix("unix:")).absolute()
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")  # around an IPv6 address
    if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise click.UsageError(f"LOCAL is {text!r}; it must be PORT, HOST:PORT or unix:PATH")
    return host or "127.0.0.1", int(port)


@contextmanager
def _listening(client: DriverClient, method: str, place: Path | tuple[str, int]) -> Iterator[str]:
    """Listen for programs, for the length of a block; yields where."""
    if isinstance(place, Path):
        with UnixPortforwardAdapter(client=client, method=method, path=str(place)) as path:
            yield f"unix:{path}"
        return
    host, port = place
    with TcpPortforwardAdapter(client=client, method=method, local_host=host, local_port=port) as (
        host,
        port,
    ):
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _until_lost(client: DriverClient) -> None:
    """Wait until the connection to the exporter is lost.

    Raises:
        DriverConnectionError: It is.
    """
    channel = client.channel.channel
    await channel.connection.finished.wait()
    raise DriverConnectionError(f"{channel.ended}", context=f"the exporter at {channel.name}")
