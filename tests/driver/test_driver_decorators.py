"""Test the decorators under the path of the published package, with the marks that it sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jumpstarter import driver
from jumpstarter.driver import decorators
from jumpstarter.errors import ArgumentError


def test_they_are_the_decorators_of_the_driver_package() -> None:
    assert decorators.export is driver.export
    assert decorators.exportstream is driver.exportstream


def test_each_kind_of_method_has_the_published_mark() -> None:
    @decorators.export
    def plain(self: object) -> None:
        del self

    @decorators.export
    async def asynchronous(self: object) -> None:
        del self

    @decorators.export(strict=True)
    def generator(self: object) -> Iterator[int]:
        del self
        yield 1

    @decorators.export
    async def async_generator(self: object) -> AsyncIterator[int]:
        del self
        yield 1

    @decorators.exportstream
    @asynccontextmanager
    async def stream(self: object) -> AsyncIterator[None]:
        del self
        yield

    def marks(function: Callable[..., Any]) -> dict[str, str]:
        return {name: mark for name, mark in vars(function).items() if name.startswith("marker_")}

    assert marks(plain) == marks(asynchronous) == {"marker_drivercall": "07c9b9cc"}
    assert marks(generator) == marks(async_generator) == {"marker_streamingdrivercall": "07c9b9cc"}
    assert marks(stream) == {"marker_streamcall": "07c9b9cc"}
    assert decorators.MARKER_DRIVERCALL == "marker_drivercall"
    assert decorators.MARKER_STREAMCALL == "marker_streamcall"
    assert decorators.MARKER_STREAMING_DRIVERCALL == "marker_streamingdrivercall"
    assert decorators.MARKER_MAGIC == "07c9b9cc"


@pytest.mark.parametrize("decorate", [driver.export, driver.exportstream])
def test_none_cannot_be_exported(decorate: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match="only a method can be exported, not None") as caught:
        decorate(None)
    assert isinstance(caught.value, ArgumentError)
