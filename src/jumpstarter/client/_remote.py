"""A reference to one driver of the exporter, which a client's calls go through."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

from .._protocol.frames import Kind
from ..errors import ClientImportError, ConfigurationError
from ._channel import Channel
from ._methods import Method
from ._outgoing_call import Request

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["NO_DRIVER", "DriverRef", "NoDriver"]


class DriverRef:
    """A channel bound to one driver of the exporter.

    Attributes:
        channel: The connection, shared with the other clients of the tree.
        name: How messages name the driver.
        methods: The exported methods that can be attributes of the client, by name.
        doc: The driver's docstring, or empty.
    """

    __slots__ = ("_target", "channel", "doc", "methods", "name")

    def __init__(
        self,
        channel: Channel,
        target: int,
        name: str,
        methods: Mapping[str, Method] = MappingProxyType({}),
        doc: str = "",
    ) -> None:
        self.channel: Channel = channel
        self._target = target
        self.name: str = name
        self.methods: Mapping[str, Method] = methods
        self.doc: str = doc

    @property
    def target(self) -> int:
        """The driver's address on this connection."""
        return self._target

    def request(
        self, kind: Kind, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request:
        """Encode a call of this driver. In any thread.

        Raises:
            ArgumentTypeError: The method's name is not a str.
            DriverInvalidArgument: An argument cannot be encoded.
        """
        return Request(self._target, kind, method, args, kwargs, driver=self.name)

    def loan_request(self, mode: str, encoding: str) -> Request:
        """Encode a request to lend something to this driver. In any thread.

        Args:
            mode: `"read"`, `"write"` or `"both"`, from the driver's point of view.
            encoding: How it is compressed on the wire, `""` or `"zstd"`; for both directions, how
                the stream that is lent is compressed.
        """
        args = (self._target, mode, encoding)
        return Request(0, Kind.STREAM, "lend", args, driver=f"the exporter, to {self.name}")


class NoDriver(DriverRef):
    """Takes the place of a driver in a client that was not made by connecting.

    Its calls raise an error. Tests of client classes make such clients, and replace their methods.

    Args:
        why: Why nothing can be called, if a client class is missing.
    """

    __slots__ = ("_why",)

    def __init__(self, why: str = "") -> None:
        self._why = why
        self.name: str = "no driver"
        self.methods: Mapping[str, Method] = MappingProxyType({})
        self.doc: str = ""

    @property
    def channel(self) -> NoReturn:  # type: ignore[override]  # nothing ever sets it
        """Raise the error, since there is no connection.

        Raises:
            ClientImportError: The client stands for one whose class is missing.
            ConfigurationError: The client was made by hand.
        """
        if self._why:
            raise ClientImportError(self._why)
        text = "this client was made by hand and has no connection, so it cannot call a driver"
        raise ConfigurationError(f"{text}; connect() and serve() make clients")

    def request(
        self, kind: Kind, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request:
        """Raise the error."""
        del kind, method, args, kwargs
        return self.channel

    def loan_request(self, mode: str, encoding: str) -> Request:
        """Raise the error."""
        del mode, encoding
        return self.channel


NO_DRIVER: Final = NoDriver()
