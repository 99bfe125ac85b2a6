"""The pages: rendered on the server, escaped, without scripts, and nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tiny import TEXTS, picture, settings_for

from service.api.app import create_app
from service.wiring import build_application


class Page(HTMLParser):
    """Collects tags and words of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(response: object, status: int = 200) -> Page:
    assert response.status_code == status  # type: ignore[attr-defined]
    assert response.headers["content-type"] == "text/html; charset=utf-8"  # type: ignore[attr-defined]
    assert "script-src" not in response.headers["content-security-policy"]  # type: ignore[attr-defined]
    assert response.headers["content-security-policy"].startswith("default-src 'none'")  # type: ignore[attr-defined]
    page = Page(response.text)  # type: ignore[attr-defined]
    assert not page.all("script")
    assert not [
        1
        for _, attributes in page.tags
        if "style" in attributes or any(n.startswith("on") for n in attributes)
    ]
    links = [a.get("href") or a.get("src") for _, a in page.tags if a.get("href") or a.get("src")]
    assert all(link.startswith(("/", "#")) for link in links if link)
    return page


def test_the_first_page_has_both_forms_with_labels(client: TestClient) -> None:
    page = page_of(client.get("/"))
    forms = page.all("form")
    assert [(form["action"], form["method"]) for form in forms] == [("/", "get"), ("/", "post")]
    labelled = {label["for"] for label in page.all("label")}
    assert {field["id"] for field in page.all("input")} <= labelled
    assert page.all("html")[0]["lang"] == "en"
    assert "5 items" in page.words


def test_a_text_gives_pictures_without_any_script(client: TestClient) -> None:
    page = page_of(client.get("/", params={"q": TEXTS[0], "k": "4"}))
    shown = [image for image in page.all("img") if "/v1/items/" in str(image["src"])]
    assert len(shown) == 4
    assert all(image["alt"] and str(image["src"]).endswith("?size=256") for image in shown)
    assert client.get(str(shown[0]["src"])).headers["content-type"] == "image/jpeg"
    assert "4 hits for “two red circles”" in page.words
    assert re.search(r"match \d+ %", page.words)
    assert re.search(r"distance \d+", page.words)
    assert "model tiny/1" in page.words
    further = [a["href"] for a in page.all("a") if "cursor=" in str(a["href"])]
    assert "1 hit for" in page_of(client.get(str(further[0]))).words


def test_an_image_gives_texts(client: TestClient) -> None:
    page = page_of(client.post("/", files={"image": ("x.png", picture(2))}, data={"k": "3"}))
    assert "3 hits for your image" in page.words


def test_more_like_this(client: TestClient) -> None:
    page = page_of(client.get("/?q=anything&k=1"))
    like = next(str(a["href"]) for a in page.all("a") if "item=" in str(a["href"]))
    assert "images like pair-" in page_of(client.get(like)).words


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("?q=a&k=0", 422, "k: Input should be greater than or equal to 1"),
        ("?q=a&k=x", 422, "k: Input should be a valid integer"),
        ("?q=" + "a" * 10_001, 422, "characters"),
        ("?item=nobody", 404, "nobody"),
        ("?item=../x", 422, "item"),
        ("?q=a&cursor=rubbish", 422, "cursor"),
    ],
)
def test_what_does_not_work_is_said_on_the_page(
    client: TestClient, query: str, status: int, words: str
) -> None:
    page = page_of(client.get(f"/{query}"), status)
    assert "That did not work" in page.words
    assert words in page.words


@pytest.mark.parametrize(("image", "status"), [(b"", 422), (b"no image", 415)])
def test_an_upload_that_is_no_image_is_said_on_the_page(
    client: TestClient, image: bytes, status: int
) -> None:
    assert "That did not work" in page_of(client.post("/", files={"image": ("x", image)}), status).words
    nothing = page_of(client.post("/", data={"k": "3"}), 415)
    assert "multipart/form-data" in nothing.words


def test_what_people_type_is_escaped(client: TestClient) -> None:
    hostile = "<script>alert(1)</script>\"'&"
    answer = client.get("/", params={"q": hostile, "k": '"><script>'})
    page_of(answer, 422)
    assert "<script>" not in answer.text
    found = client.get("/", params={"q": hostile})
    assert "<script>" not in found.text
    assert "alert(1)" in page_of(found).words


def test_an_empty_corpus_says_what_to_do(home: Path) -> None:
    settings = settings_for(home)
    with TestClient(create_app(build_application(settings), settings), base_url="http://localhost") as client:
        assert "The corpus is empty" in page_of(client.get("/")).words
        assert "Nothing was found" in page_of(client.get("/?q=a")).words


def test_a_blank_question_is_no_question(client: TestClient) -> None:
    assert "That did not work" not in page_of(client.get("/?q=%20")).words


def test_the_reference_names_every_call(client: TestClient) -> None:
    page = page_of(client.get("/docs"))
    document = client.get("/openapi.json").json()
    identifiers = [
        operation["operationId"] for path in document["paths"].values() for operation in path.values()
    ]
    anchors = {article["id"] for article in page.all("article")}
    assert anchors == set(identifiers)
    assert "`" not in page.words


def test_static_files_are_cached_by_their_content(client: TestClient) -> None:
    style = client.get("/static/page.css")
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    again = client.get("/static/page.css", headers={"If-None-Match": style.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/static/icon.svg").headers["content-type"] == "image/svg+xml"
