"""Test drivers that stand for others, by `enumerate` and `report`, and the fields for that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from drivers_for_tests import Echo, Plain, Recorder
from jumpstarter import serve
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter.driver import Driver, DriverReport, export
from jumpstarter.drivers.composite import Composite, Proxy
from jumpstarter.errors import ConfigurationError


@dataclass(kw_only=True)
class PublishedProxy(Driver):
    """A proxy that does what the published one does."""

    ref: str
    found: Driver | None = field(default=None, init=False, repr=False)

    @classmethod
    def client(cls) -> str:
        raise NotImplementedError

    def enumerate(self, *, root: Any = None, parent: Any = None, name: Any = None) -> Any:
        target = root or self
        for step in self.ref.split("."):
            target = target.children[step]
        self.found = target
        return target.enumerate(root=root or self, parent=parent, name=name)

    def report(self, *, parent: Any = None, name: Any = None) -> Any:
        if self.found is None:
            raise RuntimeError("enumerate() comes first")
        return self.found.report(parent=parent, name=name)

    def reset(self) -> None:
        if self.found is not None:
            self.found.reset()

    def close(self) -> None:
        if self.found is not None:
            self.found.close()

    def __getattr__(self, name: str) -> Any:
        if self.found is None:
            raise RuntimeError(f"enumerate() comes before {name}")
        return getattr(self.found, name)


def paths_of(root: Driver) -> list[str]:
    names: dict[int | None, str] = {}
    paths = []
    for node in DeviceTree(root).nodes:
        names[node.target] = names.get(node.parent, "") + "/" + node.name
        paths.append(names[node.target])
    return paths


@pytest.mark.parametrize("proxy", [Proxy, PublishedProxy])
def test_a_proxy_is_replaced_by_its_driver_and_all_below_that(proxy: Any) -> None:
    leaf = Echo()
    board = Plain(children={"leaf": leaf})
    root = Composite(
        children={"a": proxy(ref="board.leaf"), "b": proxy(ref="board"), "board": board}
    )
    assert paths_of(root) == ["/", "//a", "//b", "//b/leaf", "//board", "//board/leaf"]
    with serve(root) as client:
        assert client.a.call("echo", 1) == 1
        assert client.b.leaf.call("echo", 2) == 2
        assert client.board.leaf.call("echo", 3) == 3
        assert client.a.uuid == leaf.uuid
        assert client.a.labels["jumpstarter.dev/name"] == "a"


@pytest.mark.parametrize("proxy", [Proxy, PublishedProxy])
@pytest.mark.parametrize("calls_super", [True, False])
def test_a_driver_in_a_proxy_s_place_is_reset_and_closed_once(
    proxy: Any, calls_super: bool
) -> None:
    log: list[str] = []
    leaf = Recorder(name="leaf", log=log)
    board = Recorder(name="board", log=log, children={"leaf": leaf}, calls_super=calls_super)
    children = {"a": proxy(ref="board.leaf"), "board": board, "z": proxy(ref="board")}
    with serve(Recorder(name="root", log=log, children=children, calls_super=calls_super)):
        assert log == ["reset root", "reset board", "reset leaf"]
    assert log[3:] == ["close root", "close board", "close leaf"]


@pytest.mark.parametrize("proxy", [Proxy, PublishedProxy])
def test_a_proxy_of_a_proxy_is_its_driver(proxy: Any) -> None:
    root = Composite(children={"a": proxy(ref="b"), "b": proxy(ref="c"), "c": Echo()})
    with serve(root) as client:
        assert client.a.call("echo", 1) == 1


def test_a_driver_uses_its_proxy_as_the_driver_itself() -> None:
    class Parent(Plain):
        @export
        def ask(self) -> str:
            echo: Any = self.children["echo"]
            value: str = echo.echo("through the proxy")
            return value

    parent = Parent(children={"echo": Proxy(ref="real")})
    with serve(Composite(children={"parent": parent, "real": Echo()})) as client:
        assert client.parent.call("ask") == "through the proxy"


def test_a_proxy_has_nothing_before_it_is_served() -> None:
    with pytest.raises(AttributeError, match=r"Proxy of 'x' has no attribute 'echo' before"):
        _ = Proxy(ref="x").echo
    with pytest.raises(NotImplementedError, match="no client"):
        Proxy.client()


@pytest.mark.parametrize("ref", ["nobody", "board.nobody", "", "."])
def test_a_proxy_of_nobody_is_refused(ref: str) -> None:
    root = Composite(children={"a": Proxy(ref=ref), "board": Plain()})
    with pytest.raises(ConfigurationError, match=rf"Proxy 'a' refers to '{ref}'"):
        DeviceTree(root)


@pytest.mark.parametrize("proxy", [Proxy, PublishedProxy])
def test_a_proxy_of_a_driver_above_it_is_a_circle(proxy: Any) -> None:
    board = Plain(children={"up": proxy(ref="board")})
    with pytest.raises(ConfigurationError, match="circles"):
        DeviceTree(Composite(children={"board": board}))


@pytest.mark.parametrize("proxy", [Proxy, PublishedProxy])
def test_proxies_of_one_another_are_refused(proxy: Any) -> None:
    root = Composite(children={"a": proxy(ref="b"), "b": proxy(ref="a")})
    with pytest.raises(ConfigurationError, match=r"enumerate\(\) of driver 'a' \(.*Proxy\) never"):
        DeviceTree(root)


# ------------------------------------------------------------------------------- enumerate, report


def test_the_base_class_enumerates_parents_first() -> None:
    leaf, right = Plain(), Plain()
    left = Plain(children={"leaf": leaf})
    root = Plain(children={"left": left, "right": right})
    assert root.enumerate() == [
        (root.uuid, None, None, root),
        (left.uuid, root, "left", left),
        (leaf.uuid, left, "leaf", leaf),
        (right.uuid, root, "right", right),
    ]
    assert left.enumerate(root=root, parent=root, name="l") == [
        (left.uuid, root, "l", left),
        (leaf.uuid, left, "leaf", leaf),
    ]


def test_an_override_can_add_to_what_the_base_class_lists() -> None:
    extra = Echo()

    class More(Plain):
        def enumerate(self, *, root: Any = None, parent: Any = None, name: Any = None) -> Any:
            rows = super().enumerate(root=root, parent=parent, name=name)
            return [*rows, (extra.uuid, self, "extra", extra)]

    with serve(Composite(children={"more": More(children={"own": Echo()})})) as client:
        assert sorted(client.more.children) == ["extra", "own"]
        assert client.more.extra.call("echo", 1) == 1


def test_an_override_can_hide_a_driver() -> None:
    class Hidden(Recorder):
        def enumerate(self, *, root: Any = None, parent: Any = None, name: Any = None) -> Any:
            del root, parent, name
            return []

    log: list[str] = []
    with serve(Composite(children={"hidden": Hidden(name="hidden", log=log)})) as client:
        assert client.children == {}
    assert log == ["reset hidden", "close hidden"]
    with pytest.raises(ConfigurationError, match=r"enumerate\(\) of Hidden has listed no driver"):
        DeviceTree(Hidden(name="hidden"))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([(UUID(int=1), None, "x", "driver")], "lists a str, not a Driver"),
        ([(UUID(int=1), Plain(), "x", Plain())], "lists a driver before its parent"),
    ],
)
def test_rows_that_are_no_tree_are_refused(rows: Any, told: str) -> None:
    class Wrong(Plain):
        def enumerate(self, *, root: Any = None, parent: Any = None, name: Any = None) -> Any:
            del root, parent, name
            return rows

    with pytest.raises(ConfigurationError, match=rf"'root' \(Wrong\) {told}"):
        DeviceTree(Wrong())


def test_the_report_has_the_labels_and_the_descriptions() -> None:
    parent = Plain()
    driver = Echo(labels={"a": "b"}, description="Board 7", methods_description={"echo": "Ask"})
    report = driver.report(parent=parent, name="board")
    assert report == DriverReport(
        uuid=str(driver.uuid),
        parent_uuid=str(parent.uuid),
        labels={
            "a": "b",
            "jumpstarter.dev/client": Echo.client(),
            "jumpstarter.dev/name": "board",
        },
        description="Board 7",
        methods_description={"echo": "Ask"},
    )
    assert Plain().report().parent_uuid is None
    assert "jumpstarter.dev/name" not in Plain().report().labels


def test_an_override_of_the_report_reaches_the_client() -> None:
    class Labelled(Echo):
        def report(self, *, parent: Any = None, name: Any = None) -> DriverReport:
            report = super().report(parent=parent, name=name)
            report.labels["rack"] = "3"
            return DriverReport(
                uuid=report.uuid,
                parent_uuid=report.parent_uuid,
                labels=report.labels,
                description="In rack 3",
                methods_description={},
            )

    with serve(Composite(children={"x": Labelled()})) as client:
        assert client.x.labels["rack"] == "3"
        assert client.x.description == "In rack 3"


def test_a_driver_may_export_methods_of_these_names() -> None:
    class Battery(Plain):
        @export
        def report(self) -> str:  # type: ignore[override]
            return "full"

        @export
        def enumerate(self) -> list[int]:  # type: ignore[override]
            return [1, 2]

        @export
        def description(self) -> str:  # type: ignore[override]
            return "a battery"

        @export
        def name(self) -> str:  # type: ignore[override]
            return "battery"

    with serve(Battery()) as client:
        assert client.call("report") == "full"
        assert client.call("enumerate") == [1, 2]
        assert client.call("description") == "a battery"
        assert client.call("name") == "battery"
        assert client.description is None


# --------------------------------------------------------------------------------- name and fields


def test_the_name_of_a_driver_is_in_its_labels() -> None:
    assert Plain().name == "unknown"
    assert Plain(labels={"jumpstarter.dev/name": "board"}).name == "board"
    assert not hasattr(Driver, "name")


def test_a_driver_may_have_a_field_called_name() -> None:
    @dataclass(kw_only=True)
    class Named(Plain):
        name: str

    assert Named(name="mine").name == "mine"
    with pytest.raises(TypeError, match="name"):
        Named()  # type: ignore[call-arg]


def test_a_driver_has_a_type() -> None:
    assert Plain().driver_type == "other"


def test_post_init_works_on_a_driver_without_fields() -> None:
    @dataclass(kw_only=True)
    class Checked(Plain):
        port: int = 1

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.port < 0:
                raise ConfigurationError("negative")

    driver = object.__new__(Checked)
    driver.port = -1
    with pytest.raises(ConfigurationError, match="negative"):
        driver.__post_init__()
    assert driver.logger.name == "driver.Checked"
    with pytest.raises(ConfigurationError, match="uuid"):
        DeviceTree(driver)
