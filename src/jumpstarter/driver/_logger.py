"""The logger of one driver: it has the name of its class, and its records the driver's uuid."""

from __future__ import annotations

import logging
from typing import Any, Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DEFAULT_LEVEL", "DriverLogger"]

DEFAULT_LEVEL: Final = "INFO"


class DriverLogger(logging.Logger):
    """Log under `driver.<class>`, with the driver's uuid as the attribute `uuid` of each record.

    It is not registered in `logging`, so that it goes when its driver goes, and so that drivers of
    one class can have different levels. Its parent is the registered logger of the same name, whose
    handlers get its records. A driver of the default level has its parent's, which is set to that
    level if it has none; so `logging.getLogger("driver.<class>").setLevel(...)` affects it.

    Args:
        name: Its name, and its parent's.
        uuid: The driver's uuid; empty for a driver that has none.
        level: The name of its level.

    Raises:
        ValueError: There is no such level.
        TypeError: The level is neither a name nor a number.
    """

    def __init__(self, name: str, uuid: str, level: str | int) -> None:
        super().__init__(name, logging.NOTSET if level == DEFAULT_LEVEL else level)
        self.parent = logging.getLogger(name)
        if self.parent.level == logging.NOTSET:
            self.parent.setLevel(DEFAULT_LEVEL)
        self._uuid = uuid

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - overrides logging's
        """Return True if records of a level are logged.

        It uses no cache: `logging` clears only the caches of registered loggers.
        """
        return (
            not self.disabled and level > self.manager.disable and level >= self.getEffectiveLevel()
        )

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802 - as above
        """Make a record as `logging` does, with the uuid."""
        record = super().makeRecord(*args, **kwargs)
        record.__dict__.setdefault("uuid", self._uuid)
        return record

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the parent instead: that is in the registry."""
        return logging.getLogger, (self.name,)
