"""The client's rules: it opens slots, and a slot is free once its terminal frame has arrived."""

from __future__ import annotations

from typing import Final

from .._limits import Limits
from ..errors import Code, LocalProtocolError, RemoteProtocolError
from . import events as ev
from .base import BaseProtocol, Slot, SlotState, mask
from .codec import encode_cancel, encode_hello
from .flow_control import ITEM_COST
from .frames import FrameType, Hello, Kind
from .server import _room

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ClientProtocol"]

_T = FrameType
_TO_CLIENT: Final = {
    Kind.UNARY: mask(_T.RESULT, _T.ERROR),
    Kind.GENERATOR: mask(_T.ITEM, _T.RESULT, _T.ERROR),
    Kind.STREAM: mask(_T.ACCEPT, _T.DATA, _T.CREDIT, _T.RESULT, _T.ERROR),
}
_TO_SERVER: Final = {
    Kind.UNARY: mask(_T.CANCEL),
    Kind.GENERATOR: mask(_T.CREDIT, _T.CANCEL),
    Kind.STREAM: mask(_T.DATA, _T.CREDIT, _T.CANCEL),
}
_ERROR_ALONE: Final = mask(_T.ERROR)
_ANSWER: Final = {type_: mask(type_, _T.ERROR) for type_ in (_T.RESULT, _T.ERROR, _T.ITEM)}
# Constants, since to look a member up in its enum takes as long as handling it.
_CALL: Final = _T.CALL
_RESULT: Final = _T.RESULT
_ERROR: Final = _T.ERROR
_FREE: Final = SlotState.FREE
_UNARY: Final = Kind.UNARY
_STREAM: Final = Kind.STREAM


class ClientProtocol(BaseProtocol):
    """The side that calls. Says HELLO at once and waits for the server's before anything else."""

    def __init__(self, limits: Limits, hello: Hello) -> None:
        super().__init__(limits)
        self._free: list[int] = []
        self._unused = 1  # the lowest slot that was never used
        self.send_queue.add_frame(_T.HELLO, 0, encode_hello(hello))

    def _hello_done(self, hello: Hello) -> ev.Event | None:
        self._ready(min(hello.max_calls, self.limits.max_calls))
        return ev.HelloReceived(hello)

    def _is_late(self, slot: Slot, type_: FrameType) -> bool:
        del slot, type_
        return False  # the server's terminal frame is its last word

    # ------------------------------------------------------------------------------- bytes in

    def _on_result(self, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        return self._on_terminal(_RESULT, flags, slot_id, payload)

    def _on_error(self, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        return self._on_terminal(_ERROR, flags, slot_id, payload)

    def _on_terminal(
        self, type_: FrameType, flags: int, slot_id: int, payload: bytes
    ) -> ev.Event | None:
        slot = self._slot(slot_id, type_)
        assert slot is not None
        waits = self.send_queue.has_slot_queue(slot_id)
        if waits and self.send_queue.is_sending(slot_id, _CALL):
            raise RemoteProtocolError(f"{type_.name} on slot {slot_id} before its CALL was whole")
        dropped = ""
        if flags or slot.parts is not None:  # most often a message is one frame
            if type_ is _ERROR and slot.may_receive != _ERROR_ALONE:
                self._forget_parts(slot)  # its first frame: what it cuts short will not go on
            # While MORE is to come, nothing else may, but for an ERROR that cuts a RESULT short.
            slot.may_receive = _ANSWER[type_]
            body = self._assemble(slot_id, slot, flags, payload)
            if body is None:
                return None
            payload, dropped = body, slot.drop_reason
        if waits or slot.kind is not _UNARY:  # which has no credit to give
            self.send_queue.discard(slot_id)
        self._end(slot_id, slot)
        if dropped:
            return ev.MessageDropped(slot_id, dropped, terminal=True)
        return (ev.ResultReceived if type_ is _RESULT else ev.ErrorReceived)(slot_id, payload)

    def _on_item(self, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        slot = self._slot(slot_id, _T.ITEM)
        assert slot is not None
        assert slot.receiving is not None
        if slot.parts is None and slot.receiving.available <= 0:
            raise RemoteProtocolError(f"ITEM on slot {slot_id} without credit", Code.FLOW_CONTROL)
        legal = slot.may_receive
        slot.may_receive = _ANSWER[_T.ITEM]
        body = self._assemble(slot_id, slot, flags, payload)
        if body is None:
            return None
        slot.may_receive = legal | mask(_T.RESULT)
        if slot.drop_reason:
            return ev.MessageDropped(slot_id, slot.drop_reason, terminal=False)
        cost = len(body) + ITEM_COST
        slot.receiving.receive(cost)
        return ev.ItemReceived(slot_id, body, cost)

    def _on_accept(self, _flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        slot = self._slot(slot_id, _T.ACCEPT)
        assert slot is not None
        slot.may_receive &= ~mask(_T.ACCEPT)
        return ev.AcceptReceived(slot_id, payload)

    def _end(self, slot_id: int, slot: Slot) -> None:
        slot.state = _FREE
        slot.may_receive = slot.may_send = 0
        if slot.parts is not None:
            self._forget_parts(slot)
        if slot.receiving is not None:
            self._close_windows(slot)
        self.busy_slots -= 1
        self._free.append(slot_id)

    # ---------------------------------------------------------------------------------- verbs

    @property
    def free_slots(self) -> int:
        """Slots that are free."""
        return self._last - self.busy_slots

    @property
    def can_call(self) -> bool:
        """True if a slot is free and no GOAWAY was said."""
        return not self.going_away and self.free_slots > 0

    def call(self, kind: Kind, buffer: bytearray) -> int:
        """Send a CALL, made by `encode_call`.

        Returns:
            Its slot, busy until `ResultReceived` or `ErrorReceived` names it.

        Raises:
            ArgumentError: It is larger than the peer takes; nothing was sent.
            LocalProtocolError: There is no free slot, or no peer.
        """
        if self.going_away or self.busy_slots >= self._last:
            raise LocalProtocolError("CALL without a free slot, or after GOAWAY")
        self.check_size(buffer)
        if self._free:
            slot_id = self._free.pop()
        else:
            slot_id = self._unused
            self._unused += 1
        slot = self._slots.get(slot_id)
        if slot is None:
            slot = self._slots[slot_id] = Slot()
        self._open(slot, kind, _TO_CLIENT[kind], _TO_SERVER[kind])
        if kind is not _UNARY:
            slot.receiving = self._receive_window()
        if kind is _STREAM:
            slot.sending = self._send_window()
        self.busy_slots += 1
        self.send_queue.add_message(_CALL, slot_id, buffer)
        return slot_id

    def cancel(self, slot_id: int, code: Code = Code.CANCELLED) -> bool:
        """Ask the server to end a call.

        With `Code.CLOSE`, on a raw stream, only once it has all that we sent; with any other code
        at once, and what we have not sent yet is forgotten. The slot stays busy until the server's
        word, unless nothing of the CALL had left.

        Returns:
            False if nothing had left: the slot is free, and no answer will come.
        """
        slot = self._sender(slot_id, _T.CANCEL)
        if code is Code.CLOSE:
            self.send_queue.add_message(_T.CANCEL, slot_id, _room(encode_cancel(code)))
            return True
        call_waits = self.send_queue.is_sending(slot_id, _T.CALL)
        if self.send_queue.discard(slot_id) and call_waits:
            self._end(slot_id, slot)
            return False
        self.send_queue.add_frame(_T.CANCEL, slot_id, encode_cancel(code))
        return True
