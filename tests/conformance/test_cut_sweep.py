"""Tests that each call reports its outcome correctly when the connection is cut after any byte.

Each test records a conformance case once, and then repeats it with the connection cut after one
byte after another, in each direction. By default, the test cuts transcripts of up to 120 bytes (the
HELLOs and a call) after every byte, and longer transcripts around every frame boundary and at every
17th byte. `pytest --hypothesis-profile=long` cuts after all 25,000 bytes, which takes some minutes.
The cut connections end alternately with a hang-up and with a reset.

Wherever the cut is, the case passes (because the answers arrived before), or ends only with refused
calls, calls whose outcome is unknown, and a failed handshake. Both ends and the driver's code then
end on their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import hypothesis
import pytest
import trio
from cases import CASES, Case
from ends import DRIVERS, Ends
from scales import LANE_SWEPT, SWEPT
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    memory_stream_one_way_pair,
    wait_all_tasks_blocked,
)

from helpers import in_time
from jumpstarter._framing import HEADER_SIZE
from jumpstarter._io import crossing_queue
from jumpstarter.errors import CallOutcomeUnknown, CallRefused, HandshakeError
from leaks import leaked_since, look
from wire import frames

PATIENCE: Final = 1_800.0  # seconds for a sweep; most take one, and a minute with all bytes
ONE_CUT: Final = 30.0  # seconds for one run to end; it takes milliseconds
LONGER: Final = 3600.0  # seconds, for the limits that would end a run without the cut
LEAST: Final = 2_500  # cuts in all cases; fewer mean that the sweep missed some
SHORT: Final = 120
LANE_STRIDE: Final = 7
STRIDE: Final = 17  # a prime, so that cuts fall on every position in a frame

LONG: Final = 1_000  # examples in the long hypothesis profile, which cuts after every byte

UP, DOWN = 0, 1  # from the client, and to the client

_swept: Final[dict[str, int]] = {}


class Cable:
    """Connects two ends in memory until a number of bytes has gone in one direction.

    Attributes:
        carried: The bytes that have gone up, and those that have gone down.
    """

    def __init__(
        self, direction: int = UP, length: int | None = None, *, reset: bool = False
    ) -> None:
        self.carried = (bytearray(), bytearray())
        self.reset = reset
        self.is_cut = False
        self._direction = direction
        self._length = length
        up_in, up_out = memory_stream_one_way_pair()
        down_in, down_out = memory_stream_one_way_pair()
        self._inputs = (up_in, down_in)
        self.ends = (End(self, UP, up_in, down_out), End(self, DOWN, down_in, up_out))
        self.cut_if_due()

    def carry(self, direction: int, data: bytes) -> bytes:
        """Return the part of `data` that passes before the cut."""
        if self.is_cut:
            return b""
        if direction == self._direction and self._length is not None:
            data = data[: self._length - len(self.carried[direction])]
        self.carried[direction].extend(data)
        return data

    def cut_if_due(self) -> None:
        """Cut the cable if its limit is reached; bytes in transit still arrive."""
        if self._length is not None and len(self.carried[self._direction]) >= self._length:
            self.is_cut = True
            for stream in self._inputs:
                stream.close()


class End(trio.abc.Stream):
    """One end of a cable."""

    def __init__(
        self, cable: Cable, direction: int, out: MemorySendStream, into: MemoryReceiveStream
    ) -> None:
        self._cable = cable
        self._direction = direction
        self._out = out
        self._into = into

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        passed = self._cable.carry(self._direction, bytes(data))
        if passed:
            await self._out.send_all(passed)
        self._cable.cut_if_due()
        if len(passed) < len(data):
            raise trio.BrokenResourceError("the cable is cut")

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._into.receive_some(max_bytes)
        if not data and self._cable.is_cut and self._cable.reset:
            raise trio.BrokenResourceError("reset by the peer")
        return data

    async def aclose(self) -> None:
        self._out.close()
        self._into.close()
        await trio.lowlevel.checkpoint()


def is_of_the_cut(exc: BaseException) -> bool:
    """Return True if an exception reports only that the connection was lost."""
    if isinstance(exc, BaseExceptionGroup):
        return all(map(is_of_the_cut, exc.exceptions))
    if isinstance(exc, trio.BrokenResourceError):  # raised by a raw stream, as Trio code expects
        return isinstance(exc.__cause__, CallOutcomeUnknown)
    return isinstance(exc, CallOutcomeUnknown | CallRefused | HandshakeError)


async def run_over(cable: Cable, case: Case, library: str = "trio") -> BaseException | None:
    """Run a case from HELLO to the end of both sides; return the exception it raised, if any."""
    scale = (SWEPT if library == "trio" else LANE_SWEPT).within(case.max_calls)
    limits = replace(scale.limits, linger=LONGER, read_stall=LONGER, write_stall=LONGER)
    ends = Ends(cable.ends, limits, DRIVERS[library])
    failure: BaseException | None = None
    with trio.fail_after(ONE_CUT):
        async with ends.lane(), trio.open_nursery() as nursery:
            nursery.start_soon(ends.session.run)
            try:
                await ends.channel.begin(nursery)
                await case.run(ends.client, scale)
            except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001 - the caller judges it
                failure = exc
            if not cable.is_cut:
                await ends.channel.aclose()
    assert ends.driver.running == []
    assert ends.channel.ended is not None
    return failure


def places(transcript: bytes) -> list[int]:
    """Choose the positions in a transcript at which to cut."""
    size = len(transcript)
    if size <= SHORT or hypothesis.settings().max_examples >= LONG:
        return list(range(size + 1))
    chosen = set(range(0, size, STRIDE))
    boundary = 0
    for frame in frames(transcript):
        boundary += HEADER_SIZE + len(frame.payload)
        chosen |= {boundary - 1, boundary, boundary + 1}
    return sorted(place for place in chosen if place <= size)


@pytest.mark.parametrize("name", CASES)
async def test_a_case_can_be_cut_anywhere(name: str) -> None:
    case = CASES[name]
    cuts = 0
    async with in_time(PATIENCE):
        recorded = Cable()
        assert await run_over(recorded, case) is None
        await wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        before = look()
        for direction in (UP, DOWN):
            for place in places(bytes(recorded.carried[direction])):
                cable = Cable(direction, place, reset=bool(place % 2))
                failure = await run_over(cable, case)
                where = f"cut behind byte {place}, {'down' if direction else 'up'}"
                if failure is not None and not is_of_the_cut(failure):
                    raise AssertionError(where) from failure
                assert failure is None or cable.is_cut, where
                assert trio.lowlevel.current_statistics().tasks_living == tasks, where
                assert leaked_since(before) == [], where
                cuts += cable.is_cut
    _swept[name] = cuts


@pytest.mark.parametrize("name", CASES)
async def test_a_case_of_an_asyncio_driver_can_be_cut_anywhere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at some of the places: each cut starts a lane of its own."""
    monkeypatch.setattr(crossing_queue, "CAPACITY", 1)
    case = CASES[name]
    async with in_time(PATIENCE):
        recorded = Cable()
        assert await run_over(recorded, case, "asyncio") is None
        await wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        before = look()
        for direction in (UP, DOWN):
            chosen = places(bytes(recorded.carried[direction]))
            for place in chosen[len(name) % LANE_STRIDE :: LANE_STRIDE]:
                cable = Cable(direction, place, reset=bool(place % 2))
                failure = await run_over(cable, case, "asyncio")
                where = f"cut behind byte {place}, {'down' if direction else 'up'}"
                if failure is not None and not is_of_the_cut(failure):
                    raise AssertionError(where) from failure
                assert failure is None or cable.is_cut, where
                await wait_all_tasks_blocked()
                assert trio.lowlevel.current_statistics().tasks_living == tasks, where
                assert leaked_since(before) == [], where


def test_enough_cuts_were_made(request: pytest.FixtureRequest) -> None:
    chosen = {item.name for item in request.session.items if item.path == request.path}
    if len(chosen) <= 2 * len(CASES):
        pytest.skip("not all cases were run")
    total = sum(_swept.values())
    print(f"cut {total} times in {len(_swept)} cases")
    assert total >= LEAST
