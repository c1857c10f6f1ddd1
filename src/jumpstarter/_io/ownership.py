"""Say who reads a connection's socket, and guard the state that its tasks and threads share.

One plain lock per connection guards the protocol's rules, the handlers of the slots, the send queue
and the writing role. One task or thread at a time is the *reader*. Usually it is the loop's read
task. A thread that waits for an answer, an item or bytes may become the reader for a moment, so
that no thread has to be switched to: it "leads". On an exporter, the thread of a plain method does
that to get the next call. The states of `Reader`, which belong to `Ownership`:

| reader | event                                      | next reader                                |
|--------|--------------------------------------------|--------------------------------------------|
| LOOP   | a thread starts to wait (`take_role`)      | THREAD; the watch is muted                 |
| LOOP   | the same, but the last byte was read, or   | LOOP; the thread waits passively           |
|        | the loop has frames to handle              |                                            |
| LOOP   | a task makes the only call                 | TASK; the watch is muted, and the task     |
|        | (`take_role_for_task`)                     | waits for the socket itself                |
| THREAD | its answer, a flood, the last byte, a      | LOOP (`give_up`): the watch is unmuted;    |
|        | failure, or its time is up: 2 ms; 10 ms in | the read task is woken if it is parked, or |
|        | a worker thread of an exporter             | if it has more to do than wait for bytes   |
| THREAD | another thread starts to wait              | THREAD; the other one writes, and waits    |
|        |                                            | passively                                  |
| THREAD | the read task wakes (the peer has hung up) | THREAD; the read task parks (`park`)       |
| THREAD | an exception in the midst of the rules     | THREAD (`lose`): nothing reads on, and the |
|        |                                            | loop ends the connection                   |
| THREAD | a worker thread of an exporter runs a      | HELD; nothing reads, and the watch stays   |
|        | quick method before it reads on (`hold`)   | muted, for 4 ms at most                    |
| HELD   | the method has returned (`resume`)         | THREAD                                     |
| HELD   | it has failed, or still runs when the loop | LOOP (`give_up`), as above                 |
|        | looks again                                |                                            |
| TASK   | its answer, a cancellation, the last byte, | LOOP (`give_up`)                           |
|        | part of a message                          |                                            |
| TASK   | a thread starts to wait                    | LOOP, soon (`_revoke`); the thread waits   |
|        |                                            | passively                                  |
| any    | the connection ends (`close`)              | NONE; all that wait are told               |

The watch is an epoll instance that contains only the socket. The loop waits for the watch, so a
thread can keep the loop asleep by muting it, which takes under a microsecond and wakes nobody. A
connection gets its watch with the first call from a thread (`watch_socket`), and its read task uses
it from the next read on (`begin_to_watch`). Until then, on systems without epoll, and in memory,
the loop alone reads, and threads make their calls through the portal.

These hold whenever the lock is free:

A. Rules, handlers, send queue and the writing role are changed only with the lock.
B. Only the reader reads, with the lock, after it has checked that it still is the reader.
C. The watch is muted exactly while the reader is THREAD, HELD or TASK.
D. Each waiting task or thread can be woken by the loop and by any reader, and depends on none.
E. The holder of the lock never waits, and runs no code of users: log records, too, are left to
   the loop. For a single call it keeps the interpreter's lock (`_nonblocking`), so a thread that
   computes gets no chance to hold it for 5 ms meanwhile. Bulk lets other threads run:
   `write_many` for several buffers or a large one, and `os.readv`.
F. Only the loop's thread touches Trio's objects. A thread leaves a letter (`defer`); all letters
   of one locked section are posted together, after the lock was released. The batons of the threads
   that it wakes are passed together before that.

A function that is documented "with the lock" never takes it, since the lock is not reentrant.

Without the interpreter's lock, on a free-threaded Python: these extension modules do not say that
they can do without it, so CPython turns it on when it imports them. If it did not, E would be void,
but no thread could take the interpreter away either. These would have to change, since code looks
at them without the connection's lock, and relies on the order of two stores or on another library:
`OutgoingCall.done`, behind which the result must be there, and the free tokens of Trio's limiter,
which a worker thread reads. All other fields that are looked at in this way (`watch`, `reader`,
`ended`, `ConnectionReader.left`) are hints, and are looked at again with the lock.
"""

from __future__ import annotations

import enum
import logging
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import trio

from .. import _nonblocking
from .._util.fork import close_in_children, no_fork
from .._util.wakeup import Wakeup

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Ownership", "Reader", "SharedWakeup", "pass_baton"]

_logger = logging.getLogger("jumpstarter.connection")

_Letter = tuple[Callable[..., object], tuple[Any, ...]]


class Reader(enum.Enum):
    """Who reads the socket. See the table in the module's docstring."""

    LOOP = enum.auto()
    THREAD = enum.auto()
    HELD = enum.auto()
    TASK = enum.auto()
    NONE = enum.auto()


# Constants: to look a member up in its enum takes as long as a small system call.
_LOOP: Final = Reader.LOOP
_THREAD: Final = Reader.THREAD
_HELD: Final = Reader.HELD
_TASK: Final = Reader.TASK
_NONE: Final = Reader.NONE

# Since Python 3.12, a finalizer may run between the call that takes the lock and the note of who
# has taken it. Before, the interpreter runs none there.
ARRIVES: Final[bool] = sys.version_info >= (3, 12)
_NEVER: Final[list[int]] = []  # for all connections, where no thread arrives


class Ownership:
    """The lock of one connection, its reader, and the letters that threads leave for the loop.

    Args:
        fileno: The socket's descriptor; -1 if threads cannot read the stream.
        on_bug: Called in the loop with an exception that a letter has raised.

    Attributes:
        lock: A task of the loop takes it by `with`; a thread by `acquire` and `release`.
        holder: The thread that holds the lock; 0 if none does, or the loop.
        leader: The thread that is the reader; 0 if none is. It stays until that thread has taken
            note of the connection's end, or has lost the role.
        arriving: Threads that wait for the lock, or have just taken it. Empty unless `ARRIVES`.
        reader: See the table in the module's docstring.
        at_end: True once a thread has read the last byte, or must not read on: no thread leads
            again, and the loop finds out why.
        error: The error of a thread's last read, which the system reports only once.
        has_read: A thread has read since the loop last looked.
        watch: The epoll instance; None while only the read task reads.
        new_watch: The same, until the read task begins to use it.
        letters: What threads leave for the loop, or the loop itself for later.
        batons: Those that a thread passes once it has released the lock.
        led_by_threads: How often a thread became the reader.
        led_by_tasks: How often a task that makes a call did.
    """

    def __init__(self, fileno: int, on_bug: Callable[[Exception], object]) -> None:
        self.lock: threading.Lock = threading.Lock()
        self.holder: int = 0
        self.reader: Reader = _LOOP
        self.at_end: bool = False
        self.error: OSError | None = None
        self.has_read: bool = False
        self.leader: int = 0
        self.led_by_threads: int = 0
        self.led_by_tasks: int = 0
        self.arriving: list[int] = [] if ARRIVES else _NEVER
        self._leading: object = None  # what the task waits for that is the reader
        self._fd = fileno
        self.watch: Any = None  # a select.epoll, which other systems than Linux lack
        self.new_watch: Any = None
        self._watch_fd = -1
        self._parked = False  # the loop has woken while a thread reads, and waits for its turn
        self._returned = Wakeup()  # for the parked loop
        self.letters: list[_Letter] = []
        self.batons: list[_nonblocking.Baton] = []
        self._posted = False
        self._on_bug = on_bug
        self._token = trio.lowlevel.current_trio_token()

    def held_here(self) -> bool:
        """Return True if the calling thread holds the lock or is the reader.

        Then a finalizer asks, which the interpreter runs in the middle of that: a call that it
        makes would wait for its own thread. Without the lock.
        """
        me = _nonblocking.get_ident()
        return me in (self.holder, self.leader) or (ARRIVES and me in self.arriving)

    # ---------------------------------------------------------------------------- in the loop

    def watch_socket(self) -> None:
        """Make a watch, with which others can read, if that is possible. Without the lock."""
        if self._fd >= 0 and self.watch is self.new_watch is None and self.reader is not _NONE:
            self.new_watch = _make_watch(self, self._fd)
            if self.new_watch is not None:
                trio.lowlevel.notify_closing(self._fd)  # the read task waits for the socket itself

    def begin_to_watch(self) -> bool:
        """Let others read from now on; return False without a new watch. Without the lock.

        In the read task, between two reads: otherwise it may be about to read, woken already.
        """
        if self.new_watch is None:
            return False
        with self.lock:
            self.watch, self.new_watch = self.new_watch, None
        return True

    def fileno(self) -> int:
        """Return the descriptor of the watch, -1 without one: for a fork."""
        return self._watch_fd

    async def wait_readable(self) -> None:
        """Wait until the socket is readable, and no thread is the reader.

        A checkpoint; cancelling it loses nothing.

        Raises:
            trio.ClosedResourceError: A thread has restarted the loop: look at the state again.
        """
        await trio.lowlevel.wait_readable(self._watch_fd)

    def finds_bytes(self) -> bool:
        """Return whether a read would find something now. With the lock, as the reader."""
        return _nonblocking.is_readable(self._fd)

    def is_readable(self) -> bool:
        """Return whether the watch reports anything now. With the lock."""
        return self.watch is not None and bool(self.watch.poll(0))

    def park(self) -> bool:
        """Return whether the loop, woken while a thread is the reader, is to wait for its turn.

        With the lock. A hang-up passes a mute, and would keep the loop spinning. A loop that was
        already about to wake when the watch was muted finds nothing, and waits for the watch again.
        """
        self._parked = self.is_readable()
        return self._parked

    async def wait_returned(self) -> None:
        """Wait, parked, until the thread has given the role up. A checkpoint."""
        await self._returned.wait()

    def take_role_for_task(self, waiting: object) -> bool:
        """Make the task that waits for this the reader, if it can be. With the lock, in it."""
        if self.reader is not _LOOP or self.at_end or self.watch is None:
            return False
        _nonblocking.watch(self._watch_fd, self._fd, False)
        self.reader = _TASK
        self.led_by_tasks += 1
        self._leading = waiting
        return True

    def is_led_by(self, waiting: object) -> bool:
        """Return whether the task that waits for this is the reader. With the lock."""
        return self.reader is _TASK and self._leading is waiting

    async def wait_for_socket(self) -> None:
        """Wait, in the task that is the reader, for the socket or the end of that role."""
        try:  # noqa: SIM105 - `suppress` would cost three Python functions
            await trio.lowlevel.wait_readable(self._fd)
        except trio.ClosedResourceError:
            pass

    def _revoke(self) -> None:
        """Take the role from a task: a thread would use it better."""
        with self.lock:
            if self.reader is _TASK:
                self.give_up(restart=True)
                trio.lowlevel.notify_closing(self._fd)

    def restart(self) -> None:
        """Make the waiting read task look at the state again. In the loop, locked or not."""
        self._parked = False
        self._returned.set()
        if self.watch is not None:
            trio.lowlevel.notify_closing(self._watch_fd)

    def close(self) -> None:
        """End reading: from now on nothing reads the socket. With the lock, in the loop."""
        self.reader = _NONE
        self._leading = None
        if self.watch is not None:
            # Before the socket is closed: if its number is used again meanwhile, the watch must not
            # report the new file. The error means that a forked child has replaced the descriptor.
            with suppress(OSError):
                self.watch.unregister(self._fd)

    def discard_watch(self) -> None:
        """Close the watch, after `close`. Without the lock: closing may wait for a fork."""
        watch, self.watch, self.new_watch = self.watch or self.new_watch, None, None
        if watch is not None:
            trio.lowlevel.notify_closing(self._watch_fd)
            _close_watch(self, watch)

    def _deliver(self) -> None:
        """Act on the letters, in the loop, without the lock."""
        with self.lock:
            letters, self.letters = self.letters, []
            self._posted = False
        for function, args in letters:
            self._call(function, *args)

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        # A bug: it must end this connection only, and not the loop, which it would reach here.
        except Exception as exc:  # noqa: BLE001
            self._on_bug(exc)

    # ---------------------------------------------------------- with the lock, in either place

    def defer(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function(*args)` in the loop: now if the loop holds the lock, or else soon.

        `function` is called with the lock in the first case and without it in the second, so it
        neither takes the lock nor needs it.
        """
        if self.holder:
            self.letters.append((function, args))
        else:
            function(*args)

    def later(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function(*args)` in the loop soon, without the lock: for code of users."""
        self.letters.append((function, args))
        if not self.holder:
            self._post()

    def _post(self) -> None:
        if not self._posted:
            self._posted = True
            with suppress(trio.RunFinishedError):  # the connection has ended with its loop
                self._token.run_sync_soon(self._deliver)

    # ----------------------------------------------------------------------------- in a thread

    def ask_for_watch(self) -> None:
        """Have the loop call `watch_socket`, so that the next call may lead."""
        if self._fd >= 0 and self.reader is not _NONE:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._call, self.watch_socket)

    def acquire(self) -> None:
        """Take the lock, in a thread that runs no loop. Signals must be deferred."""
        me = _nonblocking.get_ident()
        if ARRIVES:
            self.arriving.append(me)
        try:
            self.lock.acquire()
            self.holder = me
        finally:  # a handler of a signal that is not deferred may raise as it waits
            if ARRIVES:
                self.arriving.remove(me)

    def release(self) -> None:
        """Release the lock, and then wake others, which before that would have to wait."""
        batons = self.batons
        if batons:
            self.batons = []
        self.holder = 0
        posts = bool(self.letters) and not self._posted
        self._posted = self._posted or posts
        self.lock.release()
        if batons:
            _nonblocking.pass_batons(batons)
        if posts:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._deliver)

    def take_role(self) -> bool:
        """Make the calling thread the reader if it can be. With the lock."""
        if self.reader is not _LOOP or self.at_end or self.watch is None:
            if self.reader is _TASK:
                self.later(self._revoke)
            return False
        # First, and before the thread sends anything: the loop must not wake for the answer.
        _nonblocking.watch(self._watch_fd, self._fd, False)
        self.reader = _THREAD
        self.led_by_threads += 1
        self.leader = self.holder
        return True

    def hold(self) -> None:
        """Keep the role while the thread that has it runs code of users. With the lock."""
        self.reader = _HELD  # the caller sees to it that the loop gives it up in time
        self.leader = 0

    def resume(self) -> None:
        """Become the reader again, in the thread that holds the role. With the lock."""
        self.reader = _THREAD
        self.leader = self.holder

    def poll(self, milliseconds: int, is_answer: bool = True) -> bool:
        """Wait until the socket is readable, and return whether it is. Signals do not interrupt it.

        In the thread that is the reader, without the lock. The descriptor may be another file's
        when this returns: the thread then takes the lock, and checks that it still is the reader.
        `is_answer` is that of `_nonblocking.wait_readable`.
        """
        return _nonblocking.wait_readable(self._fd, milliseconds, is_answer)

    def leads_here(self) -> bool:
        """Return whether the calling thread is the reader. With the lock."""
        return self.leader == self.holder != 0

    def give_up(self, restart: bool) -> None:
        """Give the role back to the read task. With the lock.

        In the thread or task that has it; or in the loop, if a thread holds it. `restart` is True
        if the loop has more to do than to wait for bytes.
        """
        self.leader = 0
        self._leading = None
        if self.reader is _LOOP or self.reader is _NONE:  # NONE: the connection has ended
            return
        self.reader = _LOOP
        # If bytes have arrived that the thread has not read, this wakes the loop.
        _nonblocking.watch(self._watch_fd, self._fd, True)
        if restart or self._parked:
            self.defer(self.restart)

    def lose(self) -> None:
        """Let nothing read on: the state is unknown, and the caller ends it. With the lock."""
        self.at_end = True
        if self.leads_here():
            self.leader = 0  # the watch stays muted


def _make_watch(owner: Ownership, fd: int) -> Any:
    """Return an epoll instance that contains a descriptor, or None."""
    try:
        with no_fork():  # a child finds the instance's own descriptor by `fileno`, and closes it
            watch: Any = select.epoll()  # type: ignore[attr-defined,unused-ignore]
            owner._watch_fd = watch.fileno()  # noqa: SLF001 - of this module
            close_in_children(owner)
    except (AttributeError, OSError):  # no epoll here, or no descriptor left: the portal works
        return None
    try:
        watch.register(fd, select.POLLIN)
    except OSError:  # the kernel's limit of watches
        _close_watch(owner, watch)
        return None
    return watch


def _close_watch(owner: Ownership, watch: Any) -> None:
    with no_fork():  # a child must not close the file that gets the number next
        owner._watch_fd = -1  # noqa: SLF001 - of this module
        watch.close()


def pass_baton(ownership: Ownership, baton: _nonblocking.Baton) -> None:
    """Wake the thread that waits on a baton, unless that was done. With the lock."""
    if not baton.is_passed:
        baton.is_passed = True
        if ownership.holder:
            ownership.batons.append(baton)
        else:
            _nonblocking.pass_batons([baton], True)


class SharedWakeup(Wakeup):
    """A wake-up of the one task or thread that waits for a change of a connection's state.

    Attributes:
        baton: On which a thread waits; None if a task does, or nothing.
    """

    __slots__ = ("_ownership", "_posted", "baton")

    def __init__(self, ownership: Ownership) -> None:
        self._sleeper = self._request = None  # as in Wakeup
        self._ownership = ownership
        self._posted = False
        self.baton: _nonblocking.Baton | None = None

    def is_idle(self) -> bool:
        """Return True if nothing waits, and no letter is on its way to wake it."""
        sleeper = self._sleeper
        return self.baton is None and not self._posted and (sleeper is None or sleeper.task is None)

    def set(self) -> None:
        """Wake the task or thread that waits, if any. With the lock."""
        baton = self.baton
        if baton is not None:
            pass_baton(self._ownership, baton)
        elif not self._ownership.holder:
            Wakeup.set(self)  # `super` does not find a C method
        elif not self._posted:
            # A thread never looks whether a task waits: the task may be about to.
            self._posted = True
            self._ownership.defer(self._set_in_loop)

    def set_with_lock(self) -> None:
        """Do the same, without the lock. In the loop."""
        with self._ownership.lock:
            self.set()

    def _set_in_loop(self) -> None:
        self._posted = False  # before the wake-up: what changes from here on is posted again
        Wakeup.set(self)
