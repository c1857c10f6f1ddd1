"""Keep which client may call which drivers in exclusive use, and answer the clients' questions.

The whole exporter has one queue, or each of some subtrees has one of its own. Drivers outside of
these subtrees are free. A connection has at most one claim.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from typing import Any, Final, NoReturn

from .._util.wording import worded
from ..driver._caller import Caller, ConnectionContext
from ..errors import Code, ConfigurationError
from .error_reporter import reject
from .exclusive_use import ExclusiveUse, Visitor
from .metrics import Reading
from .tree import DeviceTree, Part

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Subtrees", "find_parts"]

_logger: Final = logging.getLogger("jumpstarter.exporter")
_WAITING: Final = ("waiting_clients", "gauge", "Clients that wait for their turn")
_HELD: Final = ("held_seconds", "gauge", "For how long a client holds the exporter, or 0")


def find_parts(tree: DeviceTree, paths: Sequence[str]) -> list[Part]:
    """Return the subtrees of a tree that are used independently.

    Raises:
        ConfigurationError: There is no such driver, or two subtrees share one.
    """
    parts: list[Part] = []
    for path in paths:
        part = tree.part(path)
        for other in parts:
            if shared := part.family.drivers.keys() & other.family.drivers.keys():
                numbers = part.targets & other.targets  # none for a driver that clients do not see
                hidden = type(part.family.drivers[min(shared)]).__name__
                driver = repr(tree.paths[min(numbers) - 1]) if numbers else f"a hidden {hidden}"
                text = (
                    f"names {other.path!r} and {path!r}, which share {driver}; name subtrees that"
                )
                raise ConfigurationError(f"{worded('exclusive=')} {text} have no driver in common")
        parts.append(part)
    return parts


class Subtrees:
    """The exclusive use of one exporter.

    Args:
        tree: Its drivers.
        uses: The queue of the whole exporter, or the queues of the subtrees.
        parts: Those subtrees, in the same order; empty for the whole exporter.
        operators: Common names of certificates whose owners may end sessions.
        users: Uids whose processes may do so, at a Unix socket.
    """

    def __init__(
        self,
        tree: DeviceTree,
        uses: Sequence[ExclusiveUse],
        parts: Sequence[Part],
        *,
        operators: Collection[str] = (),
        users: Collection[int] = (0,),
    ) -> None:
        self._tree = tree
        self._uses = uses
        every = frozenset(range(len(tree.targets) + 1))  # with the exporter's own service
        targets = [each.targets for each in parts] or [every]
        self._targets = dict(zip(uses, targets, strict=True))
        self._free = every.difference(*targets)
        self._reach = {use: self._free | held for use, held in self._targets.items()}
        self._operators = frozenset(operators)
        self._users = frozenset(users)
        self._visitors: dict[ConnectionContext, Visitor] = {}

    # --------------------------------------------------------------------------- for connections

    def arrive(self, context: ConnectionContext, visitor: Visitor) -> None:
        """Note a connection that was admitted."""
        self._visitors[context] = visitor

    def lost(self, visitor: Visitor) -> None:
        """Note that a connection has ended, whose calls may still run."""
        visitor.may_call = False
        if visitor.claim is not None:
            visitor.claim.use.lost(visitor, visitor.claim)

    def leave(self, context: ConnectionContext) -> None:
        """Note that a connection and all its calls have ended."""
        visitor = self._visitors.pop(context, None)
        if visitor is not None and visitor.claim is not None:
            visitor.claim.use.leave(visitor, visitor.claim)

    def reach(self, visitor: Visitor | None) -> Collection[int]:
        """Return the targets whose methods a connection may call; of None, those that all may."""
        if visitor is None or visitor.claim is None or not visitor.may_call:
            return self._free
        return self._reach[visitor.claim.use]

    def refuse(self, target: int) -> NoReturn:
        """Refuse a call at a target that is not free. In any thread.

        Raises:
            CallRejected: With the holder.
        """
        use = self._use_of(target)
        assert use is not None
        reject(Code.REFUSED, use.refusal())

    def _use_of(self, target: int | None) -> ExclusiveUse | None:
        """Return the queue that a target belongs to; None if it is free."""
        return next((use for use, targets in self._targets.items() if target in targets), None)

    def check(self, context: ConnectionContext | None, target: int) -> None:
        """Check that a connection may use the driver at a target.

        Raises:
            CallRejected: It may not.
        """
        visitor = None if context is None else self._visitors.get(context)
        is_used = visitor is not None and self._use_of(target) is not None
        if is_used and target not in self.reach(visitor):
            self.refuse(target)

    # ------------------------------------------------------------------ for the exporter's service

    def claim(
        self, context: ConnectionContext | None, wait: bool, path: str | None
    ) -> AsyncGenerator[Any]:
        """Claim the exporter, or the subtree that has a driver; see `ExclusiveUse.claim`.

        Args:
            context: The connection that asks for it.
            wait: Wait while others hold it.
            path: The path of the driver, or of one of its methods; None for the only subtree.

        Raises:
            CallRejected: There is no such driver, or more than one subtree to choose from.
        """
        visitor = self._visitor(context)
        use = self._find(path)
        return _free() if use is None else use.claim(visitor, wait)

    def _find(self, path: str | None) -> ExclusiveUse | None:
        """Return the queue for a driver; None if it is free."""
        if len(self._uses) == 1 and (path is None or not self._uses[0].path):
            return self._uses[0]
        names = ", ".join(use.path for use in self._uses)
        if path is None:
            text = f"its boards are used independently: name one of {names}, by --claim NAME, "
            more = "--jumpstarter-claim NAME or JMP_CLAIM=NAME (in Python, claim='NAME')"
            reject(Code.REFUSED, f"{text}{more}")
        target = self._target(path)
        if target is None:
            text = f"there is no driver {path!r:.100}; the boards that can be claimed are {names}"
            reject(Code.REFUSED, text)
        return self._use_of(target)

    def _target(self, path: str) -> int | None:
        """Return the target at the path of a driver, or of one of its methods.

        A driver may be in several places, and a name may contain dots: only the target tells.
        """
        paths = self._tree.paths
        if path in paths:
            return paths.index(path) + 1
        parent, _, method = path.rpartition(".")
        at = paths.index(parent or ".") if (parent or ".") in paths else -1
        return at + 1 if at >= 0 and method in self._tree.targets[at].exports else None

    def join(self, context: ConnectionContext | None, key: str) -> None:
        """Let a connection take part in the session with a key.

        Raises:
            CallRejected: There is no such session.
        """
        visitor = self._visitor(context)
        if visitor.claim is not None:
            name = visitor.claim.use.name
            reject(Code.REFUSED, f"this connection has claimed {name}, or joined, already")
        if not any(use.join(visitor, key) for use in self._uses):
            texts = (use.ending(key) for use in self._uses)
            why = next((f": {text}" for text in texts if text), "")
            reject(Code.REFUSED, f"the session to join has ended{why}")

    def who(self) -> list[dict[str, Any]]:
        """Return the holder, and then the clients that wait, in order; subtree by subtree."""
        return [claim.row() for use in self._uses for claim in use.claims]

    def board(self, context: ConnectionContext | None, name: str | None) -> str:
        """Return the path of the board at which a client may end a session.

        Args:
            context: The connection that asks for it.
            name: The board that its user has named; None for the whole exporter.

        Raises:
            CallRejected: The client may not end sessions, or there is no such board. If boards are
                used independently, each has to be named, even if one client alone holds any.
        """
        self._operator(context)
        return self._board(name)

    def _board(self, name: str | None) -> str:
        names = [use.path for use in self._uses if use.path]
        boards = f"the boards are {', '.join(names)}"
        if name is None and names:
            held = "; ".join(use.claims[0].describe() for use in self._uses if use.claims)
            text = f"name the board whose session is to end; {boards}"
            reject(Code.REFUSED, f"{text} ({held or 'nobody holds any of them'})")
        if name is not None and name not in names:
            whole = "the whole exporter is in exclusive use, so name no board"
            reject(Code.REFUSED, f"there is no board {name!r:.100}; {boards if names else whole}")
        return name or ""

    async def kick(self, context: ConnectionContext | None, connection: int | None) -> None:
        """End the session of a holder, and wait until its calls have ended. A checkpoint.

        Args:
            context: The connection that asks for it.
            connection: The holder's connection, so that a later holder is not ended by mistake;
                None for any, if the whole exporter is in exclusive use.

        Raises:
            CallRejected: The client may not do this, or there is no such holder.
        """
        caller = self._operator(context)
        if connection is None:
            self._board(None)
        holders = [holder for use in self._uses if (holder := use.holder) is not None]
        if not holders:
            firsts = [use.claims[0].describe() for use in self._uses if use.claims]
            now = f" yet: {'; '.join(firsts)}" if firsts else ""
            reject(Code.REFUSED, f"nobody holds the exporter{now}")
        found = [each for each in holders if connection in (None, each.caller.connection)]
        now = "; ".join(each.describe() for each in holders)
        if not found:
            reject(Code.REFUSED, f"another client holds it by now: {now}")
        holder = found[0]
        _logger.warning("%s ends the session of %s", caller, holder.caller)
        holder.use.end(holder, f"the session was ended by {caller}")
        await holder.left.wait()

    def readings(self) -> Iterator[Reading]:
        """Yield how many clients wait, and for how long one has held it. In any thread."""
        labels = ("subtree",) if self._uses[0].path else ()
        keys = [(use.path,) if labels else () for use in self._uses]
        pairs = list(zip(keys, self._uses, strict=True))
        yield Reading(*_WAITING, labels, values={key: use.waiting for key, use in pairs})
        yield Reading(*_HELD, labels, values={key: use.held for key, use in pairs})

    def _visitor(self, context: ConnectionContext | None) -> Visitor:
        visitor = None if context is None else self._visitors.get(context)
        if visitor is None:  # it has come through the private socket for hooks
            reject(Code.UNIMPLEMENTED, "no claim is needed at this address")
        return visitor

    def _operator(self, context: ConnectionContext | None) -> Caller:
        """Return the client of a connection that may end sessions."""
        caller = self._visitor(context).caller
        verified = caller.verified
        if verified.uid not in self._users and verified.common_name not in self._operators:
            text = "only root, the exporter's own user at a unix: address, or the owner of a "
            reject(Code.REFUSED, f"{text}certificate that --operator names may end a session")
        return caller


async def _free() -> AsyncGenerator[Any]:
    """Yield what a client gets that claims a driver which is free."""
    yield {"session": None}
