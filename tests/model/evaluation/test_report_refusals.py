"""What comes from outside stays text, what the page cannot show is refused, and the file is whole or old."""

from __future__ import annotations

import base64
import copy
import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_made import made_report, picture, png
from report_page import Page, svgs

from model.errors import DataError
from model.evaluation.pictures import magnified, png_uri, read_png
from model.evaluation.report import REQUIRED, render, write_html

HOSTILE = "</style></bdi><img src=x onerror=alert(1)><script>alert('1')</script>{{ 7 * 7 }} & \"q\""


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return made_report()


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """One model, one task, two budgets: what most failure tests start from."""
    return made_report((("only/1", "none", 1.0),), tasks=("image-to-image",), epsilons=(8, 255))


def hostile(value: Any, key: str = "") -> Any:
    """Every string replaced by a hostile one, but for those that join rows or name a kind."""
    if isinstance(value, dict):
        return {name: hostile(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    kept = ("task", "protocol", "norm", "purpose", "side", "clean_png", "attacked_png", "attack")
    if not isinstance(value, str) or key in kept:
        return value
    return HOSTILE + (value if key in ("model", "label", "a", "b") else "")


def test_hostile_strings_stay_text(report: dict[str, Any]) -> None:
    html = render(hostile(report))
    dirty = Page(html)
    allowed = {tag for tag, _ in Page(render(report)).tags}
    assert {tag for tag, _ in dirty.tags} <= allowed
    assert len([tag for tag, _ in dirty.tags if tag == "img"]) == 3 * len(report["examples"])
    assert not [a for _, a in dirty.tags if "onerror" in a]
    assert all(a["src"].startswith("data:image/png") for tag, a in dirty.tags if tag == "img")
    assert re.sub(r"\s+", " ", HOSTILE) in dirty.text
    assert svgs(html)


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec=None), min_size=1, max_size=40))
def test_any_text_makes_a_page_that_can_be_written(small: dict[str, Any], text: str) -> None:
    strange = copy.deepcopy(small)
    strange["examples"][0] |= {"text": text, "query_id": text, "labels": [text]}
    strange["text_examples"][0] |= {"before": text, "after": text + "x"}
    strange["data"]["name"] = text
    for entry in (*strange["models"], *strange["rows"], *strange["worst_case"]):
        entry["label" if "label" in entry else "model"] = text
    for name in ("checks", "examples", "text_examples", "candidates", "left_out"):
        for entry in strange[name]:
            entry["model"] = text
    html = render(strange)
    html.encode("utf-8")
    Page(html)
    assert svgs(html)


@pytest.mark.parametrize("bad", [math.nan, math.inf, object(), b"bytes"])
def test_what_is_no_json_is_refused(small: dict[str, Any], bad: object) -> None:
    with pytest.raises(DataError, match="JSON without NaN"):
        render({**small, "data": {"name": bad}})


@pytest.mark.parametrize("name", ["data", "threat", *REQUIRED])
def test_a_report_without_a_part_is_refused(small: dict[str, Any], name: str) -> None:
    with pytest.raises(DataError, match=f"under '{name}', got nothing"):
        render({key: value for key, value in small.items() if key != name})


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in REQUIRED.items() for key in sorted(keys)]
)
def test_an_entry_without_a_key_is_refused_by_name(report: dict[str, Any], name: str, key: str) -> None:
    broken = {**report, name: [*report[name][:1], {k: v for k, v in report[name][-1].items() if k != key}]}
    with pytest.raises(DataError, match=rf"{name}\[1\]: wanted {key} too"):
        render(broken)


@pytest.mark.parametrize(("name", "key"), [("examples", "before"), ("text_examples", "hits_after")])
def test_hits_without_a_key_are_refused(small: dict[str, Any], name: str, key: str) -> None:
    broken = copy.deepcopy(small)
    del broken[name][0][key][2]["distance"]
    with pytest.raises(DataError, match=r"\[2\]: wanted distance too"):
        render(broken)


def test_parts_of_the_wrong_kind_are_refused(small: dict[str, Any]) -> None:
    for name, bad, wanted in (
        ("rows", {}, "a list"),
        ("data", [], "an object"),
        ("rows", ["x"], "an object as rows"),
    ):
        with pytest.raises(DataError, match=f"wanted {wanted}"):
            render({**small, name: bad})


def test_rows_of_an_unknown_model_are_refused(small: dict[str, Any]) -> None:
    rows = [*small["rows"], {**small["rows"][0], "model": "stranger"}]
    with pytest.raises(DataError, match=r"rows: wanted models of .*only/1.*, got .*stranger"):
        render({**small, "rows": rows})


def test_a_report_without_models_is_refused(small: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="at least one model"):
        render({**small, "models": []})


@pytest.mark.parametrize(
    "data",
    [
        "",
        "***",
        base64.b64encode(b"GIF89a").decode(),
        base64.b64encode(b"\x89PNG\r\n\x1a\n").decode(),
        png(picture(0))[:400],
    ],
)
def test_damaged_pictures_are_refused(data: str) -> None:
    with pytest.raises(DataError, match="wanted a PNG"):
        read_png(data)


def test_a_picture_of_another_format_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).save(buffer, "JPEG")
    with pytest.raises(DataError, match="wanted a PNG"):
        read_png(base64.b64encode(buffer.getvalue()).decode())


def test_a_giant_picture_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DataError, match="at most 4096"):
        read_png(png(np.zeros((1, 5000, 3), dtype=np.uint8)))


def test_pictures_of_two_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="one shape"):
        magnified(picture(0), picture(0)[:32])


def test_a_picture_survives_the_way_onto_the_page() -> None:
    assert np.array_equal(read_png(png_uri(picture(1)).split(",")[1]), picture(1))


def test_the_file_is_written_whole(tmp_path: Path, small: dict[str, Any]) -> None:
    path = tmp_path / "report.html"
    write_html(small, path)
    assert path.read_text(encoding="utf-8") == render(small)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_fails_leaves_the_old_file(tmp_path: Path, small: dict[str, Any]) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(DataError):
        write_html({**small, "examples": [{**small["examples"][0], "attacked_png": "no"}]}, path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, small: dict[str, Any]) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_html(small, tmp_path / "missing" / "report.html")


def test_the_same_report_gives_the_same_page(small: dict[str, Any]) -> None:
    assert render(small) == render(copy.deepcopy(small))
