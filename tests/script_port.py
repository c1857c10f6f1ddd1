"""Has a serial port in a process of its own, until a line comes on stdin. Not a test.

    script_port.py HOW PATH [USER]

HOW is `driver` (one of jumpstarter), `forking` (the same, and a forked child that outlives it),
`flock`, `excl` or `open` (a program without jumpstarter that locks so, or not at all). USER is the
number of the user whose program it is. It says `held`, or what has kept it from that.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_by_driver(path: str, user: str, *, forking: bool) -> Iterator[None]:
    from jumpstarter import serve  # noqa: PLC0415 - the other programs start sooner without
    from jumpstarter.drivers.serial import SerialPort  # noqa: PLC0415

    become(user)
    with serve(SerialPort(url=path)) as client, client.stream():
        if forking and not os.fork():
            os.closerange(0, 3)
            time.sleep(60)
            os._exit(0)
        yield


@contextmanager
def held_by_program(path: str, user: str, how: str) -> Iterator[None]:
    become(user)
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    if how == "flock":
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if how == "excl":
        fcntl.ioctl(descriptor, termios.TIOCEXCL)
    yield
    os.close(descriptor)


def become(user: str) -> None:
    """Run as another user from here on: what was imported before may be root's alone."""
    if user:
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))


def main(how: str, path: str, user: str = "") -> None:
    try:
        if how in {"driver", "forking"}:
            holding = held_by_driver(path, user, forking=how == "forking")
        else:
            holding = held_by_program(path, user, how)
        with holding:
            print("held", flush=True)
            sys.stdin.readline()
    except OSError as exc:
        print(f"errno {exc.errno}: {exc}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
