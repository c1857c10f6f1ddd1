"""The client's rules: it opens slots, and a slot is free once its terminal frame has arrived."""

from __future__ import annotations

from typing import Final

from .._limits import Limits
from ..errors import Code, LocalProtocolError, RemoteProtocolError
from . import events as ev
from .base import TO_CLIENT, TO_SERVER, BaseProtocol, Slot, SlotState, mask, with_header_space
from .codec import encode_cancel, encode_hello
from .connection import frame_name
from .flow_control import ITEM_COST
from .frames import FrameType, Hello, Kind
from .large_message import Message
from .receive_buffer import Body

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ClientProtocol"]

_T = FrameType
_ERROR_ALONE: Final = mask(_T.ERROR)
# Constants: looking up an enum's member takes as long as handling a frame. client.pxd makes C
# integers of the types and masks.
_CALL: Final = int(_T.CALL)
_RESULT: Final = int(_T.RESULT)
_ERROR: Final = int(_T.ERROR)
_ITEM: Final = int(_T.ITEM)
_ACCEPT: Final = int(_T.ACCEPT)
_CANCEL: Final = int(_T.CANCEL)
_FREE: Final = SlotState.FREE
_UNARY: Final = Kind.UNARY
_STREAM: Final = Kind.STREAM


class ClientProtocol(BaseProtocol):
    """The side that calls. Queues its HELLO when it is made, then waits for the server's."""

    def __init__(self, limits: Limits, hello: Hello) -> None:
        super().__init__(limits)
        self._free: list[int] = []  # slots that were used and are free again, the latest last
        self._unused = 1  # the lowest slot that was never used
        self.send_queue.add_frame(_T.HELLO, 0, encode_hello(hello))

    def _hello_done(self, hello: Hello) -> ev.Event | None:
        self._ready(min(hello.max_calls, self.limits.max_calls))
        return ev.HelloReceived(hello)

    def _is_late(self, slot: Slot, type_: int) -> bool:  # noqa: ARG002 - the server's needs both
        return False  # the server sends nothing after its terminal frame

    # ------------------------------------------------------------------------ frames received

    def _handle(self, type_: int, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        if type_ in (_RESULT, _ERROR):
            return self._on_terminal(type_, flags, slot_id, payload)
        if type_ == _ITEM:
            return self._on_item(flags, slot_id, payload)
        if type_ == _ACCEPT:
            return self._on_accept(slot_id, payload)
        return BaseProtocol._handle(self, type_, flags, slot_id, payload)  # noqa: SLF001 - the base's

    def _on_terminal(self, type_: int, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        slot = self._receiving_slot(slot_id, type_)
        assert slot is not None
        has_queue = self.send_queue.has_slot_queue(slot_id)
        if has_queue and self.send_queue.is_sending(slot_id, _CALL):
            text = f"{frame_name(type_)} on slot {slot_id} before its CALL was whole"
            raise RemoteProtocolError(text)
        body: Body = payload
        drop_reason = ""
        if flags or slot.parts is not None:  # usually a message is one frame
            if type_ == _ERROR and slot.may_receive != _ERROR_ALONE:
                # This first frame of an ERROR replaces an unfinished RESULT or ITEM.
                self._discard_parts(slot)
            slot.may_receive = _until_complete(type_)
            message = self._assemble(slot_id, slot, flags, payload)
            if message is None:
                return None
            body, drop_reason = message, slot.drop_reason
        if has_queue or slot.kind is not _UNARY:  # a unary call has no queued credit
            self.send_queue.discard(slot_id)
        self._free_slot(slot_id, slot)
        if drop_reason:
            return ev.MessageDropped(slot_id, drop_reason, True)
        if type_ == _RESULT:
            return ev.ResultReceived(slot_id, body)
        return ev.ErrorReceived(slot_id, body if isinstance(body, bytes) else body.join())

    def _on_item(self, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        slot = self._receiving_slot(slot_id, _ITEM)
        assert slot is not None
        assert slot.receiving is not None
        if slot.parts is None and slot.receiving.available <= 0:
            raise RemoteProtocolError(f"ITEM on slot {slot_id} without credit", Code.FLOW_CONTROL)
        may_receive = slot.may_receive
        slot.may_receive = _until_complete(_ITEM)
        body = self._assemble(slot_id, slot, flags, payload)
        if body is None:
            return None
        slot.may_receive = may_receive | 1 << _RESULT  # which an unfinished ITEM excludes
        if slot.drop_reason:
            return ev.MessageDropped(slot_id, slot.drop_reason, False)
        cost = len(body) + ITEM_COST
        slot.receiving.receive(cost)
        return ev.ItemReceived(slot_id, body, cost)

    def _on_accept(self, slot_id: int, payload: bytes) -> ev.Event | None:
        slot = self._receiving_slot(slot_id, _ACCEPT)
        assert slot is not None
        slot.may_receive &= ~(1 << _ACCEPT)
        return ev.AcceptReceived(slot_id, payload)

    def _free_slot(self, slot_id: int, slot: Slot) -> None:
        slot.state = _FREE
        slot.may_receive = slot.may_send = 0
        if slot.parts is not None:
            self._discard_parts(slot)
        if slot.receiving is not None:
            self._close_windows(slot)
        self._count_slot(-1)
        self._free.append(slot_id)

    # ---------------------------------------------------------------------------------- verbs

    @property
    def free_slots(self) -> int:
        """How many further calls can be open at the same time."""
        return self._max_slot - self.busy_slots

    @property
    def can_call(self) -> bool:
        """True if a slot is free and neither side has sent GOAWAY."""
        return not self.going_away and self.free_slots > 0

    def call(self, kind: Kind, buffer: Message) -> int:
        """Send a CALL that `encode_call` has built. The send queue owns `buffer` from now on.

        Returns:
            Its slot, busy until `ResultReceived` or `ErrorReceived` names it.

        Raises:
            ArgumentError: The peer accepts no message of this size; nothing was queued.
            LocalProtocolError: No slot is free, or the connection is not ready.
        """
        if self.going_away or self.busy_slots >= self._max_slot:
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
        self._open_slot(slot, kind, TO_CLIENT[kind], TO_SERVER[kind])
        if kind is not _UNARY:
            slot.receiving = self._receive_window()
        if kind is _STREAM:
            slot.sending = self._send_window()
        self._count_slot(1)
        self.send_queue.add_message(_CALL, slot_id, buffer)
        return slot_id

    def cancel(self, slot_id: int, code: Code = Code.CANCELLED) -> bool:
        """Ask the server to end a call.

        With `Code.CLOSE`, on a raw stream, the server ends it after it has received all that we
        sent. With any other code it ends the call immediately, and our queued data is discarded.
        The slot stays busy until the server's terminal frame, unless no part of the CALL had left.

        Returns:
            False if no part of the CALL had left: the slot is free, and no answer will arrive.
        """
        slot = self._sending_slot(slot_id, _CANCEL)
        if code is Code.CLOSE:
            self.send_queue.add_message(_CANCEL, slot_id, with_header_space(encode_cancel(code)))
            return True
        # Ask before discarding: afterwards the queue does not know what it held.
        call_is_queued = self.send_queue.is_sending(slot_id, _CALL)
        if self.send_queue.discard(slot_id) and call_is_queued:
            self._free_slot(slot_id, slot)
            return False
        self.send_queue.add_frame(_CANCEL, slot_id, encode_cancel(code))
        return True


def _until_complete(type_: int) -> int:
    """Return what may follow a message's first frame: its other frames, or an ERROR instead."""
    return 1 << type_ | _ERROR_ALONE
