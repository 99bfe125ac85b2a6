"""Searches and encodings over HTTP, on a real model: answers, options, and everything that is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from starlette.testclient import TestClient
from tiny import BITS, TEXTS, picture

HIT = {"id", "distance", "similarity", "match", "text", "image_url", "metadata"}
ANSWER = {"hits", "next_cursor", "exact", "model_version", "index_generation", "took_ms", "attack_score"}


def problem_of(response: Any, status: int) -> dict[str, Any]:
    """The problem document of an answer, which must be one with this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert set(document) - {"errors"} == {"type", "title", "status", "detail", "code", "request_id"}
    assert document["status"] == status
    assert document["request_id"] == response.headers["x-request-id"]
    return document


def text_search(client: TestClient, to: str = "text", **body: Any) -> Any:
    return client.post(f"/v1/search/text-to-{to}", json=body)


def test_a_text_finds_itself_and_the_answer_has_the_shape_of_the_contract(client: TestClient) -> None:
    answer = text_search(client, text=TEXTS[1], k=3).json()
    assert set(answer) == ANSWER
    assert set(answer["took_ms"]) == {"decode", "encode", "search", "total"}
    first = answer["hits"][0]
    assert set(first) == HIT
    assert (first["id"], first["distance"], first["similarity"]) == ("pair-1", 0, 1.0)
    assert first["match"] == pytest.approx(1.0)
    assert first["metadata"] == {"n": 1}
    assert first["image_url"] == "/v1/items/pair-1/image"
    assert (answer["model_version"], answer["exact"], answer["attack_score"]) == ("tiny/1", True, None)
    assert client.get(first["image_url"]).content == picture(1)


def test_hits_come_by_distance_then_id_and_similarity_follows_the_distance(client: TestClient) -> None:
    hits = text_search(client, "image", text="anything at all", k=1000).json()["hits"]
    assert len(hits) == 5
    assert [(hit["distance"], hit["id"]) for hit in hits] == sorted(
        (hit["distance"], hit["id"]) for hit in hits
    )
    assert all(hit["similarity"] == 1 - hit["distance"] / BITS for hit in hits)


def test_an_image_finds_itself_as_a_form_and_as_a_raw_body(client: TestClient) -> None:
    form = client.post("/v1/search/image-to-image", files={"image": ("x", picture(4))}, data={"k": "5"})
    raw = client.post(
        "/v1/search/image-to-image?k=5", content=picture(4), headers={"Content-Type": "image/gif"}
    )
    assert {hit["id"] for hit in form.json()["hits"] if hit["distance"] == 0} >= {"pair-4"}
    assert form.json()["hits"] == raw.json()["hits"]
    octets = {"Content-Type": "application/octet-stream"}
    texts = client.post("/v1/search/image-to-text", content=picture(4), headers=octets).json()
    assert len(texts["hits"]) == 5


def test_pages_continue_where_the_last_one_ended(client: TestClient) -> None:
    whole = [hit["id"] for hit in text_search(client, text=TEXTS[0], k=5).json()["hits"]]
    seen: list[str] = []
    cursor = None
    while True:
        page = text_search(client, text=TEXTS[0], k=2, cursor=cursor).json()
        seen += [hit["id"] for hit in page["hits"]]
        cursor = page["next_cursor"]
        if cursor is None or not page["hits"]:
            break
    assert seen == whole


def test_filters_and_distances_narrow_the_hits(client: TestClient) -> None:
    wanted = {"must": [{"key": "n", "gte": 1}], "must_not": [{"key": "n", "in": [2, 3]}]}
    hits = text_search(client, text=TEXTS[0], k=10, filter=wanted).json()["hits"]
    assert sorted(hit["id"] for hit in hits) == ["pair-1", "pair-4"]
    form = {"filter": json.dumps(wanted), "k": "10", "max_distance": str(BITS)}
    image = client.post("/v1/search/image-to-image", files={"image": ("x", picture(1))}, data=form).json()[
        "hits"
    ]
    assert sorted(hit["id"] for hit in image) == ["pair-1", "pair-4"]
    near = text_search(
        client, text=TEXTS[0], max_distance=0, filter={"should": [{"key": "n", "eq": 0}]}
    ).json()
    assert [hit["id"] for hit in near["hits"]] == ["pair-0"]


def test_more_like_an_item(client: TestClient) -> None:
    body = {"id": "pair-2", "from": "text", "to": "text", "k": 5}
    assert client.post("/v1/search/item", json=body).status_code == 200
    missing = client.post("/v1/search/item", json=body | {"id": "nobody"})
    assert problem_of(missing, 404)["code"] == "not_found"


def test_codes_are_hex_of_the_models_width(client: TestClient) -> None:
    text = client.post("/v1/encode/text", json={"text": TEXTS[0]}).json()
    image = client.post("/v1/encode/image", files={"image": ("x", picture(1))}).json()
    for code in (text, image):
        assert (code["bits"], code["model_version"], len(bytes.fromhex(code["code"]))) == (
            BITS,
            "tiny/1",
            BITS // 8,
        )
    raw = client.post("/v1/encode/image", content=picture(1), headers={"Content-Type": "image/png"}).json()
    assert raw["code"] == image["code"]


def test_a_batch_has_a_status_for_each_query(client: TestClient) -> None:
    encoded = base64.b64encode(picture(3)).decode()
    queries = [
        {"to": "text", "text": TEXTS[3], "k": 1},
        {"to": "image", "image": encoded, "k": 1},
        {"to": "text", "id": "pair-0", "from": "text", "k": 1},
        {"to": "text", "text": TEXTS[3], "k": 0},
        {"to": "text", "text": "  "},
        {"to": "image", "image": "no base64!"},
        {"to": "image", "image": base64.b64encode(b"no image").decode()},
        {"to": "text", "id": "nobody", "from": "text"},
        {"to": "text"},
        {"to": "text", "text": "a", "image": encoded},
        {"to": "text", "id": "pair-0"},
        {"to": "text", "text": "a", "colour": "red"},
        {"to": "text", "image": 7},
        "no object",
    ]
    results = client.post("/v1/search/batch", json={"queries": queries}).json()["results"]
    statuses = [entry["status"] for entry in results]
    assert statuses == [200, 200, 200, 422, 422, 422, 415, 404, 422, 422, 422, 422, 422, 422]
    assert results[0]["answer"]["hits"][0]["id"] == "pair-3"
    for entry in results[3:]:
        assert entry["answer"] is None
        assert entry["problem"]["status"] == entry["status"]
    assert results[3]["problem"]["errors"][0]["pointer"] == "#/k"


@pytest.mark.parametrize("queries", [[], "x", None, [{"to": "text", "text": "a"}] * 101])
def test_a_batch_must_have_one_to_so_many_queries(client: TestClient, queries: Any) -> None:
    problem_of(client.post("/v1/search/batch", json={"queries": queries}), 422)


def test_a_batch_without_any_fitting_query_is_answered(client: TestClient) -> None:
    results = client.post("/v1/search/batch", json={"queries": [{"to": "text"}]}).json()["results"]
    assert [entry["status"] for entry in results] == [422]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"k": 0}, "#/k"),
        ({"k": -1}, "#/k"),
        ({"k": 10**9}, "#/k"),
        ({"k": "10"}, "#/k"),
        ({"k": True}, "#/k"),
        ({"k": 1.5}, "#/k"),
        ({"k": None}, "#/k"),
        ({"max_distance": -1}, "#/max_distance"),
        ({"max_distance": 257}, "#/max_distance"),
        ({"max_distance": "3"}, "#/max_distance"),
        ({"colour": "red"}, "#/colour"),
        ({"text": ""}, "#/text"),
        ({"text": 7}, "#/text"),
        ({"text": None}, "#/text"),
        ({"cursor": 7}, "#/cursor"),
        ({"filter": []}, "#/filter"),
        ({"filter": {"may": []}}, "#/filter/may"),
        ({"filter": {"must": [{"key": "n"}]}}, "#/filter/must/0"),
        ({"filter": {"must": [{"key": "n", "eq": 1, "gt": 0}]}}, "#/filter/must/0"),
        ({"filter": {"must": [{"key": "n", "eq": {"deep": 1}}]}}, "#/filter/must/0/eq"),
        ({"filter": {"must": [{"key": "n", "eq": None}]}}, "#/filter/must/0/eq"),
        ({"filter": {"must": [{"key": "n", "in": None}]}}, "#/filter/must/0"),
        ({"filter": {"must": [{"key": "n", "in": 3}]}}, "#/filter/must/0/in"),
        ({"filter": {"must": [{"key": "", "eq": 3}]}}, "#/filter/must/0/key"),
    ],
)
def test_a_field_that_does_not_fit_is_a_422_that_names_it(
    client: TestClient, fields: dict, pointer: str
) -> None:
    document = problem_of(text_search(client, **({"text": "a"} | fields)), 422)
    assert document["errors"][0]["pointer"] == pointer
    assert document["errors"][0]["in"] == "body"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"text": "a", "k": NaN}', 400),
        (b'{"text": "a", "k": 1', 400),
        (b'{"text": "a", "text": "b"}', 400),
        (b'{"text": "\xff"}', 400),
        (b'{"text": "\\ud800"}', 422),
        (b'{"text": "a\\u0000"}', 422),
        (b'{"text": "  \\n "}', 422),
        (b'{"text": "a", "k": 1e400}', 422),
        (b"[" * 100_000, 400),
        (b"", 400),
        (b"null", 422),
        (b'["text"]', 422),
        (b'{"text": "a", "filter": ' + b"[" * 20 + b"]" * 20 + b"}", 422),
        (json.dumps({"text": "a" * 20_000}).encode(), 422),
        (json.dumps({"text": "a" * 1_000_000}).encode(), 422),
        (json.dumps({"text": "a" * 1_200_000}).encode(), 413),
        (b'{"text": "a", "cursor": "rubbish"}', 422),
        (b'{"text": "a", "max_distance": 200}', 422),
        (b'{"text": "a", "filter": {"must": [{"key": "n", "gt": true}]}}', 422),
    ],
)
def test_hostile_json_is_a_problem(client: TestClient, content: bytes, status: int) -> None:
    response = client.post(
        "/v1/search/text-to-image", content=content, headers={"Content-Type": "application/json"}
    )
    problem_of(response, status)


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"]
)
def test_a_body_that_is_not_declared_as_json_is_refused(client: TestClient, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = client.post("/v1/search/text-to-image", content=b'{"text": "a"}', headers=headers)
    assert problem_of(response, 415)["code"] == "unsupported_media_type"


def test_json_by_another_name_is_json(client: TestClient) -> None:
    headers = {"Content-Type": "application/merge-patch+json; charset=utf-8"}
    assert (
        client.post("/v1/search/text-to-text", content=b'{"text": "a"}', headers=headers).status_code == 200
    )


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"k": "0"}, "#/k"),
        ({"k": "-1"}, "#/k"),
        ({"k": "1000000000"}, "#/k"),
        ({"k": "9" * 30}, "#/k"),
        ({"k": "NaN"}, "#/k"),
        ({"k": "1_0"}, "#/k"),
        ({"k": "١٢"}, "#/k"),
        ({"k": ""}, "#/k"),
        ({"max_distance": "1e3"}, "#/max_distance"),
        ({"filter": "[]"}, "#/filter"),
        ({"filter": '{"must": [{"key": "n"}]}'}, "#/filter/must/0"),
        ({"colour": "red"}, "#/colour"),
        ({"cursor": "a\0b"}, "#/cursor"),
    ],
)
def test_form_fields_and_query_parameters_are_as_strict(
    client: TestClient, fields: dict, pointer: str
) -> None:
    form = client.post("/v1/search/image-to-text", files={"image": ("x", picture())}, data=fields)
    raw = client.post(
        "/v1/search/image-to-text", content=picture(), params=fields, headers={"Content-Type": "image/png"}
    )
    for place, response in (("form", form), ("query", raw)):
        error = problem_of(response, 422)["errors"][0]
        assert (error["pointer"], error["in"]) == (pointer, place)


def test_a_filter_that_is_no_json_is_a_bad_request(client: TestClient) -> None:
    response = client.post(
        "/v1/search/image-to-text", files={"image": ("x", picture())}, data={"filter": "{"}
    )
    assert "form #/filter" in problem_of(response, 400)["detail"]


def test_a_form_without_its_image_or_with_more_than_it_should_have_is_refused(client: TestClient) -> None:
    url, image = "/v1/search/image-to-text", ("x", picture())
    missing = client.post(url, files={"k": (None, "3")})
    assert problem_of(missing, 422)["errors"][0]["pointer"] == "#/image"
    as_text = client.post(url, files={"image": (None, "not a file")})
    assert problem_of(as_text, 422)["errors"][0]["code"] == "not_a_file"
    as_file = client.post(url, files={"image": image, "k": ("k.txt", b"3")})
    assert problem_of(as_file, 422)["errors"][0]["pointer"] == "#/k"
    twice = client.post(url, files=[("image", image), ("image", image)])
    assert problem_of(twice, 422)["errors"][0]["code"] == "duplicate_field"
    mixed = client.post(url + "?k=3", files={"image": image})
    assert problem_of(mixed, 422)["errors"][0]["in"] == "query"
    doubled = client.post(url + "?k=3&k=4", content=picture(), headers={"Content-Type": "image/png"})
    assert problem_of(doubled, 422)["errors"][0]["code"] == "duplicate_field"
    json_body = client.post(url, json={"image": "x"})
    assert "multipart/form-data or image/*" in problem_of(json_body, 415)["detail"]


@pytest.mark.parametrize(
    "path", ["/v1/items/nobody/image", "/v1/nothing", "/v2/items", "/v1/items/", "/static/x.css"]
)
def test_what_is_not_there_is_a_404_problem(client: TestClient, path: str) -> None:
    problem_of(client.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/items", "GET, POST"),
        ("PATCH", "/v1/items/pair-0", "DELETE, GET, PUT"),
        ("GET", "/v1/search/text-to-image", "POST"),
        ("POST", "/readyz", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD, POST"),
        ("POST", "/openapi.json", "GET, HEAD"),
        ("OPTIONS", "/v1/search/batch", "POST"),
    ],
)
def test_a_wrong_method_is_a_405_problem_that_names_the_right_ones(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    response = client.request(method, path)
    assert problem_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == allowed


def test_the_request_id_of_the_client_is_kept_when_it_can_be_one(client: TestClient) -> None:
    kept = client.get("/v1/nothing", headers={"X-Request-ID": "trace-1.2:3"})
    assert problem_of(kept, 404)["request_id"] == "trace-1.2:3"
    made = client.get("/v1/nothing", headers={"X-Request-ID": "x" * 101})
    assert len(problem_of(made, 404)["request_id"]) == 32
