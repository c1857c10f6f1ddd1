"""Count what an exporter does: calls, streams, sessions, and how late its event loop is.

The counts are plain numbers, which another module puts into a format. So an exporter that is
counted needs no other package, and a call pays for two locks and a few additions. There is a series
for each exported method that was called: names come from the device tree, so that clients cannot
make more of them.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import trio

from .._io.byte_stream import SlotStream
from .._io.ownership import SharedWakeup
from .stream_forwarder import Device, StreamForwarder, as_bytes

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "BOUNDS",
    "LOST_RECORDS",
    "OUTCOMES",
    "CountedForwarder",
    "Distribution",
    "MethodSeries",
    "Metrics",
    "Reading",
    "Snapshot",
]

OUTCOMES: Final = ("returned", "raised", "refused", "cancelled", "deadline")
# Seconds: from the fastest calls to flashing an image.
BOUNDS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 600, 3600)
_PAUSE: Final = 0.25  # seconds between two measurements of the loop: it adds no load to an idle one


@dataclass(frozen=True)
class Reading:
    """The values of one metric, when they are asked for.

    Attributes:
        name: Its name, without `jumpstarter_` in front and, for a counter, without `_total` at the
            end: lower-case words with underscores between them.
        kind: A counter only grows.
        text: What it counts, for people.
        labels: The names of the labels.
        values: The value for each combination of the labels' values. The combinations must come
            from the exporter, not from a client, which could make any number of them.
    """

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    labels: Sequence[str]
    values: Mapping[tuple[str, ...], float]


# The name, kind, text and labels of a reading that several sources give, for different readers.
LOST_RECORDS: Final = (
    "log_records_dropped",
    "counter",
    "Log records that a reader was too slow for",
    ("reader",),
)
Source = Callable[[], Iterable[Reading]]


class Distribution:
    """How many values of a quantity were how large.

    Attributes:
        counts: The number of values up to each bound of `BOUNDS` and above the bound before it; the
            last one is of the values above all bounds.
        total: The sum of all values.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(BOUNDS) + 1)
        self.total: float = 0.0

    def add(self, value: float) -> None:
        """Count a value. The caller holds a lock."""
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.total += value

    def copy(self) -> Distribution:
        """Return what was counted so far. The caller holds the lock."""
        new = Distribution()
        new.counts, new.total = self.counts[:], self.total
        return new

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Yield each bound, infinity at the end, and the number of values up to it."""
        count = 0
        for bound, more in zip((*BOUNDS, math.inf), self.counts, strict=True):
            count += more
            yield bound, count


class MethodSeries:
    """The counts of one method of one driver.

    Attributes:
        outcomes: The number of calls that have ended, by outcome.
        running: The number of calls that have not.
        seconds: How long the calls took that have ended.
        is_stream: True for a raw stream.
        open_streams: The number of raw streams that are open.
        to_device: The number of bytes that clients have sent into raw streams.
        from_device: The number of bytes that devices have sent.
    """

    __slots__ = (
        "_lock",
        "from_device",
        "is_stream",
        "open_streams",
        "outcomes",
        "running",
        "seconds",
        "to_device",
    )

    def __init__(self, lock: threading.Lock, *, is_stream: bool) -> None:
        self._lock = lock
        self.is_stream: bool = is_stream
        self.outcomes: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.running: int = 0
        self.seconds: Distribution = Distribution()
        self.open_streams: int = 0  # this and the next two change in the loop only
        self.to_device: int = 0
        self.from_device: int = 0

    def begin(self) -> None:
        """Count a call that begins. In any thread."""
        with self._lock:
            self.running += 1

    def end(self, outcome: str, took: float) -> None:
        """Count a call that has ended. In any thread."""
        with self._lock:
            self.running -= 1
            self.outcomes[outcome] += 1
            seconds = self.seconds  # as `Distribution.add`, which would be one more call
            seconds.counts[bisect_left(BOUNDS, took)] += 1
            seconds.total += took

    def copy(self) -> MethodSeries:
        """Return what was counted so far. The caller holds the lock."""
        new = MethodSeries(self._lock, is_stream=self.is_stream)
        new.outcomes, new.seconds = self.outcomes.copy(), self.seconds.copy()
        new.running, new.open_streams = self.running, self.open_streams
        new.to_device, new.from_device = self.to_device, self.from_device
        return new


@dataclass(frozen=True)
class Snapshot:
    """All that was counted, at one moment.

    Attributes:
        methods: The series by driver and method.
        unknown: The number of calls of drivers or methods that do not exist.
        open_sessions: The number of clients that are connected.
        sessions: The number of clients that were connected.
        delay: How late the event loop was.
        readings: The values of the sources.
    """

    methods: Mapping[tuple[str, str], MethodSeries]
    unknown: int
    open_sessions: int
    sessions: int
    delay: Distribution
    readings: Sequence[Reading]


class Metrics:
    """Count what an exporter does, for `serve_async(..., metrics=)`.

        metrics = Metrics()
        async with (
            serve_async(Power(), "unix:/run/exporter/socket", metrics=metrics),
            serve_metrics(metrics, "9464"),
        ):
            await trio.sleep_forever()

    It counts for one exporter at a time. docs/performance.md has what counting costs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._methods: dict[tuple[str, str], MethodSeries] = {}
        self._unknown = self._open_sessions = self._sessions = 0
        self._delay = Distribution()
        self._sources: list[Source] = []

    # ------------------------------------------------------------------- for the exporter

    def series(self, driver: str, method: str, *, is_stream: bool) -> MethodSeries:
        """Return the series of an exported method. In any thread."""
        with self._lock:
            key = (driver, method)
            if key not in self._methods:
                self._methods[key] = MethodSeries(self._lock, is_stream=is_stream)
            return self._methods[key]

    def count_unknown(self) -> None:
        """Count a call of a driver or method that does not exist. In any thread."""
        with self._lock:
            self._unknown += 1

    @contextmanager
    def session(self) -> Iterator[None]:
        """Count a session for the length of the block."""
        with self._lock:
            self._sessions += 1
            self._open_sessions += 1
        try:
            yield
        finally:
            with self._lock:
                self._open_sessions -= 1

    async def watch_loop(self) -> None:
        """Measure how late the loop of this task is, until cancelled."""
        while True:
            due = trio.current_time() + _PAUSE
            await trio.sleep_until(due)
            late = max(0.0, trio.current_time() - due)
            with self._lock:
                self._delay.add(late)

    @contextmanager
    def source(self, source: Source) -> Iterator[None]:
        """Ask a function for readings, each time that the metrics are read, during the block.

        Args:
            source: The function. It is called in any thread, and must not block.
        """
        self._sources = [*self._sources, source]
        try:
            yield
        finally:
            self._sources = [each for each in self._sources if each is not source]

    # --------------------------------------------------------------------- for the reader

    def snapshot(self) -> Snapshot:
        """Return all that was counted. In any thread."""
        readings = [reading for source in self._sources for reading in source()]
        with self._lock:
            return Snapshot(
                methods={key: each.copy() for key, each in self._methods.items()},
                unknown=self._unknown,
                open_sessions=self._open_sessions,
                sessions=self._sessions,
                delay=self._delay.copy(),
                readings=readings,
            )


class CountedForwarder(StreamForwarder):
    """A forwarder that counts the bytes of its stream."""

    __slots__ = ("_series",)

    def __init__(self, client: SlotStream, changed: SharedWakeup, series: MethodSeries) -> None:
        super().__init__(client, changed)
        self._series = series

    async def run(self, device: Device) -> None:
        """See `StreamForwarder`."""
        self._series.open_streams += 1
        try:
            await super().run(_CountedDevice(device, self._series))
        finally:
            self._series.open_streams -= 1


class _CountedDevice:
    """A driver's stream, whose bytes are counted."""

    def __init__(self, device: Device, series: MethodSeries) -> None:
        self._device = device
        self._series = series

    async def send_eof(self) -> None:
        await self._device.send_eof()

    async def receive(self) -> bytes:
        data = as_bytes(await self._device.receive())
        self._series.from_device += len(data)
        return data

    async def send(self, data: bytes) -> None:
        await self._device.send(data)
        self._series.to_device += len(data)
