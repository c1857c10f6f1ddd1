"""Calls whose result is asked for as a type: what comes back is of it, here and for a type checker.

The forms without a type are in `_base`, with whatever both have in common.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

from .._protocol.frames import Kind
from ._channel import Request
from ._generators import RemoteGenerator
from ._remote import DriverRef
from ._streams import BlockingGenerator, BlockingRunner

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["TypedCalls"]

T = TypeVar("T")


class TypedCalls:
    """The part of a DriverClient that knows types. The four forms differ as those without do."""

    channel: DriverRef

    @overload
    def call_as(self, type_: type[T], method: str, /, *args: Any, **kwargs: Any) -> T: ...
    @overload
    def call_as(self, type_: Any, method: str, /, *args: Any, **kwargs: Any) -> Any: ...
    def call_as(self, type_: Any, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an exported method and give its result as the type that was asked for.

        The blocking form of `call_as_async`.

        Raises:
            ArgumentError: No result can be of this type; nothing was sent.
            DriverError: The call failed, or it has ended and its result does not fit.
        """
        decode = self.channel.channel.decoder(type_, "result")
        request = self._request(Kind.UNARY, method, args, kwargs)
        return self._run_for("call_as", request)(self.channel.channel.call_as, request, decode)

    @overload
    async def call_as_async(
        self, type_: type[T], method: str, /, *args: Any, **kwargs: Any
    ) -> T: ...
    @overload
    async def call_as_async(self, type_: Any, method: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def call_as_async(self, type_: Any, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an exported method and give its result as the type that was asked for.

        As `call_async` otherwise.

        Args:
            type_: A dataclass, `list[UUID]`, an enum, ...: any type in docs/values.md. To a type
                checker a union (`Point | None`) is no class, and what comes back is Any.
            method: Name of the exported method.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            ArgumentError: No result can be of this type; nothing was sent.
            DriverError: The call failed, or it has ended and its result does not fit; the text
                names the type, and the path to what is wrong.
        """
        self._check_loop("call_as_async")
        decode = self.channel.channel.decoder(type_, "result")
        request = self._request(Kind.UNARY, method, args, kwargs)
        return await self.channel.channel.call_as(request, decode)

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
        """Call an exported generator, each of whose items comes as the type that was asked for.

        The blocking form of `streamingcall_as_async`.

        Raises:
            ArgumentError: No item can be of this type.
        """
        decode = self.channel.channel.decoder(type_, "item")
        request = self._request(Kind.GENERATOR, method, args, kwargs)
        run = self._run_for("streamingcall_as", request)
        return BlockingGenerator(run, RemoteGenerator(self.channel.channel, request, decode))

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
        """Call an exported generator, each of whose items comes as the type that was asked for.

        As `streamingcall_async` otherwise; types as for `call_as_async`. An item that does not fit
        is a DriverError, and ends the generator. What it returns at its end comes as it is.

        Raises:
            ArgumentError: No item can be of this type.
        """
        self._check_loop("streamingcall_as_async")
        decode = self.channel.channel.decoder(type_, "item")
        request = self._request(Kind.GENERATOR, method, args, kwargs)
        return RemoteGenerator(self.channel.channel, request, decode)

    def _request(
        self, kind: Kind, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request:
        raise NotImplementedError

    def _run_for(self, asked: str, request: Request, twin: str = "") -> BlockingRunner:
        raise NotImplementedError

    def _check_loop(self, asked: str) -> None:
        raise NotImplementedError
