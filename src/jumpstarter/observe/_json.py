"""Format log records as JSON, one object a line."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Final

from .._exporter.current_call import current_call, want_calls
from .._util.log_lines import LineFormatter
from .._util.log_records import FACTS, extra_fields, plain_text
from ..driver._caller import current_connection

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["JsonFormatter"]

_TEXT: Final = 64 * 1024  # characters of a value


class JsonFormatter(LineFormatter):
    r"""Format each log record as a JSON object on one line, in ASCII.

        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())

    ``jumpstarter serve --log-format json`` uses it. An object has these keys, in this order, and
    lacks those that are unknown:

    - `time`: when the record was made, RFC 3339 in UTC with microseconds.
    - `level`: the name of the level, such as `"INFO"`.
    - `logger`: the name of the logger: `driver.<class>` for a driver's own records.
    - `message`: the text, with line breaks as `\n`.
    - `driver`: the path of the driver whose code has logged it, or that the record is about, as
      ``jumpstarter ls`` shows it.
    - `method`: the exported method.
    - `client`: the client that has made the call or connection, as `str(caller())` describes it.
    - `connection`: the number of the client's connection, `Caller.connection`.
    - `call`: the number of the call in this process.
    - `outcome`: how a call has ended: `"returned"`, `"raised"`, `"refused"`, `"cancelled"` or
      `"deadline"`.
    - `duration`: how long the call took, in seconds.
    - `exception`: the class and the text of an exception.
    - `traceback`: its traceback, if the record has one, with line breaks as `\n`.
    - `extra`: the record's other attributes, as an object: the first 32 of them.

    The object has no control characters and no characters beyond ASCII: they are escaped. Texts of
    more than 64 Ki characters are cut. `method` may be any text if the client has asked for a
    method that does not exist.

    It finds the call in the context variables. So let it format a record in the thread that logs
    it: give it to a `QueueHandler`, rather than to the handler behind the queue. Sessions that
    begin while there is a formatter note which call runs; docs/performance.md has what that costs.

    Call its methods in any thread.
    """

    wraps_output: bool = True

    def __init__(self) -> None:
        super().__init__()
        want_calls(self)

    def format(self, record: logging.LogRecord) -> str:
        """Return the object, without a line break at the end."""
        known = {
            **_record_facts(record),
            **_call_facts(),
            **_exception_facts(record),
            **vars(record).get(FACTS, {}),
        }
        known = {
            name: plain_text(value, _TEXT) if isinstance(value, str) else value
            for name, value in known.items()
        }
        if extra := extra_fields(record):
            known["extra"] = extra
        return _dump({name: known[name] for name in _KEYS if name in known})

    def note(self, text: str, logger: str, level: int = logging.INFO) -> str:
        """Return an object for a line that is not a record, such as a driver's output.

        Args:
            text: The line.
            logger: The value of `logger`.
            level: The level.
        """
        return self.format(
            logging.makeLogRecord(
                {
                    "msg": text,
                    "name": logger,
                    "levelno": level,
                    "levelname": logging.getLevelName(level),
                }
            )
        )


_KEYS: Final = (
    *("time", "level", "logger", "message", "driver", "method", "client", "connection", "call"),
    *("outcome", "duration", "exception", "traceback", "extra"),
)


def _record_facts(record: logging.LogRecord) -> dict[str, Any]:
    made = datetime.fromtimestamp(record.created, UTC)
    return {
        "time": made.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
    }


def _call_facts() -> dict[str, Any]:
    """Return what the context variables say of the call and the client."""
    known: dict[str, Any] = {}
    connection, call = current_connection.get(), current_call.get()
    if connection is not None and connection.caller is not None:
        known["client"] = str(connection.caller)
        known["connection"] = connection.caller.connection
    if call is not None:
        known |= {"method": call.method, "call": call.number}
        if call.driver is not None:
            known["driver"] = call.driver
    return known


def _exception_facts(record: logging.LogRecord) -> dict[str, Any]:
    kind, exc, frames = record.exc_info or (None, None, None)
    if exc is None:
        return {}
    last = "".join(traceback.format_exception_only(exc)).rstrip()
    whole = "".join(traceback.format_exception(kind, exc, frames)).rstrip()
    return {"exception": last, "traceback": whole}


def _dump(known: dict[str, Any]) -> str:
    # ASCII only, so that no reader takes a character for the end of a line. DEL is ASCII.
    return json.dumps(known, separators=(",", ":")).replace("\x7f", "\\u007f")
