"""The limits of a connection, in one frozen object. Both sides use the same class.

The documentation of each field gives its unit and the reason for its default. HELLO tells the peer
those that it must keep; the others concern only this side.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from .errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DEFAULT_LIMITS", "MAX_WIRE_FRAME", "MIN_WIRE_FRAME", "Limits"]

KIB: Final = 1024
MIB: Final = 1024 * KIB

MIN_WIRE_FRAME: Final = 1 * KIB  # a HELLO that offers less than this is refused
MAX_WIRE_FRAME: Final = 1 * MIB  # head-of-line blocking grows with it; the header could say 16 MiB


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Limits:
    """The limits that one side of a connection applies. Immutable; pass one to serve or connect.

    Attributes:
        max_frame: Bytes of payload accepted in one frame. 64 KiB: the size of one read of a socket,
            and small enough that another call's frame waits less than 50 µs behind it.
        max_message: Bytes of one argument list, result or generator item, reassembled. 128 MiB:
            firmware images fit, and a peer cannot make us hold more. Use a raw stream for more.
        max_pending: Bytes of unfinished messages and unanswered calls held on one connection. 256
            MiB: two of the largest. A message that does not fit is discarded as it arrives and its
            call fails; other calls continue. A call of one frame is always accepted. Answers have a
            separate limit of the same size, beyond which large ones wait for each other.
        max_unsent: Bytes of queued messages of which no frame has left. Above it, no further call
            starts, and no further answer, item or piece of a stream is queued. 4 MiB: the size of
            one window. With a peer that reads, each message starts to leave within a millisecond.
        max_depth: Levels of nesting in a message. 64, as in Cap'n Proto: msgspec recurses in C, and
            would overflow the stack of a small thread.
        max_items: Values in a message, where the key of a map counts 16. 2,097,152: a list of two
            million numbers, or 123,361 pairs. A number takes from one byte on the wire, and a text
            of five bytes up to 104 in memory, so this many take up to 208 MiB, and 15 MiB more for
            a moment, since the list is copied as it grows. Keys chosen to collide take over a
            microsecond each. The arguments of all running calls together may have twice as many.
        max_containers: Lists and maps in a message. 262,144: an empty one takes one byte on the
            wire and 72 in memory, so this many take 19 MB and about 50 ms.
        max_calls: Concurrent calls, generators and streams on a connection, 1 to 65,535. 1,024:
            further ones wait on the client for a slot.
        stream_window: Bytes that a peer may send on a new stream or generator before we have read
            any. 32 KiB: multiplied by `max_calls` it is `max_total_window`, so no peer can fill
            more.
        max_window: Bytes to which the window of one stream may grow while its reader keeps up. 4
            MiB: fills a 1 Gbit/s path of 30 ms.
        max_total_window: Bytes to which all windows of one connection together may grow.
        max_hello: Bytes of a HELLO's payload.
        max_connections: Clients that an exporter admits concurrently. 1,024: more than a lab has.
            Each takes a file descriptor and about 20 KiB.
        max_unadmitted: Concurrent connections that have not sent a valid HELLO. 64. A slow client
            and an attacker look alike until then, so a further connection replaces the oldest one.
        max_frames_per_turn: Frames of one connection that are handled before other connections have
            their turn. 32: that many calls start within about 4 ms.
        ping_burst: PINGs and GOAWAYs that a peer may send in one burst. 10: it has reason for two.
        ping_rate: How many more of these it may send each second. 1: this library never sends more.
        late_burst: Frames without effect that a peer may send in one burst: late frames, unexpected
            ACKs, repeated CANCELs. 131,072: a client that sends single bytes may have a few windows
            of them in flight when its stream ends.
        late_rate: How many more of these it may send each second. 10,000: they take 1 % of a
            processor.
        hello_timeout: Seconds to wait for the peer's HELLO.
        start_timeout: Seconds that a client waits for the device tree. 60: a starting exporter
            sends it when its drivers have been reset, and a reset may switch a board off for a
            while.
        ping_interval: Seconds of silence after which this side sends PING. 0 for never. A client
            sends none on a Unix socket, where the kernel reports a dead exporter. An exporter does,
            because a stopped client (SIGSTOP, Ctrl-Z, a debugger) would hold its devices.
        ping_timeout: Seconds of further silence after which the peer counts as lost. Together with
            `ping_interval` it limits how long a stopped or disconnected client holds its devices:
            30 s.
        cancel_grace: Seconds that a cancelled call waits on the client until the exporter reports
            that the driver's code has ended.
        linger: Seconds that closing a raw stream waits for the driver to read the data sent, or
            half a window of it. Then the rest is discarded, which is logged. 10: a serial console
            at 9,600 baud takes 9 KiB in that time.
        write_stall: Seconds without the peer accepting a byte after which the connection is closed.
        read_stall: Seconds without a byte in the middle of a message or frame after which it is
            closed.
        loop_hold: Seconds for which code may block the event loop before the log names it. 0.5:
            people notice that, and a step of a well-behaved task takes less than a tenth. `inf`
            turns the check off.
    """

    max_frame: int = 64 * KIB
    max_message: int = 128 * MIB
    max_pending: int = 256 * MIB
    max_unsent: int = 4 * MIB
    max_depth: int = 64
    max_items: int = 2 * 1024 * 1024
    max_containers: int = 256 * 1024
    max_calls: int = 1024
    stream_window: int = 32 * KIB
    max_window: int = 4 * MIB
    max_total_window: int = 32 * MIB
    max_hello: int = 4 * KIB
    max_connections: int = 1024
    max_unadmitted: int = 64
    max_frames_per_turn: int = 32
    ping_burst: int = 10
    ping_rate: float = 1.0
    late_burst: int = 128 * KIB
    late_rate: float = 10_000.0
    hello_timeout: float = 5.0
    start_timeout: float = 60.0
    ping_interval: float = 20.0
    ping_timeout: float = 10.0
    cancel_grace: float = 1.0
    linger: float = 10.0
    write_stall: float = 30.0
    read_stall: float = 30.0
    loop_hold: float = 0.5

    def __repr__(self) -> str:
        """Show the fields that differ from their defaults."""
        values = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
        return f"Limits({', '.join(values)})"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind = int if field.type == "int" else int | float
            if isinstance(value, bool) or not isinstance(value, kind):
                text = f"Limits({field.name}={value!r:.100}): must be {field.type}"
                raise ConfigurationError(f"{text}, not {type(value).__name__}")
        _check("max_frame", self.max_frame, MIN_WIRE_FRAME, MAX_WIRE_FRAME)
        _check("max_message", self.max_message, self.max_frame, 2**31 - 1, low_is="max_frame")
        _check("max_pending", self.max_pending, self.max_message, 2**40, low_is="max_message")
        _check("max_unsent", self.max_unsent, 1, 2**40)
        _check("max_depth", self.max_depth, 1, 512)
        _check("max_items", self.max_items, 1, 2**31 - 1)
        _check("max_containers", self.max_containers, 1, 2**31 - 1)
        _check("max_calls", self.max_calls, 1, 65535)
        _check("stream_window", self.stream_window, 1, self.max_window, high_is="max_window")
        _check("max_window", self.max_window, 1, 2**31 - 1)
        low = self.stream_window
        _check("max_total_window", self.max_total_window, low, 2**40, low_is="stream_window")
        _check("max_hello", self.max_hello, 256, MIN_WIRE_FRAME * 64)
        _check("max_connections", self.max_connections, 1, 2**31 - 1)
        _check("max_unadmitted", self.max_unadmitted, 1, 2**31 - 1)
        _check("max_frames_per_turn", self.max_frames_per_turn, 1, 2**31 - 1)
        _check("ping_burst", self.ping_burst, 2, 2**31 - 1)
        _check("ping_rate", self.ping_rate, 0, float("inf"))
        _check("late_burst", self.late_burst, 1, 2**31 - 1)
        _check("late_rate", self.late_rate, 0, float("inf"))
        _check("hello_timeout", self.hello_timeout, 0, float("inf"))
        _check("start_timeout", self.start_timeout, 0, float("inf"))
        _check("ping_interval", self.ping_interval, 0, 2**32 / 1000 - 1)
        _check("ping_timeout", self.ping_timeout, 0, float("inf"))
        _check("cancel_grace", self.cancel_grace, 0, float("inf"))
        _check("linger", self.linger, 0, float("inf"))
        _check("write_stall", self.write_stall, 0, float("inf"))
        _check("read_stall", self.read_stall, 0, float("inf"))
        _check("loop_hold", self.loop_hold, 0.01, float("inf"))


def _check(
    name: str, value: float, low: float, high: float, *, low_is: str = "", high_is: str = ""
) -> None:
    """Raise if a limit is out of range. An end of the range may be another limit."""
    if not low <= value <= high:
        least = f"{low} ({low_is})" if low_is else f"{low}"
        most = f"{high} ({high_is})" if high_is else f"{high}"
        raise ConfigurationError(f"Limits({name}={value!r}): must be from {least} to {most}")


DEFAULT_LIMITS: Final = Limits()
