"""Store a run as JSON and load it: the results, and where and when they were measured."""

from __future__ import annotations

import datetime as dt
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec

from .harness import Plan, Result

__all__ = ["Record", "Setting", "read", "setting", "write"]


@dataclass(frozen=True)
class Setting:
    """The environment and options of a run.

    Attributes:
        command: The command that started the run.
        date: The date and time of the start, in UTC.
        python: The version of Python.
        trio: The version of Trio.
        system: The operating system, and the architecture and number of processors.
        load: The machine's load average over the minute before the run.
        rounds: Number of turns of each side.
        seconds: Approximate duration of each turn.
        cores: The cores that the ends were pinned to.
        peers: The versions of the installed peers, by name.
        starts: How often the processes were started.
    """

    command: str
    date: str
    python: str
    trio: str
    system: str
    load: float
    rounds: int
    seconds: float
    cores: Sequence[int]
    peers: Mapping[str, str]
    starts: int = 1  # in records of earlier versions

    def __str__(self) -> str:
        where = f"pinned to {', '.join(map(str, self.cores))}" if self.cores else "unpinned"
        peers = ", ".join(f"{name} {number}" for name, number in self.peers.items())
        starts = f" in {self.starts} starts" if self.starts > 1 else ""
        return (
            f"{self.command}\n"
            f"{self.date}; Python {self.python}, Trio {self.trio}, {self.system}; {where}; "
            f"load {self.load:.2f}; {self.rounds} rounds of {self.seconds:g} s{starts}\n"
            f"peers: {peers or 'none; make bench-peers installs them'}"
        )


@dataclass(frozen=True)
class Record:
    """One run: its setting and results."""

    setting: Setting
    results: list[Result]


def setting(plan: Plan, arguments: Sequence[str]) -> Setting:
    """Return the setting of a run that starts now."""
    return Setting(
        command=f"python -m benchmarks {shlex.join(arguments)}".rstrip(),
        date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        python=platform.python_version(),
        trio=version("trio"),
        system=f"{platform.system()} {platform.machine()} with {os.cpu_count()} processors",
        load=os.getloadavg()[0],
        rounds=plan.rounds,
        seconds=plan.seconds,
        cores=plan.cores,
        peers=plan.installed,
        starts=plan.starts,
    )


def write(record: Record, path: Path) -> None:
    """Write a record as JSON, for `read`."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))


def read(path: Path) -> Record:
    """Read a record that `write` has written.

    Raises:
        msgspec.MsgspecError: The file does not contain a record.
    """
    return msgspec.json.decode(path.read_bytes(), type=Record)
