"""Test the client of flashers without a device: its names, URLs and commands."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import jumpstarter.client
from jumpstarter.client.flasher import FlasherClient, FlasherClientInterface, PathBuf
from jumpstarter.driver import Driver, FlasherInterface
from jumpstarter.errors import ArgumentError
from jumpstarter.streams.encoding import Compression


class Flash(FlasherInterface, Driver):
    """Flashes nothing."""

    def flash(self, source: Any, target: str | None = None) -> None:
        raise NotImplementedError

    def dump(self, target: Any, partition: str | None = None) -> None:
        raise NotImplementedError


def test_names_are_in_the_packages_too() -> None:
    assert jumpstarter.client.FlasherClient is FlasherClient
    assert jumpstarter.client.FlasherClientInterface is FlasherClientInterface
    with pytest.raises(AttributeError, match="has no attribute 'Flasher'"):
        jumpstarter.client.Flasher  # noqa: B018
    assert Flash.client() == "jumpstarter.client.flasher.FlasherClient"
    assert Flash.driver_type == "storage"


# ------------------------------------------------------------------------- URLs


class Recording(FlasherClient):
    """Records its calls instead of making them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        del kwargs
        self.calls.append((method, *args))


@pytest.mark.parametrize("url", ["http://lab/image?sig=1", "https://lab/image", "HTTPS://lab/i"])
def test_url_is_a_request_that_the_exporter_makes(url: str) -> None:
    client = Recording()
    client.flash(url, target="boot")
    client.dump(url)
    request = {"kind": "presigned_request", "headers": {}, "url": url}
    assert client.calls == [
        ("flash", {**request, "method": "GET"}, "boot"),
        ("dump", {**request, "method": "PUT"}, None),
    ]


def test_target_beside_a_dict_is_refused() -> None:
    client = Recording()
    with pytest.raises(ArgumentError, match="'target' parameter is not valid"):
        client.flash({"boot": "http://lab/image"}, target="boot")
    client.flash({"boot": "http://lab/image", "root": "http://lab/image"})
    assert [target for _, _, target in client.calls] == ["boot", "root"]


def test_compression_of_a_url_is_ignored_with_a_warning() -> None:
    client = Recording()
    with pytest.warns(UserWarning, match=r"compression='gzip' is ignored for a URL") as warned:
        client.flash("http://lab/image", compression=Compression.GZIP)
    assert Path(warned[0].filename) == Path(__file__)
    with pytest.warns(UserWarning, match=r"is ignored for a URL") as warned:
        client.dump("http://lab/image", compression=Compression.XZ)
    assert Path(warned[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.flash("http://lab/image")
    assert [method for method, *_ in client.calls] == ["flash", "dump", "flash"]


# ------------------------------------------------------------------------- commands


class Commanded(FlasherClientInterface):
    """Records what its commands do."""

    description: str | None = None
    methods_description: dict[str, str] = {}  # noqa: RUF012 - as a client has it

    def __init__(self) -> None:
        self.done: list[Any] = []

    def flash(
        self,
        path: PathBuf | dict[str, PathBuf],
        *,
        target: str | None = None,
        compression: Compression | None = None,
    ) -> Any:
        self.done.append(("flash", path, target, compression))

    def dump(
        self, path: PathBuf, *, target: str | None = None, compression: Compression | None = None
    ) -> Any:
        self.done.append(("dump", path, target, compression))


def run(commands: click.Group, *args: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands, args)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("args", "done"),
    [
        (["flash", "a.img"], ("flash", "a.img", None, None)),
        (["flash", "a.img", "--compression", "XZ"], ("flash", "a.img", None, Compression.XZ)),
        (
            ["flash", "-t", "boot:b.img", "--target", "root:http://lab/r"],
            ("flash", {"boot": "b.img", "root": "http://lab/r"}, None, None),
        ),
        (["dump", "a.img"], ("dump", "a.img", None, None)),
        (
            ["dump", "a.img", "--target", "boot", "--compression", "gzip"],
            ("dump", "a.img", "boot", Compression.GZIP),
        ),
    ],
)
def test_commands_call_the_methods(args: list[str], done: tuple[Any, ...]) -> None:
    client = Commanded()
    assert run(client.cli(), *args) == (0, "")
    assert client.done == [done]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["flash"], "FILE is missing"),
        (["flash", "a.img", "-t", "boot:b.img"], "but not both"),
        (["flash", "-t", "boot"], "'boot' is not name:file"),
        (["flash", "a.img", "b.img"], "unexpected extra argument"),
        (["flash", "a.img", "--compression", "zip"], "'zip' is not one of"),
        (["dump"], "Missing argument 'FILE'"),
    ],
)
def test_wrong_arguments_are_refused(args: list[str], says: str) -> None:
    client = Commanded()
    code, output = run(client.cli(), *args)
    assert code == 2
    assert says in output
    assert client.done == []


def test_help_is_what_the_driver_describes() -> None:
    client = Commanded()
    client.description = "The card of board 7"
    client.methods_description = {"dump": "Save the card of board 7"}
    output = run(client.cli(), "--help")[1]
    assert "The card of board 7" in output
    assert "Save the card" in output
    assert "Write an image" in output
