"""Tests of `jumpstarter._util.fork`: which descriptors a forked child keeps."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from jumpstarter._util.fork import HasFileno, close_in_children

_OPEN = 7  # the exit code of a child that has a descriptor still open


class Broken:
    """A resource whose `fileno` raises an unusual exception."""

    def fileno(self) -> int:
        raise RuntimeError("no number today")


class Absurd:
    """A resource whose `fileno` returns something that is not a number."""

    def fileno(self) -> int:
        return "three"  # type: ignore[return-value]


def exit_code_of_child(number: int) -> int:
    """Fork, and return the child's exit code: whether a descriptor is a socket there."""
    pid = os.fork()
    if pid == 0:
        is_socket = False
        try:
            is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
        finally:
            os._exit(_OPEN if is_socket else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.timeout(30)
def test_a_broken_resource_does_not_prevent_closing_the_others() -> None:
    broken: list[HasFileno] = [Broken(), Absurd(), Broken()]
    ours, peer = socket.socketpair()
    with ours, peer:
        assert exit_code_of_child(ours.fileno()) == _OPEN
        close_in_children(*broken, ours)
        assert exit_code_of_child(ours.fileno()) == 0
        assert exit_code_of_child(peer.fileno()) == _OPEN
