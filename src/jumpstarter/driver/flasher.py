"""The interface of drivers that flash images, and dump them."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any, ClassVar

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["FlasherInterface"]


class FlasherInterface(metaclass=ABCMeta):
    """For drivers whose client is a `jumpstarter.client.flasher.FlasherClient`.

    Write it before `Driver` among the bases, and export both methods. Each gets the handle of a
    resource: `async with self.resource(source) as stream` opens it.
    """

    driver_type: ClassVar[str] = "storage"

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter.client.flasher.FlasherClient"

    @abstractmethod
    def flash(self, source: Any, target: str | None = None) -> Any:
        """Write an image to the device.

        Args:
            source: The handle of the image.
            target: The part of the device, for one that has several.
        """

    @abstractmethod
    def dump(self, target: Any, partition: str | None = None) -> Any:
        """Read an image from the device.

        Args:
            target: The handle of where the image goes.
            partition: The part of the device, for one that has several.
        """
