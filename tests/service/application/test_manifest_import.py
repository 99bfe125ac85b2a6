"""Importing manifest folders: every good line comes in, every bad line is named, again does no harm."""

import json

import pytest
from fake_models import FakeEncoder, picture

from service.application.errors import NotFound, Unavailable
from service.application.manifest_import import Importer
from service.application.types import Condition, Filter
from service.wiring import build_importer


@pytest.fixture
def importer(parts):
    return build_importer(parts, FakeEncoder("1"))


def write(folder, *lines):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "red.png").write_bytes(picture("red"))
    (folder / "images" / "blue.jpg").write_bytes(picture("blue", kind="JPEG"))
    with (folder / "pairs.jsonl").open("wb") as file:
        for line in lines:
            file.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")
    return folder


def pair(item_id, image=None, *texts, **more):
    return {"id": item_id, "image": image, "texts": list(texts), "labels": [], **more}


def test_every_line_becomes_an_item_with_its_codes(importer, parts, tmp_path):
    folder = write(
        tmp_path / "data",
        pair("a", "images/red.png", "red", "another text", labels=["x", "y"], metadata={"n": 1}),
        pair("b", "images/blue.jpg", labels=["x"], metadata={"labels": "mine"}),
        pair("c", None, "green", split="query"),
    )
    told = []
    report = importer.run(folder, lambda done, total: told.append((done, total)))
    assert (report.created, report.failed, report.done, report.problems) == (3, 0, 3, [])
    assert told[-1] == (3, 3)
    items = parts.catalog.items.get(["a", "b", "c"])
    assert (items["a"].text, items["a"].metadata) == ("red", {"n": 1, "labels": ["x", "y"]})
    assert (items["b"].text, items["b"].metadata) == (None, {"labels": "mine"})
    assert items["a"].image_type == "image/png"
    assert parts.blobs.read(items["b"].image_digest) == picture("blue", kind="JPEG")
    digest = importer.encoder.digest
    assert parts.catalog.codes.all(digest, "image", 64)[0] == ["a", "b"]
    assert parts.catalog.codes.all(digest, "text", 64)[0] == ["a", "c"]
    assert parts.catalog.items.matching(Filter(must=(Condition("labels", "eq", "x"),))) == {"a"}


def test_importing_again_changes_only_what_changed(importer, parts, tmp_path):
    lines = [pair(f"i{n}", None, f"word{n}") for n in range(20)]
    folder = write(tmp_path / "data", *lines)
    assert importer.run(folder).created == 20
    before = parts.catalog.codes.last_seq()
    assert importer.run(folder).unchanged == 20
    assert parts.catalog.codes.last_seq() == before
    lines[3]["texts"] = ["another"]
    lines.append(pair("new", None, "new"))
    report = importer.run(write(folder, *lines))
    assert (report.created, report.replaced, report.unchanged) == (1, 1, 19)
    other = build_importer(parts, FakeEncoder("2")).run(folder)
    assert (other.replaced, other.unchanged) == (21, 0)


def test_a_replaced_image_loses_its_blob(importer, home, tmp_path):
    importer.run(write(tmp_path / "data", pair("a", "images/red.png")))
    importer.run(write(tmp_path / "data", pair("a", "images/blue.jpg")))
    assert len([path for path in (home / "blobs").rglob("*") if path.is_file()]) == 1


def test_bad_lines_are_named_and_the_others_come_in(importer, parts, tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(picture("red"))
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "bad.png").write_bytes(b"not an image")
    (tmp_path / "data" / "images" / "big.png").write_bytes(b"x" * (20 * 1024 * 1024 + 1))
    (tmp_path / "data" / "images" / "link.png").symlink_to(outside)
    bad = [
        b"{broken",
        b"[1]",
        b"[" * 100_000,
        b"\xff\xfe",
        pair("a/b", None, "x"),
        pair(None, None, "x"),
        pair("nothing"),
        pair("t", None, " "),
        pair("n", None, 5),
        {"id": "texts", "texts": "x"},
        pair("m", None, "x", metadata=[1]),
        pair("l", None, "x", labels="dog"),
        pair("o", "../secret.png"),
        pair("s", "images/link.png"),
        pair("q", str(outside)),
        pair("missing", "images/none.png"),
        pair("folder", "images"),
        pair("nul", "images/\0.png"),
        pair("number", 7),
        pair("broken", "images/bad.png"),
        pair("big", "images/big.png"),
        pair("crash", None, "crash"),
        b'{"id": "long", "texts": ["' + b"x" * (5 * 1024 * 1024) + b'"]}',
    ]
    folder = write(tmp_path / "data", pair("good1", None, "x"), b"", *bad, pair("good2", "images/red.png"))
    report = importer.run(folder)
    accepted_label = 1  # a label that is a plain string is a valid metadata value
    assert report.failed == len(bad) - accepted_label
    named = [int(problem.split(":")[0].removeprefix("line ")) for problem in report.problems]
    wanted = [n for n, line in enumerate(bad, 3) if not (isinstance(line, dict) and line.get("id") == "l")]
    assert sorted(named) == wanted
    assert {item.id for item in parts.catalog.items.page(None, 10)} == {"good1", "good2", "l"}
    assert any("leaves the folder" in problem for problem in report.problems)


def test_a_batch_of_nothing_but_bad_images_writes_nothing(importer, parts, tmp_path):
    folder = write(tmp_path / "data", pair("a", "images/bad.png"))
    (folder / "images" / "bad.png").write_bytes(b"not an image")
    assert (importer.run(folder).failed, parts.catalog.items.count()) == (1, 0)


def test_only_so_many_problems_are_kept(importer, tmp_path):
    report = importer.run(write(tmp_path / "data", *[b"{"] * 150))
    assert (report.failed, len(report.problems)) == (150, 100)


def test_an_id_twice_leaves_the_later_line(importer, parts, tmp_path):
    report = importer.run(write(tmp_path / "data", pair("a", None, "one"), pair("a", None, "two")))
    assert (report.created, report.replaced) == (1, 1)
    assert parts.catalog.items.get(["a"])["a"].text == "two"


def test_splits_restrict_what_comes_in(importer, tmp_path):
    folder = write(
        tmp_path / "data",
        pair("a", None, "x", split="train"),
        pair("b", None, "x", split="database"),
        pair("c", None, "x"),
    )
    assert importer.run(folder, splits=["database"]).created == 1


def test_no_manifest_is_not_found(importer, tmp_path):
    with pytest.raises(NotFound, match=r"no pairs\.jsonl"):
        importer.run(tmp_path)


def test_an_empty_manifest_is_fine(importer, tmp_path):
    assert importer.run(write(tmp_path / "data")).done == 0


def test_a_model_that_cannot_work_ends_the_import(parts, tmp_path):
    class Down(FakeEncoder):
        def encode_texts(self, texts):
            raise Unavailable("no model now")

        def decode(self, data):
            raise Unavailable("no model now")

    importer: Importer = build_importer(parts, Down("1"))
    for line in (pair("a", None, "x"), pair("a", "images/red.png")):
        with pytest.raises(Unavailable):
            importer.run(write(tmp_path / "data", line))
    assert parts.catalog.items.count() == 0
