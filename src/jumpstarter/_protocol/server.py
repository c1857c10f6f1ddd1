"""The two roles over the shared rules: the side that calls, and the side that is called.

A role adds the frames that only it may be sent, the verbs that only it has, and when its slots are
free again: a client's once the terminal frame has come, a server's once it has been taken to be
written. Same ignorance as `_protocol`: no clock, socket, task, thread or log.
"""

from __future__ import annotations

from typing import Final

from .._framing import HEADER_SIZE
from .._limits import MIN_WIRE_FRAME
from ..errors import ArgumentError, Code, LocalProtocolError, RemoteProtocolError
from . import events as ev
from .base import BaseProtocol, Phase, Slot, SlotState, mask
from .codec import decode_call, decode_cancel, encode_error, encode_hello
from .flow_control import ITEM_COST
from .frames import ErrorBody, FrameType, Hello, Kind
from .send_queue import WriteBatch

__all__ = ["ServerProtocol", "_room"]

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

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
_OPENING: Final = mask(_T.CALL, _T.CANCEL)
_LATE: Final = mask(_T.DATA, _T.CREDIT, _T.CANCEL)  # may cross the server's terminal frame
_RESULT: Final = _T.RESULT
_ERROR: Final = _T.ERROR
_FREE: Final = SlotState.FREE
_OPENING_STATE: Final = SlotState.OPENING
_ENDED: Final = SlotState.ENDED
_UNARY: Final = Kind.UNARY
_STREAM: Final = Kind.STREAM


class ServerProtocol(BaseProtocol):
    """The side that is called. Says nothing until the client's HELLO was admitted."""

    def _hello_done(self, hello: Hello) -> ev.Event | None:
        self._phase = Phase.ADMISSION
        return ev.HelloReceived(hello)

    def admit(self, hello: Hello) -> None:
        """Answer the client's HELLO with ours: calls may come."""
        if self._asked("admit"):
            self.send_queue.add_frame(_T.HELLO, 0, encode_hello(hello))
            self._ready(hello.max_calls)

    def refuse(self, code: Code, text: str) -> None:
        """Answer the client's HELLO with a GOAWAY instead: it learns this text and nothing else."""
        if self._asked("refuse"):
            self.fail(RemoteProtocolError(text, code))

    def _asked(self, verb: str) -> bool:
        """Tell if a HELLO waits for its answer; a breach right behind it has answered it."""
        if self._phase not in (Phase.ADMISSION, Phase.FAILED):
            raise LocalProtocolError(f"{verb} without a HELLO to answer")
        return self._phase is Phase.ADMISSION

    def _is_late(self, slot: Slot, type_: FrameType) -> bool:
        return slot.state in (SlotState.ENDED, SlotState.FREE) and bool(_LATE >> type_ & 1)

    # ------------------------------------------------------------------------------- bytes in

    def _on_call(self, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        if slot_id > self._last:
            raise RemoteProtocolError(f"CALL on slot {slot_id} of {self._last}")
        slot = self._slots.get(slot_id)
        if slot is None:
            slot = self._slots[slot_id] = Slot()
        if slot.state is _FREE:
            slot.state = _OPENING_STATE
            slot.may_receive = _OPENING
            self.busy_slots += 1
        elif slot.state is not _OPENING_STATE:
            raise RemoteProtocolError(f"CALL on slot {slot_id}, which is {slot.state.name}")
        message = self._assemble(slot_id, slot, flags, payload)
        if message is None:
            return None
        return self._called(slot_id, slot, message)

    def _called(self, slot_id: int, slot: Slot, message: bytes) -> ev.Event | None:
        if slot.drop_reason:
            self._refuse_call(slot_id, slot, Code.RESOURCE_EXHAUSTED, slot.drop_reason)
            return None
        if self.going_away:
            text = "the exporter is shutting down and takes no new calls"
            self._refuse_call(slot_id, slot, Code.REFUSED, text)
            return None
        # Small ones are bounded by the slots, and are let in: one may switch the power off.
        counted = len(message) if len(message) > self.limits.max_frame else 0
        if not self._has_room(counted):
            self._refuse_call(slot_id, slot, Code.RESOURCE_EXHAUSTED, self._no_room())
            return None
        try:
            head, body = decode_call(message)
        except ArgumentError as exc:
            self._refuse_call(slot_id, slot, Code.INVALID_ARGUMENT, str(exc))
            return None
        self._open(slot, head.kind, _TO_SERVER[head.kind], _TO_CLIENT[head.kind])
        slot.reserved_bytes = counted
        self._pending += slot.reserved_bytes
        if head.kind is not _UNARY:
            slot.sending = self._send_window()
        if head.kind is _STREAM:
            slot.receiving = self._receive_window()
        return ev.CallReceived(slot_id, head, body)

    def _refuse_call(self, slot_id: int, slot: Slot, code: Code, text: str) -> None:
        slot.state = SlotState.OPEN
        slot.may_send = mask(_T.ERROR)
        self.error(slot_id, encode_error(code, ErrorBody("", text)))

    def _on_cancel(self, _flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        code = decode_cancel(payload)
        if code is None:
            raise RemoteProtocolError(f"malformed CANCEL on slot {slot_id}")
        slot = self._slot(slot_id, _T.CANCEL)
        if slot is None:
            self._cut_result_short(slot_id, code)
            return None
        if slot.state is SlotState.OPENING:
            self._forget_parts(slot)
            self._refuse_call(slot_id, slot, Code.CANCELLED, "cancelled before it was started")
            return None
        if slot.cancelled:
            self.no_op_frames += 1
        slot.cancelled = True
        return ev.CancelReceived(slot_id, code)

    def _cut_result_short(self, slot_id: int, code: int) -> None:
        """A large result is on its way and nobody wants it: end the call with an ERROR instead."""
        if code != Code.CLOSE and self.send_queue.is_sending(slot_id, _T.RESULT):
            self.send_queue.discard(slot_id)
            body = encode_error(Code.CANCELLED, ErrorBody("", "cancelled as its result was sent"))
            self.send_queue.add_message(_T.ERROR, slot_id, body, terminal=True)

    # ---------------------------------------------------------------------------------- verbs

    def next_batch(self) -> WriteBatch:
        """Take the next frames to write; the slots whose terminal frame is among them are free."""
        batch = self.send_queue.next_batch()
        for slot_id in batch.ended:
            slot = self._slots[slot_id]
            slot.state = _FREE
            self.busy_slots -= 1
        return batch

    def result(self, slot_id: int, buffer: bytearray) -> None:
        """End a call well. `buffer` is an encoded value behind room for a header.

        Raises:
            ArgumentError: It is larger than the client takes; the call is still open.
        """
        self.check_size(buffer)
        self._terminate(slot_id, _RESULT)
        self.send_queue.add_message(_RESULT, slot_id, buffer, terminal=True)

    def error(self, slot_id: int, buffer: bytearray) -> None:
        """End a call badly, with what `encode_error` made; of what is too large, the code alone."""
        try:
            self.check_size(buffer)
        except ArgumentError as exc:
            code = int.from_bytes(buffer[HEADER_SIZE : HEADER_SIZE + 2], "little")
            buffer = encode_error(code, ErrorBody("", f"what it failed with cannot be sent: {exc}"))
        self._terminate(slot_id, _ERROR)
        self.send_queue.add_message(_ERROR, slot_id, buffer, terminal=True)

    def _terminate(self, slot_id: int, type_: FrameType) -> None:
        slot = self._sender(slot_id, type_)
        slot.state = _ENDED
        slot.may_receive = slot.may_send = 0
        self._pending -= slot.reserved_bytes
        slot.reserved_bytes = 0
        if slot.sending is not None:
            self._close_windows(slot)

    def abandon(self, slot_id: int) -> None:
        """Forget what a slot has still to send: its call was cancelled and an ERROR follows."""
        self._own(slot_id, "abandon").may_send = mask(_T.ERROR)
        self.send_queue.discard(slot_id)

    @staticmethod
    def item_cost(buffer: bytearray) -> int:
        """Say what an item takes of what is `sendable`. In any thread."""
        return len(buffer) - HEADER_SIZE + ITEM_COST

    def item(self, slot_id: int, buffer: bytearray) -> None:
        """Send a generator's next item; `sendable` must be above 0.

        Raises:
            ArgumentError: It is larger than the client takes; nothing was sent.
        """
        window = self._sender(slot_id, _T.ITEM).sending
        assert window is not None
        if window.available <= 0:
            raise LocalProtocolError(f"ITEM on slot {slot_id} without credit")
        self.check_size(buffer)
        window.spend(self.item_cost(buffer), self._frames(len(buffer)))
        self.send_queue.add_message(_T.ITEM, slot_id, buffer)

    def accept(self, slot_id: int, buffer: bytearray) -> None:
        """Say that a raw stream is open; `buffer` is encoded metadata of at most a small frame.

        Raises:
            ArgumentError: It is larger than a frame.
        """
        slot = self._sender(slot_id, _T.ACCEPT)
        if len(buffer) - HEADER_SIZE > MIN_WIRE_FRAME:
            raise ArgumentError(f"a stream's metadata must fit {MIN_WIRE_FRAME} bytes encoded")
        slot.may_send &= ~mask(_T.ACCEPT)
        self.send_queue.add_message(_T.ACCEPT, slot_id, buffer)


def _room(payload: bytes) -> bytearray:
    return bytearray(HEADER_SIZE) + payload
