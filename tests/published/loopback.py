"""Run a command in a network namespace that has only the loopback interface.

`unshare -rn` makes such a namespace, in which the interface is still down. There, this module sets
it up and executes the command: `python loopback.py COMMAND ...`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["command_in_namespace", "why_not_allowed"]

_SIOCGIFFLAGS: Final = 0x8913  # netdevice(7)
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_REQUEST: Final = struct.Struct("16sH14x")  # struct ifreq: a name, then flags


def command_in_namespace(command: Sequence[str]) -> list[str]:
    """Return the command that runs this one without a network."""
    return ["unshare", "-rn", sys.executable, __file__, *command]


def why_not_allowed() -> str | None:
    """Return why this machine does not allow a namespace, or None if it does."""
    if shutil.which("unshare") is None:
        return "unshare is not installed (Debian: util-linux)"
    done = subprocess.run(
        command_in_namespace([sys.executable, "-c", ""]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return (done.stderr.strip() or "unshare failed") if done.returncode else None


def raise_loopback() -> None:
    """Set the loopback interface up, as `ip link set lo up` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, _REQUEST.pack(b"lo", 0))
        _, flags = _REQUEST.unpack(request)
        fcntl.ioctl(control, _SIOCSIFFLAGS, _REQUEST.pack(b"lo", flags | _IFF_UP))


if __name__ == "__main__":
    raise_loopback()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the suite, which needs no shell
