"""Identify the client that is calling a driver, and run functions when its connection ends.

A session makes one `ConnectionContext`. All code that answers its calls finds it in a context
variable, which worker threads, generators and raw streams inherit. Facts that the system or TLS has
verified are kept separate from what the client says of itself.

This module knows no connections.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from .._util.checks import check_callable
from .._util.text import sanitize_text

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Caller",
    "ClaimedIdentity",
    "ConnectionContext",
    "VerifiedIdentity",
    "caller",
    "current_connection",
    "on_disconnect",
]

_MAX_HOOKS: Final = 1024  # of one connection: more than drivers have methods


@dataclass(frozen=True, kw_only=True)
class VerifiedIdentity:
    """The facts about a client that the system or TLS has verified; unknown ones are None, "" or 0.

    Attributes:
        uid, gid, pid: The process that has connected to a Unix socket, from Linux. It may have
            passed the connection to another process since. The pid is 0 if the process is in
            another PID namespace.
        host, port: The address that a TCP or TLS connection comes from: that of a proxy or NAT if
            there is one in between.
        subject: The subject of the client's certificate, as pairs of a kind and a value, if the
            server's `ssl_context` asks for certificates and has checked this one.
    """

    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    host: str = ""
    port: int = 0
    subject: tuple[tuple[str, str], ...] = ()

    @property
    def common_name(self) -> str:
        """The subject's common name; empty if it has none or several."""
        names = [value for kind, value in self.subject if kind == "commonName"]
        return names[0] if len(names) == 1 else ""

    def __str__(self) -> str:
        """Describe the client on one line, with the text that it has chosen in quotes."""
        parts = [f"uid {self.uid}, pid {self.pid}"] if self.uid is not None else []
        parts += [f"{self.host}:{self.port}"] if self.host else []
        if self.subject:
            names = ", ".join(f"{kind}={value}" for kind, value in self.subject)
            parts.append(f"certificate {sanitize_text(names)}")
        return ", ".join(parts) or "a client"


@dataclass(frozen=True, kw_only=True)
class ClaimedIdentity:
    """The unverified claims of a client about itself. Display them, but base no decision on them.

    Attributes:
        name: `connect(..., name=)`, by default user, host and program. At most 300 characters.
        agent: The client's software and its version. At most 300 characters.
    """

    name: str = ""
    agent: str = ""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The client whose call is being answered. Equal for all calls of one connection.

    Attributes:
        connection: The connection's number in this exporter, from 1. No two have the same.
        verified: The facts that the system or TLS has verified.
        claimed: The client's claims about itself.
    """

    connection: int
    verified: VerifiedIdentity = field(default_factory=VerifiedIdentity)
    claimed: ClaimedIdentity = field(default_factory=ClaimedIdentity)

    def __str__(self) -> str:
        """Describe the client on one line, with the text that it has chosen in quotes."""
        name = self.claimed.name
        return f"{self.verified}, says {sanitize_text(name)}" if name else str(self.verified)


class ConnectionContext:
    """The part of a client's connection that drivers can use.

    The session makes one. All code that answers its calls finds it in `current_connection`.

    Attributes:
        caller: The client, once it was admitted.
    """

    def __init__(self) -> None:
        self.caller: Caller | None = None
        self._hooks: list[Callable[[], Any]] = []
        self._taken: list[Callable[[], Any]] = []
        self._is_over = False

    def add_hook(self, hook: Callable[[], Any]) -> None:
        """Register a function to run when the connection ends, unless it is registered or has run.

        Raises:
            RuntimeError: The connection is over, or too many functions were registered.
        """
        if self._is_over:
            text = "on_disconnect(): the client's connection has ended, and its functions have run"
            raise RuntimeError(text)
        if hook in self._hooks or hook in self._taken:
            return
        if len(self._hooks) + len(self._taken) >= _MAX_HOOKS:
            text = f"on_disconnect(): {_MAX_HOOKS:d} functions are registered for this client's end"
            raise RuntimeError(f"{text} already; give a method of the driver: it counts once")
        self._hooks.append(hook)

    def discard_hook(self, hook: Callable[[], Any]) -> None:
        """Remove a function, if it is registered."""
        if hook in self._hooks:
            self._hooks.remove(hook)

    def take_hook(self) -> Callable[[], Any] | None:
        """Remove and return the function registered last; None if none is left.

        After it has returned None, no function can be added.
        """
        if self._hooks:
            # Kept, and counted, as long as others run: one that registers itself, or a new one,
            # each time it runs would never come to an end.
            self._taken.append(hook := self._hooks.pop())
            return hook
        self._is_over = True
        self._taken.clear()
        return None


# The connection whose call is being answered.
current_connection: Final[ContextVar[ConnectionContext | None]] = ContextVar(
    "jumpstarter_connection", default=None
)


def _current(asked: str) -> tuple[ConnectionContext, Caller]:
    connection = current_connection.get()
    if connection is None or connection.caller is None:
        text = f"{asked}: no client's call is being answered here"
        why = "ask in an exported method, and pass the answer to threads that the driver starts"
        raise RuntimeError(f"{text}; {why}")
    return connection, connection.caller


def caller() -> Caller:
    """Return the client that made the current call.

    Call it in exported methods of every kind, plain and `async`, generators and raw streams, and in
    the code that they call, in the same task or thread or in one that inherits the context
    variables, as those of Trio and anyio do. Not a checkpoint. In any thread. It is as cheap as a
    dictionary lookup.

    Returns:
        The client; the same object for all calls of one connection.

    Raises:
        RuntimeError: No call is being answered here.
    """
    return _current("caller()")[1]


def on_disconnect(function: Callable[[], Any]) -> Callable[[], None]:
    """Run a function after the connection of the client that made the current call has ended.

    It runs however the connection ends: the client leaves its block, is killed, loses its network
    or stops answering, or the exporter shuts down. It does not run if the exporter itself is
    killed. When it runs, all calls of the connection have ended.

    The functions of a connection run one after the other, the last one first: an `async` function
    in Trio, any other one in a worker thread. Each has 10 s. After that, an `async` function is
    cancelled, and the next one begins even if a plain one still runs. Once the exporter shuts down,
    all functions of a connection share 10 s. An exception is logged, and the others still run.

    A function runs once per connection, even if it was registered several times: pass a method of
    the driver, not a new lambda with each call. In the function, `caller()` returns the client
    whose connection has ended.

    Not a checkpoint. In any thread.

    Args:
        function: The function, without parameters.

    Returns:
        A function that cancels the registration, for example when a call has switched the device
        off. Call it in any thread, any number of times.

    Raises:
        RuntimeError: No call is being answered here, or 1,024 functions are registered already.
        ArgumentError: It is not callable. Also a TypeError.
    """
    accepted = "a function without arguments (pass self.off, and not self.off())"
    check_callable("on_disconnect's function", function, accepted)
    connection, _ = _current("on_disconnect()")
    connection.add_hook(function)
    return lambda: connection.discard_hook(function)
