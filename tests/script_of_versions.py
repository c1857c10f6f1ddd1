"""A client that the build of today and the one of the version before can run. Not a test.

python script_of_versions.py ADDRESS
prints what it has seen, as JSON.
"""

from __future__ import annotations

import io
import json
import sys
import time
from typing import Any

import jumpstarter
from jumpstarter import connect


def failure(function: Any) -> list[Any]:
    """Say how a call fails: class, text, message, and what it is an instance of."""
    try:
        function()
    except Exception as exc:  # noqa: BLE001 - to be shown
        bases = [kind.__name__ for kind in (OSError, ConnectionError, ValueError)]
        mirrored = [name for name in bases if name in map(_name, type(exc).__mro__)]
        members = [type(each).__name__ for each in getattr(exc, "exceptions", ())]
        return [type(exc).__name__, str(exc), mirrored, members]
    return ["nothing"]


def _name(kind: type) -> str:
    return kind.__name__


class Spoiled(io.RawIOBase):
    """A source that fails."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        del size
        raise OSError(5, "Input/output error", "/dev/sdz")


def lend(client: Any, source: io.RawIOBase | io.BytesIO) -> Any:
    with client.resource(source) as handle:
        return client.call("size", handle)


def main(address: str) -> None:
    large = "x" * 300_000
    with connect(address, allow=["driver_of_versions.*"]) as client, client.timeout(20):
        seen: dict[str, Any] = {
            "file": jumpstarter.__file__,
            "echo": [client.call("echo", 1), client.call("echo_async", [2]), client.echo("three")],
            "large": client.call("echo", large) == large,
            "count": list(client.streamingcall("count", 1000)) == list(range(1000)),
            "missing": failure(lambda: client.call("missing")),
            "caused": failure(lambda: client.call("caused")),
            "lent": lend(client, io.BytesIO(b"abc")),
            "spoiled": failure(lambda: lend(client, Spoiled())),
            "group": failure(lambda: client.call("group")),
            "described": [
                getattr(client, name, None) for name in ("description", "methods_description")
            ],
        }
        with client.stream("connect") as stream:
            stream.send(b"through the stream")
            stream.send_eof()
            seen["stream"] = b"".join(stream).decode()
        time.sleep(3)  # the exporter of the tests asks for a sign of life, for which it waits 2 s
        seen["alive"] = client.call("echo", "alive")
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
