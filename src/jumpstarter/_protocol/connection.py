"""The rules of a connection as a whole: the frames that both sides exchange on id 0.

Takes the bytes that were read, cuts them into frames, checks type, flags and id of each, and calls
`_handle`, to which each subclass adds frame types. Handles HELLO, PING and GOAWAY itself; `base`
adds the slots.

`Phase` says where the connection stands. It belongs to the connection and is changed only here and
in the two sides' reactions to HELLO:

    phase      | HELLO received              | `admit` | `refuse`, or a breach by the peer
    -----------|-----------------------------|---------|----------------------------------
    HELLO      | server: ADMISSION           |         | FAILED
               | client: READY               |         |
    ADMISSION  | FAILED                      | READY   | FAILED
    READY      | FAILED (a second HELLO)     |         | FAILED
    FAILED     | ignored, as all other input | ignored | ignored
"""

from __future__ import annotations

import enum
import sys
from typing import Final

from .._framing import HEADER_SIZE, FrameDecoder
from .._limits import MAX_WIRE_FRAME, MIN_WIRE_FRAME, Limits
from ..errors import ArgumentError, Code, RemoteProtocolError
from . import events as ev
from .codec import decode_goaway, decode_hello, encode_goaway
from .frames import VERSION, Flag, FrameType, Goaway, Hello
from .send_queue import SendQueue, WriteBatch

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ConnectionProtocol", "Phase", "mask"]


class Phase(enum.Enum):
    """The state of the connection as a whole; the table is in this module's docstring."""

    HELLO = enum.auto()  # waiting for the peer's HELLO
    ADMISSION = enum.auto()  # server only: HELLO received, and not answered yet
    READY = enum.auto()
    FAILED = enum.auto()


def mask(*types: FrameType) -> int:
    """Return a set of frame types as bits."""
    return sum({1 << type_ for type_ in types})


_T = FrameType
_CONNECTION: Final = mask(_T.HELLO, _T.PING, _T.GOAWAY)  # id 0; all other frames have a slot's id
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
_WRONG_FLAGS: Final = tuple([~int(flags) for flags in _FLAGS])
# Constants: looking up an enum's member takes as long as handling a frame. connection.pxd makes C
# integers of the types and flags, so these are compared with ==.
_HELLO: Final = int(_T.HELLO)
_PING: Final = int(_T.PING)
_GOAWAY: Final = int(_T.GOAWAY)
_ACK: Final = int(Flag.ACK)
_READY: Final = Phase.READY
# The frames that a peer may send before the connection is ready.
_BEFORE_READY: Final = {Phase.HELLO: mask(_T.HELLO, _T.GOAWAY), Phase.ADMISSION: 0}


class ConnectionProtocol:
    """Handle what concerns the connection and no single slot. Abstract.

    Attributes:
        send_queue: The frames to write; `next_batch` removes them.
        peer: The peer's HELLO, None until it has arrived.
        failure: The breach that ended the connection, None while it works.
        going_away: True once either side has sent GOAWAY: no new call is accepted.
        no_op_frames: Frames received that have no effect, `late_frames` apart: ACKs, repeated
            CANCELs, small parts of messages.
        control_frames: PINGs and GOAWAYs received.
        unprocessed: Frames received that `receive` has not handled yet.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits: Limits = limits
        self.send_queue: SendQueue = SendQueue()
        self.peer: Hello | None = None
        self.failure: RemoteProtocolError | None = None
        self.going_away: bool = False
        self.no_op_frames: int = 0
        self.control_frames: int = 0
        self.unprocessed: list[tuple[int, int, int, bytes]] = []
        self._phase = Phase.HELLO
        self._decoder = FrameDecoder(limits.max_hello)
        self._max_buffer = 0  # bytes of a message that the peer accepts, header space included
        self._max_slot = 0  # the highest slot id; 0 until the connection is ready

    def receive(self, data: bytes | memoryview, max_frames: int = sys.maxsize) -> list[ev.Event]:
        """Handle bytes that were read from the transport, cut in any way.

        Args:
            data: The next bytes; empty, to go on with the `unprocessed` frames.
            max_frames: How many frames to handle now. The others become `unprocessed`.

        Returns:
            The events, in order. `ConnectionFailed`, if present, is the last; all further input is
            ignored.
        """
        events: list[ev.Event] = []
        if self.failure is not None:
            return events
        frames = self._decoder.feed(data) if data else []
        if self.unprocessed or len(frames) > max_frames:
            frames = self.unprocessed + frames
            self.unprocessed = frames[max_frames:]
            frames = frames[:max_frames]
        try:
            for type_, flags, slot_id, payload in frames:
                wrong_id = (slot_id == 0) != (_CONNECTION >> type_ & 1)
                if wrong_id or flags & _WRONG_FLAGS[type_]:
                    raise RemoteProtocolError(
                        f"{frame_name(type_)} with flags {flags:#x} on id {slot_id}"
                    )
                if self._phase is not _READY:
                    self._check_phase(type_)
                event = self._handle(type_, flags, slot_id, payload)
                if event is not None:
                    events.append(event)
            # The decoder's failure comes behind all frames before it, so they are handled first.
            if self._decoder.failure is not None and not self.unprocessed:
                failure = self._decoder.failure
                raise RemoteProtocolError(str(failure), failure.code)
        except RemoteProtocolError as exc:
            events.append(self.fail(exc))
        return events

    def _check_phase(self, type_: int) -> None:
        if not _BEFORE_READY[self._phase] >> type_ & 1:
            raise RemoteProtocolError(f"{frame_name(type_)} before the two HELLOs were exchanged")

    def fail(self, exc: RemoteProtocolError) -> ev.ConnectionFailed:
        """End the connection because of a breach: GOAWAY is the last frame, input is ignored."""
        self.failure = exc
        self.unprocessed = []
        self._phase = Phase.FAILED
        self.going_away = True
        self.send_queue.close(_GOAWAY, encode_goaway(Goaway(exc.code, 0, str(exc))))
        return ev.ConnectionFailed(exc)

    def next_batch(self) -> WriteBatch:
        """Remove and return the next frames to write. The caller owns them, written or lost."""
        return self.send_queue.next_batch()

    def _handle(self, type_: int, flags: int, slot_id: int, payload: bytes) -> ev.Event | None:
        """Call the method for a frame's type. Each subclass tries its own types first."""
        if type_ == _PING:
            return self._on_ping(flags, payload)
        if type_ == _GOAWAY:
            return self._on_goaway(flags, payload)
        if type_ == _HELLO:
            return self._on_hello(payload)
        raise RemoteProtocolError(f"a frame on id {slot_id} that only the other side may send")

    # ---------------------------------------------------------------- frames of the connection

    def _on_hello(self, payload: bytes) -> ev.Event | None:
        if self.peer is not None:
            raise RemoteProtocolError("a second HELLO")
        try:
            hello = decode_hello(payload)
        except ArgumentError as exc:
            raise RemoteProtocolError(str(exc)) from None
        _check_hello(hello)
        self.peer = hello
        self.send_queue.max_frame = hello.max_frame
        self._max_buffer = hello.max_message + HEADER_SIZE
        return self._hello_done(hello)

    def _hello_done(self, hello: Hello) -> ev.Event | None:
        raise NotImplementedError

    def _ready(self, max_calls: int) -> None:
        self._phase = Phase.READY
        self._decoder.max_frame = self.limits.max_frame
        self._max_slot = max_calls

    def _on_ping(self, flags: int, payload: bytes) -> ev.Event | None:
        if len(payload) != 8:
            raise RemoteProtocolError(f"PING of {len(payload)} bytes, not 8")
        if flags & _ACK:
            self.no_op_frames += 1
            return ev.PongReceived(payload)
        self.control_frames += 1
        self.send_queue.add_pong(payload)
        return None

    def _on_goaway(self, flags: int, payload: bytes) -> ev.Event | None:
        if flags & _ACK:
            self.no_op_frames += 1
            return ev.GoawayAcked()
        self.control_frames += 1
        goaway = decode_goaway(payload)
        if goaway is None:
            raise RemoteProtocolError(f"malformed GOAWAY of {len(payload)} bytes")
        self.going_away = True
        if self._phase is _READY:
            self.send_queue.add_goaway_ack()
        return ev.GoawayReceived(goaway)

    def ping(self, payload: bytes) -> None:
        """Ask the peer for a sign of life; its answer repeats these 8 bytes."""
        self.send_queue.add_frame(_PING, 0, payload)

    def goaway(self, code: Code, grace_ms: int, text: str) -> None:
        """Announce that we accept no new calls, and how long we let the present ones finish."""
        self.going_away = True
        self.send_queue.add_frame(_GOAWAY, 0, encode_goaway(Goaway(code, grace_ms, text)))


def _check_hello(hello: Hello) -> None:
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
        # Only the limits: this text is logged, and the token is a secret.
        text = (
            f"HELLO offers limits out of range: max_frame {hello.max_frame}, max_message "
            f"{hello.max_message}, max_calls {hello.max_calls}, stream_window "
            f"{hello.stream_window}"
        )
        raise RemoteProtocolError(text)


def frame_name(type_: int) -> str:
    """Return the name of a frame type, for messages."""
    return FrameType(type_).name
