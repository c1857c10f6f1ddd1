"""The rules of the slots that both sides share: bytes in -> events, verbs in -> bytes out.

A slot carries one call at a time. This module knows slots, their states and their credit, and
nothing about clocks, sockets, tasks, threads or logs. The caller feeds `receive` with the bytes it
has read and acts on the events; after each verb or `receive` it writes what `next_batch` returns.
`connection` has the rules of the connection as a whole, `client` and `server` those of one side.
The specification, with the tables, is docs/protocol.md. In short:

- A slot is busy from its CALL to its terminal frame (RESULT or ERROR), and is then free for reuse:
  the transport keeps the order, so no late frame can be taken for one of the next call.
- A slot has two bit masks of frame types, for what may arrive and for what we may send. They change
  only together with the slot's state.
- A server's slot stays busy until its terminal frame has left the send queue, so a peer that does
  not read cannot make us queue more than one answer per slot.
- A breach by the peer ends the connection: `receive` returns `ConnectionFailed` as the last event.
- Frames that demand work and have no effect are counted. The caller, which has a clock, decides
  how many are too many, and then calls `fail`.
- A breach by the caller of the verbs is a `LocalProtocolError`: a bug in this library.

Each side has a `SlotState` of its own for a slot. The state belongs to the protocol object:

    state    | server: next state                     | client: next state
    ---------|----------------------------------------|--------------------------------------------
    (none)   | first frame of a CALL: OPENING         | `call`: OPEN
    OPENING  | whole CALL: OPEN; rejected, or CANCEL: | (does not occur)
             | ENDED, with an ERROR queued            |
    OPEN     | `result` or `error`: ENDED             | RESULT or ERROR received: FREE; `cancel`
             |                                        | before any part of the CALL left: FREE
    ENDED    | terminal frame in a batch: FREE        | (does not occur)
    FREE     | first frame of a CALL: OPENING         | `call`: OPEN
"""

from __future__ import annotations

import enum
from typing import Final

from .._framing import HEADER_SIZE
from .._limits import MIN_WIRE_FRAME, Limits
from ..errors import ArgumentError, Code, LocalProtocolError, RemoteProtocolError
from . import events as ev
from .codec import decode_credit
from .connection import ConnectionProtocol, Phase, frame_name, mask
from .flow_control import GRANTS, Budget, ReceiveWindow, SendWindow
from .frames import Flag, FrameType, Kind
from .large_message import LARGE, Message
from .receive_buffer import Body, ReceiveBuffer

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "TO_CLIENT",
    "TO_SERVER",
    "BaseProtocol",
    "Phase",
    "Slot",
    "SlotState",
    "mask",
    "with_header_space",
]


class SlotState(enum.Enum):
    """The state of a slot that was used before; the table is in this module's docstring."""

    OPENING = enum.auto()  # server only: part of the CALL has arrived
    OPEN = enum.auto()
    ENDED = enum.auto()  # server only: the terminal frame is queued
    FREE = enum.auto()


_T = FrameType
# Constants: looking up an enum's member takes as long as handling a frame. base.pxd makes C
# integers of the types and flags.
_OPEN: Final = SlotState.OPEN
_DATA: Final = int(_T.DATA)
_CREDIT: Final = int(_T.CREDIT)
_END: Final = int(Flag.END)
_MORE: Final = int(Flag.MORE)
_LARGE: Final = LARGE
# The frames that each side may receive on a slot that a call of this kind has just opened.
TO_CLIENT: Final = {
    Kind.UNARY: mask(_T.RESULT, _T.ERROR),
    Kind.GENERATOR: mask(_T.ITEM, _T.RESULT, _T.ERROR),
    Kind.STREAM: mask(_T.ACCEPT, _T.DATA, _T.CREDIT, _T.RESULT, _T.ERROR),
}
TO_SERVER: Final = {
    Kind.UNARY: mask(_T.CANCEL),
    Kind.GENERATOR: mask(_T.CREDIT, _T.CANCEL),
    Kind.STREAM: mask(_T.DATA, _T.CREDIT, _T.CANCEL),
}


class Slot:
    """The state of one slot, and of the call that uses it."""

    __slots__ = (
        "cancelled",
        "drop_reason",
        "kind",
        "may_receive",
        "may_send",
        "parts",
        "received_bytes",
        "receiving",
        "reserved_bytes",
        "sending",
        "state",
    )

    def __init__(self) -> None:
        self.state: SlotState = SlotState.FREE
        self.may_receive: int = 0  # mask of the frame types that the peer may send
        self.may_send: int = 0  # mask of the frame types that we may send
        self.kind: Kind = Kind.UNARY
        self.parts: ReceiveBuffer | None = None  # of a message whose last frame is to come
        self.received_bytes: int = 0  # of that message, kept or not
        self.drop_reason: str = ""  # why that message is discarded as it arrives, if it is
        self.reserved_bytes: int = 0  # server only: bytes of its CALL, until it is answered
        self.cancelled: bool = False  # server only: a CANCEL has arrived
        self.sending: SendWindow | None = None
        self.receiving: ReceiveWindow | None = None


class BaseProtocol(ConnectionProtocol):
    """Handle what both sides do on slots. Use one of the two subclasses.

    Attributes:
        busy_slots: Slots in use.
        late_frames: Frames received that crossed a terminal frame, and were dropped.
    """

    no_op_frames: int  # pyright takes `+=` in a subclass for another declaration

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.busy_slots: int = 0
        self.late_frames: int = 0
        self._budget = Budget(limits.max_total_window)
        self._max_message: int = limits.max_message
        self._max_pending: int = limits.max_pending
        self._pending_bytes = 0  # bytes of unfinished messages and unanswered calls
        self._unfinished_messages = 0
        self._slots: dict[int, Slot] = {}  # those that were ever used

    @property
    def unfinished(self) -> bool:
        """True if the rest of a frame or message is still to arrive."""
        return self._unfinished_messages > 0 or self._decoder.buffered > 0

    # ------------------------------------------------------------------------ frames received

    def _handle(self, type_: int, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        if type_ == _DATA:
            return self._on_data(flags, slot_id, payload)
        if type_ == _CREDIT:
            return self._on_credit(slot_id, payload)
        # Not by super(), which cannot reach a C method.
        return ConnectionProtocol._handle(self, type_, flags, slot_id, payload)  # noqa: SLF001

    def _receiving_slot(self, slot_id: int, type_: int) -> Slot | None:
        """Find the slot of a frame that has arrived; None if it is late, and dropped."""
        slot = self._slots.get(slot_id)
        if slot is not None and slot.may_receive >> type_ & 1:
            return slot
        if slot is not None and self._is_late(slot, type_):
            self.late_frames += 1
            return None
        raise RemoteProtocolError(f"{frame_name(type_)} on slot {slot_id} ({_describe(slot)})")

    def _is_late(self, slot: Slot, type_: int) -> bool:
        raise NotImplementedError

    def _on_data(self, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        slot = self._receiving_slot(slot_id, _DATA)
        if slot is None:
            return None
        end = flags == _END
        if not payload and not end:
            raise RemoteProtocolError(f"empty DATA on slot {slot_id}")
        window = slot.receiving
        assert window is not None
        window.receive(len(payload))
        if window.available < 0:
            text = f"DATA on slot {slot_id}: {-window.available} bytes beyond its credit"
            raise RemoteProtocolError(text, Code.FLOW_CONTROL)
        if end:
            slot.may_receive &= ~(1 << _DATA)
        return ev.DataReceived(slot_id, payload, end)

    def _on_credit(self, slot_id: int, payload: bytes) -> ev.Event | None:
        delta = decode_credit(payload)
        slot = self._receiving_slot(slot_id, _CREDIT)
        if slot is None:
            return None
        assert slot.sending is not None
        if delta == 0 or not slot.sending.grant(delta):
            text = f"CREDIT of {delta} on slot {slot_id}: not 1 to 2**31-1 in sum"
            raise RemoteProtocolError(text, Code.FLOW_CONTROL)
        if slot.sending.grants < 0:
            text = f"CREDIT on slot {slot_id}: over {GRANTS} for each frame that was sent there"
            raise RemoteProtocolError(text, Code.TOO_MANY_FRAMES)
        return ev.CreditReceived(slot_id)

    def _assemble(self, slot_id: int, slot: Slot, flags: int, payload: bytes) -> Body | None:
        """Put the frames of a message together.

        Returns:
            The message, or None while MORE is to come. If the message was discarded as it arrived,
            `slot.drop_reason` says why. The frames of a large one are joined by the code that
            decodes it: for large bytes, that is their only copy.
        """
        more = flags == _MORE
        if slot.parts is None:
            slot.drop_reason = ""
            if not more:
                return payload
            slot.parts = ReceiveBuffer()
            slot.received_bytes = 0
            self._unfinished_messages += 1
        if not payload and more:
            raise RemoteProtocolError(f"an empty part of a message on slot {slot_id}")
        if more and len(payload) < MIN_WIRE_FRAME:
            self.no_op_frames += 1
        slot.received_bytes += len(payload)
        if slot.received_bytes > self._max_message:
            text = f"a message of over {self.limits.max_message} bytes on slot {slot_id}"
            raise RemoteProtocolError(text, Code.FRAME_SIZE)
        if not slot.drop_reason and not self._may_hold(len(payload)):
            self._pending_bytes -= len(slot.parts)
            slot.parts.clear()
            slot.drop_reason = self._over_max_pending()
        if payload and not slot.drop_reason:
            slot.parts.append(payload)
            self._pending_bytes += len(payload)
        if more:
            return None
        parts = slot.parts
        self._discard_parts(slot)
        return parts if len(parts) >= _LARGE else parts.join()

    def _may_hold(self, size: int) -> bool:
        return self._pending_bytes + size <= self._max_pending

    def _over_max_pending(self) -> str:
        return (
            f"it was discarded: over {self.limits.max_pending} bytes of unfinished messages and "
            "unanswered calls on this connection"
        )

    def _discard_parts(self, slot: Slot) -> None:
        if slot.parts is not None:
            self._pending_bytes -= len(slot.parts)
            self._unfinished_messages -= 1
            slot.parts = None

    def _open_slot(self, slot: Slot, kind: Kind, may_receive: int, may_send: int) -> None:
        slot.state = _OPEN
        slot.kind = kind
        slot.cancelled = False
        slot.may_receive = may_receive
        slot.may_send = may_send

    def _count_slot(self, by: int) -> None:
        self.busy_slots += by

    def _close_windows(self, slot: Slot) -> None:
        slot.sending = None
        if slot.receiving is not None:
            slot.receiving.close()
            slot.receiving = None

    def _receive_window(self) -> ReceiveWindow:
        limits = self.limits
        return ReceiveWindow(limits.stream_window, limits.max_window, self._budget)

    def _send_window(self) -> SendWindow:
        assert self.peer is not None
        return SendWindow(self.peer.stream_window)

    # --------------------------------------------------------------- verbs that both sides have

    def _open_slot_for(self, verb: str, slot_id: int) -> Slot:
        """Find the slot that a verb is about; it must be open."""
        slot = self._slots.get(slot_id)
        if slot is None or slot.state is not _OPEN:
            raise LocalProtocolError(f"{verb} on slot {slot_id} ({_describe(slot)})")
        return slot

    def _sending_slot(self, slot_id: int, type_: int) -> Slot:
        """Find the slot on which we are about to send a frame of this type."""
        slot = self._slots.get(slot_id)
        if slot is None or not slot.may_send >> type_ & 1:
            raise LocalProtocolError(f"{frame_name(type_)} on slot {slot_id} ({_describe(slot)})")
        return slot

    def sendable(self, slot_id: int) -> int:
        """Return how many bytes of DATA may be sent now; for a generator, if above 0, one ITEM."""
        window = self._open_slot_for("sendable", slot_id).sending
        return 0 if window is None else max(0, window.available)

    def data(self, slot_id: int, chunk: bytes, end: bool = False) -> None:
        """Send bytes of a raw stream, at most `sendable`, and optionally the end of our half."""
        slot = self._sending_slot(slot_id, _DATA)
        window = slot.sending
        assert window is not None
        if len(chunk) > window.available or not (chunk or end):
            text = f"DATA of {len(chunk)} bytes on slot {slot_id}, of {window.available} allowed"
            raise LocalProtocolError(text)
        window.spend(len(chunk), self._frame_count(len(chunk)))
        if end:
            slot.may_send &= ~(1 << _DATA)
        self.send_queue.add_data(slot_id, chunk, end)

    def _frame_count(self, size: int) -> int:
        return 1 + size // self.send_queue.max_frame

    def withdraw(self, slot_id: int) -> None:
        """Take back the queued DATA of a slot, and its credit: the sender was cancelled.

        A queued END is taken back too and cannot be sent again: the bytes before it are incomplete.
        """
        window = self._open_slot_for("withdraw", slot_id).sending
        if window is None:
            raise LocalProtocolError(f"withdraw on slot {slot_id}, which has no DATA to send")
        window.available += self.send_queue.withdraw_data(slot_id)

    def consume(self, slot_id: int, amount: int) -> bool:
        """Count bytes that the application has read from an open slot.

        Returns:
            True if a CREDIT was queued.
        """
        window = self._sending_slot(slot_id, _CREDIT).receiving
        assert window is not None
        delta = window.consume(amount)
        if delta:
            self.send_queue.add_credit(slot_id, delta)
        return delta > 0

    def readable_without_credit(self, slot_id: int) -> int:
        """Return how many bytes of a raw stream can be read before a CREDIT is due."""
        window = self._open_slot_for("readable_without_credit", slot_id).receiving
        assert window is not None
        return (window.size - 1) // 2

    def check_size(self, buffer: Message) -> None:
        """Check that the peer accepts a message of this size.

        Raises:
            ArgumentError: It does not.
        """
        if len(buffer) > self._max_buffer:
            size, most = len(buffer) - HEADER_SIZE, self._max_buffer - HEADER_SIZE
            raise ArgumentError(
                f"the message has {size} bytes and the peer accepts {most}; "
                "send it in parts, or through a raw stream or a resource"
            )


def _describe(slot: Slot | None) -> str:
    return "never used" if slot is None else f"{slot.state.name} {slot.kind.name}"


def with_header_space(payload: bytes) -> bytearray:
    """Copy a payload into a buffer that begins with space for its frame's header."""
    return bytearray(HEADER_SIZE) + payload
