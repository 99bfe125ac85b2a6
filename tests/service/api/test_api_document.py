"""The OpenAPI document: committed as it is, stable names, problems and examples where they belong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import ROOT, environment

from service.api.document import document_text, main

DOCUMENT = json.loads(document_text())
OPERATIONS = [
    (f"{method.upper()} {path}", operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_the_committed_document_is_the_present_one() -> None:
    committed = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert committed == document_text(), "run `make openapi` and look at what changed"


def test_every_call_of_the_contract_is_there() -> None:
    assert {name for name, _ in OPERATIONS} == {
        *(f"POST /v1/search/{a}-to-{b}" for a in ("image", "text") for b in ("image", "text")),
        "POST /v1/search/item",
        "POST /v1/search/batch",
        "POST /v1/encode/image",
        "POST /v1/encode/text",
        "POST /v1/items",
        "GET /v1/items",
        "POST /v1/items/batch",
        "PUT /v1/items/{id}",
        "GET /v1/items/{id}",
        "DELETE /v1/items/{id}",
        "GET /v1/items/{id}/image",
        "POST /v1/admin/reindex",
        "GET /v1/admin/jobs",
        "GET /v1/admin/jobs/{id}",
        "DELETE /v1/admin/jobs/{id}",
        "GET /v1/admin/generations",
        "POST /v1/admin/generations/{id}/activate",
        "GET /v1/models",
        "GET /v1/models/{name}/{version}",
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
    }


def test_operation_ids_are_unique_words() -> None:
    identifiers = [operation["operationId"] for _, operation in OPERATIONS]
    assert len(set(identifiers)) == len(identifiers)
    assert all(identifier.isalnum() for identifier in identifiers)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS, ids=[name for name, _ in OPERATIONS])
def test_every_call_under_v1_names_its_problems(name: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["tags"]
    if "/v1/" not in name:
        return
    problems = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert {"400", "403", "422", "503"} <= set(problems)
    assert ("401" in problems) is ("security" in operation)
    for answer in problems.values():
        reference = answer["content"]["application/problem+json"]["schema"]["$ref"]
        assert reference == "#/components/schemas/Problem"
    assert "Retry-After" in problems["503"]["headers"]


def test_every_reference_leads_somewhere() -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                found = DOCUMENT
                for part in value["$ref"].removeprefix("#/").split("/"):
                    found = found[part]
            for member in value.values():
                walk(member)
        elif isinstance(value, list):
            for member in value:
                walk(member)

    walk(DOCUMENT)
    assert "HTTPValidationError" not in DOCUMENT["components"]["schemas"]


def test_the_key_and_the_scopes_are_described() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {name: (scheme["type"], scheme["scheme"]) for name, scheme in schemes.items()} == {
        "apiKey": ("http", "bearer")
    }
    scopes = {name: operation.get("security") for name, operation in OPERATIONS}
    assert scopes["POST /v1/search/batch"] == scopes["GET /v1/items"] == [{"apiKey": ["search"]}]
    assert scopes["DELETE /v1/items/{id}"] == scopes["POST /v1/items/batch"] == [{"apiKey": ["write"]}]
    assert scopes["POST /v1/admin/reindex"] == [{"apiKey": ["admin"]}]
    assert {name for name, needed in scopes.items() if needed is None} == {
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
        "GET /v1/models",
        "GET /v1/models/{name}/{version}",
    }


def test_bodies_refuse_unknown_fields_and_show_examples() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name in (
        "TextSearch",
        "ItemSearch",
        "BatchSearch",
        "BatchQuery",
        "TextBody",
        "ReindexBody",
        "BatchItem",
    ):
        assert schemas[name]["additionalProperties"] is False
    assert schemas["TextSearch"]["properties"]["text"]["examples"]
    assert schemas["Hit"]["properties"]["match"]["examples"]


def test_the_document_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    main([str(tmp_path / "openapi.json")])
    assert (tmp_path / "openapi.json").read_text(encoding="utf-8") == document_text()
    with pytest.raises(SystemExit, match="usage"):
        main([])


def test_the_http_side_loads_neither_torch_nor_faiss() -> None:
    script = (
        "import sys, service.api.app; heavy = ('torch', 'faiss', 'transformers', 'model', 'sqlalchemy'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"
