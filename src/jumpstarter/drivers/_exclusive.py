"""Lock a terminal device, such as a serial port, for one program at a time.

A `PortLock` takes two locks, since neither of them stops every other program:

- `flock` stops every program that also takes it, even one of root, whichever name it uses for the
  device: the lock belongs to the file to which all links lead.
- TIOCEXCL makes the kernel refuse every further `open()`, by any program and through any file of
  the device, unless it is root's (CAP_SYS_ADMIN).

Neither stops a program that runs as root and takes no `flock`. The kernel releases both locks when
the last process that has the device open ends, however it ends. Forked children do not keep the
device open, and `_guard` covers pseudo-terminals.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .._util.file_locks import lockers_of, name_of_process
from ..driver import caller

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["PortInUse", "PortLock", "describe_caller"]

_logger = logging.getLogger("jumpstarter.serial")

# TIOCGEXCL of Linux on x86, Arm, RISC-V and LoongArch; `termios` does not have it. MIPS, PowerPC,
# SPARC and Alpha have another number, so `ioctl` fails there, as it does on other systems.
_GET_EXCLUSIVE: Final = 0x80045440
_PTY_MAJORS: Final = range(136, 144)  # major device numbers of /dev/pts on Linux
_GUARD: Final = Path(__file__).with_name("_guard.py")


def describe_caller() -> str:
    """Name the client that makes the current call, for the error that the next one gets."""
    try:
        return str(caller())
    except RuntimeError:  # the driver's own code, rather than a client
        return "the driver itself"


class PortInUse(OSError):
    """The port is held by another program, driver or client.

    Args:
        path: The path of the device.
        holder: The program, driver or client that holds it, as far as known.
        transient: True if the holder seems to have ended, so that the port may be free in a moment.
    """

    def __init__(self, path: str, holder: str, *, transient: bool = False) -> None:
        text = f"the port is in use by {holder}; end that, or wait until it has closed the port"
        super().__init__(errno.EBUSY, text, path)
        self.transient: bool = transient

    @classmethod
    def of(cls, path: str) -> PortInUse:
        """Make one for a locked device, and find out which process holds it."""
        try:
            status = os.stat(path)  # noqa: PTH116 - it may be a URL rather than a path
        except (OSError, ValueError):
            return cls(path, "another program")
        lockers = lockers_of(status)
        if os.getpid() in lockers:
            return cls(path, "another driver of this exporter")
        # A pseudo-terminal that nobody has locked may be held by the guard of a process that ended.
        transient = not lockers and os.major(status.st_rdev) in _PTY_MAJORS
        process = next(iter(lockers), None) or next(_openers_of(status.st_rdev), None)
        holder = (
            "another program" if process is None else f"process {process}{name_of_process(process)}"
        )
        return cls(path, holder, transient=transient)


class PortLock:
    """The locks on an open terminal device.

    Args:
        descriptor: The device. The caller owns it, and releases this lock before closing it.
        path: The path of the device, for messages.

    Raises:
        PortInUse: Another program has one of the locks.
        OSError: The device was unplugged.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._guard: subprocess.Popen[bytes] | None = None
        self._is_set = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PortInUse.of(path) from None
        if _is_exclusive(descriptor) and not _was_abandoned(descriptor):
            # Unlock first: PortInUse.of() would find this process as the holder.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            raise PortInUse.of(path)
        # Start the guard before TIOCEXCL is set, so that a kill in between leaves nothing locked.
        if os.major(os.fstat(descriptor).st_rdev) in _PTY_MAJORS:
            self._guard = _start_guard(descriptor, path)
        try:
            fcntl.ioctl(descriptor, termios.TIOCEXCL)
            self._is_set = True
        except OSError:  # unplugged
            self.release()
            raise

    def release(self) -> None:
        """Release both locks. Call it once, before the descriptor is closed."""
        # End the guard first: it would clear the lock of the device's next holder.
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
        if self._is_set:
            with suppress(OSError):  # unplugged
                fcntl.ioctl(self._descriptor, termios.TIOCNXCL)


def _openers_of(device: int) -> Iterator[int]:
    """Yield the other processes that have a device open, as far as this user may see them."""
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
            return False  # without a stat(), which hangs on a dead network file system
        return descriptor.stat().st_rdev == device
    except OSError:
        return False


def _is_exclusive(descriptor: int) -> bool:
    """Return True if TIOCEXCL is set, which does not stop root from opening the device."""
    try:
        return bool(struct.unpack("i", fcntl.ioctl(descriptor, _GET_EXCLUSIVE, bytes(4)))[0])
    except OSError:  # systems that can set it but not read it
        return False


def _was_abandoned(descriptor: int) -> bool:
    """Return True if a process that has ended left TIOCEXCL set; only pseudo-terminals keep it."""
    device = os.fstat(descriptor).st_rdev
    if os.major(device) not in _PTY_MAJORS:
        return False
    return next(_openers_of(device), None) is None


def _start_guard(descriptor: int, path: str) -> subprocess.Popen[bytes] | None:
    null = subprocess.DEVNULL
    try:
        if not sys.executable or getattr(sys, "frozen", False):
            raise FileNotFoundError("there is no Python interpreter that could run it")
        with _all_signals_blocked():
            return subprocess.Popen(  # noqa: S603 - no part of the command comes from a client
                [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), str(descriptor)],
                stdin=null,
                stdout=null,
                stderr=null,
                cwd="/",
                pass_fds=[descriptor],
                start_new_session=True,  # a Ctrl-C at the terminal is for the exporter alone
            )
    except OSError as exc:
        text = (
            "%s stays closed to all users but root if this process is killed; no guard for it: %s"
        )
        _logger.warning(text, path, exc)
        return None


@contextmanager
def _all_signals_blocked() -> Iterator[None]:
    """Block all signals in this thread and in a child that it starts, which inherits the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
