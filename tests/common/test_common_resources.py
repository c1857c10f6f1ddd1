"""Test the models of handles against the dicts that cross the wire."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from pydantic import TypeAdapter, ValidationError

from jumpstarter.common.resources import (
    ClientStreamResource,
    PresignedRequestResource,
    Resource,
    ResourceMetadata,
)


def test_presigned_request_is_a_dict_of_plain_values() -> None:
    request = PresignedRequestResource(headers={"a": "b"}, url="https://x/y", method="PUT")
    assert request.model_dump(mode="json") == {
        "kind": "presigned_request",
        "headers": {"a": "b"},
        "url": "https://x/y",
        "method": "PUT",
    }


def test_client_stream_has_its_uuid_as_text() -> None:
    uuid = uuid4()
    stream = ClientStreamResource(uuid=uuid, x_jmp_content_encoding="gzip")
    assert stream.model_dump(mode="json") == {
        "kind": "client_stream",
        "uuid": str(uuid),
        "x_jmp_content_encoding": "gzip",
    }


def test_kind_decides_which_handle_it_is() -> None:
    handle = {"kind": "client_stream", "uuid": str(uuid4())}
    assert type(TypeAdapter(Resource).validate_python(handle)) is ClientStreamResource
    metadata = ResourceMetadata.model_validate({"resource": json.dumps(handle)})
    assert type(metadata.resource) is ClientStreamResource


def test_other_methods_are_refused() -> None:
    with pytest.raises(ValidationError):
        PresignedRequestResource.model_validate({"headers": {}, "url": "x", "method": "DELETE"})
