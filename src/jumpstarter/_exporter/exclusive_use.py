"""Let one client at a time use an exporter, while the others wait in a queue.

A client *claims* the exporter. When all that came before it have left, its *session* begins: it may
call the drivers. Its connection is the claim: the session ends with the connection, when all of its
calls have ended. Further connections of the same program, or of programs that it has started, can
*join* the session with its key. They end with it.

    state      meaning                                             left by
    WAITS      others are before it                                they have left: ENTERS. It gives
                                                                   up: GONE
    ENTERS     the drivers are reset, the lease's hook runs        both have ended: HOLDS. One has
                                                                   failed, or it gives up: GONE
    HOLDS      its connections may call the drivers                its first connection has ended,
                                                                   or is ended: LEAVES
    LEAVES     its calls end, and then the lease's hook runs       both have ended: GONE
    GONE       -                                                   final

The state follows from the lease, which the task in `LeaseQueue.run` moves, and from what
`ExclusiveUse` notes. This module knows no connections: a session shows itself as a `Visitor`.
"""

from __future__ import annotations

import enum
import hmac
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, NoReturn, Protocol

import trio

from .._util.durations import describe_duration
from ..driver._caller import Caller, VerifiedIdentity
from ..errors import Code
from .error_reporter import reject
from .lease import Lease, LeaseState
from .lease_queue import LeaseQueue

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Claim", "ClaimState", "ExclusiveUse", "Visitor", "warning_before"]

_logger: Final = logging.getLogger("jumpstarter.exporter")
_KEY: Final = 16  # random bytes of a session's key: too many to guess
_SHOWN_CALLS: Final = 3  # calls of a client that has left
_QUICK: Final = 1.0  # seconds for which a client is not told that the exporter is being prepared
_REMEMBERED: Final = 16  # sessions that were ended, for programs that still try to join one
_WARNING: Final = 300.0  # seconds between the warning and the end of a session, or a tenth of it


class Visitor(Protocol):
    """The interface of a connection that exclusive use needs.

    Attributes:
        claim: Its claim, or the one that it has joined.
        may_call: Whether it may use all methods.
    """

    claim: Claim | None
    may_call: bool

    @property
    def caller(self) -> Caller:
        """The client."""
        ...

    def running_calls(self) -> list[str]:
        """Return what runs for it, for messages."""
        ...

    def dismiss(self, text: str) -> None:
        """End its calls and the connection, and tell the client why. In the loop."""
        ...

    def run_beside(self, function: Callable[[Claim], Awaitable[None]], claim: Claim) -> None:
        """Run a function until the connection and its calls have ended. In the loop."""
        ...


class ClaimState(enum.Enum):
    """How far a claim is; see the module's docstring."""

    WAITS = enum.auto()
    ENTERS = enum.auto()
    HOLDS = enum.auto()
    LEAVES = enum.auto()
    GONE = enum.auto()


_HOLDERS: Final = (ClaimState.HOLDS, ClaimState.LEAVES)


class Claim:
    """The claim of one client.

    Args:
        visitor: The connection that has made it.
        lease: Its place in the queue of leases.
        use: The use that it claims.

    Attributes:
        key: Lets further connections join.
        members: The connections that are there, the one that has made it among them.
        was_held: Whether it has begun to hold.
        left: Set when the last of them has ended, with all its calls.
    """

    def __init__(self, visitor: Visitor, lease: Lease, use: ExclusiveUse) -> None:
        self.visitor: Visitor = visitor
        self.lease: Lease = lease
        self.use: ExclusiveUse = use
        self.key: str = secrets.token_urlsafe(_KEY)
        self.members: dict[Visitor, None] = {visitor: None}
        self.was_held: bool = False  # set after the time since when, for other threads
        self.left: trio.Event = trio.Event()
        self.news: trio.Event = trio.Event()  # something has changed for those that wait
        self._clock = trio.lowlevel.current_clock()
        self._since: tuple[float, float] = self._now()
        lease.on_decided = self._decided

    @property
    def caller(self) -> Caller:
        """The client."""
        return self.visitor.caller

    @property
    def seconds(self) -> float:
        """For how long it holds, or has waited. In any thread."""
        return max(0.0, self._now()[1] - self._since[1])

    @property
    def state(self) -> ClaimState:
        """How far it is. In any thread."""
        match self.lease.state:
            case LeaseState.WAITING:
                return ClaimState.WAITS
            case LeaseState.BEGINNING:
                return ClaimState.ENTERS
            case LeaseState.HELD if self.visitor.may_call:
                return ClaimState.HOLDS
            case LeaseState.HELD | LeaseState.ENDING:
                return ClaimState.LEAVES
        return ClaimState.GONE

    def _now(self) -> tuple[float, float]:
        return time.time(), self._clock.current_time()

    def _decided(self) -> None:
        self._since = self._now()
        self.was_held = self.lease.is_held
        if self.lease.is_held and self.visitor in self.members:
            self.visitor.may_call = True
            self.use.held_by(self)
        self.news.set()

    def describe(self) -> str:
        """Describe the holder in a few words. In any thread."""
        if self.state is ClaimState.ENTERS:
            return f"{self.use.name} is being prepared for {self.caller}"
        if self.state is ClaimState.HOLDS:
            name = f"{self.use.path} is " if self.use.path else ""
            return f"{name}held by {self.caller} since {_clock_time(self._since[0])}"
        calls = [title for each in list(self.members) for title in each.running_calls()]
        if calls:
            shown = ", ".join(calls[:_SHOWN_CALLS])
            return f"{self.caller} has left, but the driver's code for it still runs: {shown}"
        return f"{self.caller} has left, and {self.use.name} is cleaned up"

    def row(self) -> dict[str, Any]:
        """Return what `who` reports about it."""
        return {
            "connection": self.caller.connection,
            "subtree": self.use.path,
            "state": self.state.name.lower(),
            "verified": _row_of(self.caller.verified),
            "claimed": self.caller.claimed.name,
            "agent": self.caller.claimed.agent,
            "seconds": self.seconds,
            "joined": max(0, len(self.members) - 1),
            "calls": [title for each in self.members for title in each.running_calls()],
        }


class ExclusiveUse:
    """The claims of one exporter, or of one subtree of its drivers.

    Args:
        leases: The queue of leases.
        max_session: Seconds after which a session is ended; infinite for never.
        path: The subtree; empty for the whole exporter.

    Attributes:
        path: The same.
        name: Its name in messages.
        claims: The holder first, then those that wait.
    """

    def __init__(
        self, leases: LeaseQueue, *, max_session: float = math.inf, path: str = ""
    ) -> None:
        self._leases = leases
        self.path: str = path
        self.name: str = path or "the exporter"
        self.claims: list[Claim] = []
        self._endings: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)  # keys, and why
        self.max_session: float = max_session
        leases.on_change = self._lease_changed

    # --------------------------------------------------------------------------- for connections

    def lost(self, visitor: Visitor, claim: Claim) -> None:
        """Note that a connection with a claim has ended, whose calls may still run."""
        visitor.may_call = False
        if visitor is claim.visitor:
            for other in list(claim.members):
                if other is not visitor:
                    other.dismiss("the session has ended: the connection that began it has ended")
            self._tell_all()

    def leave(self, visitor: Visitor, claim: Claim) -> None:
        """Note that a connection with a claim, and all its calls, have ended."""
        if visitor not in claim.members:
            return
        self.lost(visitor, claim)
        del claim.members[visitor]
        if not claim.members:
            claim.left.set()
            self._leases.depart(claim.lease)
        self._tell_all()

    def refusal(self) -> str:
        """Return why a client without a claim may not call a method. In any thread."""
        holder = next(iter(list(self.claims)), None)
        now = "nobody holds it now" if holder is None else holder.describe()
        how = "without --no-claim or JMP_NO_CLAIM (in Python, with claim=True)"
        if self.path:
            how = f"with --claim {self.path}, --jumpstarter-claim {self.path} or JMP_CLAIM (in "
            how += f"Python, with claim={self.path!r})"
        return (
            f"{self.name} is for one client at a time, and this one has not claimed it; {now}. "
            f"Connect {how}; until then only those of its methods that are marked read_only can be "
            "called"
        )

    def _lease_changed(self, lease: Lease) -> None:
        if lease.state in (LeaseState.OVER, LeaseState.REFUSED):
            self.claims = [each for each in self.claims if each.lease is not lease]
        self._tell_all()

    def _tell_all(self) -> None:
        for claim in self.claims:
            claim.news.set()

    # ------------------------------------------------------------------ for the exporter's service

    async def claim(self, visitor: Visitor, wait: bool) -> AsyncGenerator[Any]:
        """Yield a client's place in the queue whenever it changes, and then its session.

        A place is a map with `before`, the number of clients that wait before it, and `text`. The
        session is a map with `session`, its key, and `left`, its seconds, or None. If the generator
        is closed before its end, the claim is withdrawn.

        Raises:
            CallRejected: It holds already, or cannot hold, or must not wait and has to.
        """
        if visitor.claim is not None:
            reject(Code.REFUSED, f"this connection has claimed {visitor.claim.use.name} already")
        if self.claims and not wait:
            self._reject_busy()
        claim = Claim(visitor, self._leases.arrive(str(visitor.caller)), self)
        visitor.claim = claim
        self.claims.append(claim)
        granted = False
        told: object = None  # the client's place, as it knows it
        try:
            while claim.lease.state in (LeaseState.WAITING, LeaseState.BEGINNING):
                claim.news = trio.Event()
                if claim is self.claims[0]:  # it enters, which seldom takes long
                    with trio.move_on_after(_QUICK):
                        await claim.news.wait()
                    if claim.news.is_set():
                        continue
                if (place := self._place(claim)) != told:
                    told = place
                    yield place
                await claim.news.wait()
            if claim.lease.refusal:
                reject(Code.REFUSED, claim.lease.refusal)
            left = None if math.isinf(self.max_session) else self.max_session
            yield {"session": claim.key, "left": left}
            granted = True
        finally:
            if not granted:
                self._withdraw(claim)

    def held_by(self, claim: Claim) -> None:
        """Note that a claim has begun to hold."""
        _logger.info("%s holds %s", claim.caller, self.name)
        if not math.isinf(self.max_session):  # it counts from here, even if the client never reads
            claim.visitor.run_beside(self._limit, claim)

    def _withdraw(self, claim: Claim) -> None:
        """Give a claim up whose client does not know that it holds."""
        if claim.lease.is_held:
            claim.visitor.dismiss("the claim was withdrawn as it was granted")
            return  # `leave` does the rest, when its calls have ended
        waits = claim.lease.state is not LeaseState.BEGINNING
        claim.visitor.claim = None
        claim.members.clear()
        claim.left.set()
        self._leases.depart(claim.lease)
        if waits:  # otherwise it is shown until the lease, which has begun, is over
            self.claims = [each for each in self.claims if each is not claim]
        self._tell_all()

    def _place(self, claim: Claim) -> dict[str, Any]:
        index = self.claims.index(claim)
        if not index:
            return {"before": 0, "text": f"{self.name} is being prepared for this client"}
        before = index - 1
        order = f"{before} before you" if before else "you are next"
        return {"before": before, "text": f"{self.claims[0].describe()}, {order}"}

    def _reject_busy(self) -> NoReturn:
        waiting = len(self.claims) - 1
        clients = "1 client waits" if waiting == 1 else f"{waiting} clients wait"
        others = f", and {clients} for it" if waiting else ""
        text = f"{self.claims[0].describe()}{others}; to wait for it, connect without --no-wait, "
        reject(Code.REFUSED, f"{text}--jumpstarter-no-wait or JMP_NO_WAIT (in Python, wait=True)")

    def join(self, visitor: Visitor, key: str) -> bool:
        """Let a connection take part in the session with a key; return False if there is none."""
        for claim in self.claims:
            is_right = hmac.compare_digest(claim.key.encode(), key.encode())
            if is_right and claim.state is ClaimState.HOLDS:
                claim.members[visitor] = None
                visitor.claim = claim
                visitor.may_call = True
                return True
        return False

    def ending(self, key: str) -> str:
        """Return why the session with a key was ended; empty if it was not."""
        return next((text for ended, text in self._endings if ended == key), "")

    @property
    def holder(self) -> Claim | None:
        """The claim that holds, or has held and leaves; None if there is none."""
        first = self.claims[0] if self.claims else None
        return first if first is not None and first.state in _HOLDERS else None

    @property
    def waiting(self) -> int:
        """How many clients wait. In any thread."""
        return sum(each.state is ClaimState.WAITS for each in list(self.claims))

    @property
    def held(self) -> float:
        """For how many seconds one client holds it, or 0. In any thread."""
        claims = list(self.claims)
        held = [each.seconds for each in claims if each.was_held and each.state in _HOLDERS]
        return max(held, default=0.0)

    async def _limit(self, claim: Claim) -> None:
        """End a session when its time is up, after a warning."""
        warning = warning_before(self.max_session)
        await trio.sleep(self.max_session - warning)
        text = "the session of %s ends in %s: no session lasts longer than %s"
        longest = describe_duration(self.max_session)
        _logger.warning(text, claim.caller, describe_duration(warning), longest)
        await trio.sleep(warning)
        self.end(claim, f"the session has ended: none on this exporter lasts more than {longest}")

    def end(self, claim: Claim, text: str) -> None:
        """End a session, and tell its connections why."""
        self._endings.append((claim.key, text))
        for member in list(claim.members):
            member.dismiss(text)
        self._tell_all()


def warning_before(seconds: float) -> float:
    """Return how many seconds before its end a session of this length is warned."""
    return min(_WARNING, seconds / 10)


def _clock_time(moment: float) -> str:
    """Return a time of today as `14:02`, and an earlier one with its date."""
    then = time.localtime(moment)
    is_today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M", then)


def _row_of(verified: VerifiedIdentity) -> dict[str, Any]:
    return {
        "uid": verified.uid,
        "gid": verified.gid,
        "pid": verified.pid,
        "host": verified.host,
        "port": verified.port,
        "subject": [list(pair) for pair in verified.subject],
    }
