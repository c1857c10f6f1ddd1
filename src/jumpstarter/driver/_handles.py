"""Read the handles by which clients name a resource: a loan's, a URL, or a presigned request.

The dicts are those of the published package, as `jumpstarter.common.resources` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from ..errors import ResourceError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["PresignedRequest", "Url", "read_handle", "redact_url"]

_REDACTED: Final = "[REDACTED]"
_KINDS: Final = (
    "a resource is named by the handle that a client was given for it, by an http:// or https:// "
    "URL, or by a dict whose kind is client_stream or presigned_request"
)


class Url(str):
    """A URL that is to be fetched."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class PresignedRequest:
    """A request that a client has prepared for the exporter.

    Attributes:
        method: `"GET"` or `"PUT"`.
        url: Where to; its query may hold a signature.
        headers: May hold secrets, so it is never shown.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def read_handle(handle: Any) -> UUID | Url | PresignedRequest:
    """Read a handle, which is a UUID, a text, a dict, or a pydantic model of the dict.

    Raises:
        ResourceError: It is none of these. The message does not show the content of a dict.
    """
    if hasattr(handle, "model_dump"):
        handle = handle.model_dump(mode="json")
    if isinstance(handle, Mapping):
        return _read_dict(handle)
    if isinstance(handle, str) and handle.lower().startswith(("http://", "https://")):
        return Url(handle)
    try:
        return handle if isinstance(handle, UUID) else UUID(handle)
    except (ValueError, AttributeError, TypeError):
        raise ResourceError(f"{_KINDS}; not by {handle!r:.100}") from None


def _read_dict(handle: Mapping[Any, Any]) -> UUID | PresignedRequest:
    match dict(handle):
        case {"kind": "client_stream", "uuid": UUID() | str() as uuid}:
            with suppress(ValueError):
                return UUID(str(uuid))
        case {"kind": "presigned_request", "url": str(url), "method": "GET" | "PUT" as method}:
            headers = handle.get("headers") or {}
            is_text = isinstance(headers, Mapping) and all(
                isinstance(each, str) for each in (*headers, *headers.values())
            )
            if is_text and url.lower().startswith(("http://", "https://")):
                return PresignedRequest(method=method, url=url, headers=dict(headers))
    kind = handle.get("kind")
    given = f"a dict of the kind {kind!r:.40}" if isinstance(kind, str) else "a dict without kind"
    text = "a client_stream has a uuid, and a presigned_request a url of http or https, headers"
    raise ResourceError(f"{_KINDS}; not by {given} ({text} and the method GET or PUT)")


def redact_url(url: str) -> str:
    """Return a URL for messages and logs, without the parts that may hold secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"an invalid {url.partition(':')[0]}:// URL"
    _, at, host = parts.netloc.rpartition("@")
    netloc = f"{_REDACTED}@{host}" if at else host
    query = _REDACTED if parts.query else ""
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))
