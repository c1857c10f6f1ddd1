"""Tests of `jumpstarter._io.ownership`: the table, in all interleavings, and the letters.

The model runs the real `Ownership`, with a real socket and watch. Its actors are generators that do
what the read task, a thread and a task do, and yield where they hold no lock and another may run.
The test chooses who goes next, and tries all choices.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Final

import pytest
import trio

from helpers import PATIENCE, until
from jumpstarter._io.ownership import Ownership, Reader, SharedWakeup
from jumpstarter._nonblocking import Baton

Steps = Generator[None, None, None]


def fail(exc: Exception) -> None:
    """Handle an exception of a letter: there should be none."""
    raise exc


class ModelOwnership(Ownership):
    """An ownership whose `restart` wakes the model's read task instead of one of Trio."""

    __slots__ = ("model",)

    def __init__(self, fileno: int, model: Model) -> None:
        super().__init__(fileno, fail)
        self.model = model

    def restart(self) -> None:
        self._parked = False
        self.model.restarted, self.model.parked = True, False

    def _post(self) -> None:
        self._posted = True


class Model:
    """One connection: its ownership, a socket pair, and what its actors wait for.

    Bytes of the peer are answers: each byte is the number of the actor that it answers.
    """

    def __init__(self, actors: str) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.ownership = ModelOwnership(self.ours.fileno(), self)
        self.requests: list[int] = []
        self.answered: set[int] = set()
        self.closed = False
        self.at_end = False
        self.lost = False  # a thread has failed in the midst of the rules
        self.ended = False  # the loop has been told, and is about to close
        self.restarted = False
        self.parked = False
        self.holder: int | None = None  # the worker that holds the role
        self.running: dict[int, Steps] = {
            number: getattr(self, f"_{kind}")(number) for number, kind in enumerate(actors.split())
        }
        self.daemons = {
            "loop": self._read_task(),
            "letters": self._deliver(),
            "peer": self._peer(),
        }

    # ---------------------------------------------------------------------------------- actors

    def _thread(self, number: int) -> Steps:
        """Call, lead for at most two rounds, and then wait passively."""
        own = self.ownership
        leads = self._start(number)
        rounds = 0
        while leads:
            yield
            readable = not self.closed and bool(own.poll(0))
            yield  # what arrives from here on is not read in this round
            self._lock(number + 1)
            if readable and own.reader is not Reader.NONE:
                self._read()
            rounds += 1
            if number in self.answered or own.at_end or self.closed or rounds == 2:
                own.give_up(own.at_end)
                leads = False
            self._check()
            self._unlock()
        while number not in self.answered and not self._is_over():
            yield

    def _start(self, number: int) -> bool:
        """Make a call in a thread. Return whether the thread is the reader."""
        self._lock(number + 1)
        leads = self.ownership.take_role()
        self._check()
        self._call(number)
        self._unlock()
        return leads

    def _worker(self, number: int) -> Steps:
        """Lead, hold the role while a method runs, and read on unless the loop has taken it."""
        own = self.ownership
        leads = self._start(number)
        if leads:
            yield
            self._lock(number + 1)
            if not self.closed:
                own.hold()
                self.holder = number
            self._check()
            self._unlock()
            yield  # the method runs
            self._lock(number + 1)
            if self.holder == number:
                self.holder = None
                if not self.closed:
                    own.resume()
                    self._read()
                own.give_up(own.at_end)
            self._check()
            self._unlock()
        while number not in self.answered and not self._is_over():
            yield

    def _look(self, _number: int) -> Steps:
        """Take the role back from a thread that holds it, in the loop."""
        own = self.ownership
        yield
        with own.lock:
            if self.holder is not None:
                self.holder = None
                own.give_up(own.at_end)
            self._check()

    def _task(self, number: int) -> Steps:
        """Make the only call, in the loop."""
        own = self.ownership
        with own.lock:
            leads = own.take_role_for_task(number)
            self._check()
            self._call(number)
        while leads:
            yield
            with own.lock:
                if not own.is_led_by(number):
                    break
                self._read()
                if number in self.answered or own.at_end:
                    own.give_up(own.at_end)
                    leads = False
                self._check()
        while number not in self.answered and not self._is_over():
            yield

    def _failing(self, number: int) -> Steps:
        """Fail in the midst of the rules, in a thread that leads if it can."""
        own = self.ownership
        self._lock(number + 1)
        leads = own.take_role()
        self._check()
        self._unlock()
        if leads:
            yield
            self._lock(number + 1)
            if not self.closed:
                self.lost = True
                own.lose()
                own.defer(self._end)
            else:
                own.give_up(own.at_end)
            self._unlock()
        yield

    def _end(self) -> None:
        self.ended = True

    def _ask(self, _number: int) -> Steps:
        """Make a watch, in the loop, as a thread has asked for."""
        yield
        self.ownership.watch_socket()

    def _call(self, number: int) -> None:
        """Send a call, which the peer answers when it gets round to it."""
        self.requests.append(number)

    def _peer(self) -> Steps:
        while True:
            if self.requests and not self.closed and not self._has_hung_up():
                self.theirs.send(bytes([self.requests.pop(0)]))
            yield

    def _is_over(self) -> bool:
        """Return whether the loop has told all that wait about the end."""
        return self.closed or self.at_end

    def _hangup(self, _number: int) -> Steps:
        """Let the peer hang up."""
        yield
        self.theirs.close()

    def _close(self, _number: int) -> Steps:
        """End the connection, in the loop."""
        yield
        self._close_now()

    def _close_now(self) -> None:
        if self.closed:
            return
        with self.ownership.lock:
            self.ownership.close()
            self.closed = True
            self._check()
        self.ownership.discard_watch()

    def _read_task(self) -> Steps:
        own = self.ownership
        while not self.closed and not self.at_end and not self.ended:
            if self.parked:  # until `restart`
                yield
                continue
            if own.watch is None and not own.begin_to_watch():
                ready = bool(select.select([self.ours], [], [], 0)[0])
                yield  # the task was woken, and runs later
                if ready and not self.closed:
                    with own.lock:
                        assert own.reader is Reader.LOOP, "the loop reads beside a thread"
                        self._read()
                yield
                continue
            with own.lock:
                ready = own.is_readable() or self.restarted
            self.restarted = False
            yield  # the task was woken, and runs later
            if ready and not self.closed:
                with own.lock:
                    if own.reader is not Reader.LOOP:
                        self.parked = own.park()
                    else:
                        self._read()
                    self._check()
            yield
        if self.ended:
            self._close_now()

    def _deliver(self) -> Steps:
        while True:
            own = self.ownership
            if own._posted:
                own._deliver()
            yield

    # -------------------------------------------------------------------------------- the steps

    def _lock(self, me: int) -> None:
        assert self.ownership.lock.acquire(blocking=False), "an actor yielded with the lock"
        self.ownership.holder = me

    def _unlock(self) -> None:
        self.ownership.release()

    def _read(self) -> None:
        """Read what is there, and apply it: each answer reaches its actor, whoever reads it."""
        assert not self.lost, "the state is unknown"
        try:
            data = self.ours.recv(100)
        except BlockingIOError:
            return
        if not data:
            if self.ownership.reader is Reader.LOOP:
                self.at_end = True
            self.ownership.at_end = True
        self.answered.update(data)

    def _check(self) -> None:
        """Check the invariants that hold whenever the lock is free."""
        own = self.ownership
        assert own.lock.locked()
        # After the end, until the thread has noticed it. A thread that has failed leads no more.
        if own.reader is not Reader.NONE and not self.lost:
            assert (own.leader != 0) == (own.reader is Reader.THREAD)
        assert (own._leading is not None) == (own.reader is Reader.TASK)
        if own.watch is not None and own.reader is not Reader.NONE:
            muted = own.reader is not Reader.LOOP
            pending = bool(select.select([self.ours], [], [], 0)[0])
            if pending and not self._has_hung_up():  # a hang-up passes a mute
                assert own.is_readable() is not muted
        if own.reader is Reader.NONE:
            assert self.closed or own.leader == 0

    def _has_hung_up(self) -> bool:
        return self.theirs.fileno() < 0

    # ------------------------------------------------------------------------------ the scheduler

    def actors(self) -> list[int | str]:
        """Return all for which a step may change anything."""
        idle = {"letters": not self.ownership._posted, "peer": not self.requests}
        return [*self.running, *(name for name in self.daemons if not idle.get(name))]

    def step(self, who: int | str) -> None:
        steps = self.running[who] if isinstance(who, int) else self.daemons.get(who)
        if steps is None:
            return
        try:
            next(steps)
        except StopIteration:
            if isinstance(who, int):
                del self.running[who]
            else:
                self.daemons.pop(who, None)

    def finish(self) -> None:
        """Let all go on in turns; nothing may be left that waits."""
        for _ in range(60):
            for who in self.actors():
                self.step(who)
            if not self.running and not self.ownership._posted and self.ended <= self.closed:
                break
        assert not self.running, f"{sorted(self.running)} wait in vain"
        assert self.ownership.reader in (Reader.LOOP, Reader.NONE)
        assert not self.ownership.letters or self.closed

    def close(self) -> None:
        for each in (self.ours, self.theirs):
            each.close()
        with suppress(OSError, ValueError):
            self.ownership.discard_watch()


class Chooser:
    """Tries all choices, depth first: each run makes another one."""

    def __init__(self) -> None:
        self._path: list[list[int]] = []  # of each choice: what was taken, and how many there were
        self._at = 0

    def choose(self, options: int) -> int:
        if self._at == len(self._path):
            self._path.append([0, options])
        taken = self._path[self._at][0]
        self._at += 1
        return taken

    def next_run(self) -> bool:
        self._at = 0
        while self._path and self._path[-1][0] + 1 >= self._path[-1][1]:
            self._path.pop()
        if not self._path:
            return False
        self._path[-1][0] += 1
        return True


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Model]]:
    """Close the models of a test, whose read task is not one of Trio."""
    models: list[Model] = []
    monkeypatch.setattr(trio.lowlevel, "notify_closing", lambda _fd: None)
    yield models
    for model in models:
        model.close()


STEPS: Final = 7  # choices that are tried in all ways; after them, all go on in turns


@pytest.mark.parametrize(
    ("actors", "begun"),
    [
        ("thread thread", ""),
        ("thread task", ""),
        ("task task", ""),
        ("thread hangup", ""),
        ("thread hangup", "thread polled"),
        ("thread close", ""),
        ("worker look", ""),
        ("worker thread", "worker holds"),
        ("worker close", "worker holds"),
        ("task close", ""),
        ("worker worker", ""),
        ("worker hangup", "worker holds"),
        ("failing thread", ""),
        ("failing close", ""),
        ("ask thread", "no watch"),
        ("ask task", "no watch"),
        ("ask close", "no watch"),
    ],
)
async def test_no_interleaving_leaves_anything_waiting(
    actors: str, begun: str, restarts: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Token:
        """The loop's token, whose callbacks the model runs."""

        def run_sync_soon(self, *_: object) -> None:
            """Do nothing: `_posted` is set."""

    monkeypatch.setattr(trio.lowlevel, "current_trio_token", Token)
    chooser, runs = Chooser(), 0
    while True:
        model = Model(actors)
        restarts.append(model)
        try:
            if begun == "no watch":
                model.theirs.send(b"\xff")  # the read task may have been woken by something else
            else:
                model.ownership.watch_socket()
                assert model.ownership.begin_to_watch()
            if begun and begun != "no watch":  # the first leads, and has read nothing; or holds
                model.step(0)
                model.step(0)
            for _ in range(STEPS):
                if who := model.actors():
                    model.step(who[chooser.choose(len(who))])
            model.finish()
        finally:
            model.close()
            restarts.clear()
        runs += 1
        if not chooser.next_run():
            break
    assert runs > 400


# ------------------------------------------------------------------------------------- letters


async def test_letters_of_one_section_are_delivered_together_without_the_lock() -> None:
    own, order = Ownership(-1, fail), list[str]()

    def note(text: str) -> None:
        assert not own.lock.locked()
        order.append(text)

    def work() -> None:
        own.acquire()
        own.defer(note, "first")
        own.later(note, "second")
        own.release()

    thread = threading.Thread(target=work)
    thread.start()
    await until(lambda: len(order) == 2)
    thread.join(PATIENCE)
    assert order == ["first", "second"]


async def test_the_loop_acts_on_a_letter_of_its_own_immediately_but_not_with_later() -> None:
    own, order = Ownership(-1, fail), list[str]()
    with own.lock:
        own.defer(order.append, "now")
        own.later(order.append, "later")
        assert order == ["now"]
    await until(lambda: order == ["now", "later"])


async def test_a_letter_that_raises_is_a_bug_of_its_connection_only() -> None:
    bugs: list[Exception] = []
    own, order = Ownership(-1, bugs.append), list[str]()

    def be_buggy() -> None:
        raise ValueError("a bug")

    with own.lock:
        own.later(be_buggy)
        own.later(order.append, "the next")
    await until(lambda: order == ["the next"])
    assert [str(bug) for bug in bugs] == ["a bug"]


async def test_a_thread_wakes_a_task_once_for_many_changes() -> None:
    own = Ownership(-1, fail)
    wakeup, woken = SharedWakeup(own), 0

    async def wait() -> None:
        nonlocal woken
        await wakeup.wait()
        woken += 1

    def change() -> None:
        own.acquire()
        for _ in range(3):
            wakeup.set()
        assert len(own.letters) == 1
        own.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(change)
        await until(lambda: woken == 1)


async def test_a_wake_up_releases_the_thread_that_waits_and_posts_nothing() -> None:
    own = Ownership(-1, fail)
    wakeup = SharedWakeup(own)
    baton = wakeup.baton = Baton()
    with own.lock:
        wakeup.set()
        wakeup.set()
    assert baton.wait(0)
    assert not baton.wait(0)  # it was passed once
    assert not own.letters


async def test_a_thread_passes_batons_after_it_has_released_the_lock() -> None:
    own = Ownership(-1, fail)
    wakeup = SharedWakeup(own)
    baton = wakeup.baton = Baton()

    def change() -> None:
        own.acquire()
        wakeup.set()
        wakeup.set()
        assert not baton.wait(0)
        own.release()
        assert baton.wait(0)
        assert not baton.wait(0)

    await trio.to_thread.run_sync(change)
    assert not own.letters
    assert not own.batons


async def test_a_finalizer_is_recognized_in_the_thread_that_holds_the_lock_or_leads() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        own = Ownership(ours.fileno(), fail)
        own.watch_socket()
        assert own.begin_to_watch()
        assert not own.held_here()

        def lead() -> list[bool]:
            own.acquire()
            held = [own.held_here()]
            assert own.take_role()
            own.release()
            held.append(own.held_here())
            own.acquire()
            own.give_up(restart=False)
            own.release()
            return [*held, own.held_here()]

        assert await trio.to_thread.run_sync(lead) == [True, True, False]
        with own.lock:
            own.close()
        own.discard_watch()


async def test_a_system_without_epoll_or_descriptors_leaves_reading_to_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_descriptor() -> None:
        raise OSError(24, os.strerror(24))

    ours, theirs = socket.socketpair()
    with ours, theirs:
        for broken in (no_descriptor, None):
            if broken is None:
                monkeypatch.delattr(select, "epoll")
            else:
                monkeypatch.setattr(select, "epoll", broken)
            own = Ownership(ours.fileno(), fail)
            own.watch_socket()
            assert own.watch is None
            assert not own.take_role()


async def test_a_watch_that_cannot_take_the_socket_is_closed_and_unknown_to_a_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[select.epoll] = []

    class Full:
        """An epoll instance after the kernel's limit of watches was reached."""

        def __init__(self) -> None:
            made.append(epoll())
            self.fileno, self.close = made[0].fileno, made[0].close

        def register(self, *_: object) -> None:
            raise OSError(28, os.strerror(28))

    epoll = select.epoll
    monkeypatch.setattr(select, "epoll", Full)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        own = Ownership(ours.fileno(), fail)
        own.watch_socket()
        assert own.new_watch is None
        assert made[0].closed
        assert own.fileno() == -1  # another file may get the number
