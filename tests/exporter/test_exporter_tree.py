"""Tests of `_exporter.tree`: targets, the report, and the reset and close of every driver.

Drivers reset and close in worker threads, which virtual clocks do not wait for: where a grace has
to pass, the test advances the clock itself, once the driver hangs.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from drivers_for_tests import Echo, Plain, Recorder
from jumpstarter._exporter import tree
from jumpstarter._exporter.tree import MAX_TEXTS, DeviceTree
from jumpstarter._limits import DEFAULT_LIMITS, Limits
from jumpstarter._protocol.codec import call_prefix, decode_nodes, encode_value
from jumpstarter._protocol.frames import Kind
from jumpstarter.driver import Driver, export
from jumpstarter.errors import ConfigurationError

DEADLINE = 60.0  # seconds, for steps that take milliseconds
GRACE = 5.0


def tree_of(root: Driver) -> DeviceTree:
    return DeviceTree(root)


class Hanging(Plain):
    """A driver that hangs in `reset` or `close` until the test releases it."""

    def __init__(self, verb: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verb = verb
        self.hangs = threading.Event()
        self.release = threading.Event()

    def reset(self) -> None:
        self._hang("reset")

    def close(self) -> None:
        self._hang("close")

    def _hang(self, verb: str) -> None:
        if verb == self.verb:
            self.hangs.set()
            assert self.release.wait(DEADLINE)

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Release the driver at the end of the block, even if the block raises."""
        try:
            yield
        finally:
            self.release.set()


# --- addresses and the report ---


def test_addresses_begin_at_one_and_name_the_parent_below_them() -> None:
    leaf = Plain()
    tree = tree_of(Plain(children={"a": Plain(children={"leaf": leaf}), "b": Plain()}))
    assert [(node.target, node.parent, node.name) for node in tree.nodes] == [
        (1, None, ""),
        (2, 1, "a"),
        (3, 2, "leaf"),
        (4, 1, "b"),
    ]
    assert tree.targets[3 - 1].instance is leaf


def test_a_driver_in_two_places_has_two_addresses_and_one_identity() -> None:
    shared = Plain(children={"leaf": Plain()})
    tree = tree_of(Plain(children={"a": Plain(children={"x": shared}), "y": shared}))
    assert [(node.target, node.parent, node.name) for node in tree.nodes] == [
        (1, None, ""),
        (2, 1, "a"),
        (3, 2, "x"),
        (4, 3, "leaf"),
        (5, 1, "y"),
        (6, 5, "leaf"),
    ]
    assert tree.nodes[2].uuid == tree.nodes[4].uuid == str(shared.uuid)
    assert tree.targets[2].instance is tree.targets[4].instance


def test_a_target_is_titled_by_its_name_and_its_class() -> None:
    tree = tree_of(Plain(children={"power": Echo()}))
    assert [target.title for target in tree.targets] == [
        "driver 'root' (drivers_for_tests.Plain)",
        "driver 'power' (drivers_for_tests.Echo)",
    ]


def test_the_report_lists_the_methods_of_each_driver() -> None:
    echo = Echo()
    node = tree_of(Plain(children={"echo": echo})).nodes[1]
    assert node.uuid == str(echo.uuid)
    assert node.client == "jumpstarter.client.DriverClient"
    assert node.methods == {
        "connect": Kind.STREAM,
        "count": Kind.GENERATOR,
        "count_async": Kind.GENERATOR,
        "echo": Kind.UNARY,
        "echo_async": Kind.UNARY,
    }


class Talkative(Plain):
    """Says what it is."""

    @export
    def on(self, volts: float = 3.3) -> None:
        """Switch it on."""

    @export
    def quiet(self, *args): ...  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN201


def test_the_report_says_what_methods_say_of_themselves() -> None:
    [node] = tree_of(Talkative()).nodes
    assert node.doc == "Says what it is."
    assert node.signatures == {"on": "(volts: float = 3.3) -> None", "quiet": "(*args)"}
    assert node.docs == {"on": "Switch it on."}


def test_texts_that_do_not_fit_the_report_are_left_away_and_the_drivers_stay() -> None:
    talkers: dict[str, Driver] = {str(number): Talkative() for number in range(10_000)}
    nodes = tree_of(Plain(children=talkers)).nodes
    assert all(node.methods == {"on": 0, "quiet": 0} for node in nodes[1:])
    assert nodes[1].docs
    assert not nodes[-1].docs
    texts = [each for node in nodes for each in (node.doc, *node.signatures.values(), *node.docs)]
    assert sum(map(len, texts)) < MAX_TEXTS
    assert len(encode_value(nodes)) < 6 * MAX_TEXTS


def test_labels_are_the_drivers_own_with_those_found_out_and_ours_above_them() -> None:
    class Board(Plain):
        def extra_labels(self) -> dict[str, str]:
            return {"serial": "42", "slot": "from the device"}

    given = {"slot": "from the file", "lab": "east", "jumpstarter.dev/client": "os.system"}
    node = tree_of(Plain(children={"board": Board(labels=given)})).nodes[1]
    assert node.labels == {
        "serial": "42",
        "slot": "from the device",
        "lab": "east",
        "jumpstarter.dev/client": "jumpstarter.client.DriverClient",
        "jumpstarter.dev/name": "board",
    }
    assert given["slot"] == "from the file"


def test_the_report_survives_the_wire() -> None:
    tree = tree_of(Plain(labels={"ä": "ö"}, children={"a b": Echo(), "": Plain()}))
    body = bytes(encode_value(tree.nodes, b""))
    assert decode_nodes(body, DEFAULT_LIMITS) == tree.nodes


@pytest.mark.parametrize(
    "options",
    [
        {"labels": {"slot": 3}},
        {"labels": {3: "slot"}},
        {"labels": {"slot": "\udc80"}},
        {"labels": {"slot": object()}},
        {"children": {3: Plain()}},
        {"children": {"\udc80": Plain()}},
    ],
    ids=str,
)
def test_what_no_client_could_read_is_refused_when_the_tree_is_built(options: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"drivers_for_tests.Plain.*cannot be reported"):
        tree_of(Plain(**options))


@pytest.mark.parametrize("path", [None, Plain, 5])
def test_a_client_that_is_not_a_path_is_refused(path: Any) -> None:
    class Pointless(Plain):
        @classmethod
        def client(cls) -> str:
            return path  # type: ignore[no-any-return]

    with pytest.raises(ConfigurationError, match=r"Pointless.client\(\) gave a .*dotted path"):
        tree_of(Pointless())


def test_a_tree_that_is_a_circle_is_refused() -> None:
    root = Plain()
    root.children["self"] = root
    with pytest.raises(ConfigurationError, match="circle"):
        tree_of(root)


def test_there_are_as_many_addresses_as_a_call_can_name() -> None:
    call_prefix(tree.MAX_DRIVERS, Kind.UNARY, "on")
    with pytest.raises(struct.error):
        call_prefix(tree.MAX_DRIVERS + 1, Kind.UNARY, "on")


def test_a_tree_with_more_drivers_than_addresses_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tree, "MAX_DRIVERS", 3)
    root = Plain(children={"a": Plain(), "b": Plain()})
    assert len(tree_of(root).targets) == 3
    root.children["c"] = root.children["a"]
    with pytest.raises(ConfigurationError, match="at most 3 drivers"):
        tree_of(root)


def test_a_tree_that_no_client_could_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Plain(children={f"relay{number}": Plain() for number in range(200)})
    assert len(tree_of(root).nodes) == 201
    monkeypatch.setattr(tree, "DEFAULT_LIMITS", Limits(max_items=2_000))
    with pytest.raises(ConfigurationError, match="201 drivers is too large to be reported"):
        tree_of(root)


# --- reset and close ---


def family(log: list[str], **options: Any) -> Recorder:
    """Return the root of a tree of four drivers; each of them gets the `options`."""
    leaf = Recorder(name="leaf", log=log, **options)
    left = Recorder(name="left", log=log, children={"leaf": leaf}, **options)
    right = Recorder(name="right", log=log, **options)
    return Recorder(name="root", log=log, children={"left": left, "right": right}, **options)


def each(verb: str) -> list[str]:
    return [f"{verb} {name}" for name in ("root", "left", "leaf", "right")]


@pytest.mark.parametrize("calls_super", [True, False])
async def test_all_are_reset_and_then_closed_once_and_parents_first(calls_super: bool) -> None:
    log: list[str] = []
    tree = tree_of(family(log, calls_super=calls_super))
    with trio.fail_after(DEADLINE):
        await tree.reset()
        assert log == each("reset")
        log.clear()
        await tree.end(GRACE)
    assert log == each("close")


async def test_a_driver_in_two_places_is_ended_once_and_after_both_parents() -> None:
    log: list[str] = []
    shared = Recorder(name="shared", log=log)
    left = Recorder(name="left", log=log, children={"x": shared})
    right = Recorder(name="right", log=log, children={"y": shared})
    tree = tree_of(Recorder(name="root", log=log, children={"l": left, "r": right}))
    with trio.fail_after(DEADLINE):
        await tree.reset()
        await tree.end(GRACE)
    order = ["root", "left", "right", "shared"]
    assert log == [f"{verb} {name}" for verb in ("reset", "close") for name in order]


async def test_drivers_are_ended_in_threads_that_calls_do_not_use() -> None:
    seen: list[tuple[bool, int]] = []
    loop = threading.get_ident()

    class Looking(Plain):
        def close(self) -> None:
            default = trio.from_thread.run_sync(trio.to_thread.current_default_thread_limiter)
            seen.append((threading.get_ident() == loop, int(default.borrowed_tokens)))

    with trio.fail_after(DEADLINE):
        await DeviceTree(Looking()).end(GRACE)
    assert seen == [(False, 0)]


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("stuck"),
        ExceptionGroup("stuck", [OSError("stuck")]),
        SystemExit("stuck"),
        KeyboardInterrupt("stuck"),
        StopIteration("stuck"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_an_exception_of_close_is_logged_and_the_others_run(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    with trio.fail_after(DEADLINE):
        await tree_of(family(log, failure=failure)).end(GRACE)
    assert log == each("close")
    records = [record for record in caplog.records if record.name == "jumpstarter.exporter"]
    assert [record.message for record in records[-2:]] == [
        "close of driver 'leaf' (drivers_for_tests.Recorder) failed",
        "close of driver 'right' (drivers_for_tests.Recorder) failed",
    ]
    assert len(records) == 4
    assert all(record.exc_info and record.exc_info[1] is failure for record in records)


@pytest.mark.parametrize("calls_super", [True, False])
async def test_an_exception_of_close_does_not_reach_the_parent(
    calls_super: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    root = family(log, calls_super=calls_super)
    left = root.children["left"]
    assert isinstance(left, Recorder)
    left.failure = OSError("stuck")
    with trio.fail_after(DEADLINE):
        await tree_of(root).end(GRACE)
    assert log == each("close")
    assert [record.message for record in caplog.records] == [
        "close of driver 'left' (drivers_for_tests.Recorder) failed"
    ]


@pytest.mark.parametrize("calls_super", [True, False])
@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
async def test_an_exception_of_reset_is_raised_and_names_the_driver(
    kind: type[BaseException], calls_super: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    failure = kind("stuck")
    root = family(log, calls_super=calls_super)
    left = root.children["left"]
    assert isinstance(left, Recorder)
    left.failure = failure
    with trio.fail_after(DEADLINE), pytest.raises(kind, match="stuck") as caught:
        await tree_of(root).reset()
    assert caught.value is failure
    assert log == ["reset root", "reset left"]
    assert failure.__notes__ == [
        "reset() of driver 'left' (drivers_for_tests.Recorder) failed, so nothing is served"
    ]
    assert caplog.records == []


async def test_a_reset_whose_exception_the_parent_handles_has_not_failed() -> None:
    log: list[str] = []

    class Tolerant(Plain):
        def reset(self) -> None:
            try:
                self.children["child"].reset()
            except OSError as exc:
                log.append(str(exc))

    child = Recorder(name="child", log=log, failure=OSError("no card"))
    with trio.fail_after(DEADLINE):
        await tree_of(Tolerant(children={"child": child})).reset()
    assert log == ["reset child", "no card"]


class ClosingByHand(Plain):
    """A driver that closes its children itself, before it lets the base class do so."""

    def __init__(self, log: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log = log

    def close(self) -> None:
        self.log.append("close root")
        for child in self.children.values():
            child.close()
        self.log.append("children are closed")
        super().close()


async def test_children_that_a_parent_closes_by_hand_are_not_closed_again() -> None:
    log: list[str] = []
    leaf = Recorder(name="leaf", log=log)
    left = Recorder(name="left", log=log, children={"leaf": leaf})
    right = Recorder(name="right", log=log)
    root = ClosingByHand(log, children={"left": left, "right": right})
    with trio.fail_after(DEADLINE):
        await tree_of(root).end(GRACE)
    assert log == ["close root", "close left", "close leaf", "close right", "children are closed"]


async def test_children_that_a_parent_closes_in_threads_of_its_own_are_not_closed_again() -> None:
    log: list[str] = []

    class InThreads(Plain):
        def close(self) -> None:
            threads = [threading.Thread(target=each.close) for each in self.children.values()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
            log.append("children are closed")
            super().close()

    children: dict[str, Driver] = {name: Recorder(name=name, log=log) for name in "ab"}
    with trio.fail_after(DEADLINE):
        await tree_of(InThreads(children=children)).end(GRACE)
    assert sorted(log[:2]) == ["close a", "close b"]
    assert log[2:] == ["children are closed"]


async def test_a_child_that_hangs_in_its_parent_s_close_is_named_and_the_others_have_their_turn(
    caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
) -> None:
    log: list[str] = []
    hanging = Hanging("close")
    fine = Recorder(name="fine", log=log)
    children: dict[str, Driver] = {"stuck": hanging, "fine": fine}
    root = Recorder(name="root", log=log, children=children)

    async def let_the_grace_pass() -> None:
        await trio.to_thread.run_sync(hanging.hangs.wait, DEADLINE)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(GRACE)  # the child has begun within this time
        await trio.testing.wait_all_tasks_blocked()
        if not caplog.records:  # else this would be the time of the other child
            mock_clock.jump(GRACE)

    with hanging.until_the_end():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_the_grace_pass)
            await tree_of(root).end(GRACE)
        assert log == ["close root", "close fine"]
    text = "close of driver 'stuck' (test_exporter_tree.Hanging) did not end within 5 s"
    assert [record.message for record in caplog.records] == [text]


async def test_a_thread_that_was_left_behind_closes_nothing_a_second_time(
    mock_clock: trio.testing.MockClock,
) -> None:
    log: list[str] = []
    ended = threading.Event()

    class Slow(Hanging):
        def close(self) -> None:
            super().close()
            for child in self.children.values():
                child.close()
            Driver.close(self)
            ended.set()

    slow = Slow("close", children={"child": Recorder(name="child", log=log)})

    async def let_the_grace_pass() -> None:
        await trio.to_thread.run_sync(slow.hangs.wait, DEADLINE)
        mock_clock.jump(GRACE)

    with slow.until_the_end():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_the_grace_pass)
            await tree_of(slow).end(GRACE)
        assert log == ["close child"]
    assert await trio.to_thread.run_sync(ended.wait, DEADLINE)
    assert log == ["close child"]


async def test_one_that_hangs_is_left_behind_after_its_grace_and_the_others_have_their_turn(
    caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
) -> None:
    log: list[str] = []
    hanging = Hanging("close")
    tree = tree_of(Plain(children={"stuck": hanging, "fine": Recorder(name="fine", log=log)}))

    async def let_the_grace_pass() -> None:
        await trio.to_thread.run_sync(hanging.hangs.wait, DEADLINE)
        mock_clock.jump(GRACE)

    with hanging.until_the_end():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_the_grace_pass)
            await tree.end(GRACE)
    assert log == ["close fine"]
    assert "close of driver 'stuck' (test_exporter_tree.Hanging) did not end within 5 s" in (
        record.message for record in caplog.records if record.levelno == logging.ERROR
    )


async def test_the_end_of_a_tree_is_not_cut_short_by_cancellation() -> None:
    log: list[str] = []
    tree = tree_of(family(log))
    with trio.fail_after(DEADLINE), trio.CancelScope() as scope:
        scope.cancel()
        await tree.end(GRACE)
    assert log == each("close")


async def test_the_first_reset_can_be_cancelled_between_two_drivers() -> None:
    log: list[str] = []
    scope = trio.CancelScope()

    class Cancelling(Plain):
        def reset(self) -> None:
            trio.from_thread.run_sync(scope.cancel)

    tree = tree_of(Cancelling(children={"next": Recorder(name="next", log=log)}))
    with trio.fail_after(DEADLINE), scope:
        await tree.reset()
    assert scope.cancelled_caught
    assert log == []
