"""Tests of `jumpstarter.client._tree`: a report is untrusted, and never enough for an import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import PATIENCE
from jumpstarter._protocol.frames import Node
from jumpstarter.client import DriverClient, StubDriverClient, _tree
from jumpstarter.client._channel import Channel
from jumpstarter.client._tree import DEFAULT_ALLOW, build_tree
from jumpstarter.errors import ClientImportError, HandshakeError

UUID_TEXT = "6b7a2b1e-0000-4000-8000-000000000001"


def node(
    target: int,
    parent: int | None = None,
    name: str = "",
    client: str = "jumpstarter.client.DriverClient",
    uuid: str = UUID_TEXT,
    *,
    doc: str = "",
) -> Node:
    return Node(target, parent, name, uuid, {"board": "rpi4"}, client, {}, doc)


ROOT = node(1)


def build(*nodes: Node, allow: Sequence[str] | None = DEFAULT_ALLOW) -> DriverClient:
    """Build a tree of clients without a channel, which only a call would use."""
    return build_tree(nodes, cast("Channel", None), allow=allow)


def shape(client: DriverClient) -> dict[str, Any]:
    return {name: shape(child) for name, child in client.children.items()}


# ----------------------------------------------------------------------------------- shape


def test_the_tree_is_built_as_reported_and_in_its_order() -> None:
    client = build(
        ROOT, node(2, 1, "serial"), node(5, 2, "log"), node(3, 1, "power"), node(4, 1, "can")
    )
    assert shape(client) == {"serial": {"log": {}}, "power": {}, "can": {}}
    assert list(client.children) == ["serial", "power", "can"]
    assert client.uuid == UUID(UUID_TEXT)
    assert client.labels == {"board": "rpi4"}


def test_names_need_to_differ_among_siblings_only() -> None:
    client = build(ROOT, node(2, 1, "a"), node(3, 2, "a"), node(4, 1, "b"), node(5, 4, "a"))
    assert shape(client) == {"a": {"a": {}}, "b": {"a": {}}}


def test_a_tree_may_be_deep() -> None:
    client = build(ROOT, *(node(target, target - 1, "a") for target in range(2, 5001)))
    depth = 0
    while client.children:
        client = client.children["a"]
        depth += 1
    assert depth == 4999


def test_a_deep_tree_can_be_closed() -> None:
    closed: list[str] = []
    client = build(ROOT, *(node(target, target - 1, "a") for target in range(2, 5001)))
    client.stack.callback(closed.append, "root")
    client.close()
    assert closed == ["root"]


@pytest.mark.parametrize(
    "nodes",
    [
        [node(1, 1, "a")],
        [node(2, 1, "a"), ROOT],
        [node(2, 3, "a"), node(3, 2, "b")],
        [ROOT, node(2, 2, "a")],
        [ROOT, node(2, 3, "a"), node(3, 2, "b")],
        [ROOT, node(2, 9, "a")],
        [ROOT, node(2)],
        [ROOT, node(1, 1, "a")],
        [ROOT, node(2, 1, "a"), node(2, 1, "b")],
        [ROOT, node(2, 1, "a"), node(3, 1, "a")],
        [node(0)],
        [node(-1)],
        [ROOT, node(65536, 1, "a")],
    ],
    ids=[
        "no root, and its own parent",
        "the root comes last",
        "no root, and a circle",
        "its own parent",
        "a circle",
        "a parent that is not there",
        "two roots",
        "the root's target again",
        "a target twice",
        "a name twice",
        "the exporter's own target",
        "a negative target",
        "a target too high",
    ],
)
def test_report_that_is_not_a_tree_is_refused(nodes: list[Node]) -> None:
    with pytest.raises(HandshakeError, match="the exporter's report is not a tree, at driver '"):
        build(*nodes)


def test_an_empty_report_is_refused() -> None:
    with pytest.raises(HandshakeError, match="the exporter's report is empty"):
        build()


@pytest.mark.parametrize("uuid", ["", "x", UUID_TEXT[:-1], UUID_TEXT + "0", "0" * 1000])
def test_a_bad_uuid_is_refused(uuid: str) -> None:
    with pytest.raises(HandshakeError, match=r"driver 'a' \(jumpstarter.* has no valid uuid"):
        build(ROOT, node(2, 1, "a", uuid=uuid))


def test_a_name_may_be_long_but_its_error_is_not() -> None:
    with pytest.raises(HandshakeError) as caught:
        build(ROOT, node(2, 1, "a" * 100_000, client="b" * 100_000, uuid=""))
    assert len(str(caught.value)) < 1000


small = st.integers(0, 5)
reports = st.lists(
    st.builds(node, small, st.none() | small, st.sampled_from(["", "a", "b"])), max_size=8
)


@given(reports)
def test_any_report_is_a_tree_or_refused(nodes: list[Node]) -> None:
    try:
        client = build(*nodes)
    except HandshakeError:
        return
    assert nodes[0].parent is None
    found = 0
    clients = [client]
    while clients:
        found += 1
        clients.extend(clients.pop().children.values())
    assert found == len(nodes) == len({each.target for each in nodes})


# ---------------------------------------------------------- which classes are imported


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a directory of importable modules, and unload the modules afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write_module(directory: Path, name: str, more: str = "") -> None:
    """Write a module with a client class and other objects."""
    (directory / f"{name}.py").write_text(
        "from jumpstarter.client import DriverClient\n"
        "class Client(DriverClient): pass\n"
        "class Other: pass\n"
        f"function = DriverClient\n{more}\n"
    )


def test_report_with_too_much_documentation_is_refused() -> None:
    talkative = [node(number + 2, 1, f"d{number}", doc="x" * 4096) for number in range(1100)]
    assert len(build(node(1), *talkative[:1000]).children) == 1000
    with pytest.raises(HandshakeError, match="4505600 characters of documentation"):
        build(node(1), *talkative)


def test_a_client_of_many_children_is_shown_in_a_line() -> None:
    client = build(node(1), *(node(number + 2, 1, f"d{number}") for number in range(5000)))
    assert "d19 and 4980 more" in repr(client)
    assert len(repr(client)) < 500


def stub_of(client: str, *, allow: Sequence[str] | None = DEFAULT_ALLOW) -> StubDriverClient:
    """Build a client, and check that it is a stub."""
    stub = build(node(1, client=client), allow=allow)
    assert isinstance(stub, StubDriverClient)
    with pytest.raises(ClientImportError) as caught:
        stub.on()
    assert f"'on': {stub.missing}; without it" in str(caught.value)
    return stub


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("canary.Client", DEFAULT_ALLOW),
        ("canary.Client", ()),
        ("canary.Client", ("other.*", "canary", "canary.client", "CANARY.*", "?anary")),
        ("canary.Client", ("jumpstarter.*",)),
    ],
)
def test_disallowed_class_is_not_imported(
    modules: Path, path: str, allow: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_module(modules, "canary")
    text = (
        f"driver 'root' ({path}): its client class may not be imported here; "
        f"if you trust it, connect with allow=['{path}']"
    )
    assert stub_of(path, allow=allow).missing == text
    assert caplog.messages == [f"Driver client '{path}' is not available. {text}"]
    assert "canary" not in sys.modules


@pytest.mark.parametrize("allow", [("canary.*",), ("canary.Client",), ("x", "*"), None])
def test_allowed_class_is_imported(modules: Path, allow: Sequence[str] | None) -> None:
    write_module(modules, "canary")
    client = build(node(1, client="canary.Client"), allow=allow)
    assert (type(client).__module__, type(client).__name__) == ("canary", "Client")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("jumpstarter.client.DriverClient", True),
        ("jumpstarter_driver_power.Client", True),
        ("jumpstarterx.Client", False),
        ("jumpstarter_evil.Client", False),
        ("x_jumpstarter_driver_power.Client", False),
        ("x.jumpstarter.client.DriverClient", False),
        ("os.system", False),
        ("builtins.eval", False),
        ("subprocess.Popen", False),
    ],
)
def test_default_allow_has_this_library_and_ecosystem_packages(
    modules: Path, path: str, *, allowed: bool
) -> None:
    write_module(modules, path.partition(".")[0])
    if allowed:
        assert not isinstance(build(node(1, client=path)), StubDriverClient)
    else:
        assert "may not be imported here" in stub_of(path).missing


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "*",
        "Client",
        "canary.",
        ".Client",
        "canary..Client",
        "canary.Client\n",
        "\ncanary.Client",
        "canary.Client ",
        "canary.Cli\0ent",
        "canary:Client",
        "canary.Client()",
        "canary.1",
        "../canary.Client",
        "canary/Client",
        "canary.Clíent",
        "jumpstarter.*",
        "os.system('true') or canary.Client",
    ],
)
def test_invalid_class_path_is_never_imported(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(name: str) -> None:
        raise AssertionError(f"{name} was looked at")

    monkeypatch.setattr(_tree, "_module", never)
    for allow in (None, ("*",), (path,)):
        assert "is not a dotted path of a client class" in stub_of(path, allow=allow).missing


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("canary.Other", "canary.Other is not a subclass of DriverClient"),
        ("canary.made_up", "importing its client class failed: AttributeError"),
        ("canary.number", "canary.number is not a subclass of DriverClient"),
        ("os.system", "os.system is not a subclass of DriverClient"),
        ("jumpstarter.client.StubDriverClient", "is not a subclass of DriverClient"),
        (
            "jumpstarter.__main__.main",
            "jumpstarter.__main__.main is not a subclass of DriverClient",
        ),
        ("builtins.exec", "builtins.exec is not a subclass of DriverClient"),
        (
            "no_such_package.Client",
            "'no_such_package'; install the package that has it (pip install no_such_package), or",
        ),
        (
            "jumpstarter_driver_nothing.client.Client",
            "jumpstarter-driver-nothing is missing: pip install jumpstarter-driver-nothing",
        ),
        ("canary.client.Client", "cannot be imported: No module named 'canary.client'"),
        ("fails.Client", "importing its client class failed: ZeroDivisionError: division by zero"),
        ("exits.Client", "importing its client class failed: SystemExit: 3"),
        ("needs.Client", "'not_installed'; install the package that has it (pip install not_ins"),
        ("clicks.Client", "No module named 'click'; it needs the extra 'compat' here: pip install"),
        (
            "newer.Client",
            "No module named 'jumpstarter.new'; install the package that has it (pip ",
        ),
    ],
)
def test_missing_class_becomes_a_stub_with_the_reason(modules: Path, path: str, text: str) -> None:
    write_module(modules, "canary", "number = 5")
    write_module(modules, "fails", "1 / 0")
    write_module(modules, "exits", "raise SystemExit(3)")
    write_module(modules, "needs", "import not_installed")
    for name, missing in (("clicks", "click"), ("newer", "jumpstarter.new")):
        reason = f"No module named {missing!r}"
        code = f"raise ModuleNotFoundError({reason!r}, name={missing!r})"
        write_module(modules, name, code)
    told = stub_of(path, allow=None).missing
    assert text in told
    assert "pip install jumpstarter)" not in told  # another project's name on PyPI


def test_class_imported_by_an_allowed_module_is_allowed_under_that_name(
    modules: Path,
) -> None:
    write_module(modules, "elsewhere")
    write_module(modules, "canary", "import elsewhere\nfrom elsewhere import Client as Borrowed")
    allow = ("canary.*",)
    client = build(node(1, client="canary.Borrowed"), allow=allow)
    assert (type(client).__module__, type(client).__name__) == ("elsewhere", "Client")
    assert "may not be imported here" in stub_of("elsewhere.Client", allow=allow).missing
    assert "cannot be imported" in stub_of("canary.elsewhere.Client", allow=allow).missing


@pytest.mark.parametrize("name", ["__class__", "__dict__", "__loader__", "__builtins__", "Client_"])
def test_module_attribute_that_is_not_a_client_class_is_refused(modules: Path, name: str) -> None:
    write_module(modules, "canary")
    assert stub_of(f"canary.{name}", allow=None).missing


def test_a_published_class_that_its_package_lacks_is_a_version_mismatch(modules: Path) -> None:
    write_module(modules, "jumpstarter_driver_canary")
    text = stub_of("jumpstarter_driver_canary.Newer").missing
    assert "AttributeError" in text
    assert text.endswith("missing: pip install jumpstarter-driver-canary")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("jumpstarter_driver_xyz.client.XyzClient", "version mismatch"),
        ("custom_driver.client.CustomClient", "pip install custom_driver"),
    ],
)
def test_a_stub_made_by_hand_says_what_is_missing(path: str, told: str) -> None:
    stub = StubDriverClient(labels={"jumpstarter.dev/client": path}, stub=object())
    for use in (
        lambda: stub.on,
        lambda: stub.call("on"),
        lambda: list(stub.streamingcall("read")),
        lambda: stub.stream("connect").__enter__(),
    ):
        with pytest.raises(ImportError, match=told) as caught:
            use()
        assert path in str(caught.value)
    assert told in str(stub.__doc__)


def test_a_stub_stands_in_its_place_in_the_tree() -> None:
    client = build(ROOT, node(2, 1, "power", "os.system"), node(3, 2, "meter"))
    assert isinstance(client.power, StubDriverClient)
    assert type(client.power.meter) is DriverClient


SCRIPT = """
from jumpstarter import serve
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export

print("run as", __name__, flush=True)

class ScriptDriver(Driver):
    @classmethod
    def client(cls):
        return "{path}"

    @export
    def echo(self, value):
        return value

class ScriptClient(DriverClient):
    pass

with serve(ScriptDriver()) as client:
    print(client.call("echo", type(client).__name__), type(client) is ScriptClient)
"""


def run(*args: str, cwd: Path) -> str:
    """Run a script in the directory, and return its output."""
    command = [sys.executable, *args]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("how", "path"),
    [
        (("lab/myscript.py",), "myscript.ScriptClient"),
        (("-m", "lab.myscript"), "lab.myscript.ScriptClient"),
    ],
    ids=["script", "module"],
)
def test_a_script_that_serves_its_own_driver_is_not_run_twice(
    tmp_path: Path, how: tuple[str, ...], path: str
) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "myscript.py").write_text(SCRIPT.format(path=path))
    assert run(*how, cwd=tmp_path) == "run as __main__\nScriptClient True\n"


def test_module_with_the_name_of_the_script_is_imported(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    find_the_other = f"import sys; sys.path[0] = {str(tmp_path)!r}\n"
    script = find_the_other + SCRIPT.format(path="myscript.Client")
    (tmp_path / "lab" / "myscript.py").write_text(script)
    write_module(tmp_path, "myscript")
    assert run("lab/myscript.py", cwd=tmp_path) == "run as __main__\nClient False\n"
