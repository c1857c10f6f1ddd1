"""One connection's rules: bytes in -> events, verbs in -> bytes out.

Knows slots, their states and their credit, and nothing about clocks, sockets, tasks, threads or
logs. The caller feeds `receive` with the bytes it has read and acts on the events. After each verb
or `receive` it writes the batches that `send_queue` holds. This module has the rules that both
sides share; `client` and `server` add their own. The specification, with the tables, is
docs/protocol.md. In short:

- A slot is busy from its CALL to its terminal frame (RESULT or ERROR), and then free for reuse: the
  transport keeps order, so no late frame can be taken for the next call's.
- What may come on a slot, and what we may send on it, are bit masks of frame types, set where its
  state changes and nowhere else.
- A server's slot stays busy until its terminal frame has left the queue, so a peer that does not
  read cannot make us queue more than one answer for each slot.
- A breach ends the connection: `receive` reports `ConnectionFailed` last, and nothing after it.
- What asks for attention and brings nothing is counted. How much of it is too much is for whoever
  has a clock, who then says `fail`.
- A breach by the caller of the verbs is a `LocalProtocolError`: a bug in this library.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Final

from .._framing import HEADER_SIZE, FrameDecoder
from .._limits import MAX_WIRE_FRAME, MIN_WIRE_FRAME, Limits
from ..errors import ArgumentError, Code, LocalProtocolError, RemoteProtocolError
from . import events as ev
from .codec import decode_credit, decode_goaway, decode_hello, encode_goaway
from .flow_control import GRANTS, Budget, ReceiveWindow, SendWindow
from .frames import VERSION, Flag, FrameType, Goaway, Hello, Kind
from .receive_buffer import ReceiveBuffer
from .send_queue import SendQueue, WriteBatch

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BaseProtocol", "Phase", "Slot", "SlotState", "mask"]


class Phase(enum.Enum):
    """Where the connection as a whole stands."""

    HELLO = enum.auto()  # the peer's HELLO has not come
    ADMISSION = enum.auto()  # (server) it has; ours has not gone out yet
    READY = enum.auto()
    FAILED = enum.auto()


class SlotState(enum.Enum):
    """Where a slot stands. A slot that was never used has no state at all."""

    OPENING = enum.auto()  # (server) part of its CALL is still to come
    OPEN = enum.auto()
    ENDED = enum.auto()  # (server) its terminal frame waits in the send_queue
    FREE = enum.auto()


def mask(*types: FrameType) -> int:
    return sum({1 << type_ for type_ in types})


Handler = Callable[[Any, int, int, bytes], ev.Event | None]
_T = FrameType
_CONNECTION: Final = mask(_T.HELLO, _T.PING, _T.GOAWAY)  # their id is 0, all others' is a slot
_FLAGS: Final = tuple(
    {
        _T.CALL: Flag.MORE,
        _T.RESULT: Flag.MORE,
        _T.ERROR: Flag.MORE,
        _T.ITEM: Flag.MORE,
        _T.DATA: Flag.END,
        _T.PING: Flag.ACK,
        _T.GOAWAY: Flag.ACK,
    }.get(type_, Flag.NONE)
    for type_ in FrameType
)
_WRONG_FLAGS: Final = tuple(~int(flags) for flags in _FLAGS)
_OF_CONNECTION: Final = tuple(bool(_CONNECTION >> type_ & 1) for type_ in FrameType)
# Constants, since to look a member up in its enum takes as long as handling it.
_READY: Final = Phase.READY
_OPEN: Final = SlotState.OPEN
_MORE: Final = Flag.MORE
# What a peer may send before it has our HELLO, or after.
_BEFORE_READY: Final = {Phase.HELLO: mask(_T.HELLO, _T.GOAWAY), Phase.ADMISSION: 0}


class Slot:
    """One call's share of the connection."""

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
        self.may_receive: int = 0  # what may come
        self.may_send: int = 0  # what we may send
        self.kind: Kind = Kind.UNARY
        self.parts: ReceiveBuffer | None = None  # a message of which MORE is to come
        self.received_bytes: int = 0  # bytes of it, whether they were kept or not
        self.drop_reason: str = ""  # why that message is discarded as it comes, if it is
        self.reserved_bytes: int = 0  # (server) bytes of its CALL while it is not answered
        self.cancelled: bool = False  # (server) a CANCEL has come
        self.sending: SendWindow | None = None
        self.receiving: ReceiveWindow | None = None


class BaseProtocol:
    """What both roles share. Construct one of the two subclasses.

    Attributes:
        send_queue: What waits to be written; the connection takes its batches through `take`.
        peer: The peer's HELLO, None until it has come.
        failure: The breach at which the connection ended, None while all is well.
        busy: Slots in use.
        going_away: True once either side has said GOAWAY: no new call will be accepted.
        late: Frames that crossed a terminal frame and were dropped, as they must be.
        idle: Others that bring nothing by themselves: ACKs, CANCEL once more, small parts.
        nudges: PINGs and GOAWAYs that have come.
        behind: Frames that have come and that `receive` has not handled yet.
    """

    # What handles a frame, by its type: the method that is called after it, where the role has one.
    _handlers: ClassVar[tuple[Handler, ...]]

    def __init_subclass__(cls) -> None:
        cls._handlers = tuple(
            getattr(cls, f"_on_{type_.name.lower()}", cls._on_forbidden) for type_ in FrameType
        )

    def __init__(self, limits: Limits) -> None:
        self.limits: Limits = limits
        self.send_queue: SendQueue = SendQueue()
        self.peer: Hello | None = None
        self.failure: RemoteProtocolError | None = None
        self.busy_slots: int = 0
        self.going_away: bool = False
        self.late_frames: int = 0
        self.no_op_frames: int = 0
        self.control_frames: int = 0
        self._phase = Phase.HELLO
        self._decoder = FrameDecoder(limits.max_hello)
        self._budget = Budget(limits.max_total_window)
        self._largest = 0  # bytes of a message that the peer takes, with room for a header
        self._pending = 0  # bytes of unfinished messages and unanswered calls
        self._in_parts = 0  # messages of which a part has come
        self.unprocessed: list[tuple[int, int, int, bytes]] = []
        self._slots: dict[int, Slot] = {}  # those that were used
        self._last = 0  # the highest there is

    # ------------------------------------------------------------------------------- bytes in

    def receive(self, data: bytes | memoryview, most: int = sys.maxsize) -> list[ev.Event]:
        """Take bytes as they came off the transport, in any pieces.

        Args:
            data: The next bytes; none, to go on with the frames that are `behind`.
            most: Frames to handle now.

        Returns:
            What happened, in order. `ConnectionFailed` is last if it is there at all; from then on
            everything is ignored.
        """
        events: list[ev.Event] = []
        if self.failure is not None:
            return events
        frames = self._decoder.feed(data) if data else []
        if self.unprocessed or len(frames) > most:
            frames = self.unprocessed + frames
            self.unprocessed = frames[most:]
            frames = frames[:most]
        try:
            for type_, flags, slot_id, payload in frames:
                if flags & _WRONG_FLAGS[type_] or (slot_id == 0) is not _OF_CONNECTION[type_]:
                    raise RemoteProtocolError(
                        f"{frame_name(type_)} with flags {flags:#x} on id {slot_id}"
                    )
                if self._phase is not _READY:
                    self._check_phase(type_)
                event = self._handlers[type_](self, flags, slot_id, payload)
                if event is not None:
                    events.append(event)
            if self._decoder.failure is not None and not self.unprocessed:
                failure = self._decoder.failure
                raise RemoteProtocolError(str(failure), failure.code)
        except RemoteProtocolError as exc:
            events.append(self.fail(exc))
        return events

    @property
    def unfinished(self) -> bool:
        """True if the rest of a frame or message is still to come."""
        return self._in_parts > 0 or self._decoder.buffered > 0

    def _check_phase(self, type_: int) -> None:
        if not _BEFORE_READY[self._phase] >> type_ & 1:
            raise RemoteProtocolError(f"{frame_name(type_)} before the two HELLOs were exchanged")

    def fail(self, exc: RemoteProtocolError) -> ev.ConnectionFailed:
        """End the connection for a breach: GOAWAY is the last frame to leave, and none is heard."""
        self.failure = exc
        self.unprocessed = []
        self._phase = Phase.FAILED
        self.going_away = True
        self.send_queue.close(_T.GOAWAY, encode_goaway(Goaway(exc.code, 0, str(exc))))
        return ev.ConnectionFailed(exc)

    def next_batch(self) -> WriteBatch:
        """Take the next frames to write. Written or lost, they are never taken again."""
        return self.send_queue.next_batch()

    # ---------------------------------------------------------------- frames of the connection

    def _on_hello(self, _flags: int, _id: int, payload: bytes) -> ev.Event | None:
        if self.peer is not None:
            raise RemoteProtocolError("a second HELLO")
        try:
            hello = decode_hello(payload)
        except ArgumentError as exc:
            raise RemoteProtocolError(str(exc)) from None
        if hello.version[0] != VERSION[0]:
            theirs, ours = (".".join(map(str, pair)) for pair in (hello.version, VERSION))
            text = f"the peer speaks version {theirs} of the protocol, and this side {ours}"
            raise RemoteProtocolError(text, Code.VERSION)
        if not (
            MIN_WIRE_FRAME <= hello.max_frame <= MAX_WIRE_FRAME
            and hello.max_message >= hello.max_frame
            and 1 <= hello.max_calls <= 65535
            and 1 <= hello.stream_window < 2**31
        ):
            # Not all of the HELLO: this text is logged, and a token is a secret.
            text = (
                f"HELLO offers limits out of range: max_frame {hello.max_frame}, max_message "
                f"{hello.max_message}, max_calls {hello.max_calls}, stream_window "
                f"{hello.stream_window}"
            )
            raise RemoteProtocolError(text)
        self.peer = hello
        self.send_queue.max_frame = hello.max_frame
        self._largest = hello.max_message + HEADER_SIZE
        return self._hello_done(hello)

    def _hello_done(self, hello: Hello) -> ev.Event | None:
        raise NotImplementedError

    def _ready(self, max_calls: int) -> None:
        self._phase = Phase.READY
        self._decoder.max_frame = self.limits.max_frame
        self._last = max_calls

    def _on_ping(self, flags: int, _id: int, payload: bytes) -> ev.Event | None:
        if len(payload) != 8:
            raise RemoteProtocolError(f"PING of {len(payload)} bytes, not 8")
        if flags & Flag.ACK:
            self.no_op_frames += 1
            return ev.PongReceived(payload)
        self.control_frames += 1
        self.send_queue.add_pong(payload)
        return None

    def _on_goaway(self, flags: int, _id: int, payload: bytes) -> ev.Event | None:
        if flags & Flag.ACK:
            self.no_op_frames += 1
            return ev.GoawayAcked()
        self.control_frames += 1
        goaway = decode_goaway(payload)
        if goaway is None:
            raise RemoteProtocolError(f"malformed GOAWAY of {len(payload)} bytes")
        self.going_away = True
        if self._phase is Phase.READY:
            self.send_queue.add_goaway_ack()
        return ev.GoawayReceived(goaway)

    def _on_forbidden(self, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        del flags, payload
        raise RemoteProtocolError(f"a frame on id {slot_id} that only the other side may send")

    def ping(self, payload: bytes) -> None:
        """Ask the peer for a sign of life; 8 bytes of our choice come back."""
        self.send_queue.add_frame(_T.PING, 0, payload)

    def goaway(self, code: Code, grace_ms: int, text: str) -> None:
        """Say that we accept no new calls, and for how long we finish those we have."""
        self.going_away = True
        self.send_queue.add_frame(_T.GOAWAY, 0, encode_goaway(Goaway(code, grace_ms, text)))

    # ----------------------------------------------------------------------- frames of a slot

    def _slot(self, slot_id: int, type_: FrameType) -> Slot | None:
        """Find the slot of a frame that just came; None if it is late and to be dropped."""
        slot = self._slots.get(slot_id)
        if slot is not None and slot.may_receive >> type_ & 1:
            return slot
        if slot is not None and self._is_late(slot, type_):
            self.late_frames += 1
            return None
        raise RemoteProtocolError(f"{type_.name} on slot {slot_id} ({_standing(slot)})")

    def _is_late(self, slot: Slot, type_: FrameType) -> bool:
        raise NotImplementedError

    def _on_data(self, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        slot = self._slot(slot_id, _T.DATA)
        if slot is None:
            return None
        end = flags == Flag.END
        if not payload and not end:
            raise RemoteProtocolError(f"empty DATA on slot {slot_id}")
        window = slot.receiving
        assert window is not None
        window.receive(len(payload))
        if window.available < 0:
            text = f"DATA on slot {slot_id}: {-window.available} bytes beyond its credit"
            raise RemoteProtocolError(text, Code.FLOW_CONTROL)
        if end:
            slot.may_receive &= ~mask(_T.DATA)
        return ev.DataReceived(slot_id, payload, end)

    def _on_credit(self, _flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        delta = decode_credit(payload)
        slot = self._slot(slot_id, _T.CREDIT)
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

    def _assemble(self, slot_id: int, slot: Slot, flags: int, payload: bytes) -> bytes | None:
        """Join a message's frames. None while MORE is to come; `dropped` says if it was lost."""
        more = flags == _MORE
        if slot.parts is None:
            slot.drop_reason = ""
            if not more:
                return payload
            slot.parts = ReceiveBuffer()
            slot.received_bytes = 0
            self._in_parts += 1
        if not payload and more:
            raise RemoteProtocolError(f"an empty part of a message on slot {slot_id}")
        if more and len(payload) < MIN_WIRE_FRAME:
            self.no_op_frames += 1
        slot.received_bytes += len(payload)
        if slot.received_bytes > self.limits.max_message:
            text = f"a message of over {self.limits.max_message} bytes on slot {slot_id}"
            raise RemoteProtocolError(text, Code.FRAME_SIZE)
        if not slot.drop_reason and not self._has_room(len(payload)):
            self._pending -= len(slot.parts)
            slot.parts.clear()
            slot.drop_reason = self._no_room()
        if payload and not slot.drop_reason:
            slot.parts.append(payload)
            self._pending += len(payload)
        if more:
            return None
        parts = slot.parts
        self._forget_parts(slot)
        return parts.read(len(parts)) if parts else b""

    def _has_room(self, size: int) -> bool:
        return self._pending + size <= self.limits.max_pending

    def _no_room(self) -> str:
        return (
            f"it was discarded: over {self.limits.max_pending} bytes of unfinished messages and "
            "unanswered calls on this connection"
        )

    def _forget_parts(self, slot: Slot) -> None:
        if slot.parts is not None:
            self._pending -= len(slot.parts)
            self._in_parts -= 1
            slot.parts = None

    def _open(self, slot: Slot, kind: Kind, legal: int, allowed: int) -> None:
        slot.state = _OPEN
        slot.kind = kind
        slot.cancelled = False
        slot.may_receive = legal
        slot.may_send = allowed

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

    # ----------------------------------------------------------- verbs that both roles have

    def _own(self, slot_id: int, verb: str) -> Slot:
        slot = self._slots.get(slot_id)
        if slot is None or slot.state is not _OPEN:
            raise LocalProtocolError(f"{verb} on slot {slot_id} ({_standing(slot)})")
        return slot

    def _sender(self, slot_id: int, type_: FrameType) -> Slot:
        """Find the slot on which a frame of this type is to be sent."""
        slot = self._slots.get(slot_id)
        if slot is None or not slot.may_send >> type_ & 1:
            raise LocalProtocolError(f"{type_.name} on slot {slot_id} ({_standing(slot)})")
        return slot

    def sendable(self, slot_id: int) -> int:
        """Bytes of DATA that the peer takes now; for a generator, above 0 means one more item."""
        window = self._own(slot_id, "sendable").sending
        return 0 if window is None else max(0, window.available)

    def data(self, slot_id: int, chunk: bytes, end: bool = False) -> None:
        """Send bytes of a raw stream, not more than `sendable`, and perhaps the end of our half."""
        slot = self._sender(slot_id, _T.DATA)
        window = slot.sending
        assert window is not None
        if len(chunk) > window.available or not (chunk or end):
            text = f"DATA of {len(chunk)} bytes on slot {slot_id}, of {window.available} allowed"
            raise LocalProtocolError(text)
        window.spend(len(chunk), self._frames(len(chunk)))
        if end:
            slot.may_send &= ~mask(_T.DATA)
        self.send_queue.add_data(slot_id, chunk, end=end)

    def _frames(self, size: int) -> int:
        return 1 + size // self.send_queue.max_frame

    def withdraw(self, slot_id: int) -> None:
        """Take back the DATA that has not left yet, and its credit: its sender was cancelled.

        An end behind it is taken back too, and for good, since what it would end is not whole.
        """
        window = self._own(slot_id, "withdraw").sending
        if window is None:
            raise LocalProtocolError(f"withdraw on slot {slot_id}, which has no DATA to send")
        window.available += self.send_queue.withdraw_data(slot_id)

    def consume(self, slot_id: int, amount: int) -> bool:
        """Count what the application has read of a slot that is still open.

        Returns:
            True if that made credit for the peer.
        """
        window = self._sender(slot_id, _T.CREDIT).receiving
        assert window is not None
        delta = window.consume(amount)
        if delta:
            self.send_queue.add_credit(slot_id, delta)
        return delta > 0

    def readable_without_credit(self, slot_id: int) -> int:
        """Bytes of a raw stream that can be read without credit for them going back."""
        window = self._own(slot_id, "readable_without_credit").receiving
        assert window is not None
        return (window.size - 1) // 2

    def check_size(self, buffer: bytearray) -> None:
        """Check that the peer takes a message of this size.

        Raises:
            ArgumentError: It does not.
        """
        if len(buffer) > self._largest:
            size, most = len(buffer) - HEADER_SIZE, self._largest - HEADER_SIZE
            raise ArgumentError(
                f"the message has {size} bytes and the peer takes {most}; "
                "send it in parts, or through a raw stream or a resource"
            )


def _standing(slot: Slot | None) -> str:
    return "never used" if slot is None else f"{slot.state.name} {slot.kind.name}"


def frame_name(type_: int) -> str:
    return FrameType(type_).name
