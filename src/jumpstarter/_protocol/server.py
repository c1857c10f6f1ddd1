"""The server's rules: it answers calls, and a slot is free once its answer is being written."""

from __future__ import annotations

from typing import Final

from .._framing import HEADER_SIZE
from .._limits import MIN_WIRE_FRAME, Limits
from ..errors import ArgumentError, Code, LocalProtocolError, RemoteProtocolError
from . import events as ev
from .base import TO_CLIENT, TO_SERVER, BaseProtocol, Phase, Slot, SlotState, mask
from .codec import decode_call, decode_cancel, encode_error, encode_hello
from .flow_control import ITEM_COST
from .frames import ErrorBody, FrameType, Hello, Kind
from .large_message import Message
from .receive_buffer import Body
from .send_queue import WriteBatch

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ServerProtocol"]

_T = FrameType
_WHILE_OPENING: Final = mask(_T.CALL, _T.CANCEL)
_LATE: Final = mask(_T.DATA, _T.CREDIT, _T.CANCEL)  # these may cross the server's terminal frame
# Constants: looking up an enum's member takes as long as handling a frame. server.pxd makes C
# integers of the types and masks.
_CALL: Final = int(_T.CALL)
_RESULT: Final = int(_T.RESULT)
_ERROR: Final = int(_T.ERROR)
_ITEM: Final = int(_T.ITEM)
_ACCEPT: Final = int(_T.ACCEPT)
_CANCEL: Final = int(_T.CANCEL)
_FREE: Final = SlotState.FREE
_OPENING: Final = SlotState.OPENING
_ENDED: Final = SlotState.ENDED
_UNARY: Final = Kind.UNARY
_STREAM: Final = Kind.STREAM


class ServerProtocol(BaseProtocol):
    """The side that is called. Sends nothing until the client's HELLO was admitted or refused.

    Attributes:
        refusal: Why calls that arrive after our GOAWAY are refused.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.refusal: str = "the exporter is shutting down and takes no new calls"
        self._max_small_call: int = limits.max_frame

    def _hello_done(self, hello: Hello) -> ev.Event | None:
        self._phase = Phase.ADMISSION
        return ev.HelloReceived(hello)

    def admit(self, hello: Hello) -> None:
        """Answer the client's HELLO with ours. From now on it may call."""
        if self._awaits_answer("admit"):
            self.send_queue.add_frame(_T.HELLO, 0, encode_hello(hello))
            self._ready(hello.max_calls)

    def refuse(self, code: Code, text: str) -> None:
        """Answer the client's HELLO with a GOAWAY, which tells it this text and nothing else."""
        if self._awaits_answer("refuse"):
            self.fail(RemoteProtocolError(text, code))

    def _awaits_answer(self, verb: str) -> bool:
        """Return whether a HELLO awaits its answer; False if a breach behind it has failed us."""
        if self._phase not in (Phase.ADMISSION, Phase.FAILED):
            raise LocalProtocolError(f"{verb} without a HELLO to answer")
        return self._phase is Phase.ADMISSION

    def _is_late(self, slot: Slot, type_: int) -> bool:
        return slot.state in (SlotState.ENDED, SlotState.FREE) and bool(_LATE >> type_ & 1)

    # ------------------------------------------------------------------------ frames received

    def _handle(self, type_: int, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        if type_ == _CALL:
            return self._on_call(flags, slot_id, payload)
        if type_ == _CANCEL:
            return self._on_cancel(slot_id, payload)
        return BaseProtocol._handle(self, type_, flags, slot_id, payload)  # noqa: SLF001 - the base's

    def _on_call(self, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        if slot_id > self._max_slot:
            raise RemoteProtocolError(f"CALL on slot {slot_id} of {self._max_slot}")
        slot = self._slots.get(slot_id)
        if slot is None:
            slot = self._slots[slot_id] = Slot()
        if slot.state is _FREE:
            slot.state = _OPENING
            slot.may_receive = _WHILE_OPENING
            self._count_slot(1)
        elif slot.state is not _OPENING:
            raise RemoteProtocolError(f"CALL on slot {slot_id}, which is {slot.state.name}")
        message = self._assemble(slot_id, slot, flags, payload)
        if message is None:
            return None
        return self._open_call(slot_id, slot, message)

    def _open_call(self, slot_id: int, slot: Slot, message: Body) -> ev.Event | None:
        if slot.drop_reason:
            self._reject_call(slot_id, slot, Code.RESOURCE_EXHAUSTED, slot.drop_reason)
            return None
        if self.going_away:
            self._reject_call(slot_id, slot, Code.REFUSED, self.refusal)
            return None
        # Only large calls count. Small ones are bounded by the number of slots, and are always
        # accepted: one of them may switch the power off.
        counted = len(message) if len(message) > self._max_small_call else 0
        if not self._may_hold(counted):
            self._reject_call(slot_id, slot, Code.RESOURCE_EXHAUSTED, self._over_max_pending())
            return None
        try:
            head, body = decode_call(message)
        except ArgumentError as exc:
            self._reject_call(slot_id, slot, Code.INVALID_ARGUMENT, str(exc))
            return None
        self._open_slot(slot, head.kind, TO_SERVER[head.kind], TO_CLIENT[head.kind])
        slot.reserved_bytes = counted
        self._pending_bytes += slot.reserved_bytes
        if head.kind is not _UNARY:
            slot.sending = self._send_window()
        if head.kind is _STREAM:
            slot.receiving = self._receive_window()
        return ev.CallReceived(slot_id, head, body)

    def _reject_call(self, slot_id: int, slot: Slot, code: Code, text: str) -> None:
        slot.state = SlotState.OPEN
        slot.may_send = 1 << _ERROR
        self.error(slot_id, encode_error(code, ErrorBody("", text)))

    def _on_cancel(self, slot_id: int, payload: bytes) -> ev.Event | None:
        code = decode_cancel(payload)
        if code is None:
            raise RemoteProtocolError(f"malformed CANCEL on slot {slot_id}")
        slot = self._receiving_slot(slot_id, _CANCEL)
        if slot is None:
            self._replace_queued_result(slot_id, code)
            return None
        if slot.state is SlotState.OPENING:
            self._discard_parts(slot)
            self._reject_call(slot_id, slot, Code.CANCELLED, "cancelled before it was started")
            return None
        if slot.cancelled:
            self.no_op_frames += 1
        slot.cancelled = True
        return ev.CancelReceived(slot_id, code)

    def _replace_queued_result(self, slot_id: int, code: int) -> None:
        """End a cancelled call with an ERROR if part of a large result is still queued."""
        if code != Code.CLOSE and self.send_queue.is_sending(slot_id, _RESULT):
            self.send_queue.discard(slot_id)
            body = encode_error(Code.CANCELLED, ErrorBody("", "cancelled as its result was sent"))
            self.send_queue.add_message(_ERROR, slot_id, body, True)

    # ---------------------------------------------------------------------------------- verbs

    def next_batch(self) -> WriteBatch:
        """Remove and return the next frames to write; free the slots whose terminal frame left."""
        batch = self.send_queue.next_batch()
        for slot_id in batch.ended:
            slot = self._slots[slot_id]
            slot.state = _FREE
            self._count_slot(-1)
        return batch

    def result(self, slot_id: int, buffer: Message) -> None:
        """End a call with a result: an encoded value behind header space. Takes over `buffer`.

        Raises:
            ArgumentError: The client accepts no message of this size; the call is still open.
        """
        self.check_size(buffer)
        self._terminate(slot_id, _RESULT)
        self.send_queue.add_message(_RESULT, slot_id, buffer, True)

    def error(self, slot_id: int, buffer: bytearray) -> None:
        """End a call with an ERROR that `encode_error` has built. Takes over `buffer`.

        If the client accepts no message of this size, it receives the code and why the rest is
        missing.
        """
        try:
            self.check_size(buffer)
        except ArgumentError as exc:
            code = int.from_bytes(buffer[HEADER_SIZE : HEADER_SIZE + 2], "little")
            buffer = encode_error(code, ErrorBody("", f"its error cannot be sent: {exc}"))
        self._terminate(slot_id, _ERROR)
        self.send_queue.add_message(_ERROR, slot_id, buffer, True)

    def _terminate(self, slot_id: int, type_: int) -> None:
        slot = self._sending_slot(slot_id, type_)
        slot.state = _ENDED
        slot.may_receive = slot.may_send = 0
        self._pending_bytes -= slot.reserved_bytes
        slot.reserved_bytes = 0
        if slot.sending is not None:
            self._close_windows(slot)

    def abandon(self, slot_id: int) -> None:
        """Discard all that a slot has queued: its call was cancelled, and an ERROR will follow."""
        self._open_slot_for("abandon", slot_id).may_send = 1 << _ERROR
        self.send_queue.discard(slot_id)

    @staticmethod
    def item_cost(buffer: Message) -> int:
        """Return how much credit an item takes. May be called in any thread."""
        return len(buffer) - HEADER_SIZE + ITEM_COST

    def item(self, slot_id: int, buffer: Message) -> None:
        """Send a generator's next item; `sendable` must be above 0. Takes over `buffer`.

        Raises:
            ArgumentError: The client accepts no message of this size; nothing was queued.
        """
        window = self._sending_slot(slot_id, _ITEM).sending
        assert window is not None
        if window.available <= 0:
            raise LocalProtocolError(f"ITEM on slot {slot_id} without credit")
        self.check_size(buffer)
        window.spend(self.item_cost(buffer), self._frame_count(len(buffer)))
        self.send_queue.add_message(_ITEM, slot_id, buffer)

    def accept(self, slot_id: int, buffer: bytearray) -> None:
        """Tell the client that its raw stream is open; `buffer` has the encoded metadata.

        Raises:
            ArgumentError: The metadata is larger than the smallest `max_frame`.
        """
        slot = self._sending_slot(slot_id, _ACCEPT)
        if len(buffer) - HEADER_SIZE > MIN_WIRE_FRAME:
            raise ArgumentError(f"a stream's metadata must fit {MIN_WIRE_FRAME} bytes encoded")
        slot.may_send &= ~(1 << _ACCEPT)
        self.send_queue.add_message(_ACCEPT, slot_id, buffer)
