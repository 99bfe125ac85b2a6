"""The one table from errors to statuses, and the shape of problem documents."""

from __future__ import annotations

import http

import pytest
from asgi_correlation_id import correlation_id

from service.api import errors
from service.api.errors import (
    STATUS,
    FieldError,
    InvalidFields,
    MissingScope,
    error_response,
    field_errors,
    pointer_to,
    problem_of,
    status_of,
)
from service.application import errors as application_errors
from service.application.errors import InvalidInput, ServiceError, Unauthorised, Unavailable
from service.application.types import Scope


def every_service_error() -> list[type[ServiceError]]:
    found = [ServiceError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ in {errors.__name__, application_errors.__name__}]


@pytest.mark.parametrize("kind", every_service_error())
def test_every_error_stands_in_the_table_with_a_known_status(kind: type[ServiceError]) -> None:
    assert kind in STATUS
    assert http.HTTPStatus(STATUS[kind]).phrase


def test_an_error_of_a_new_kind_takes_the_status_of_its_nearest_base() -> None:
    class Peculiar(InvalidInput):
        code = "peculiar"

    error = Peculiar("wanted this, got that")
    assert status_of(error) == 422
    assert problem_of(error)["code"] == "peculiar"
    assert status_of(ServiceError("who knows")) == 500


def test_a_problem_has_the_members_of_the_contract() -> None:
    token = correlation_id.set("request-1")
    try:
        document = problem_of(InvalidInput("wanted 1, got 2", code="odd"))
    finally:
        correlation_id.reset(token)
    assert document == {
        "type": "urn:hashguard:problem:odd",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "wanted 1, got 2",
        "code": "odd",
        "request_id": "request-1",
    }


def test_fields_to_blame_are_listed() -> None:
    error = InvalidFields([FieldError("body", "#/k", "type", "an integer was wanted")])
    document = problem_of(error)
    assert document["errors"] == [
        {"in": "body", "pointer": "#/k", "code": "type", "detail": "an integer was wanted"}
    ]
    assert document["detail"] == "#/k: an integer was wanted"


def test_only_what_may_pass_names_a_time_to_come_back() -> None:
    response = error_response(Unavailable("busy", retry_after_s=7))
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert "retry-after" not in error_response(InvalidInput("no")).headers
    assert response.media_type == errors.MEDIA_TYPE


def test_who_may_come_back_with_another_key_is_told_so() -> None:
    missing = Unauthorised("no key", code="missing_key", reason="missing")
    bad = Unauthorised("bad key", code="invalid_key", reason="mismatch")
    shown = [error_response(error).headers["www-authenticate"] for error in (missing, bad)]
    assert shown == ['Bearer realm="hashguard"', 'Bearer realm="hashguard", error="invalid_token"']
    lacking = error_response(MissingScope(Scope.WRITE))
    assert lacking.status_code == 403
    assert 'error="insufficient_scope", scope="write"' in lacking.headers["www-authenticate"]
    assert "www-authenticate" not in error_response(errors.Forbidden("no")).headers


def test_text_that_is_no_unicode_does_not_break_the_answer() -> None:
    assert b"?" in bytes(error_response(InvalidInput("half a pair: \ud800")).body)


def test_pointers_are_escaped() -> None:
    assert pointer_to(["a/b", 0, "c~d"]) == "#/a~1b/0/c~0d"
    assert pointer_to([]) == "#"


def test_the_refused_input_is_not_repeated() -> None:
    given = [{"loc": ("body", "text"), "type": "string_type", "msg": "no string", "input": "private"}]
    found = field_errors(given)
    assert found == [FieldError("body", "#/text", "string_type", "no string")]
    assert field_errors(given, "form")[0].pointer == "#/body/text"
