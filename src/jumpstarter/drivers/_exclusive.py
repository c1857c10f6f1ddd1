"""A terminal device, a serial port for example, for one program at a time.

It takes two locks, as neither reaches everybody:

- `flock` refuses every program that takes it too, as root as well, whatever name it opens the
  device by: it belongs to the device's file, to which links lead.
- TIOCEXCL has the kernel refuse every further `open()`, of any program and by any file of the
  device, unless it is root's (CAP_SYS_ADMIN).

A program of root's that takes no `flock` is stopped by neither. The kernel releases both when the
last process that has the device open ends, however it ends; forked children do not keep it, and
`_guard` sees to pseudo-terminals.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Claim", "PortInUse"]

_logger = logging.getLogger("jumpstarter.serial")

_GET_EXCLUSIVE: Final = 0x80045440  # TIOCGEXCL of Linux, which Python's termios does not have
_PSEUDO_TERMINALS: Final = range(136, 144)  # major numbers of what /dev/pts has on Linux
_GUARD: Final = Path(__file__).with_name("_guard.py")


class PortInUse(OSError):
    """Another program, driver or client has the port.

    Args:
        path: Of the device.
        who: Has it, as far as that is known.
        passing: It may be free in a moment, since its holder seems to have ended.
    """

    def __init__(self, path: str, who: str, *, passing: bool = False) -> None:
        text = f"the port is in use by {who}; end that, or wait until it has closed the port"
        super().__init__(errno.EBUSY, text, path)
        self.passing = passing

    @classmethod
    def of(cls, path: str) -> PortInUse:
        """Make one for a device that is locked, and find out by which process."""
        try:
            status = os.stat(path)  # noqa: PTH116 - it may be a URL rather than a path
        except (OSError, ValueError):
            return cls(path, "another program")
        lockers = _lockers_of(status)
        if os.getpid() in lockers:
            return cls(path, "another driver of this exporter")
        # A pseudo-terminal without a locker may be held by the guard of a process that has ended.
        passing = not lockers and os.major(status.st_rdev) in _PSEUDO_TERMINALS
        process = next(iter(lockers), None) or next(_openers_of(status.st_rdev), None)
        who = "another program" if process is None else f"process {process}{_name_of(process)}"
        return cls(path, who, passing=passing)


class Claim:
    """The locks on an open terminal device.

    Args:
        descriptor: Of the device. It stays with its owner, who releases the claim before it is
            closed.
        path: As the device is known to users.

    Raises:
        PortInUse: Another program has one of the locks.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._guard: subprocess.Popen[bytes] | None = None
        self._set = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PortInUse.of(path) from None
        if _is_exclusive(descriptor) and not _was_abandoned(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # not to be found as the holder
            raise PortInUse.of(path)
        if os.major(os.fstat(descriptor).st_rdev) in _PSEUDO_TERMINALS:
            self._guard = _start_guard(descriptor, path)
        try:
            fcntl.ioctl(descriptor, termios.TIOCEXCL)
            self._set = True
        except OSError:  # unplugged
            self.release()
            raise

    def release(self) -> None:
        """Let others open the device. Call it once, before the descriptor is closed."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
        if self._set:
            with suppress(OSError):  # unplugged
                fcntl.ioctl(self._descriptor, termios.TIOCNXCL)


def _name_of(process: int) -> str:
    try:
        return f" ({Path(f'/proc/{process}/comm').read_text(errors='replace').strip()})"
    except OSError:
        return ""


def _lockers_of(status: os.stat_result) -> list[int]:
    """Give the processes that have the file's `flock`, but for those that have ended."""
    device = status.st_dev
    file = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
    try:
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return []
    found = [line[4] for line in lines if line[1] == "FLOCK" and line[5] == file]
    return [int(process) for process in found if _is_alive(process)]


def _is_alive(process: str) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


def _openers_of(device: int) -> Iterator[int]:
    """Give the other processes that have a device open, of those that we may look at."""
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                if _leads_to(descriptor, device):
                    yield int(process.name)
                    break


def _leads_to(descriptor: Path, device: int) -> bool:
    try:
        if not str(descriptor.readlink()).startswith("/dev/"):
            return False  # not even looked at, since a file system may hang
        return descriptor.stat().st_rdev == device
    except OSError:
        return False


def _is_exclusive(descriptor: int) -> bool:
    """Tell if TIOCEXCL is set, which does not keep root from opening the device."""
    try:
        return bool(struct.unpack("i", fcntl.ioctl(descriptor, _GET_EXCLUSIVE, bytes(4)))[0])
    except OSError:  # not Linux, where it can be set only
        return False


def _was_abandoned(descriptor: int) -> bool:
    """Tell if TIOCEXCL is set by a process that has ended, as only pseudo-terminals keep it."""
    device = os.fstat(descriptor).st_rdev
    if os.major(device) not in _PSEUDO_TERMINALS:
        return False
    return next(_openers_of(device), None) is None


def _start_guard(descriptor: int, path: str) -> subprocess.Popen[bytes] | None:
    command = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), str(descriptor)]
    null = subprocess.DEVNULL
    try:
        if getattr(sys, "frozen", False):  # then that would be the program itself, once more
            raise FileNotFoundError("this frozen program has no Python to run it")
        return subprocess.Popen(  # noqa: S603 - nothing of it is a client's
            command,
            stdin=null,
            stdout=null,
            stderr=null,
            cwd="/",
            pass_fds=[descriptor],
            start_new_session=True,  # Ctrl-C is for the exporter
        )
    except OSError as exc:
        text = "%s stays closed to others than root if this process is killed: no guard for it: %s"
        _logger.warning(text, path, exc)
        return None
