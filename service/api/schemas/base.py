"""The base of all bodies, the problem document, and pieces that several bodies share."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError


class Body(BaseModel):
    """A request body: no unknown fields, no conversion between types (`"10"` and `true` are no integers)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class FieldProblem(Answer):
    """One field that does not fit."""

    in_: str = Field(alias="in", description="Where the field came from.", examples=["body"])
    pointer: str = Field(description="JSON pointer to the field, as a URI fragment.", examples=["#/k"])
    code: str = Field(examples=["less_than_equal"])
    detail: str = Field(examples=["Input should be less than or equal to 1000"])


class Problem(Answer):
    """An error, as RFC 9457 has it. `code` is stable; `request_id` finds the request in the logs."""

    type: str = Field(examples=["urn:hashguard:problem:validation_failed"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["#/k: Input should be less than or equal to 1000"])
    code: str = Field(examples=["validation_failed"])
    request_id: str | None = Field(examples=["3f0c0e7c5b0a4c7d9a5c2f6f0f1b7a10"])
    errors: list[FieldProblem] | None = Field(None, description="Only when fields are to blame.")


def _scalar(value: object) -> object:
    if isinstance(value, (str, int, float)):
        return value
    raise PydanticCustomError("scalar_type", "Input should be a string, a number or a boolean")


def _metadata_value(value: object) -> object:
    if isinstance(value, list) and all(isinstance(member, str) for member in value):
        return value
    if isinstance(value, (str, int, float)):
        return value
    raise PydanticCustomError(
        "metadata_type", "Input should be a string, a number, a boolean or a list of strings"
    )


def _decoded(value: object) -> bytes:
    if not isinstance(value, str):
        raise PydanticCustomError("base64_type", "Input should be a string of base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PydanticCustomError("base64_invalid", "Input should be base64 (RFC 4648, padded)") from error


_SCALARS: list[dict[str, Any]] = [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]

Scalar = Annotated[Any, BeforeValidator(_scalar), WithJsonSchema({"anyOf": _SCALARS})]
"""A string, a number or a boolean."""

MetadataMember = Annotated[
    Any,
    BeforeValidator(_metadata_value),
    WithJsonSchema({"anyOf": [*_SCALARS, {"type": "array", "items": {"type": "string"}}]}),
]
"""A value of an item's metadata."""

Base64Bytes = Annotated[
    bytes, BeforeValidator(_decoded), WithJsonSchema({"type": "string", "contentEncoding": "base64"})
]
"""Bytes that travel as base64 inside JSON."""

ItemId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9._:-]+$",
        description="1 to 200 characters of `A-Z a-z 0-9 . _ : -`, not `.` or `..`.",
        examples=["scene-0001"],
    ),
]
"""An item's id; the use case has the last word on it."""
