"""The pieces of the OpenAPI document that FastAPI cannot derive from the routes."""

from __future__ import annotations

from typing import Any

from service.api.errors import MEDIA_TYPE, title_of

_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
_CHALLENGE = {"WWW-Authenticate": {"description": "Bearer (RFC 6750).", "schema": {"type": "string"}}}
_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def problems(*statuses: int, public: bool = False) -> dict[int | str, dict[str, Any]]:
    """The problem responses of a call: `statuses` and those that any call may give.

    A `public` call never asks for a key.
    """
    result: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, 400, 403, 503}):
        result[status] = {"description": title_of(status), "content": {MEDIA_TYPE: _PROBLEM}}
    if not public:
        unauthorised = "No API key, or one that is not good."
        result[401] = {
            "description": unauthorised,
            "content": {MEDIA_TYPE: _PROBLEM},
            "headers": _CHALLENGE,
        }
    result[503]["headers"] = _RETRY
    result[422] = {"description": "A field does not fit.", "content": {MEDIA_TYPE: _PROBLEM}}
    return result


_PROPERTIES: dict[str, dict[str, Any]] = {
    "image": {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP, as a file."},
    "id": {"$ref": "#/components/schemas/ItemSearch/properties/id"},
    "text": {"type": "string"},
    "metadata": {
        "type": "string",
        "description": "A flat JSON object.",
        "examples": ['{"source": "sample"}'],
    },
    "k": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10},
    "max_distance": {"type": "integer", "minimum": 0, "maximum": 256},
    "filter": {
        "type": "string",
        "description": "A filter (FilterBody) as JSON.",
        "examples": ['{"must": [{"key": "source", "eq": "sample"}]}'],
    },
    "cursor": {"type": "string", "maxLength": 4096},
}


def upload_body(*fields: str, required: tuple[str, ...] = (), raw: bool = False) -> dict[str, Any]:
    """`openapi_extra` of a call that takes a multipart form, with `raw` also an image as the body."""
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _PROPERTIES[name] for name in ("image", *fields)},
        "required": list(required),
    }
    extra: dict[str, Any] = {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }
    if raw:
        extra["requestBody"]["content"]["image/*"] = {"schema": {"type": "string", "format": "binary"}}
        extra["parameters"] = [
            {
                "name": name,
                "in": "query",
                "required": False,
                "schema": _PROPERTIES[name],
                "description": "With a raw image body only.",
            }
            for name in fields
        ]
    return extra
