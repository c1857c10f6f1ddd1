"""Test `jumpstarter.portal` in separate processes: Ctrl-C, exit and fork.

Each test runs a script in a new interpreter, which makes some checks and prints the rest. No test
measures time: a script that is wrong would hang for a minute, and is killed earlier.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import jumpstarter.portal

SOURCE = str(Path(jumpstarter.portal.__file__).parents[1])
TIMEOUT = 120.0  # seconds for any script; they take one or two

PRELUDE = f"""
import contextlib, functools, gc, os, random, signal, sys, threading, time
sys.path.insert(0, {SOURCE!r})
import trio
from jumpstarter.portal import start_blocking_portal

def interrupt_at(event, seconds=0.0):
    # A real signal, from another thread, once `event` is set.
    def run():
        event.wait()
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=run, daemon=True).start()

async def double(number):
    await trio.lowlevel.checkpoint()
    return 2 * number
"""


def run(script: str, *arguments: str, first: str = "", code: int = 0) -> str:
    """Run a script, assert its exit code and an empty stderr, and return stdout."""
    result = subprocess.run(
        [sys.executable, *arguments, "-c", first + PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.stderr == ""
    assert result.returncode == code
    return result.stdout


# --- Ctrl-C ---


def test_ctrl_c_at_random_moments() -> None:
    """Each of 500 interrupts is raised once, after its task has ended; the next call works."""
    run("""
        active = 0

        async def work():
            global active
            active += 1
            try:
                await trio.sleep(0.0005)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.lowlevel.checkpoint()
                active -= 1

        @contextlib.asynccontextmanager
        async def resource():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0.0003)
                yield
                await trio.sleep(0.0003)

        def use(portal, number):
            if number % 3:
                portal.call(work)
            else:
                with portal.wrap_async_context_manager(resource()):
                    pass

        armed = threading.Event()
        random.seed(42)

        def strike():
            while True:
                armed.wait()
                armed.clear()
                time.sleep(random.random() * usual)
                os.kill(os.getpid(), signal.SIGINT)

        caught = cut_short = 0
        with start_blocking_portal(grace=60) as portal:
            start = time.perf_counter()
            for number in range(30):
                use(portal, number)
            usual = (time.perf_counter() - start) / 30
            threading.Thread(target=strike, daemon=True).start()
            for number in range(500):
                over = False
                try:
                    armed.set()
                    use(portal, number)
                    over = True
                    while True:  # not one sleep: a signal just before it may go unnoticed
                        time.sleep(0.05)
                except KeyboardInterrupt:
                    caught += 1
                    cut_short += not over
                assert active == 0
                assert portal.call(double, number) == 2 * number
        assert caught == 500
        assert 0 < cut_short <= caught
    """)


def test_ctrl_c_waits_for_the_tasks_cleanup() -> None:
    run("""
        events = []
        running = threading.Event()

        async def work():
            try:
                running.set()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.1)
                events.append("cleaned up")

        with start_blocking_portal(grace=60) as portal:
            interrupt_at(running)
            try:
                portal.call(work)
            except KeyboardInterrupt:
                events.append("interrupted")
            assert events == ["cleaned up", "interrupted"]
            assert portal.call(double, 21) == 42
    """)


def test_ctrl_c_is_raised_even_if_the_task_makes_it_to_a_result() -> None:
    run("""
        running = threading.Event()

        async def stubborn():
            running.set()
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep_forever()
            return 42

        with start_blocking_portal(grace=60) as portal:
            interrupt_at(running)
            try:
                portal.call(stubborn)
            except KeyboardInterrupt as exc:
                assert exc.__context__ is None
            else:
                raise AssertionError("not raised")
            assert portal.call(double, 21) == 42
    """)


def test_ctrl_c_waits_no_longer_than_the_grace() -> None:
    run("""
        running, let_go = threading.Event(), trio.Event()

        async def stuck():
            running.set()
            with trio.CancelScope(shield=True):
                await let_go.wait()

        with start_blocking_portal(grace=0.05) as portal:
            interrupt_at(running)
            try:
                portal.call(stuck)
            except KeyboardInterrupt:
                assert portal.call(double, 21) == 42
            else:
                raise AssertionError("not raised")
            portal.call(let_go.set)
    """)


def test_a_second_ctrl_c_ends_the_wait() -> None:
    run("""
        running, cleaning, let_go = threading.Event(), threading.Event(), trio.Event()

        async def stuck():
            running.set()
            try:
                await trio.sleep_forever()
            finally:
                cleaning.set()
                with trio.CancelScope(shield=True):
                    await let_go.wait()

        with start_blocking_portal(grace=60) as portal:
            interrupt_at(running)
            interrupt_at(cleaning, 0.05)
            try:
                portal.call(stuck)
            except KeyboardInterrupt:
                assert portal.call(double, 21) == 42
            else:
                raise AssertionError("not raised")
            portal.call(let_go.set)
    """)


@pytest.mark.parametrize("where", ["entering", "body", "leaving"])
def test_ctrl_c_in_a_context_manager_leaves_it(where: str) -> None:
    run(
        """
        where = sys.argv[1]
        now = threading.Event()
        events = []

        async def maybe_stay(here):
            if here == where:
                now.set()
                await trio.sleep_forever()

        @contextlib.asynccontextmanager
        async def resource():
            try:
                await maybe_stay("entering")
                yield
                await maybe_stay("leaving")
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.05)
                events.append("left")

        with start_blocking_portal(grace=60) as portal:
            interrupt_at(now)
            try:
                with portal.wrap_async_context_manager(resource()):
                    if where == "body":
                        now.set()
                        time.sleep(60)
            except KeyboardInterrupt:
                assert events == ["left"], events
            else:
                raise AssertionError("not raised")
            assert portal.call(double, 21) == 42
        """.replace("sys.argv[1]", repr(where))
    )


def test_ctrl_c_ends_the_wait_for_closing_and_the_exit_is_quiet() -> None:
    out = run(
        """
        stuck = threading.Event()

        async def clean_up_for_long():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    stuck.set()
                    await trio.sleep(60)

        try:
            with start_blocking_portal() as portal:
                portal.start_task_soon(clean_up_for_long)
                portal.call(trio.testing.wait_all_tasks_blocked)
                interrupt_at(stuck, 0.05)
        except KeyboardInterrupt:
            print("interrupted")
    """.replace("stuck = ", "import trio.testing\n        stuck = ", 1)
    )
    assert out == "interrupted\n"


# --- exit with a portal open ---

EXIT_STATES = {
    "idle": "",
    "task": "portal.start_task_soon(trio.sleep_forever)",
    "entered": """
        @contextlib.asynccontextmanager
        async def resource():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                yield

        held = portal.wrap_async_context_manager(resource())
        held.__enter__()
    """,
    "caller in a daemon thread": """
        threading.Thread(target=portal.call, args=(trio.sleep_forever,), daemon=True).start()
        time.sleep(0.05)
    """,
    "caller over and over in a daemon thread": """
        def pump():
            while True:
                portal.call(double, 1)

        threading.Thread(target=pump, daemon=True).start()
        time.sleep(0.05)
    """,
    "busy worker thread": """
        portal.start_task_soon(trio.to_thread.run_sync, time.sleep, 60)
        time.sleep(0.05)
    """,
    "cleanup in a new thread": """
        async def clean_up_in_thread():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(int)

        portal.start_task_soon(clean_up_in_thread)
        time.sleep(0.05)
    """,
    "cleanup without end": """
        async def clean_up_for_ever():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()

        portal.start_task_soon(clean_up_for_ever)
        time.sleep(0.05)
    """,
    "blocked loop": """
        portal.run_sync_soon(time.sleep, 60)
        time.sleep(0.05)
    """,
    "posted this instant": "portal.start_task_soon(trio.sleep_forever); portal.run_sync_soon(int)",
    "contexts of a generator": """
        def fixture():
            with start_blocking_portal() as other:
                with other.wrap_async_context_manager(contextlib.nullcontext()):
                    other.run_sync_soon(time.sleep, 60)
                    yield

        generator = fixture()
        next(generator)
    """,
    "two portals": """
        other_cm = start_blocking_portal()
        other = other_cm.__enter__()
        for p in portal, other:
            p.run_sync_soon(time.sleep, 60)
        time.sleep(0.05)
    """,
    "finalizer": """
        class Client:
            def __init__(self):
                self.me = self
            def __del__(self):
                portal.run_sync_soon(print, "too late")

        client = Client()
    """,
}


@pytest.mark.parametrize("state", EXIT_STATES)
def test_exit_with_an_open_portal(state: str) -> None:
    """The exit prints nothing, keeps its code, and does not wait for endless tasks."""
    out = run(
        f"""
        cm = start_blocking_portal()
        portal = cm.__enter__()
        portal.call(double, 1)
        {textwrap.indent(textwrap.dedent(EXIT_STATES[state]), " " * 8).strip()}
        signal.alarm(30)  # from here to the end, half of what the tasks take; it kills
        sys.exit(3)
        """,
        code=3,
    )
    assert out == ""


def test_exit_by_an_exception_with_an_open_portal() -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            PRELUDE + "cm = start_blocking_portal()\nportal = cm.__enter__()\nraise OSError('x')",
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "OSError: x"
    assert result.stderr.count("Traceback") == 1


def test_tasks_clean_up_at_exit() -> None:
    out = run("""
        async def work():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.1)
                print("cleaned up")

        cm = start_blocking_portal()
        portal = cm.__enter__()
        portal.start_task_soon(work)
        portal.call(double, 1)
        time.sleep(0.05)
    """)
    assert out == "cleaned up\n"


def test_an_exit_hook_may_still_use_an_open_portal() -> None:
    out = run("""
        import atexit
        cm = start_blocking_portal()
        portal = cm.__enter__()
        atexit.register(lambda: print(portal.call(double, 21)))
    """)
    assert out == "42\n"


def test_exit_hooks_that_run_after_ours_see_a_closed_portal() -> None:
    out = run(
        """
        cm = start_blocking_portal(name="Arthur")
        portal = cm.__enter__()

        def late():
            try:
                portal.call(double, 21)
            except RuntimeError as exc:
                print(exc)
        """,
        first="import atexit; atexit.register(lambda: late())",
    )
    assert out == "blocking portal 'Arthur' is closed: start a new one\n"


# --- fork ---


def test_forked_child_gets_an_error_and_the_parent_is_unaffected() -> None:
    out = run(
        """
        @contextlib.contextmanager
        def told():
            try:
                yield
            except RuntimeError as exc:
                print(exc)

        with start_blocking_portal(name="Arthur") as portal:
            assert portal.call(double, 1) == 2
            with portal.wrap_async_context_manager(contextlib.nullcontext()):
                pid = os.fork()
                if pid == 0:
                    portal.run_sync_soon(print, "called")
                    with told():
                        portal.call(double, 1)
                    with told():
                        portal.start_task_soon(double, 1)
                    with told():
                        portal.wrap_async_context_manager(contextlib.nullcontext()).__enter__()
                    with start_blocking_portal() as own:
                        print(own.call(double, 21))
                    sys.exit(7)  # through both contexts, neither of which it has
                for number in range(100):
                    assert portal.call(double, number) == 2 * number
                _, status = os.waitpid(pid, 0)
                assert os.waitstatus_to_exitcode(status) == 7
                assert portal.call(double, 21) == 42
        """,
        "-W",
        "ignore::DeprecationWarning",
    )
    text = (
        "blocking portal 'Arthur' belongs to the parent of this forked process: "
        "make a new connection in the child\n"
    )
    assert out == 3 * text + "42\n"


def test_a_fork_while_the_loop_is_busy() -> None:
    """The child does not hang, whatever the loop's thread did during the fork."""
    run(
        """
        async def churn():
            while True:
                await trio.sleep(0)

        with start_blocking_portal() as portal:
            portal.start_task_soon(churn)
            forked_enough = threading.Event()

            def pump():
                while not forked_enough.is_set():
                    portal.call(double, 1)

            pumping = threading.Thread(target=pump)
            pumping.start()
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    signal.alarm(20)
                    try:
                        portal.call(double, 1)
                    except RuntimeError:
                        os._exit(0)
                    os._exit(1)
                _, status = os.waitpid(pid, 0)
                assert status == 0
                assert portal.call(double, 21) == 42
            forked_enough.set()
            pumping.join()
        """,
        "-W",
        "ignore::DeprecationWarning",
    )


# --- a broken loop ---


def test_loop_that_loses_its_epoll_wakes_every_waiting_thread() -> None:
    """A careless os.closerange closes it: Trio cannot continue, and never ends its tasks."""
    out = run(
        """
        reported = []
        threading.excepthook = lambda args: reported.append(args.exc_type.__name__)

        def lose_epoll():
            posted.append(portal.start_task_soon(double, 1))
            for number in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    if "eventpoll" in os.readlink(f"/proc/self/fd/{number}"):
                        os.close(int(number))

        with start_blocking_portal(name="Marvin") as portal:
            posted = [portal.start_task_soon(trio.sleep_forever)]
            portal.run_sync_soon(lose_epoll)
            for future in posted:
                print(future.exception())
            try:
                portal.call(double, 1)
            except RuntimeError as exc:
                print(exc)
        print(*reported)
        """,
        "-W",
        "ignore::RuntimeWarning",  # Trio's error about its own state
    )
    text = "blocking portal 'Marvin' has crashed: OSError(9, 'Bad file descriptor')"
    assert out.splitlines() == [text, text, text, "OSError"]
