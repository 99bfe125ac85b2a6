"""The OpenAPI document as plain values for the reference page.

FastAPI's own `/docs` loads Swagger UI from a content delivery network: no use on a machine without the
internet, and a script of somebody else's on one with it. This page needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """A parameter or a member of a body."""

    name: str
    place: str
    kind: str
    required: bool
    description: str


@dataclass(frozen=True)
class Call:
    """One operation; `scope` is what a key needs for it, empty when everybody may call it."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    scope: str
    parameters: tuple[Parameter, ...]
    responses: tuple[tuple[str, str], ...]


def reference(document: Mapping[str, Any]) -> list[tuple[str, list[Call]]]:
    """The operations of an OpenAPI document, grouped by their first tag, in the document's order."""
    groups: dict[str, list[Call]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_call(document, path, method, operation))
    return list(groups.items())


def _call(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> Call:
    parameters = [
        Parameter(
            given["name"],
            given["in"],
            _kind(document, given.get("schema", {})),
            bool(given.get("required")),
            given.get("description") or given.get("schema", {}).get("description", ""),
        )
        for given in operation.get("parameters", ())
    ]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        parameters.extend(_members(document, media_type, _resolved(document, content["schema"])))
    return Call(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        description=operation.get("description", ""),
        scope=" ".join(
            word for each in operation.get("security", ()) for words in each.values() for word in words
        ),
        parameters=tuple(parameters),
        responses=tuple((code, each["description"]) for code, each in sorted(operation["responses"].items())),
    )


def _members(document: Mapping[str, Any], media_type: str, schema: Mapping[str, Any]) -> list[Parameter]:
    required = schema.get("required", ())
    if "properties" not in schema:
        return [Parameter("(the body itself)", media_type, _kind(document, schema), False, "")]
    return [
        Parameter(name, media_type, _kind(document, member), name in required, member.get("description", ""))
        for name, member in schema["properties"].items()
    ]


def _kind(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema and not schema["$ref"].startswith("#/components/schemas/ItemSearch/"):
        return str(schema["$ref"].rpartition("/")[2])
    schema = _resolved(document, schema)
    if "anyOf" in schema:
        return " or ".join(_kind(document, option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(document, schema.get('items', {}))}"
    words = str(schema.get("format") or schema.get("type", "any"))
    if "minimum" in schema and "maximum" in schema:
        words += f", {schema['minimum']} to {schema['maximum']}"
    return words


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return _resolved(document, found)
