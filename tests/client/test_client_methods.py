"""Tests of the methods in a report as client attributes: useful, and safe with a hostile peer."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from drivers_for_tests import Plain
from helpers import served, timed
from jumpstarter._protocol.frames import Kind, Node
from jumpstarter.client import BlockingGenerator, BlockingStream, DriverClient, StubDriverClient
from jumpstarter.client._methods import methods_of, printable, signature_from
from jumpstarter.driver import export, exportstream
from jumpstarter.drivers.mixins import StreamMixin
from jumpstarter.errors import ClientImportError
from jumpstarter.testing import client_for_async
from values_for_tests import Point


class PlainText(pydoc.TextDoc):
    """A renderer without the bold text that a terminal would show."""

    def bold(self, text: str) -> str:
        return text


PLAIN: Final = PlainText()


class Mover(Plain):
    """Moves a probe over a board.

    Slowly.
    """

    @export
    def move(self, to: Point, *, by: int = 1, method: str = "") -> str:
        """Go there.

        Blocks until it is there.
        """
        return f"{to.x} {by} {method}"

    @export
    async def home(self) -> str:
        return "home"

    @export
    def steps(self, count: int = 2) -> Generator[int, None, str]:
        yield from range(count)
        return "there"

    @export
    async def steps_slowly(self) -> AsyncGenerator[int, None]:
        yield 1

    @exportstream
    @asynccontextmanager
    async def console(self, greeting: bytes = b"hello") -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(greeting)
        yield theirs

    @export
    def call(self) -> str:
        return "the driver's"

    @export
    def meter(self) -> str:
        return "the driver's"

    @export
    def _private(self) -> str:
        return "by name only"

    @export
    def home_async(self) -> str:
        return "of this name itself"


@dataclass(kw_only=True)
class MoverClient(StreamMixin, DriverClient):
    calls: int = 0

    def park(self, where: Point | None = None) -> str:
        """Have it out of the way."""
        return f"at {where}"

    def home(self) -> str:
        return "the class's"

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().call(method, *args, **kwargs)


class ClassyMover(Mover):
    @classmethod
    def client(cls) -> str:
        return f"{__name__}.MoverClient"


class HomelessMover(Mover):
    @classmethod
    def client(cls) -> str:
        return "no_such_package.MoverClient"


# ------------------------------------------------------------------------- as attributes


def test_each_kind_of_method_is_an_attribute() -> None:
    with served(Mover()) as client:
        assert client.move(Point(5)) == "5 1 "
        assert client.move({"x": 6}, by=2, method="keywords of any name") == (
            "6 2 keywords of any name"
        )
        steps = client.steps(3)
        assert isinstance(steps, BlockingGenerator)
        assert list(steps) == [0, 1, 2]
        with client.console(greeting=b"hi") as stream:
            assert isinstance(stream, BlockingStream)
            assert stream.receive() == b"hi"


@timed()
async def test_each_has_a_twin_for_trio_code() -> None:
    async with client_for_async(Mover()) as client:
        assert await client.move_async(Point(5), by=3) == "5 3 "
        assert [step async for step in client.steps_async()] == [0, 1]
        assert [step async for step in client.steps_slowly_async()] == [1]
        async with client.console_async() as stream:
            assert await stream.receive_some() == b"hello"
        with pytest.raises(RuntimeError, match="use call_async instead"):
            client.move(Point(5))


def test_a_method_that_is_named_as_a_twin_is_itself() -> None:
    with served(Mover()) as client:
        assert client.home_async() == "of this name itself"


@timed()
async def test_a_method_that_is_named_as_a_twin_has_a_twin() -> None:
    async with client_for_async(Mover()) as other:
        assert await other.home_async_async() == "of this name itself"
        assert await other.call_async("home") == "home"


def test_children_and_class_attributes_shadow_methods() -> None:
    with served(Mover(children={"meter": Plain()})) as client:
        assert client.meter is client.children["meter"]
        assert client.call("call") == "the driver's"
    with served(ClassyMover()) as client:
        assert client.home() == "the class's"
        assert client.move(Point(1)) == "1 1 "
        assert client.calls == 1, "what the class overrides is what is used"


def test_method_with_a_private_name_is_not_an_attribute() -> None:
    with served(Mover()) as client:
        assert not hasattr(client, "_private")
        assert client.call("_private") == "by name only"


def test_misspelled_name_error_lists_the_methods() -> None:
    with served(Mover()) as client:
        with pytest.raises(AttributeError) as caught:
            client.mvoe(Point(1))
        assert str(caught.value) == (
            "DriverClient has no attribute 'mvoe'; its children: none; its driver exports: "
            "call, console, home, home_async, meter, move, steps, steps_slowly"
        )
        with pytest.raises(AttributeError, match="no attribute 'mvoe_async'"):
            _ = client.mvoe_async


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("local_file", "; ResourceMixin of jumpstarter.drivers.mixins gives it to a client class"),
        ("local_file_async", "; ResourceMixin of jumpstarter.drivers.mixins"),
        (
            "pexpect",
            (
                "; StreamMixin of jumpstarter.drivers.mixins gives it to a client class, and "
                "jumpstarter.client.adapters to any client"
            ),
        ),
        ("portforward_unix_async", "; StreamMixin of jumpstarter.drivers.mixins"),
    ],
)
def test_missing_mixin_method_error_names_the_mixin(name: str, told: str) -> None:
    with served(Mover()) as client:
        with pytest.raises(AttributeError) as caught:
            getattr(client, name)
        assert told in str(caught.value)


def test_stub_client_has_no_method_attributes() -> None:
    with served(HomelessMover()) as client:
        assert isinstance(client, StubDriverClient)
        assert "move" not in dir(client)
        with pytest.raises(ClientImportError):
            client.move(Point(1))


def test_unconnected_client_has_no_method_attributes() -> None:
    blank = DriverClient.__new__(DriverClient)
    assert not hasattr(blank, "move")
    assert "call" in dir(DriverClient)
    with served(Mover()) as client:
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=r"a client .* cannot be copied or pickled"):
                duplicate(client)


# ---------------------------------------------------------------------- help and repr


def test_function_has_the_drivers_signature_and_doc() -> None:
    with served(Mover()) as client:
        move, twin = client.move, client.move_async
        assert (move.__name__, twin.__name__) == ("move", "move_async")
        assert move.__qualname__ == "DriverClient.move"
        assert move.__doc__ == "Go there.\n\nBlocks until it is there."
        text = "(to: Point, *, by: int = 1, method: str = '') -> str"
        assert str(inspect.signature(move)) == str(inspect.signature(twin)) == text
        assert client.home.__doc__ == "Calls the driver's 'home' and returns its result."
        assert "Iterates over" in client.steps.__doc__
        assert "context manager" in client.console.__doc__
        assert "move(to: Point," in pydoc.render_doc(move, renderer=PLAIN)


def test_tab_finds_methods_twins_and_children() -> None:
    with served(Mover(children={"probe": Plain()})) as client:
        names = dir(client)
        assert {"move", "move_async", "steps", "console_async", "probe", "call", "uuid"} <= {*names}
        assert "_private" not in names
        assert all(hasattr(client, name) for name in names if not name.startswith("__"))


def test_help_shows_what_the_driver_offers() -> None:
    with served(Mover(children={"probe": Plain()})) as client:
        text = pydoc.render_doc(client, renderer=PLAIN)
        for line in (
            "The client of driver 'root' (jumpstarter.client.DriverClient).",
            "Moves a probe over a board.",
            "move(to: Point, *, by: int = 1, method: str = '') -> str",
            "Blocks until it is there.",
            "steps(count: int = 2) -> Generator[int, None, str]",
            "Children: probe",
        ):
            assert f"    {line}\n" in text + "\n"
        assert DriverClient.__doc__ is not None
        assert DriverClient.__doc__.startswith("The client of one driver.")


def test_help_says_how_to_call_shadowed_methods() -> None:
    with served(Mover(children={"meter": Plain(), "labels": Plain()})) as client:
        text = pydoc.render_doc(client, renderer=PLAIN)
        line = "Not attributes, as every client has others of these names; use: "
        assert f'{line}call("call"), call("meter"), children["labels"]\n' in text
        assert "    call(" not in text
        assert "    meter(" not in text


def test_help_shows_the_methods_of_the_client_class() -> None:
    with served(ClassyMover(children={"probe": Plain()})) as client:
        text = pydoc.render_doc(client, renderer=PLAIN)
        for line in (
            "park(where: Point | None = None) -> str",
            "Have it out of the way.",
            (
                "portforward_unix(method: str = 'connect', *, path: str = '', "
                "quiet_limit: float = 30.0) -> AbstractContextManager[str]"
            ),
            "steps(count: int = 2) -> Generator[int, None, str]",
            (
                "The client class defines home() itself: use that as described above. "
                'The driver\'s own is reached by: call("home")'
            ),
            'Not attributes, as every client has others of these names; use: call("call")',
            "Children: probe",
        ):
            assert f"    {line}\n" in text + "\n"
        assert "streamingcall(" not in text


def test_repr_of_a_client_is_one_line() -> None:
    with served(Plain(children={"mover": Mover()})) as client:
        assert repr(client.mover).startswith("<DriverClient of driver 'mover' (jumpstarter.client.")
        assert "exports: call, console, home," in repr(client.mover)
        assert repr(client).endswith("; exports: nothing; children: mover>")
        assert str(client.uuid) in repr(client)
    with served(ClassyMover()) as client:
        assert repr(client).startswith("MoverClient(uuid="), "a dataclass shows its own fields"


# ----------------------------------------------------------------------- reports are untrusted


def node(methods: dict[str, int], **texts: dict[str, str]) -> Node:
    return Node(1, None, "", str(uuid4()), {}, "jumpstarter.client.DriverClient", methods, **texts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["", "a b", "a.b", "1a", "a()", "__class__", "__deepcopy__", "_ipython_display_", "a\n"]
)
def test_invalid_or_special_names_are_not_attributes(name: str) -> None:
    assert methods_of(node({name: 0, "good": 0})).keys() == {"good"}


@pytest.mark.parametrize("kind", [-1, 3, 2**40])
def test_a_method_of_an_unknown_kind_is_left_out(kind: int) -> None:
    assert methods_of(node({"new": kind, "good": 2})) == {
        "good": ("good", Kind.STREAM, "", "", False)
    }


def test_methods_that_are_read_only_are_marked_and_other_names_ignored() -> None:
    reported = Node(1, None, "", str(uuid4()), {}, "lab.Client", {"on": 0, "read": 1})
    methods = methods_of(msgspec.structs.replace(reported, read_only=["read", "gone", "read"]))
    assert {name: method.read_only for name, method in methods.items()} == {
        "on": False,
        "read": True,
    }


def test_control_characters_in_texts_are_replaced() -> None:
    assert printable("plain\ntext: \u03c0") == "plain\ntext: \u03c0"
    assert printable("\x1b[2Jgone\r\x07") == "\ufffd[2Jgone\ufffd\ufffd"
    assert printable("\u202egnirts") == "\ufffdgnirts"
    assert len(printable("x" * 10_000)) < 4200
    [method] = methods_of(
        node({"on": 0}, signatures={"on": "(a: '\x1b[2J')"}, docs={"on": "\x9b2J"})
    ).values()
    assert method.signature == "(a: '\ufffd[2J')"
    assert method.doc == "\ufffd2J"


def test_report_without_texts_is_accepted() -> None:
    [method] = methods_of(node({"on": 0})).values()
    assert (method.signature, method.doc) == ("", "")
    assert str(signature_from("")) == "(*args, **kwargs)"


@pytest.mark.parametrize(
    "text",
    [
        "()",
        "(a)",
        "(a, b=1)",
        "(a=1, /, b=2, *, c, d=3)",
        "(a, /, *args, b: int = ..., **kwargs) -> dict[str, 'X | None']",
        "(*, a: lambda x: x = -1) -> [x for x in y]",
        "(a: print('evaluated') = open('/etc/passwd')) -> 1 / 0",
    ],
)
def test_a_signature_is_read_without_being_evaluated(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = str(signature_from(text))
    assert shown.replace(": ", ":").replace(" = ", "=") == text.replace(": ", ":").replace(
        " = ", "="
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "(a",
        "(a, a)",
        "(a=1, b)",
        "(): ...\nimport os\ndef g()",
        "(): return 1; x",
        "()\n",
        "(\0)",
        "(a: \ud800)",
        "(a=" + "(" * 1000 + ")",
        "(a=" + "x" * 2000 + ")",
    ],
    ids=lambda text: text[:20],
)
def test_invalid_signature_accepts_any_arguments(text: str) -> None:
    assert str(signature_from(text)) == "(*args, **kwargs)"


@given(st.text() | st.text("()*/,=:.->abc\n;'\\ ").map(lambda text: f"({text})"))
@example("(a='\\d')")
@example("(a=" + "-" * 1000 + "1)")
def test_signature_text_cannot_contain_more_than_a_signature(text: str) -> None:
    assert str(signature_from(text)).startswith("(")


def test_report_with_long_docstrings_stays_small() -> None:
    def method(self: Any) -> None: ...

    method.__doc__ = "x" * 4000
    names = [f"method_{number}" for number in range(1000)]
    talkative = type("Talkative", (Plain,), {name: export(method) for name in names})
    with served(talkative()) as client:
        documented = [name for name in names if "xxx" in getattr(client, name).__doc__]
        assert 200 < len(documented) < 1000
        assert getattr(client, names[-1])() is None


def test_exporter_logs_shadowed_names(caplog: pytest.LogCaptureFixture) -> None:
    with served(Plain(children={"labels": Mover(), "meter": Plain()})) as client:
        assert client.children["labels"].call("call") == "the driver's"
    title = f"driver 'labels' ({__name__}.Mover)"
    assert caplog.messages == [
        f"{title} is reached by `children['labels']`: clients have an attribute of this name",
        f"{title} exports 'call', to be reached by `call('call')`: clients have one of this name",
    ]
    caplog.clear()
    with served(Plain(children={"meter": Plain()})):
        assert caplog.messages == []


def test_methods_are_cached_for_clients_of_the_same_driver() -> None:
    first, second = (methods_of(node({"on": 0}, docs={"on": "Switch it on."})) for _ in range(2))
    assert first is second
    other = methods_of(node({"on": 0}, docs={"on": "Switch it off."}))
    assert other["on"].doc == "Switch it off."


def test_methods_with_long_texts_are_not_cached() -> None:
    first, second = (methods_of(node({"on": 0}, docs={"on": "x" * 20_000})) for _ in range(2))
    assert first is not second
    assert first == second
