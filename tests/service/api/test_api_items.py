"""The corpus over HTTP: life of an item, batches, lists, images, thumbnails, and what is refused."""

from __future__ import annotations

import base64
import io
from datetime import datetime
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from test_api_search import problem_of, text_search
from tiny import picture


def put(client: TestClient, item_id: str, **parts: Any) -> Any:
    files = {name: value if isinstance(value, tuple) else (None, value) for name, value in parts.items()}
    return client.put(f"/v1/items/{item_id}", files=files)


def test_an_item_lives_is_found_is_replaced_and_is_gone(client: TestClient) -> None:
    created = put(
        client, "life:1", image=("x.png", picture(50)), text="a purple cow", metadata='{"tags": ["a", "b"]}'
    )
    assert created.status_code == 201
    assert created.headers["location"] == "/v1/items/life:1"
    item = created.json()
    assert set(item) == {
        "id", "text", "image_url", "image_type", "image_digest", "metadata", "created", "updated",
    }  # fmt: skip
    assert (item["text"], item["image_type"], item["metadata"]) == (
        "a purple cow",
        "image/png",
        {"tags": ["a", "b"]},
    )
    assert datetime.fromisoformat(item["created"]).tzinfo is not None
    assert text_search(client, text="a purple cow", k=1).json()["hits"][0]["id"] == "life:1"
    found = client.post(
        "/v1/search/image-to-image", files={"image": ("x", picture(50))}, data={"k": "9"}
    ).json()
    assert "life:1" in {hit["id"] for hit in found["hits"] if hit["distance"] == 0}

    replaced = put(client, "life:1", text="a green cow")
    assert replaced.status_code == 200
    assert "location" not in replaced.headers
    assert client.get("/v1/items/life:1").json()["image_url"] is None
    assert text_search(client, text="a green cow", k=1).json()["hits"][0]["id"] == "life:1"

    assert client.delete("/v1/items/life:1").status_code == 204
    problem_of(client.get("/v1/items/life:1"), 404)
    problem_of(client.delete("/v1/items/life:1"), 404)
    assert "life:1" not in {hit["id"] for hit in text_search(client, text="a green cow", k=99).json()["hits"]}


def test_post_makes_up_an_id_or_takes_one(client: TestClient) -> None:
    made = client.post("/v1/items", files={"text": (None, "made up")})
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/items/{made.json()['id']}"
    given = client.post("/v1/items", files={"id": (None, "given"), "text": (None, "one")})
    again = client.post("/v1/items", files={"id": (None, "given"), "text": (None, "one")})
    assert (given.status_code, again.status_code, again.json()["id"]) == (201, 200, "given")
    for item_id in (made.json()["id"], "given"):
        assert client.delete(f"/v1/items/{item_id}").status_code == 204


def test_a_batch_has_a_status_for_each_item(client: TestClient) -> None:
    items = [
        {"id": "batch-1", "text": "first", "metadata": {"n": 1}},
        {"id": "pair-0x", "image": base64.b64encode(picture(60)).decode()},
        {"text": "without an id"},
        {"id": "batch-2"},
        {"id": "../etc", "text": "x"},
        {"id": "batch-3", "image": "%%%"},
        {"id": "batch-4", "image": base64.b64encode(b"no image").decode()},
        {"id": "batch-5", "text": "a", "metadata": {"deep": {"er": 1}}},
        {"id": "batch-6", "text": "a", "colour": "red"},
        7,
        {"id": "batch-1", "text": "again"},
    ]
    results = client.post("/v1/items/batch", json={"items": items}).json()["results"]
    assert [entry["status"] for entry in results] == [201, 201, 201, 422, 422, 422, 415, 422, 422, 422, 200]
    assert [entry["id"] for entry in results[:2]] == ["batch-1", "pair-0x"]
    assert results[4]["id"] == "../etc"
    assert all(entry["problem"]["code"] for entry in results[3:10])
    assert client.get("/v1/items/batch-1").json()["text"] == "again"
    for entry in results[:3]:
        assert client.delete(f"/v1/items/{entry['id']}").status_code == 204


@pytest.mark.parametrize("items", [[], {}, None, [{"text": "a"}] * 257])
def test_a_batch_must_have_one_to_so_many_items(client: TestClient, items: Any) -> None:
    problem_of(client.post("/v1/items/batch", json={"items": items}), 422)


def test_a_batch_without_any_fitting_item_is_answered(client: TestClient) -> None:
    results = client.post("/v1/items/batch", json={"items": [{"id": "a b", "text": "x"}]}).json()["results"]
    assert [entry["status"] for entry in results] == [422]


def test_the_corpus_is_listed_page_by_page_in_the_order_of_ids(client: TestClient) -> None:
    first = client.get("/v1/items?limit=3").json()
    second = client.get("/v1/items", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in first["items"] + second["items"]] == [f"pair-{n}" for n in range(5)]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "cursor=rubbish", "colour=red", "limit=1&limit=2"]
)
def test_a_list_that_was_asked_for_wrongly_is_refused(client: TestClient, query: str) -> None:
    problem_of(client.get(f"/v1/items?{query}"), 422)


def test_an_image_comes_back_as_it_was_and_small_on_demand(client: TestClient) -> None:
    whole = client.get("/v1/items/pair-2/image")
    assert (whole.content, whole.headers["content-type"]) == (picture(2), "image/png")
    assert whole.headers["x-content-type-options"] == "nosniff"
    small = client.get("/v1/items/pair-2/image?size=32")
    assert max(Image.open(io.BytesIO(small.content)).size) <= 32
    assert small.headers["etag"] != whole.headers["etag"]
    for answer, path in ((whole, "image"), (small, "image?size=32")):
        cached = client.get(f"/v1/items/pair-2/{path}", headers={"If-None-Match": answer.headers["etag"]})
        assert (cached.status_code, cached.content) == (304, b"")


@pytest.mark.parametrize("query", ["size=0", "size=-5", "size=4096", "size=x", "size=", "width=3"])
def test_a_thumbnail_of_an_impossible_size_is_refused(client: TestClient, query: str) -> None:
    problem_of(client.get(f"/v1/items/pair-2/image?{query}"), 422)


def test_an_item_without_an_image_has_no_image(client: TestClient) -> None:
    assert put(client, "words-only", text="just words").status_code == 201
    assert problem_of(client.get("/v1/items/words-only/image"), 404)["code"] == "no_image"
    assert client.delete("/v1/items/words-only").status_code == 204


@pytest.mark.parametrize(
    "item_id", ["a%20b", "..", ".", "caf%C3%A9", "a" * 201, "a?b".replace("?", "%3F"), "%F0%9F%90%84"]
)
def test_an_id_that_cannot_be_one_is_a_422(client: TestClient, item_id: str) -> None:
    # httpx would resolve `..` itself: the dots travel escaped.
    path = f"/v1/items/{item_id.replace('.', '%2E')}"
    for answer in (client.get(path), client.put(path, files={"text": (None, "x")}), client.delete(path)):
        problem_of(answer, 422)


@pytest.mark.parametrize("item_id", ["a%2Fb", "..%2F..%2Fetc", "%00", "a%00b", "%ff", "a%5Cb"])
def test_an_id_that_hides_a_slash_or_a_nul_is_a_400(client: TestClient, item_id: str) -> None:
    for answer in (
        client.get(f"/v1/items/{item_id}"),
        client.put(f"/v1/items/{item_id}", files={"text": (None, "x")}),
    ):
        assert problem_of(answer, 400)["code"] == "bad_path"


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({"text": ""}, 422),
        ({"text": " \t\n"}, 422),
        ({"text": "a" * 10_001}, 422),
        ({"text": "a" * 300_000}, 413),
        ({"text": ("x.txt", b"a file")}, 422),
        ({"text": b"\xff\xfe"}, 422),
        ({"text": "a", "metadata": "{"}, 400),
        ({"text": "a", "metadata": "[]"}, 422),
        ({"text": "a", "metadata": '{"a": {"b": 1}}'}, 422),
        ({"text": "a", "metadata": '{"a": null}'}, 422),
        ({"text": "a", "metadata": '{"a": [1]}'}, 422),
        ({"text": "a", "metadata": '{"a": 1, "a": 2}'}, 400),
        ({"text": "a", "metadata": '{"a": 9007199254740993}'}, 422),
        ({"text": "a", "id": "other"}, 422),
        ({"text": "a", "labels": "[]"}, 422),
        ({"image": ("x.jpg", b"")}, 422),
        ({"image": ("x.jpg", b"this is text")}, 415),
        ({"image": ("x.jpg", picture(1, kind="JPEG")[:300])}, 422),
        ({"image": "a string"}, 422),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_nothing_is_stored(
    client: TestClient, parts: dict, status: int
) -> None:
    problem_of(put(client, "refused", **parts), status)
    problem_of(client.get("/v1/items/refused"), 404)


def test_a_body_that_is_no_form_is_refused(client: TestClient) -> None:
    for headers, content in (
        ({"Content-Type": "application/json"}, b'{"text": "a"}'),
        ({"Content-Type": "image/png"}, picture()),
        ({}, b"x"),
    ):
        answer = client.put("/v1/items/refused", content=content, headers=headers)
        assert "multipart/form-data" in problem_of(answer, 415)["detail"]
