"""The handles by which a client lends a stream or a URL to a driver, as pydantic models.

`model_dump(mode="json")` makes the dict that `Driver.resource` takes. This module needs the extra
`compat`.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from .._util.extras import requires_extra

with requires_extra("compat", "jumpstarter.common.resources"):
    from pydantic import BaseModel, Field, Json

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ClientStreamResource",
    "PresignedRequestResource",
    "Resource",
    "ResourceMetadata",
]


class ClientStreamResource(BaseModel):
    """A stream that the client has lent.

    Attributes:
        kind: Always `"client_stream"`.
        uuid: The handle.
        x_jmp_content_encoding: How its bytes are compressed; None if they are not.
    """

    kind: Literal["client_stream"] = "client_stream"
    uuid: UUID
    x_jmp_content_encoding: str | None = None


class PresignedRequestResource(BaseModel):
    """A request that the exporter makes itself, to read from a URL or to write to it.

    Attributes:
        kind: Always `"presigned_request"`.
        headers: The headers of the request. They may hold secrets.
        url: The URL. Its query may hold a signature.
        method: `"GET"` for a driver that reads, `"PUT"` for one that writes.
    """

    kind: Literal["presigned_request"] = "presigned_request"
    headers: dict[str, str]
    url: str
    method: Literal["GET", "PUT"]


#: Either handle; its `kind` says which.
Resource = Annotated[
    ClientStreamResource | PresignedRequestResource,
    Field(discriminator="kind"),
]


class ResourceMetadata(BaseModel):
    """A handle in JSON, with the encoding that is accepted.

    Attributes:
        resource: The handle; its JSON text is parsed.
        x_jmp_accept_encoding: The compression that the other side may use.
    """

    resource: Json[Resource]
    x_jmp_accept_encoding: str | None = None
