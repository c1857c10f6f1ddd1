"""Tests of the base class of all drivers: how to write subclasses, and how a tree ends in order.

The tests call `reset` and `close` directly, without a server; `test_exporter_tree` covers how a
server calls them.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from dataclasses import dataclass, field, make_dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from drivers_for_tests import Echo, Plain, Recorder
from jumpstarter.driver import Driver, export
from jumpstarter.driver._base import walk
from jumpstarter.driver._export import exports_of
from jumpstarter.errors import ConfigurationError
from jumpstarter.testing import client_for

VERBS = ["reset", "close"]


# --- ways to write a subclass ---


def test_a_plain_subclass_has_an_identity_and_nothing_else() -> None:
    one, other = Plain(), Plain()
    assert isinstance(one.uuid, UUID)
    assert one.uuid != other.uuid
    assert (one.labels, one.children, one.resources) == ({}, {}, {})
    one.labels["a"] = "b"
    one.children["x"] = other
    one.resources[uuid4()] = object()
    assert (other.labels, other.children, other.resources) == ({}, {}, {})


def test_a_driver_is_given_its_fields_by_keyword_only() -> None:
    uuid, child = uuid4(), Plain()
    driver = Plain(uuid=uuid, labels={"a": "b"}, children={"x": child}, log_level="DEBUG")
    assert (driver.uuid, driver.labels, driver.children["x"]) == (uuid, {"a": "b"}, child)
    with pytest.raises(TypeError, match="positional"):
        Plain(uuid)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="resources"):
        Plain(resources={})  # type: ignore[call-arg]


def test_a_driver_equals_only_itself() -> None:
    uuid = uuid4()
    one, other = Plain(uuid=uuid), Plain(uuid=uuid)
    assert one != other
    assert len({one, other}) == 2


def test_a_dataclass_subclass_adds_fields() -> None:
    @dataclass(kw_only=True)
    class Relay(Plain):
        port: int
        names: list[str] = field(default_factory=list)

    relay = Relay(port=7, labels={"a": "b"})
    assert (relay.port, relay.names, relay.labels) == (7, [], {"a": "b"})
    assert relay.logger.name == "driver.Relay"
    assert "port=7" in repr(relay)
    with pytest.raises(TypeError, match="port"):
        Relay()  # type: ignore[call-arg]


def test_a_subclass_may_write_its_own_init() -> None:
    class Relay(Plain):
        def __init__(self, port: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.port = port

    relay = Relay(7, log_level="ERROR")
    assert (relay.port, relay.logger.level, relay.children) == (7, logging.ERROR, {})


def test_an_init_that_forgets_the_base_class_is_told_so_when_the_tree_is_walked() -> None:
    class Relay(Plain):
        def __init__(self, port: int) -> None:
            self.port = port

    with pytest.raises(ConfigurationError, match=r"Relay.*super\(\).__init__"):
        list(walk(Relay(7)))


def test_every_post_init_of_a_chain_runs_once() -> None:
    ran: list[str] = []

    class Mixin:
        def __post_init__(self) -> None:
            ran.append("mixin")

    @dataclass(kw_only=True)
    class Base(Plain):
        port: int = 1

        def __post_init__(self) -> None:
            if hasattr(super(), "__post_init__"):
                super().__post_init__()
            ran.append(f"base, logging to {self.logger.name.split('.')[1]}")

    @dataclass(kw_only=True)
    class Leaf(Base, Mixin):
        def __post_init__(self) -> None:
            if hasattr(super(), "__post_init__"):
                super().__post_init__()
            ran.append("leaf")

    Leaf()
    assert ran == ["mixin", "base, logging to Leaf", "leaf"]


def test_a_pydantic_dataclass_validates_its_own_fields_and_keeps_the_children() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic is optional for driver authors")

    class Relay(Plain):
        port: int
        names: list[str] = field(default_factory=list)

        @export
        @pydantic.validate_call  # type: ignore[untyped-decorator]
        def switch(self, port: int) -> int:
            return port

    validated: Any = pydantic.dataclasses.dataclass(kw_only=True)(Relay)
    child = Echo()
    relay = validated(port="7", children={"x": child}, log_level="DEBUG")
    assert (relay.port, relay.names) == (7, [])
    assert relay.children["x"] is child
    assert relay.logger.level == logging.DEBUG
    assert exports_of(validated)["switch"].bind(relay)("3") == 3
    with pytest.raises(ValueError, match="port"):
        validated(port="seven")


def test_the_base_class_and_a_subclass_without_a_client_cannot_be_made() -> None:
    class Nameless(Driver):
        pass

    for cls in (Driver, Nameless):
        with pytest.raises(TypeError, match="client"):
            cls()  # type: ignore[abstract]


# --- loggers ---


def test_a_driver_logs_under_its_class_and_with_its_uuid(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Plain(), Plain()
    for driver in (first, second):
        driver.logger.info("info")
    assert [(record.name, uuid_of(record)) for record in caplog.records] == [
        ("driver.Plain", str(first.uuid)),
        ("driver.Plain", str(second.uuid)),
    ]


def uuid_of(record: logging.LogRecord) -> str:
    uuid: str = vars(record)["uuid"]
    return uuid


def test_a_log_level_affects_one_driver_only(caplog: pytest.LogCaptureFixture) -> None:
    quiet, loud, usual = Plain(log_level="WARNING"), Plain(log_level="DEBUG"), Plain()
    for driver in (quiet, loud, usual):
        driver.logger.debug("debug")
        driver.logger.info("info")
    logged = [(uuid_of(record), record.message) for record in caplog.records]
    assert logged == [
        (str(loud.uuid), "debug"),
        (str(loud.uuid), "info"),
        (str(usual.uuid), "info"),
    ]


def test_the_level_of_a_class_s_logger_affects_drivers_of_the_default_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver, quiet = Plain(), Plain(log_level="WARNING")
    assert not driver.logger.isEnabledFor(logging.DEBUG)
    with caplog.at_level(logging.DEBUG, logger="driver.Plain"):
        driver.logger.debug("debug")
        quiet.logger.debug("debug")
    assert [uuid_of(record) for record in caplog.records] == [str(driver.uuid)]
    logging.disable(logging.INFO)
    try:
        assert not driver.logger.isEnabledFor(logging.INFO)
    finally:
        logging.disable(logging.NOTSET)


def test_a_record_keeps_the_uuid_that_its_author_gives(caplog: pytest.LogCaptureFixture) -> None:
    Plain().logger.info("info", extra={"uuid": "of the card"})
    assert [uuid_of(record) for record in caplog.records] == ["of the card"]


def test_a_copy_of_a_driver_s_logger_is_the_one_of_its_class() -> None:
    assert copy.deepcopy(Plain().logger) is logging.getLogger("driver.Plain")
    assert Plain().logger.getChild("x") is logging.getLogger("driver.Plain.x")


@pytest.mark.parametrize("level", ["debug", "LOUD", "", None, 1.5])
def test_a_log_level_that_does_not_exist_is_refused(level: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"driver\.Plain: log_level") as caught:
        Plain(log_level=level)
    assert repr(level) in str(caught.value)


# --- walking a tree ---


def names_of(root: Driver) -> list[str]:
    return [name for _, _, name in walk(root)]


def test_a_walk_goes_through_parents_before_children_in_their_order() -> None:
    leaf, right = Plain(), Plain()
    left = Plain(children={"leaf": leaf})
    root = Plain(children={"left": left, "right": right})
    assert list(walk(root)) == [
        (root, None, ""),
        (left, root, "left"),
        (leaf, left, "leaf"),
        (right, root, "right"),
    ]


def test_a_driver_in_two_places_is_walked_through_twice() -> None:
    shared = Plain(children={"leaf": Plain()})
    root = Plain(children={"a": Plain(children={"x": shared}), "y": shared})
    assert names_of(root) == ["", "a", "x", "leaf", "y", "leaf"]


def test_a_tree_may_be_deeper_than_python_recurses() -> None:
    root = Plain()
    for _ in range(2000):
        root = Plain(children={"below": root})
    assert len(names_of(root)) == 2001
    root.close()


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_circle_is_refused_and_named(length: int) -> None:
    drivers = [Plain() for _ in range(length)]
    for index, driver in enumerate(drivers):
        driver.children[f"child{index}"] = drivers[(index + 1) % length]
    with pytest.raises(ConfigurationError, match=rf"'child{length - 1}' \(Plain\).*circle"):
        list(walk(drivers[0]))


@pytest.mark.parametrize("child", [None, "power", int, {"power": 1}])
def test_a_child_that_is_not_a_driver_is_refused(child: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'x' of Plain must be an instance of Driver"):
        list(walk(Plain(children={"x": child})))


@pytest.mark.parametrize("children", [None, [], "power"])
def test_children_that_are_no_mapping_are_refused(children: Any) -> None:
    with pytest.raises(ConfigurationError, match="children of Plain"):
        list(walk(Plain(children=children)))


# --- reset and close, called directly ---


def family(log: list[str], **options: Any) -> Recorder:
    """Return the root of a tree of four drivers; all but the root get the `options`."""
    leaf = Recorder(name="leaf", log=log, **options)
    left = Recorder(name="left", log=log, children={"leaf": leaf}, **options)
    right = Recorder(name="right", log=log, **options)
    return Recorder(name="root", log=log, children={"left": left, "right": right})


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("calls_super", [True, False])
def test_all_below_are_ended_once_and_after_their_parents(verb: str, calls_super: bool) -> None:
    log: list[str] = []
    getattr(family(log, calls_super=calls_super), verb)()
    assert log == [f"{verb} {name}" for name in ("root", "left", "leaf", "right")]


@pytest.mark.parametrize("verb", VERBS)
def test_a_driver_with_no_override_passes_on_to_its_children(verb: str) -> None:
    log: list[str] = []
    getattr(Plain(children={"root": family(log)}), verb)()
    assert log == [f"{verb} {name}" for name in ("root", "left", "leaf", "right")]


@pytest.mark.parametrize("verb", VERBS)
def test_an_override_that_does_not_call_the_base_class_keeps_it_to_itself(verb: str) -> None:
    log: list[str] = []
    root = family(log)
    root.calls_super = False
    getattr(root, verb)()
    assert log == [f"{verb} root"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_driver_in_two_places_is_ended_once_and_after_both_parents(verb: str) -> None:
    log: list[str] = []
    shared = Recorder(name="shared", log=log)
    left = Recorder(name="left", log=log, children={"x": shared})
    right = Recorder(name="right", log=log, children={"y": shared})
    getattr(Plain(children={"left": left, "right": right}), verb)()
    assert log == [f"{verb} left", f"{verb} right", f"{verb} shared"]


@pytest.mark.parametrize("verb", VERBS)
def test_the_other_drivers_run_after_one_has_failed(verb: str) -> None:
    log: list[str] = []
    root = family(log)
    left = root.children["left"]
    assert isinstance(left, Recorder)
    left.failure = RuntimeError("stuck relay")
    with pytest.raises(RuntimeError, match="stuck relay"):
        getattr(root, verb)()
    assert log == [f"{verb} {name}" for name in ("root", "left", "leaf", "right")]


@pytest.mark.parametrize("verb", VERBS)
def test_several_failures_come_together(verb: str) -> None:
    failure = RuntimeError("stuck relay")
    with pytest.raises(ExceptionGroup, match=f"{verb} of 3 drivers failed") as caught:
        getattr(family([], failure=failure), verb)()
    assert caught.value.exceptions == (failure, failure, failure)


def test_a_driver_that_closes_a_child_itself_closes_all_below_that_child() -> None:
    log: list[str] = []

    class Impatient(Plain):
        def close(self) -> None:
            self.children["child"].close()
            log.append("close impatient")
            super().close()

    leaf = Recorder(name="leaf", log=log)
    child = Recorder(name="child", log=log, children={"leaf": leaf})
    Plain(children={"impatient": Impatient(children={"child": child})}).close()
    assert log == ["close child", "close leaf", "close impatient"]


class Bracket(Plain):
    """Notes when `reset` and `close` begin and end, and passes them on in between."""

    def __init__(self, name: str, log: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.title = name
        self.log = log

    def reset(self) -> None:
        self.log.append(f"reset {self.title}")
        super().reset()
        self.log.append(f"{self.title} is reset")

    def close(self) -> None:
        self.log.append(f"close {self.title}")
        super().close()
        self.log.append(f"{self.title} is closed")


@pytest.mark.parametrize(("verb", "done"), [("reset", "is reset"), ("close", "is closed")])
def test_what_is_below_is_done_when_the_base_class_returns(verb: str, done: str) -> None:
    log: list[str] = []
    b = Bracket("b", log)
    a = Bracket("a", log, children={"b": b})
    getattr(Bracket("r", log, children={"a": a, "c": Bracket("c", log)}), verb)()
    assert log == [
        f"{verb} r",
        f"{verb} a",
        f"{verb} b",
        f"b {done}",
        f"a {done}",
        f"{verb} c",
        f"c {done}",
        f"r {done}",
    ]


def test_a_child_with_another_parent_that_waits_is_left_for_that_one() -> None:
    log: list[str] = []
    shared = Bracket("shared", log)
    left = Bracket("left", log, children={"x": shared})
    right = Bracket("right", log, children={"y": shared})
    Plain(children={"left": left, "right": right}).close()
    assert log == [
        "close left",
        "left is closed",
        "close right",
        "close shared",
        "shared is closed",
        "right is closed",
    ]


def test_a_deep_tree_of_drivers_that_pass_on_is_closed() -> None:
    log: list[str] = []
    root: Driver = Bracket("0", log)
    for depth in range(1, 2001):
        root = Bracket(str(depth), log, children={"below": root})
    root.close()
    begun = [line.removeprefix("close ") for line in log if line.startswith("close ")]
    assert begun == [str(depth) for depth in range(2000, -1, -1)]
    assert len(log) == 2 * 2001


def test_a_method_that_an_instance_has_of_its_own_is_called_and_left_there() -> None:
    log: list[str] = []
    child = Bracket("child", log)
    own: Any = lambda: log.append("close, the instance's own")  # noqa: E731 - it has no other use
    child.close = own  # type: ignore[method-assign]
    Plain(children={"child": child}).close()
    assert log == ["close, the instance's own"]
    assert vars(child)["close"] is own


def test_nothing_is_left_in_a_driver_that_was_closed() -> None:
    child = Bracket("child", [])
    Plain(children={"child": child}).close()
    assert "close" not in vars(child)


def test_a_driver_can_be_closed_again() -> None:
    log: list[str] = []
    root = family(log)
    root.close()
    root.close()
    assert len(log) == 8


def test_the_fields_are_what_a_report_and_a_subclass_expect() -> None:
    assert [(f.name, f.init) for f in dataclasses.fields(Driver)] == [
        ("uuid", True),
        ("labels", True),
        ("children", True),
        ("resources", False),
        ("description", True),
        ("methods_description", True),
        ("log_level", True),
        ("logger", False),
    ]


def test_a_subclass_may_use_any_private_name() -> None:
    private = [name for base in Driver.__mro__ for name in vars(base) if name[:1] == "_"]
    private = [name for name in private if not name.endswith("__") and name != "_abc_impl"]
    made = [name for name in vars(Echo()) if name.startswith("_")]
    assert (private, made) == ([], [])


def test_a_subclass_with_private_fields_of_common_names_is_served() -> None:
    names = ("_methods", "_check_fields", "_state", "_lock", "_close", "_reset", "_name", "_logger")
    fields = [(name, str, field(default=name)) for name in names]
    made = make_dataclass("Taken", fields, bases=(Echo,), kw_only=True)
    with client_for(made()) as client:
        assert client.call("echo", "named") == "named"
    assert [getattr(made(), name) for name in names] == list(names)
