"""The adapter of our own exporter, which runs from its command line."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jumpstarter import connect

from . import doors, frames, values
from .attacks import Setting
from .peer import PATIENCE, TOKEN, Call, Peer, Place

__all__ = ["PEER"]


def _command(setting: Setting, directory: Path) -> list[str]:
    scheme = "tls" if setting == "tls" else "tcp"
    options = {
        "plain": [],
        "token": ["--token-file", str(directory / "token")],
        "tls": ["--tls-cert", str(directory / "server.pem")],
    }[setting]
    serve = [sys.executable, "-m", "jumpstarter", "serve", "hostile.victim:Victim"]
    return [*serve, "--address", f"{scheme}://127.0.0.1:0", *options]


@contextmanager
def _dial(place: Place) -> Iterator[Call]:
    context, scheme = None, "tcp"
    if place.setting == "tls":
        context = ssl.create_default_context(cafile=str(place.directory / "ca.pem"))
        scheme = "tls"
    token = TOKEN if place.setting == "token" else ""
    address = f"{scheme}://{place.host}:{place.port}"
    with connect(address, token=token, ssl_context=context) as client:

        def call() -> None:
            with client.timeout(PATIENCE):
                assert client.call("echo_async", "good") == "good"

        yield call


PEER: Final = Peer(
    "jumpstarter",
    _command,
    _dial,
    {**frames.FUNCTIONS, **values.FUNCTIONS, **doors.FUNCTIONS},
    frozenset(("plain", "token", "tls")),
)
