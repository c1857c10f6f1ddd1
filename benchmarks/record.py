"""A run on record: what was measured, where and when, as JSON and back."""

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
    """Where a run took place.

    Attributes:
        command: That which began it.
        date: When, in UTC.
        python: The version.
        trio: The version.
        system: The operating system, and the kind and number of processors.
        load: Of the machine, as the run began: processes that wanted to run, in the last minute.
        rounds: Turns of each side.
        seconds: Of each turn, about.
        cores: That ends were pinned to.
        peers: Their versions.
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

    def __str__(self) -> str:
        where = f"pinned to {', '.join(map(str, self.cores))}" if self.cores else "unpinned"
        peers = ", ".join(f"{name} {number}" for name, number in self.peers.items())
        return (
            f"{self.command}\n"
            f"{self.date}; Python {self.python}, Trio {self.trio}, {self.system}; {where}; "
            f"load {self.load:.2f}; {self.rounds} rounds of {self.seconds:g} s\n"
            f"peers: {peers or 'none; make bench-peers installs them'}"
        )


@dataclass(frozen=True)
class Record:
    """One run."""

    setting: Setting
    results: list[Result]


def setting(plan: Plan, arguments: Sequence[str]) -> Setting:
    """Look around."""
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
    )


def write(record: Record, path: Path) -> None:
    """Write what `read` reads."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))


def read(path: Path) -> Record:
    """Read what `write` has written.

    Raises:
        msgspec.MsgspecError: It is something else.
    """
    return msgspec.json.decode(path.read_bytes(), type=Record)
