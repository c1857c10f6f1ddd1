"""The commands of `jumpstarter`, in the order in which the help lists them."""

from __future__ import annotations

from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["COMMANDS"]

# Each command's name and the line that describes it in the list of all. A command is the object
# `command` of the module `cli.commands.<name>`, which is imported when the command is run: one
# command must not wait for what others import. `serve` needs no extra, and is in `cli._serve`;
# `run` needs no click, and is in `cli._run`.
COMMANDS: Final[dict[str, str]] = {
    "serve": "serve a driver tree until SIGTERM, SIGINT or SIGHUP",
    "run": "serve a configuration until SIGTERM, SIGINT or SIGHUP",
    "shell": "run a program, or an interactive shell, with an exporter",
    "ls": "show the drivers of an exporter, and what they export",
    "call": "call a method of a driver, and print the result",
    "console": "open an interactive console of a driver's raw stream",
    "forward": "forward a local port, or a Unix socket, to a driver's raw stream",
    "flash": "write an image to a storage of the device",
    "who": "show the holder of an exporter in exclusive use, and the queue",
    "kick": "end the session of the client that holds an exporter",
    "config": "check and list the configurations of exporters",
    "doctor": "look for faults of this installation",
    "driver": "list the drivers that are installed",
    "completion": "print a script that completes these commands and those of j",
}
