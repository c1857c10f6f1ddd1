"""Calls with a result type: the result is converted to it, and type checkers infer it.

The calls without a result type are in `_base`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from .._io.portal import BlockingPortal
from .._protocol.frames import Kind
from .._protocol.receive_buffer import Body
from .._protocol.values import check_type, convert
from ..errors import ArgumentError
from ._channel import Channel
from ._generators import RemoteGenerator
from ._lane import generator_for
from ._remote import DriverRef
from ._runner import runner_for
from ._streams import BlockingGenerator

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["TypedCalls"]

T = TypeVar("T")


def _decoder(channel: Channel, type_: Any, name: str) -> Callable[[Body], Any]:
    """Return a function that decodes a value as a type. In any thread.

    Args:
        channel: The connection, whose limits hold for the value.
        type_: The type that the caller asked for.
        name: How messages name the value.

    Raises:
        ArgumentError: No value that crosses the wire can be of this type.
    """
    check_type(type_)

    def decode(body: Body) -> Any:
        value = channel.decode(body)
        try:
            return convert(value, type_, name)
        except ArgumentError as exc:
            raise ArgumentError(f"it {exc}") from exc

    return decode


class TypedCalls:
    """The part of a `DriverClient` that takes result types."""

    channel: DriverRef
    portal: BlockingPortal | None

    @overload
    def call_as(self, type_: type[T], method: str, /, *args: Any, **kwargs: Any) -> T: ...
    @overload
    def call_as(self, type_: Any, method: str, /, *args: Any, **kwargs: Any) -> Any: ...
    def call_as(self, type_: Any, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an exported method and return its result as a type of your choice.

        The blocking form of `call_as_async`, as quick as `call`. The result is converted in the
        calling thread.

        Raises:
            ArgumentError: No result can be of this type; nothing was sent.
            DriverError: The call failed, or it has ended and its result does not fit.
            DriverTimeoutError: The surrounding `timeout` ran out.
        """
        decode = _decoder(self.channel.channel, type_, "result")
        request = self.channel.request(Kind.UNARY, method, args, kwargs)
        return runner_for(self, "call_as", request).call(decode)

    @overload
    async def call_as_async(
        self, type_: type[T], method: str, /, *args: Any, **kwargs: Any
    ) -> T: ...
    @overload
    async def call_as_async(self, type_: Any, method: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def call_as_async(self, type_: Any, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an exported method and return its result as a type of your choice.

        Otherwise as `call_async`.

        Args:
            type_: A dataclass, `list[UUID]`, an enum, ...: any type in docs/values.md. A type
                checker does not take a union (`Point | None`) for a class, so the result is Any.
            method: Name of the exported method.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            ArgumentError: No result can be of this type; nothing was sent.
            DriverError: The call failed, or it has ended and its result does not fit; the text
                names the type, and the path to the value that does not fit.
        """
        channel = self.channel.channel
        lane = channel.check_loop(type(self).__name__, "call_as_async")
        decode = _decoder(channel, type_, "result")
        request = self.channel.request(Kind.UNARY, method, args, kwargs)
        if lane is not None:
            return await lane.run_in_trio(channel.call_as, request, decode)
        return await channel.call_as(request, decode)

    @overload
    def streamingcall_as(
        self, type_: type[T], method: str, /, *args: Any, **kwargs: Any
    ) -> BlockingGenerator[T]: ...
    @overload
    def streamingcall_as(
        self, type_: Any, method: str, /, *args: Any, **kwargs: Any
    ) -> BlockingGenerator[Any]: ...
    def streamingcall_as(
        self, type_: Any, method: str, /, *args: Any, **kwargs: Any
    ) -> BlockingGenerator[Any]:
        """Call an exported generator and return each item as a type of your choice.

        The blocking form of `streamingcall_as_async`.

        Raises:
            ArgumentError: No item can be of this type.
        """
        decode = _decoder(self.channel.channel, type_, "item")
        request = self.channel.request(Kind.GENERATOR, method, args, kwargs)
        runner = runner_for(self, "streamingcall_as", request)
        return BlockingGenerator(runner, RemoteGenerator(self.channel.channel, request, decode))

    @overload
    def streamingcall_as_async(
        self, type_: type[T], method: str, /, *args: Any, **kwargs: Any
    ) -> RemoteGenerator[T]: ...
    @overload
    def streamingcall_as_async(
        self, type_: Any, method: str, /, *args: Any, **kwargs: Any
    ) -> RemoteGenerator[Any]: ...
    def streamingcall_as_async(
        self, type_: Any, method: str, /, *args: Any, **kwargs: Any
    ) -> RemoteGenerator[Any]:
        """Call an exported generator and return each item as a type of your choice.

        Otherwise as `streamingcall_async`; types as for `call_as_async`. An item that does not fit
        raises a DriverError and ends the generator. The generator's return value is not converted.

        Raises:
            ArgumentError: No item can be of this type.
        """
        channel = self.channel.channel
        lane = channel.check_loop(type(self).__name__, "streamingcall_as_async")
        decode = _decoder(channel, type_, "item")
        request = self.channel.request(Kind.GENERATOR, method, args, kwargs)
        return generator_for(lane, RemoteGenerator(channel, request, decode))
